"""Conditions, sort orders, words and facets as Elasticsearch's query language.

Called by: `reads`. Pure: values in, bodies of requests out. What a user wrote is only ever a value in them; queries of
words are made of phrases, never of a language that Elasticsearch would parse.

A search of words finds documents by their nested chunks, and scores each by its best one. Cursors are sort keys: the
value of the field that is sorted by and the URI, which are handed on as `search_after`; of a search by score, the
numbers of what has been shown, which are excluded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from mcpd.storage.documents import MARK_END, MARK_START, Bucket, Facet, Near, Sort
from mcpd.storage.elasticsearch.analysis import words_of
from mcpd.storage.elasticsearch.keys import BOOLEAN, END, NUMBER, TEXT, after_prefix, field_of, sortable, value_of
from mcpd.storage.fields import Test, label, range_label
from mcpd.storage.words import Phrase

Json = dict[str, Any]

NOTHING: Final[Json] = {"match_none": {}}
LIVE: Final[Json] = {"term": {"kind": "document"}}
MAX_WINDOW: Final = 10_000
"""Hits of one request, by `index.max_result_window`; candidates of a kNN search too."""
MAX_ANALYSED_CHARS: Final = 999_999
"""Of a chunk that is highlighted; Elasticsearch refuses more."""
MAX_TERM_CHARS: Final = 255
"""The standard tokenizer cuts longer words into pieces."""
MAX_DATES: Final = 60_000
"""Buckets; Elasticsearch gives at most 65,536."""
BY_URI: Final = Sort("uri")
_IDEOGRAPHS: Final = 0x2E80
"""From here on the tokenizer takes letters one by one, and a phrase of them fits within a word."""


def filters(tests: Sequence[Test]) -> list[Json]:
    """Return clauses that all have to fit."""
    return [clause for test in tests for clause in _clauses(test)]


def _clauses(test: Test) -> list[Json]:
    field = field_of(test.field)
    if test.exists is False:
        return [NOTHING] if test.asks_values else [{"bool": {"must_not": {"exists": {"field": field}}}}]
    if test.asks_values:
        return [_fits(test, field)]
    return [{"exists": {"field": field}}] if test.exists else []


def _fits(test: Test, field: str) -> Json:
    """One value has to have all that is asked, so all of it goes into one clause."""
    if test.any_of is not None:
        return {"terms": {field: [sortable(key) for key in test.any_of if test.fits(key)]}}
    low, low_open, high, high_open = _interval(test)
    if low > high:
        return NOTHING
    return {"range": {field: {"gt" if low_open else "gte": low, "lt" if high_open else "lte": high}}}


def _interval(test: Test) -> tuple[str, bool, str, bool]:
    """Return the least and greatest text that a value may be, and whether it may be that text itself."""
    first, last = TEXT, BOOLEAN
    if isinstance(test.least if test.least is not None else test.most, int | float):
        first, last = NUMBER, TEXT
    low, high = (first, False), (last, True)
    if test.least is not None:
        low = sortable(test.least), test.least_open
    if test.most is not None:
        high = sortable(test.most), test.most_open
    if test.prefix is not None:
        if first == NUMBER:
            return END, True, NUMBER, True
        low = max(low, (TEXT + test.prefix, False))
        high = min(high, (TEXT + after_prefix(test.prefix) if after_prefix(test.prefix) else BOOLEAN, True))
    return low[0], low[1], high[0], high[1]


def matching(phrases: Sequence[Phrase] | None, tests: Sequence[Test], inner: Json | None = None) -> Json:
    """Return the query of documents that fit. `phrases` None: words do not matter. `inner`: what to tell of chunks."""
    if phrases is None:
        return {"bool": {"filter": [LIVE, *filters(tests)]}}
    should = [clause for phrase in phrases for clause in _phrase(phrase)]
    if not should:
        return NOTHING
    nested: Json = {"path": "chunks", "score_mode": "max", "query": {"bool": {"should": should}}}
    if inner is not None:
        nested["inner_hits"] = inner
    return {"bool": {"must": [{"nested": nested}], "filter": filters(tests)}}


def _phrase(phrase: Phrase) -> Iterable[Json]:
    text = words_of(" ".join(phrase.words))
    if phrase.prefix and len(text) <= MAX_TERM_CHARS and all(ord(letter) < _IDEOGRAPHS for letter in text):
        return [{"prefix": {f"chunks.{field}.plain": text}} for field in ("titles", "words") if text]
    return [{"match_phrase": {f"chunks.{field}": text}} for field in ("titles", "words")]


def best_chunk(*, highlight: bool) -> Json:
    """Return what to tell of a hit's best chunk."""
    inner: Json = {"size": 1, "_source": False, "stored_fields": ["chunks.about"]}
    if highlight:
        inner["highlight"] = {
            "type": "unified",
            "require_field_match": False,
            "number_of_fragments": 0,
            "max_analyzed_offset": MAX_ANALYSED_CHARS,
            "pre_tags": [MARK_START],
            "post_tags": [MARK_END],
            "fields": {"chunks.words": {}},
        }
    return inner


def page_of(query: Json, sort: Sort | None, limit: int, after: list[Any] | None = None) -> Json:
    """Return the search of the first `limit` hits, by score without `sort`; `after` are the last hit's sort values."""
    body: Json = {"query": query, "size": min(limit, MAX_WINDOW), "_source": False, "stored_fields": ["head"]}
    body["track_total_hits"] = True
    body["sort"] = _order(sort)
    return body if after is None else {**body, "search_after": after}


def _order(sort: Sort | None) -> list[Json]:
    if sort is None:
        return [{"_score": "desc"}, {"uri": "asc"}]
    if sort.field == "uri":
        return [{"uri": "desc" if sort.descending else "asc"}]
    order, mode = ("desc", "max") if sort.descending else ("asc", "min")
    return [{field_of(sort.field): {"order": order, "mode": mode, "missing": "_last"}}, {"uri": "asc"}]


def without(body: Json, numbers: Iterable[int]) -> Json:
    """Return the search without the documents that have these numbers; its total counts them still."""
    return {**body, "post_filter": {"bool": {"must_not": {"terms": {"number": sorted(numbers)}}}}}


def counting(query: Json) -> Json:
    """Return the search that only counts."""
    return {"query": query, "size": 0, "track_total_hits": True}


def nearest(query: Near, field: str, tests: Sequence[Test], wanted: int, *, widely: bool) -> Json:
    """Return the search of the `wanted` nearest documents by their best chunk's vector in `field`.

    It is approximate: many chunks that are alike can hide others from it, unless it looks `widely`.
    """
    candidates = MAX_WINDOW if widely else min(MAX_WINDOW, max(2 * wanted, 100))
    return {
        "knn": {
            "field": f"chunks.{field}",
            "query_vector": list(map(float, query.vector)),
            "k": min(wanted, MAX_WINDOW),
            "num_candidates": candidates,
            "filter": [{"term": {"model": query.model}}, *filters(tests)],
            "inner_hits": best_chunk(highlight=False),
        },
        "size": min(wanted, MAX_WINDOW),
        "_source": False,
        "stored_fields": ["head"],
        "track_total_hits": False,
    }


def counts(query: Json, facets: Sequence[Facet]) -> Json:
    """Return the search that counts facets; `buckets` reads its answer."""
    aggregations = {f"f{n}": _counted(facet) for n, facet in enumerate(facets)}
    return {"query": query, "size": 0, "track_total_hits": False, "aggs": {k: v for k, v in aggregations.items() if v}}


def _counted(facet: Facet) -> Json | None:
    if facet.kind == "date":
        field = field_of(f"{facet.field}/{facet.interval}", "days")
        return {"terms": {"field": field, "size": MAX_DATES, "order": {"_key": "asc"}}}
    field = field_of(facet.field)
    if facet.kind == "terms":
        order = [{"_count": "desc"}, {"_key": "asc"}]
        return {"terms": {"field": field, "size": facet.size, "order": order}} if facet.size > 0 else None
    if not facet.edges:
        return None
    return {"filters": {"filters": {f"r{n}": _range(field, edge) for n, edge in enumerate(facet.edges)}}}


def _range(field: str, edge: tuple[float | None, float | None]) -> Json:
    low, high = (NUMBER if edge[0] is None else sortable(edge[0])), (TEXT if edge[1] is None else sortable(edge[1]))
    return {"range": {field: {"gte": low, "lt": high}}} if low < high else NOTHING


def buckets(facets: Sequence[Facet], answer: Json) -> dict[str, list[Bucket]]:
    """Return the counts in the answer of `counts`, by field."""
    return {facet.field: _buckets(facet, answer.get(f"f{n}", {})) for n, facet in enumerate(facets)}


def _buckets(facet: Facet, found: Json) -> list[Bucket]:
    if facet.kind == "range":
        return [Bucket(range_label(edge), found["buckets"][f"r{n}"]["doc_count"]) for n, edge in enumerate(facet.edges)]
    rows = found.get("buckets", [])
    if facet.kind == "date":
        return [Bucket(row["key"], row["doc_count"]) for row in rows]
    return [Bucket(label(value_of(row["key"])), row["doc_count"]) for row in rows]
