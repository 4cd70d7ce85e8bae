"""Fields of a document: which values it has, when a condition holds, how values sort and what they are called.

A field has any number of values: a tag each, a number, a text or a boolean of the metadata, members of a list one by
one. Objects, null and empty lists are no values; a path goes through objects by dots, and a key with a dot in it is
the same path. Values are kept as `Key`: numbers, texts and booleans (as one byte) sort in that order, an int equals
the float of the same worth, and a boolean equals no number. So do SQLite's storage classes, which is the point.

Called by: every backend. Pure. Deliberately not the grammar in which users write filters (`search.query`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec

from mcpd.storage.documents import BadQuery, Condition, Document, Facet, Head, Json, Scalar, Sort, Where
from mcpd.storage.putting import is_unicode

Key: TypeAlias = int | float | str | bytes
"""A value as it is compared and stored."""

TIMES: Final = ("created", "updated")
NAMED: Final = ("tags", "mimeType", "origin")
METADATA: Final = "metadata."

MAX_CONDITIONS: Final = 50
MAX_VALUES: Final = 1_000
"""In one `any_of`."""
MAX_FACETS: Final = 20
"""More than a page of results has room for."""
MAX_BUCKETS: Final = 1_000
"""Of one facet; more than a person or a model reads, fewer than hurt."""

SHOWN_CHARS: Final = 40
"""Of what a query says, in a refusal."""

SMALLEST: Final = -(1 << 63)
LARGEST: Final = (1 << 63) - 1
"""Of whole numbers that a store keeps as such."""


def key_of(value: Scalar) -> Key:
    """Return the value as it is compared; a whole number beyond 64 bits as the nearest float."""
    if isinstance(value, bool):
        return b"\x01" if value else b"\x00"
    if isinstance(value, int) and not SMALLEST <= value <= LARGEST:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value


def rank_of(key: Key) -> tuple[int, Key]:
    """Return what sorts keys of different types: numbers, texts, booleans."""
    return (1 if isinstance(key, str) else 2 if isinstance(key, bytes) else 0), key


def label(key: Key) -> str:
    """Return what a facet calls the value."""
    if isinstance(key, bytes):
        return "true" if key == b"\x01" else "false"
    if isinstance(key, float) and key.is_integer() and abs(key) < 2**53:
        return str(int(key))
    return key if isinstance(key, str) else repr(key)


def values(document: Document) -> list[tuple[str, Key]]:
    """Return (field, value) pairs of all that is indexed, each once."""
    pairs: list[tuple[str, Key]] = [("tags", tag) for tag in document.tags]
    pairs.append(("mimeType", document.mime_type))
    if document.origin is not None:
        pairs.append(("origin", document.origin))
    pairs.extend((path, key_of(value)) for path, value in leaves(document.metadata))
    return list(dict.fromkeys(pairs))


def leaves(metadata: Json) -> Iterator[tuple[str, Scalar]]:
    """Return (path, value) for each value in the metadata."""
    waiting: list[tuple[str, Any]] = [(f"{METADATA}{name}", value) for name, value in metadata.items()]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend((f"{path}.{name}", inner) for name, inner in value.items())
        else:
            members = value if isinstance(value, (list, tuple)) else [value]
            yield from ((path, member) for member in members if _is_value(member))


def _is_value(value: object) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


class Test(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that has been checked; its values are keys, its times seconds."""

    field: str
    any_of: tuple[Key, ...] | None = None
    least: Key | None = None
    least_open: bool = False
    most: Key | None = None
    most_open: bool = False
    prefix: str | None = None
    exists: bool | None = None

    @property
    def asks_values(self) -> bool:
        """True when one value has to fit, rather than any value to exist."""
        return any(part is not None for part in (self.any_of, self.least, self.most, self.prefix))

    def holds(self, keys: Collection[Key]) -> bool:
        """Return whether one of the field's values fits, and any is there or none is, as asked."""
        if self.exists is not None and bool(keys) != self.exists:
            return False
        return not self.asks_values or any(self.fits(key) for key in keys)

    def fits(self, key: Key) -> bool:
        """Return whether this one value is what is asked for."""
        if self.any_of is not None and not any(_same(key, wanted) for wanted in self.any_of):
            return False
        if self.prefix is not None and not (isinstance(key, str) and key.startswith(self.prefix)):
            return False
        return self._within(key)

    def _within(self, key: Key) -> bool:
        rank = rank_of(key)
        if self.least is not None:
            least = rank_of(self.least)
            if rank[0] != least[0] or not (rank > least if self.least_open else rank >= least):
                return False
        if self.most is not None:
            most = rank_of(self.most)
            return rank[0] == most[0] and (rank < most if self.most_open else rank <= most)
        return True


def _same(key: Key, wanted: Key) -> bool:
    return rank_of(key) == rank_of(wanted)


def checked(where: Where) -> tuple[Test, ...]:
    """Return the conditions, ready to be applied. Raises: BadQuery."""
    if len(where) > MAX_CONDITIONS:
        raise BadQuery(f"{len(where)} conditions are too many: at most {MAX_CONDITIONS}")
    return tuple(_checked(condition) for condition in where)


def _checked(condition: Condition) -> Test:
    field = condition.field
    _known(field, (*TIMES, *NAMED, "uri"))
    least, most = (_key(field, bound) for bound in (condition.least, condition.most))
    if isinstance(least, bytes) or isinstance(most, bytes):
        raise BadQuery(f"{field}: a boolean has no order")
    if least is not None and most is not None and rank_of(least)[0] != rank_of(most)[0]:
        raise BadQuery(f"{field}: an interval goes from number to number or from text to text")
    if condition.prefix is not None and field in TIMES:
        raise BadQuery(f"{field}: a time has no prefix")
    return Test(
        field=field,
        any_of=None if condition.any_of is None else _keys(field, condition.any_of),
        least=least,
        least_open=condition.least_open,
        most=most,
        most_open=condition.most_open,
        prefix=None if condition.prefix is None else _unicode(field, condition.prefix),
        exists=condition.exists,
    )


def _keys(field: str, wanted: Sequence[Scalar]) -> tuple[Key, ...]:
    if len(wanted) > MAX_VALUES:
        raise BadQuery(f"{field}: {len(wanted)} values are too many: at most {MAX_VALUES}")
    return tuple(key for value in wanted if (key := _key(field, value)) is not None)


def _key(field: str, value: Scalar | None) -> Key | None:
    if value is None:
        return None
    if field in TIMES:
        return _seconds_asked(field, value)
    if isinstance(value, float) and math.isnan(value):
        raise BadQuery(f"{field}: NaN equals nothing")
    return key_of(_unicode(field, value) if isinstance(value, str) else value)


def _seconds_asked(field: str, value: Scalar) -> float:
    if isinstance(value, bool):
        raise BadQuery(f"{field}: a boolean is no time")
    if isinstance(value, str):
        seconds = seconds_of(value)
        if seconds is None:
            raise BadQuery(f"{field}: {value[:SHOWN_CHARS]!r} is no ISO 8601 time")
        return seconds
    key = key_of(value)
    if not isinstance(key, (int, float)) or math.isnan(key):
        raise BadQuery(f"{field}: {value!r} is no time")
    return float(key)


def seconds_of(text: str) -> float | None:
    """Return the seconds since the epoch of an ISO 8601 time, taken as UTC when it names no zone; None for no time."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _unicode(field: str, text: str) -> str:
    if not is_unicode(text):
        raise BadQuery(f"{field[:SHOWN_CHARS]!r}: a text with half a surrogate pair is no Unicode")
    return text


def _known(field: str, others: Collection[str]) -> None:
    if field in others or (field.startswith(METADATA) and len(field) > len(METADATA)):
        _unicode(field, field)
        return
    raise BadQuery(f"Unknown field {field[:SHOWN_CHARS]!r}: use {', '.join(sorted(others))} or metadata.<path>")


def check_sort(sort: Sort) -> None:
    """Raises: BadQuery."""
    _known(sort.field, (*TIMES, *NAMED, "uri", "title"))


def check_facets(facets: Sequence[Facet]) -> None:
    """Raises: BadQuery for a field or kind that cannot be counted, for two facets of one field, and for too many."""
    if len(facets) > MAX_FACETS:
        raise BadQuery(f"{len(facets)} facets are too many: at most {MAX_FACETS}")
    for facet in facets:
        _known(facet.field, (*TIMES, *NAMED))
        if facet.field in TIMES and facet.kind == "terms":
            raise BadQuery(f"{facet.field}: a time is counted by range or date, not by terms")
        if facet.field in NAMED and facet.kind == "date":
            raise BadQuery(f"{facet.field}: no time")
        if max(facet.size, len(facet.edges)) > MAX_BUCKETS:
            raise BadQuery(f"{facet.field}: at most {MAX_BUCKETS} buckets")
    if len({facet.field for facet in facets}) < len(facets):
        raise BadQuery("Each field can have one facet")


def range_label(edge: tuple[float | None, float | None]) -> str:
    """Return what the bucket of (from, to) is called: `10-20`, `*-10`, `20-*`."""
    return "-".join("*" if end is None else label(end) for end in edge)


def calendar_label(seconds: float, interval: str) -> str | None:
    """Return the day, month or year (UTC) in ISO 8601; None outside of the calendar."""
    try:
        day = datetime.fromtimestamp(math.floor(seconds), UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None
    return day[: {"day": 10, "month": 7, "year": 4}[interval]]


def head_of(document: Document) -> Head:
    """Return the document without its content."""
    return Head(
        uri=document.uri,
        title=document.title,
        mime_type=document.mime_type,
        tags=document.tags,
        metadata=document.metadata,
        size=document.size,
        created_s=document.created_s,
        updated_s=document.updated_s,
        version=document.version,
        digest=document.digest,
        origin=document.origin,
    )
