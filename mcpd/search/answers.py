"""What a search answers, as JSON: the same object on every transport.

    {"hits": [{"uri", "title", "mimeType", "tags", "metadata", "score", "ranks": {"text": 1, "semantic": 3},
               "span"?: {"start", "end", "heading"}, "highlights"?: [...]}],
     "facets"?: {field: [{"value", "count"}]}, "total"?, "took", "mode", "degraded"?, "nextCursor"?}

`score` orders the hits of one answer and means nothing beside another's. `ranks` are the places that a hit had in each
retriever's list, from 1; empty when a field orders. `span` is where in the text the best chunk is, in characters; it is
absent when the title alone fits. `highlights` are plain text, nothing in it escaped, with matches between two marks,
`**` unless the caller wants others: whoever shows them as HTML escapes them first. `took` is milliseconds, rounded up.

Called by: `searcher`. Pure. Deliberately not: an order, which is decided before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from mcpd.storage.documents import MARK_END, MARK_START, Bucket, Facet, Head, Json, Span
from mcpd.storage.fields import TIMES


class Marks(NamedTuple):
    """What stands before and behind a match."""

    start: str
    end: str


PLAIN: Final = Marks("**", "**")
PRIVATE: Final = Marks(MARK_START, MARK_END)
"""Two characters that no text has, for a caller that styles matches itself."""


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """A hit in its final order; `fragments` still have the store's marks."""

    head: Head
    score: float
    ranks: dict[str, int]
    span: Span | None
    fragments: tuple[str, ...] = ()


def hit(ranked: Ranked, marks: Marks | None) -> Json:
    """Return one hit; without `marks` no highlights were asked for."""
    head = ranked.head
    shown: Json = {
        "uri": head.uri,
        "title": head.title,
        "mimeType": head.mime_type,
        "tags": list(head.tags),
        "metadata": head.metadata,
        "score": _six_digits(ranked.score),
        "ranks": ranked.ranks,
    }
    if ranked.span is not None:
        shown["span"] = {"start": ranked.span.start, "end": ranked.span.end, "heading": ranked.span.heading}
    if marks is not None:
        shown["highlights"] = [_marked(fragment, marks) for fragment in ranked.fragments]
    return shown


def _six_digits(score: float) -> float:
    return float(f"{score:.6g}")


def _marked(fragment: str, marks: Marks) -> str:
    return fragment.replace(MARK_START, marks.start).replace(MARK_END, marks.end)


def facets(asked: Iterable[Facet], counted: Mapping[str, Sequence[Bucket]]) -> Json:
    """Return the counts by field, in the order asked for; ranges of time are named in ISO 8601."""
    return {facet.field: _buckets(facet, counted.get(facet.field, ())) for facet in asked}


def _buckets(facet: Facet, buckets: Sequence[Bucket]) -> list[Json]:
    names = [bucket.value for bucket in buckets]
    if facet.kind == "range" and facet.field in TIMES:
        names = ["/".join(map(_moment, edge)) for edge in facet.edges]
    return [{"value": name, "count": bucket.count} for name, bucket in zip(names, buckets, strict=True)]


def _moment(seconds: float | None) -> str:
    """Return a time, as short as it can be; an open end is two dots, as in ISO 8601-2."""
    if seconds is None:
        return ".."
    try:
        text = datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
    return text.removesuffix("T00:00:00Z")


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up."""
    return math.ceil(seconds * 1000)


def clean(answer: Mapping[str, Any]) -> Json:
    """Return the answer without what it does not have."""
    return {name: value for name, value in answer.items() if value is not None}
