"""Facets counted over values in memory: what each kind counts, and in which order its buckets come.

Called by: `storage.memory.documents`, and by `storage.sqlite.facets` for ranges and dates. Pure. Deliberately not where
fields and their values come from: that is `storage.fields`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mcpd.storage.documents import Bucket, Facet
from mcpd.storage.fields import TIMES, Key, calendar_label, label, range_label, rank_of, seconds_of


def count(facet: Facet, documents: Iterable[Iterable[Key]]) -> list[Bucket]:
    """Count documents, each given by its values of the field, once for each bucket that it falls in."""
    if facet.kind == "terms":
        return _terms(facet, documents)
    return _ranges(facet, documents) if facet.kind == "range" else dates(facet, documents)


def _terms(facet: Facet, documents: Iterable[Iterable[Key]]) -> list[Bucket]:
    """The most frequent values; equally frequent ones in the order of values."""
    counts = Counter(key for keys in documents for key in dict.fromkeys(keys))
    ordered = sorted(counts, key=lambda key: (-counts[key], rank_of(key)))
    return [Bucket(label(key), counts[key]) for key in ordered[: max(0, facet.size)]]


def _ranges(facet: Facet, documents: Iterable[Iterable[Key]]) -> list[Bucket]:
    """All ranges in the order asked for, empty ones too. Only numbers lie in a range."""
    counts = dict.fromkeys(facet.edges, 0)
    for keys in documents:
        numbers = [key for key in keys if isinstance(key, (int, float))]
        for low, high in counts:
            if any((low is None or n >= low) and (high is None or n < high) for n in numbers):
                counts[low, high] += 1
    return [Bucket(range_label(edge), counts[edge]) for edge in facet.edges]


def dates(facet: Facet, documents: Iterable[Iterable[Key]]) -> list[Bucket]:
    """The days, months or years that occur, in order. Texts count when they are ISO 8601 times."""
    counts: Counter[str] = Counter()
    for keys in documents:
        counts.update({name for key in keys if (name := _calendar(key, facet)) is not None})
    return [Bucket(name, counts[name]) for name in sorted(counts)]


def _calendar(key: Key, facet: Facet) -> str | None:
    if isinstance(key, str):
        seconds = seconds_of(key)
    else:
        seconds = key if isinstance(key, float) and facet.field in TIMES else None
    return None if seconds is None else calendar_label(seconds, facet.interval)
