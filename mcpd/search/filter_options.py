"""Filters as the command line writes them: `--filter tags=guide --filter "metadata.year>=1960" --filter uri=docs:///a/*`.

    k=v     equals; given again for the same field, any of the values; a `*` at the end of `v` is a prefix
    k=*     the field exists, whatever it holds
    k>=v    and k>v, k<=v, k<v: a bound; two bounds of one field make an interval

Called by: `mcpd search`. Pure. The result is the `filters` member of the grammar in `query`, which checks fields and
values. Deliberately not a language: what needs more is said in JSON, on any other transport.

A value that looks like a number, `true` or `false` fits both that and the same text, for metadata; "quotes" make it a
text alone. Tags, types, URIs and times are always texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mcpd.errors import InvalidParams
from mcpd.storage.fields import METADATA, SHOWN_CHARS

_OPTION: Final = re.compile(r"([^<>=]+)(>=|<=|=|>|<)(.*)", re.DOTALL)
_NAMES: Final = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}


def parse_filter_option(option: str) -> tuple[str, Any]:
    """Return field and condition, as in the `filters` object. Raises: InvalidParams for what is no filter."""
    found = _OPTION.fullmatch(option)
    if found is None or not found[1].strip():
        raise InvalidParams(f"filter {option[:SHOWN_CHARS]!r}: write field=value, field>=value or field=*")
    field, sign, value = found[1].strip(), found[2], found[3].strip()
    if sign != "=":
        return field, {_NAMES[sign]: _meanings(field, value)[0]}
    if value == "*":
        return field, {"exists": True}
    if value.endswith("*"):
        return field, {"prefix": value[:-1]}
    return field, _meanings(field, value)


def parse_filter_options(options: Sequence[str]) -> dict[str, Any]:
    """Return the `filters` object of several options. Raises: InvalidParams, also for two that cannot go together."""
    filters: dict[str, Any] = {}
    for option in options:
        field, condition = parse_filter_option(option)
        filters[field] = _both(field, filters[field], condition) if field in filters else condition
    return filters


def _both(field: str, earlier: Any, later: Any) -> Any:
    if isinstance(earlier, list) and isinstance(later, list):
        return earlier + later
    if isinstance(earlier, dict) and isinstance(later, dict) and not earlier.keys() & later.keys():
        return {**earlier, **later}
    raise InvalidParams(
        f"filter {field[:SHOWN_CHARS]!r}: these two cannot be combined; give values or bounds, each bound once"
    )


def _meanings(field: str, value: str) -> list[Any]:
    """Return what `value` may stand for, the likeliest first."""
    if not field.startswith(METADATA):
        return [value]
    try:
        meant = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return [value]
    if isinstance(meant, str):
        return [meant]
    return [meant, value] if isinstance(meant, (bool, int, float)) else [value]
