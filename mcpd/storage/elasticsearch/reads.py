"""Reading documents, listings and searches from the three indices.

`get` and `versions` read records by id, which sees every commit at once. Listings and searches see what the last
refresh of an index showed. A hit in `fulltext` or `vector` counts only when `metadata` names its version, as of now, or
as the one just before: what nothing names was never committed, or is gone. Who asks for n hits asks the cluster for
some more, and goes on while hits fell away; a total may count what a crashed writer left, until it is reconciled.

Called by: `documents`. Deliberately not: queries (`query`), which this file only sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Elasticsearch, Missing, Refused
from mcpd.storage import cursors, putting, words
from mcpd.storage.documents import (
    BadQuery,
    Bucket,
    Document,
    Facet,
    Found,
    Head,
    Hit,
    Matching,
    Near,
    Page,
    Relation,
    Statistics,
    Where,
)
from mcpd.storage.elasticsearch import analysis, query, records, writes
from mcpd.storage.elasticsearch.indices import Generation, vector_field
from mcpd.storage.elasticsearch.keys import number_of, uri_key
from mcpd.storage.elasticsearch.records import Place
from mcpd.storage.fields import check_facets, check_sort, checked

TRIES: Final = 16
"""Of reading a document's content, when each time it is replaced between the two reads."""

SPARE: Final = 8
"""Hits that are asked for besides those wanted, since some may fall away."""


class _Inner(msgspec.Struct, frozen=True):
    hits: _InnerHits


class _InnerHits(msgspec.Struct, frozen=True):
    hits: list[api.Hit] = []


class _Hit(msgspec.Struct, frozen=True, rename={"score": "_score"}):
    """A hit with its best chunk."""

    score: float | None = None
    fields: dict[str, list[str]] = {}
    sort: list[Any] = []
    inner_hits: dict[str, _Inner] = {}

    @property
    def chunk(self) -> api.Hit | None:
        inner = self.inner_hits.get("chunks")
        return inner.hits.hits[0] if inner is not None and inner.hits.hits else None

    @property
    def place(self) -> Place | None:
        about = None if self.chunk is None else self.chunk.fields.get("chunks.about")
        return records.place_in(about[0]) if about else None

    @property
    def head(self) -> Head:
        return records.head_in(self.fields["head"][0])


class _Hits(msgspec.Struct, frozen=True):
    hits: list[_Hit] = []
    total: api.Total = api.Total()


class _Answer(msgspec.Struct, frozen=True):
    hits: _Hits = _Hits()
    aggregations: dict[str, Any] = {}


class Reader:
    """Reads of one generation."""

    def __init__(self, client: Elasticsearch, names: Generation) -> None:
        self._client = client
        self._names = names

    async def get(self, uri: str) -> Document | None:
        """Return the document, whole."""
        if not putting.is_unicode(uri):
            return None
        for _ in range(TRIES):
            live = (await writes.read(self._client, self._names.metadata, [uri]))[uri].live
            if live is None:
                return None
            try:
                request = api.get_document(
                    self._names.fulltext, records.content_id(live), routing=uri_key(uri), source="content"
                )
                source = api.document(await self._client.perform(request)).source
            except Missing:
                continue
            text, blob = records.body_of(msgspec.json.decode(source)["content"])
            head = records.head_in(live.head)
            return Document(**msgspec.structs.asdict(head), text=text, blob=blob)
        raise Refused(f"the content of {uri} is not there: a repair is due (`mcpd migrate up`)")

    async def versions(self, uris: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """Return uri -> (version, digest) of those that exist."""
        found = await writes.read(self._client, self._names.metadata, uris)
        live = {uri: known.live for uri, known in found.items()}
        return {uri: (one.version, records.head_in(one.head).digest) for uri, one in live.items() if one is not None}

    async def page(self, where: Where, cursor: str | None, limit: int) -> Page:
        """Return a page of what fits, in order of URI."""
        fitting = query.matching(None, checked(where))
        position = cursors.decode(cursors.listing_key(where), cursor)
        limit = min(max(0, limit), query.MAX_WINDOW - 1)
        after = None if position.uri is None else [position.uri]
        body = query.page_of(fitting, query.BY_URI, limit + 1, after) | {"track_total_hits": False}
        hits = (await self._search(self._names.metadata, body)).hits.hits
        shown = [hit.head for hit in hits[:limit]]
        more = bool(shown) and len(hits) > limit
        return Page(shown, cursors.encode(cursors.Position(position.query, shown[-1].uri)) if more else None)

    async def match(self, wanted: Matching) -> Found:
        """Search by words."""
        everything = words.is_everything(wanted.text)
        phrases = None if everything else words.phrases(wanted.text)
        inner = None if everything else query.best_chunk(highlight=wanted.highlight > 0)
        fitting = query.matching(phrases, checked(wanted.where), inner)
        if wanted.sort is not None:
            check_sort(wanted.sort)
        position = cursors.decode(cursors.matching_key(wanted), wanted.cursor)
        if wanted.sort is None and not everything:
            return await self._best(wanted, fitting, position)
        return await self._ordered(wanted, fitting, position, self._names.metadata if everything else None)

    async def _best(self, wanted: Matching, fitting: query.Json, position: cursors.Position) -> Found:
        """Return a page in the order of scores, without what has been shown."""
        limit = max(0, wanted.limit)
        body = query.without(query.page_of(fitting, None, limit + 1 + SPARE), position.seen)
        shown, total = await self._gather(self._names.fulltext, body, limit, check=True)
        if position.seen:
            total = (await self._search(self._names.fulltext, query.counting(fitting))).hits.total.value
        end = [*position.seen, *(number_of(hit.head.version) for hit in shown[:limit])]
        cursor = cursors.encode(cursors.seen_after(position.query, end)) if limit and len(shown) > limit else None
        return Found([_hit(hit, wanted) for hit in shown[:limit]], total, cursor)

    async def _ordered(
        self, wanted: Matching, fitting: query.Json, position: cursors.Position, listing: str | None
    ) -> Found:
        """Return a page in the order of a field. `listing`: words do not matter, and records are the hits."""
        limit, sort = max(0, wanted.limit), wanted.sort or query.BY_URI
        body = query.page_of(fitting, sort, limit + 1 + SPARE)
        if position.uri is not None:
            body["search_after"] = [position.uri] if sort.field == "uri" else [position.key, position.uri]
        shown, total = await self._gather(listing or self._names.fulltext, body, limit, check=listing is None)
        last = shown[limit - 1].sort if limit and len(shown) > limit else None
        key = last[0] if last is not None and sort.field != "uri" else None
        cursor = None if last is None else cursors.encode(cursors.Position(position.query, last[-1], key))
        return Found([_hit(hit, wanted) for hit in shown[:limit]], total, cursor)

    async def _gather(self, index: str, body: query.Json, limit: int, *, check: bool) -> tuple[list[_Hit], int]:
        """Return more than `limit` hits, or all there are, and how many fit in all. `check` their versions."""
        shown: list[_Hit] = []
        total = -1
        while True:
            found = (await self._search(index, body)).hits
            total = found.total.value if total < 0 else total
            shown += await self._current(found.hits) if check else found.hits
            if len(shown) > limit or len(found.hits) < body["size"]:
                return shown, total
            body = {**body, "search_after": found.hits[-1].sort, "track_total_hits": False}

    async def _current(self, hits: Sequence[_Hit]) -> list[_Hit]:
        """Return the hits whose version `metadata` names, each document once, the newer version of two."""
        heads = {id(hit): hit.head for hit in hits}
        known = await writes.read(self._client, self._names.metadata, {head.uri for head in heads.values()})
        newest = {head.version for head in heads.values() if _is_newest(head, known)}
        seen: set[str] = set()
        current = []
        for hit in hits:
            head = heads[id(hit)]
            live = known[head.uri].live
            if head.uri in seen or live is None:
                continue
            if head.version == live.version or (head.version == live.previous and live.version not in newest):
                seen.add(head.uri)
                current.append(hit)
        return current

    async def nearest(self, wanted: Near) -> list[Hit]:
        """Search by vector."""
        tests, limit = checked(wanted.where), max(0, wanted.limit)
        dims = await self.dimensions(wanted.model)
        if dims is not None and dims != len(wanted.vector):
            raise BadQuery(putting.wrong_dimensions(wanted.model, dims, len(wanted.vector)))
        if dims is None or not limit:
            return []
        asked, widely = limit + SPARE, False
        while True:
            body = query.nearest(wanted, vector_field(dims), tests, asked, widely=widely)
            hits = (await self._search(self._names.vector, body)).hits.hits
            current, short = await self._current(hits), len(hits) < body["size"]
            if len(current) >= limit or (short and widely) or asked >= query.MAX_WINDOW:
                return [_near(hit, wanted) for hit in current[:limit]]
            widely, asked = short, asked if short else 4 * asked

    async def dimensions(self, model: str | None, besides: str | None = None) -> int | None:
        """Return how many the vectors of a model have, in any document but one; None when there are none."""
        others = [{"term": {"uri": besides}}] if besides is not None else []
        asked = {"bool": {"filter": [query.LIVE, {"term": {"model": model}}], "must_not": others}}
        body = {"query": asked, "size": 1, "_source": ["dims"], "terminate_after": 1}
        hits = api.found(await self._client.perform(api.search([self._names.metadata], body))).hits.hits
        return int(msgspec.json.decode(hits[0].source)["dims"]) if hits else None

    async def facets(self, text: str, where: Where, facets: Sequence[Facet]) -> dict[str, list[Bucket]]:
        """Count what fits the words and the conditions, by field."""
        check_facets(facets)
        everything = words.is_everything(text)
        fitting = query.matching(None if everything else words.phrases(text), checked(where))
        index = self._names.metadata if everything else self._names.fulltext
        if not facets:
            return {}
        return query.buckets(facets, (await self._search(index, query.counts(fitting, facets))).aggregations)

    async def related(self, uri: str, limit: int) -> list[Relation]:
        """Return relations whose source or target is `uri`."""
        if not putting.is_unicode(uri) or limit <= 0:
            return []
        asked = {"bool": {"should": [{"term": {"source": uri}}, {"term": {"target": uri}}]}}
        order = [{"source": "asc"}, {"relation": "asc"}, {"target": "asc"}]
        body = {"query": asked, "size": min(limit, query.MAX_WINDOW), "sort": order}
        answer = await self._client.perform(api.search([self._names.metadata], body))
        found = [msgspec.json.decode(hit.source) for hit in api.found(answer).hits.hits]
        return [Relation(one["source"], one["relation"], one["target"]) for one in found]

    async def statistics(self) -> Statistics:
        """Count what is there."""
        await self._client.perform(api.refresh(self._names.metadata))
        names = ("chunks", "vectors", "size")
        sums = {name: {"sum": {"field": name}} for name in names}
        answer = await self._search(
            self._names.metadata, query.counting({"bool": {"filter": [query.LIVE]}}) | {"aggs": sums}
        )
        chunks, vectors, size = (int(answer.aggregations[name]["value"]) for name in names)
        return Statistics(documents=answer.hits.total.value, chunks=chunks, vectors=vectors, bytes=size)

    async def _search(self, index: str, body: query.Json) -> _Answer:
        return api.shaped((await self._client.perform(api.search([index], body))).body, _Answer)


def _is_newest(head: Head, known: Mapping[str, writes.Known]) -> bool:
    live = known[head.uri].live
    return live is not None and live.version == head.version


def _hit(hit: _Hit, wanted: Matching) -> Hit:
    """Return the hit with what is shown of it."""
    place = hit.place
    if place is None:
        return Hit(head=hit.head, score=hit.score or 0.0, span=None)
    pieces: tuple[str, ...] = ()
    if wanted.highlight > 0 and hit.chunk is not None and "chunks.words" in hit.chunk.highlight:
        found = hit.chunk.highlight["chunks.words"][0]
        marked = analysis.marked(place.text, found, words.phrases(wanted.text))
        pieces = words.fragments(marked, wanted.highlight)
    begun = words.beginning(place.text) if wanted.highlight > 0 and not pieces else ""
    return Hit(head=hit.head, score=hit.score or 0.0, span=place.span, fragments=pieces, beginning=begun)


def _near(hit: _Hit, wanted: Near) -> Hit:
    """Return the hit with its cosine, which `max_inner_product` makes a positive score of."""
    place, score = hit.place, hit.score or 1.0
    cosine = score - 1 if score >= 1 else 1 - 1 / score
    begun = place.text if place is not None and wanted.highlight > 0 else ""
    return Hit(head=hit.head, score=cosine, span=None if place is None else place.span, beginning=begun)
