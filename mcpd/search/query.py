"""The grammar of a search, the same on every transport: a JSON object becomes a `Search`, or a refusal that says why.

    {"query": "trio nursery", "mode": "hybrid", "size": 10, "cursor": "...", "highlight": 2, "sort": "-updated",
     "filters": {"tags": ["a", "b"], "created": {"gte": "2026-01-01"}, "metadata.x": {"exists": true}},
     "facets": [{"field": "tags", "size": 5}, {"field": "metadata.year", "ranges": [{"to": 1960}, {"from": 1960}]}]}

`sort` is a field, ascending; with a minus before it, descending; "score" is the default, best first, and has no minus.
A facet's `kind` may be left out: ranges make it `range`, an interval or a time field `date`, anything else `terms`.
`highlight`: true, the default, is `DEFAULT_FRAGMENTS` pieces of each hit; false is none; a number is itself.
Beyond the fields named by the design, `uri` can be filtered, and any text by `{"prefix": ...}`: a folder is a prefix.

Called by: the transports and the command line. Pure. Deliberately not a check of what a backend can do: that is the
backend's `BadQuery`, and the searcher translates it.

Laws: whatever the object holds, the outcome is a `Search` or `InvalidParams`; the text of a refusal begins with the
member that is wrong and never repeats more than a few characters of it; what `input_schema` admits is what `parse`
takes, but for rules between members, which a schema would only hide.

Sources: surfaces "Search, the same on every transport".
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, NoReturn, get_args

import msgspec

from mcpd.config import Limits
from mcpd.errors import InvalidParams
from mcpd.storage.documents import Condition, Facet, Scalar, Sort, Where
from mcpd.storage.fields import (
    LARGEST,
    MAX_BUCKETS,
    MAX_CONDITIONS,
    MAX_FACETS,
    MAX_VALUES,
    METADATA,
    SHOWN_CHARS,
    SMALLEST,
    TIMES,
    seconds_of,
)
from mcpd.storage.putting import is_unicode

Mode = Literal["text", "semantic", "hybrid"]
Interval = Literal["day", "month", "year"]
Kind = Literal["terms", "range", "date"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
INTERVALS: Final[tuple[Interval, ...]] = get_args(Interval)
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

DEFAULT_HITS: Final = 10
DEFAULT_FRAGMENTS: Final = 2
DEFAULT_BUCKETS: Final = 10
MAX_FRAGMENTS: Final = 10
"""Of one hit: more is reading the document."""
MAX_QUERY_BYTES: Final = 16 * 1024
"""A page of text is a long question."""
MAX_NAME_CHARS: Final = 256
MAX_CURSOR_CHARS: Final = 64 * 1024

FILTERED: Final = ("uri", "tags", "mimeType", *TIMES)
COUNTED: Final = ("tags", "mimeType", *TIMES)
SORTED: Final = ("title", *FILTERED)

_MEMBERS: Final = ("query", "mode", "filters", "facets", "sort", "size", "cursor", "highlight")
_OPERATORS: Final = ("gte", "gt", "lte", "lt", "exists", "prefix")
_FACET_MEMBERS: Final = ("field", "kind", "size", "ranges", "interval")


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for. `mode` None: whatever suits the server's embedding provider."""

    query: str = ""
    mode: Mode | None = None
    where: Where = ()
    facets: tuple[Facet, ...] = ()
    sort: Sort | None = None
    """None: by score."""
    size: int = DEFAULT_HITS
    cursor: str | None = None
    highlight: int = DEFAULT_FRAGMENTS
    """Fragments wanted of each hit."""

    @property
    def has_words(self) -> bool:
        """Whether anything is asked for, or all documents fit."""
        return bool(self.query.strip())


def parse(body: Mapping[str, Any], *, limits: Limits) -> Search:
    """Return the search that `body` describes. Raises: InvalidParams."""
    _check_members("", body, _MEMBERS)
    search = Search(
        query=_query(body.get("query", "")),
        mode=_choice("mode", body["mode"], MODES) if "mode" in body else None,
        where=_where(body.get("filters", {})),
        facets=_facets(body.get("facets", [])),
        sort=_sort(body["sort"]) if "sort" in body else None,
        size=_whole("size", body.get("size", min(DEFAULT_HITS, limits.max_hits)), 0, limits.max_hits),
        cursor=_text("cursor", body["cursor"], MAX_CURSOR_CHARS) if "cursor" in body else None,
        highlight=_highlight(body.get("highlight", True)),
    )
    _check_together(search)
    return search


def _check_together(search: Search) -> None:
    if search.mode in {None, "text"}:
        return
    if not search.has_words:
        _refuse("query", f'{search.mode} search needs words; write some, or set mode to "text" to list what fits')
    if search.sort is not None:
        _refuse("sort", f'{search.mode} search orders by score alone; leave sort out, or set mode to "text"')


def _refuse(member: str, text: str) -> NoReturn:
    raise InvalidParams(f"{member}: {text}" if member else text)


def _kind(value: object) -> str:
    """Return what JSON calls a value's type; never the value, which may be long or secret."""
    if value is None:
        return "null"
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a boolean"), (str, "a text"), ((int, float), "a number"), (Mapping, "an object"), (list, "a list"),
    )  # fmt: skip
    return next((name for types, name in names if isinstance(value, types)), type(value).__name__)


def _check_members(path: str, value: Mapping[str, Any], known: Collection[str]) -> None:
    for name in value:
        if name not in known:
            shown = str(name)[:SHOWN_CHARS]
            nearest = difflib.get_close_matches(shown, known, n=1, cutoff=0.6)
            hint = f"do you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(known)}"
            _refuse(path, f"unknown member {shown!r}; {hint}")


def _text(member: str, value: object, max_chars: int) -> str:
    if not isinstance(value, str):
        _refuse(member, f"must be a text, not {_kind(value)}; leave it out when there is none")
    if len(value) > max_chars:
        _refuse(member, f"has {len(value)} characters, more than {max_chars}")
    if not is_unicode(value):
        _refuse(member, "holds half a surrogate pair, which is no Unicode")
    return value


def _query(value: object) -> str:
    text = _text("query", value, MAX_QUERY_BYTES)
    if len(text.encode()) > MAX_QUERY_BYTES:
        _refuse("query", f"has {len(text.encode())} bytes, more than {MAX_QUERY_BYTES}")
    return text


def _choice(member: str, value: object, choices: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or value not in choices:
        shown = repr(value[:SHOWN_CHARS]) if isinstance(value, str) else _kind(value)
        _refuse(member, f"must be {' or '.join(map(repr, choices))}, not {shown}")
    return value


def _whole(member: str, value: object, least: int, most: int) -> int:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not value.is_integer()):
        _refuse(member, f"must be a whole number from {least} to {most}, not {_kind(value)}")
    assert isinstance(value, (int, float))
    if not least <= value <= most:
        _refuse(member, f"must be from {least} to {most}")
    return int(value)


def _highlight(value: object) -> int:
    if isinstance(value, bool):
        return DEFAULT_FRAGMENTS if value else 0
    if not isinstance(value, (int, float)):
        _refuse("highlight", f"must be true, false or a number of fragments, not {_kind(value)}")
    return _whole("highlight", value, 0, MAX_FRAGMENTS)


def _field(member: str, value: object, named: Collection[str]) -> str:
    field = _text(member, value, MAX_NAME_CHARS)
    if field not in named and not (field.startswith(METADATA) and len(field) > len(METADATA)):
        known = f"{', '.join(named)} or metadata.<path>"
        _refuse(member, f"unknown field {field[:SHOWN_CHARS]!r}; there are {known}")
    return field


def _sort(value: object) -> Sort | None:
    text = _text("sort", value, MAX_NAME_CHARS + 1)
    if text == "score":
        return None
    if text == "-score":
        _refuse("sort", 'the best score always comes first; write "score", or leave it out')
    return Sort(_field("sort", text.removeprefix("-"), SORTED), descending=text.startswith("-"))


def _where(value: object) -> Where:
    if not isinstance(value, Mapping):
        _refuse("filters", f'must be an object such as {{"tags": ["a", "b"]}}, not {_kind(value)}')
    if len(value) > MAX_CONDITIONS:
        _refuse("filters", f"{len(value)} fields are too many: at most {MAX_CONDITIONS}")
    return tuple(_condition(_field("filters", field, FILTERED), wanted) for field, wanted in value.items())


def _condition(field: str, wanted: object) -> Condition:
    member = f"filters.{field[:MAX_NAME_CHARS]}"
    if isinstance(wanted, Mapping):
        return _bounds(member, field, wanted)
    if not isinstance(wanted, (list, tuple)):
        return Condition(field, any_of=(_scalar(member, wanted),))
    if not 1 <= len(wanted) <= MAX_VALUES:
        _refuse(member, f"a list has 1 to {MAX_VALUES} values, of which any may fit")
    return Condition(field, any_of=tuple(_scalar(f"{member}[{at}]", value) for at, value in enumerate(wanted)))


def _bounds(member: str, field: str, wanted: Mapping[str, Any]) -> Condition:
    _check_members(member, wanted, _OPERATORS)
    if not wanted:
        _refuse(member, f"an empty object asks for nothing; write one of {', '.join(_OPERATORS)}")
    for inclusive, exclusive in (("gte", "gt"), ("lte", "lt")):
        if inclusive in wanted and exclusive in wanted:
            _refuse(member, f"{inclusive} and {exclusive} exclude each other; leave one out")
    given = {name: _scalar(f"{member}.{name}", wanted[name]) for name in ("gte", "gt", "lte", "lt") if name in wanted}
    return Condition(
        field,
        least=given.get("gte", given.get("gt")),
        least_open="gt" in given,
        most=given.get("lte", given.get("lt")),
        most_open="lt" in given,
        exists=_truth(f"{member}.exists", wanted["exists"]) if "exists" in wanted else None,
        prefix=_text(f"{member}.prefix", wanted["prefix"], MAX_CURSOR_CHARS) if "prefix" in wanted else None,
    )


def _truth(member: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(member, f"must be true or false, not {_kind(value)}")
    return value


def _scalar(member: str, value: object) -> Scalar:
    if isinstance(value, (bool, str)):
        return _text(member, value, MAX_CURSOR_CHARS) if isinstance(value, str) else value
    if isinstance(value, (int, float)):
        return _number(member, value)
    hint = '; {"exists": false} asks for documents without one' if value is None else ""
    _refuse(member, f"must be a text, a number or a boolean, not {_kind(value)}{hint}")


def _number(member: str, value: float) -> int | float:
    """Return a finite number; a whole one beyond 64 bits as the nearest float, as stores keep it."""
    if isinstance(value, int) and SMALLEST <= value <= LARGEST:
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(member, "must be a number that 64 bits can hold")
    return number


def _facets(value: object) -> tuple[Facet, ...]:
    if not isinstance(value, (list, tuple)):
        _refuse("facets", f'must be a list such as [{{"field": "tags"}}], not {_kind(value)}')
    if len(value) > MAX_FACETS:
        _refuse("facets", f"{len(value)} facets are too many: at most {MAX_FACETS}")
    facets = tuple(_facet(f"facets[{at}]", facet) for at, facet in enumerate(value))
    for at, facet in enumerate(facets):
        if any(facet.field == earlier.field for earlier in facets[:at]):
            _refuse(f"facets[{at}].field", f"{facet.field[:SHOWN_CHARS]!r} has a facet already")
    return facets


def _facet(member: str, value: object) -> Facet:
    if not isinstance(value, Mapping):
        _refuse(member, f'must be an object such as {{"field": "tags"}}, not {_kind(value)}')
    _check_members(member, value, _FACET_MEMBERS)
    if "field" not in value:
        _refuse(member, 'needs a field, such as "tags"')
    field = _field(f"{member}.field", value["field"], COUNTED)
    kind = _facet_kind(member, field, value)
    wrong = {"size", "ranges", "interval"} & value.keys() - {_OF_KIND[kind]}
    if wrong:
        _refuse(f"{member}.{min(wrong)}", f"is not of a {kind} facet, which has {_OF_KIND[kind]}")
    return Facet(
        field=field,
        kind=kind,
        size=_whole(f"{member}.size", value.get("size", DEFAULT_BUCKETS), 1, MAX_BUCKETS),
        edges=_edges(f"{member}.ranges", field, value.get("ranges")) if kind == "range" else (),
        interval=_choice(f"{member}.interval", value.get("interval", "month"), INTERVALS),
    )


_OF_KIND: Final[Mapping[Kind, str]] = {"terms": "size", "range": "ranges", "date": "interval"}


def _facet_kind(member: str, field: str, value: Mapping[str, Any]) -> Kind:
    is_time, is_name = field in TIMES, field in COUNTED and field not in TIMES
    implied: Kind = "range" if "ranges" in value else "date" if "interval" in value or is_time else "terms"
    kind: Kind = _choice(f"{member}.kind", value.get("kind", implied), KINDS)
    if is_time and kind == "terms":
        _refuse(f"{member}.kind", 'a time is counted by "date" or "range"')
    if is_name and kind != "terms":
        _refuse(f"{member}.kind", f'{field} has texts, which are counted by "terms"')
    return kind


def _edges(member: str, field: str, value: object) -> tuple[tuple[float | None, float | None], ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_BUCKETS:
        _refuse(member, f'must be a list of 1 to {MAX_BUCKETS} ranges such as [{{"to": 10}}, {{"from": 10}}]')
    return tuple(_edge(f"{member}[{at}]", field, edge) for at, edge in enumerate(value))


def _edge(member: str, field: str, value: object) -> tuple[float | None, float | None]:
    if not isinstance(value, Mapping) or not value:
        _refuse(member, f"must be an object with from, to or both, not {_kind(value) if value else 'empty'}")
    _check_members(member, value, ("from", "to"))
    low, high = (_end(f"{member}.{name}", field, value[name]) if name in value else None for name in ("from", "to"))
    if low is not None and high is not None and low >= high:
        _refuse(member, "from must be less than to")
    return low, high


def _end(member: str, field: str, value: object) -> float:
    if isinstance(value, str) and field in TIMES:
        return _seconds(member, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        expected = "a time such as 2026-01-31" if field in TIMES else "a number"
        _refuse(member, f"must be {expected}, not {_kind(value)}")
    return float(_number(member, value))


def _seconds(member: str, text: str) -> float:
    seconds = seconds_of(text)
    if seconds is None:
        _refuse(member, f"{text[:SHOWN_CHARS]!r} is no ISO 8601 time such as 2026-01-31")
    return seconds
