"""Removing what writers left that died: content that no record names, relations of documents that are gone.

For each document with such content, its record is written first, as it was, or a tombstone where there is none. That
gives it a new sequence number, so that the commit of a writer that only seemed dead is refused; it writes its content
anew then. Only after that the content is removed that was seen before. In this order a version that is committed never
loses its content, whatever overtakes what.

A tombstone is removed when it is older than any writer can be. One process does this at a time, every `EVERY_S`; a
second one would do no harm.

Called by: `documents`, beside watching. Content younger than `YOUNG_S` is left alone, since its writer likely lives.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

import msgspec

from mcpd.deadlines import bounded_shield
from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers import elasticsearch_bulk as bulk
from mcpd.drivers.elasticsearch import Conflict, Elasticsearch, ElasticsearchError
from mcpd.drivers.elasticsearch_bulk import Action, Done
from mcpd.storage.elasticsearch import writes
from mcpd.storage.elasticsearch.indices import Generation
from mcpd.storage.elasticsearch.keys import uri_key
from mcpd.storage.elasticsearch.records import Record

EVERY_S: Final = 600.0
YOUNG_S: Final = 120.0
"""A batch of writes ends well before."""

TOMBSTONE_S: Final = 86_400.0
"""After a day no writer is left that has read what was before the removal."""

CLOSE_S: Final = 2.0
"""For closing a scan; one that is not closed ends by itself within a minute."""

PAGE_ITEMS: Final = 500
LEASE: Final = "reconciling"


class Reconciled(msgspec.Struct, frozen=True):
    """How many records of content, relations and tombstones were removed."""

    contents: int = 0
    relations: int = 0
    tombstones: int = 0


class _Source(msgspec.Struct, frozen=True):
    uri: str
    version: str


class _Relation(msgspec.Struct, frozen=True):
    source: str
    changed_s: float


class Reconciler:
    """Reconciles one generation."""

    def __init__(self, client: Elasticsearch, names: Generation) -> None:
        self._client = client
        self._names = names

    async def run(self, now_s: float, *, young_s: float = YOUNG_S, tombstone_s: float = TOMBSTONE_S) -> Reconciled:
        """Remove what is left over and older than `young_s`. Raises: ElasticsearchError. Cancellation: safe."""
        await self._client.perform(api.refresh(self._names.metadata, self._names.fulltext, self._names.vector))
        old = {"range": {"written_s": {"lte": now_s - young_s}}}
        contents = 0
        for index in (self._names.fulltext, self._names.vector):
            async with aclosing(self._scan(index, old, ["uri", "version"])) as pages:
                async for page in pages:
                    contents += await self._clear(index, page, now_s)
        relations = tombstones = 0
        async with aclosing(self._scan(self._names.metadata, {"term": {"kind": "tombstone"}}, True)) as pages:
            async for page in pages:
                known = [writes.Known(_record(hit), hit.seq_no, hit.primary_term) for hit in page]
                relations += await self._clear_relations([one.record for one in known if one.record is not None])
                tombstones += await self._purge([one for one in known if _before(one, now_s - tombstone_s)])
        return Reconciled(contents, relations, tombstones)

    async def take(self, now_s: float, every_s: float = EVERY_S) -> bool:
        """Return whether it is this process's turn. Raises: ElasticsearchError."""
        known = await self._client.perform(api.get_documents(self._names.metadata, [{"_id": LEASE, "routing": LEASE}]))
        one = api.documents(known)[0]
        if one.found and msgspec.json.decode(one.source)["changed_s"] > now_s - every_s:
            return False
        condition = api.Condition(seq_no=one.seq_no, primary_term=one.primary_term) if one.found else api.CREATE
        source = {"kind": "lease", "changed_s": now_s}
        try:
            await self._client.perform(
                api.put_document(self._names.metadata, LEASE, source, condition=condition, routing=LEASE)
            )
        except Conflict:
            return False
        return True

    async def _scan(self, index: str, query: dict[str, Any], source: Any) -> AsyncGenerator[list[api.Hit], None]:
        """Give all that fits, page by page, as it was when the scan began."""
        pit = api.pit_id(await self._client.perform(api.open_pit([index])))
        after: list[Any] = []
        try:
            while True:
                body: dict[str, Any] = {"query": query, "size": PAGE_ITEMS, "_source": source}
                body |= {"pit": {"id": pit, "keep_alive": "1m"}, "sort": [{"_shard_doc": "asc"}]}
                body |= {"seq_no_primary_term": True, "track_total_hits": False}
                found = api.found(
                    await self._client.perform(api.search([], body | ({"search_after": after} if after else {})))
                )
                pit = found.pit_id or pit
                if found.hits.hits:
                    yield found.hits.hits
                if len(found.hits.hits) < PAGE_ITEMS:
                    return
                after = found.hits.hits[-1].sort
        finally:
            with bounded_shield(CLOSE_S), suppress(ElasticsearchError):
                await self._client.perform(api.close_pit(pit))  # noqa: ASYNC102 - in a bounded shield

    async def _clear(self, index: str, page: Sequence[api.Hit], now_s: float) -> int:
        """Remove the content among these that no record names."""
        sources = {hit.id: msgspec.json.decode(hit.source, type=_Source) for hit in page}
        known = await writes.read(self._client, self._names.metadata, {one.uri for one in sources.values()})
        left = {number: one.uri for number, one in sources.items() if _version(known[one.uri]) != one.version}
        uris = list(dict.fromkeys(left.values()))
        rewrites = [_rewrite(self._names.metadata, uri, known[uri], now_s) for uri in uris]
        answers = await writes.send(self._client, rewrites)
        done = {uri for uri, answer in zip(uris, answers, strict=True) if isinstance(answer, Done)}
        actions = [
            bulk.delete(index, number, routing=uri_key(uri), repeatable=True)
            for number, uri in left.items()
            if uri in done
        ]
        await writes.send(self._client, actions)
        return len(actions)

    async def _clear_relations(self, tombstones: Sequence[Record]) -> int:
        removed_s = {one.uri: one.changed_s for one in tombstones}
        query = {"bool": {"filter": [{"term": {"kind": "relation"}}, {"terms": {"source": list(removed_s)}}]}}
        count = 0
        async with aclosing(self._scan(self._names.metadata, query, ["source", "changed_s"])) as pages:
            async for page in pages:
                found = [(hit.id, msgspec.json.decode(hit.source, type=_Relation)) for hit in page]
                gone = [(number, one.source) for number, one in found if one.changed_s <= removed_s[one.source]]
                actions = [
                    bulk.delete(self._names.metadata, number, routing=uri_key(source), repeatable=True)
                    for number, source in gone
                ]
                await writes.send(self._client, actions)
                count += len(actions)
        return count

    async def _purge(self, tombstones: Sequence[writes.Known]) -> int:
        actions = [
            bulk.delete(self._names.metadata, key, condition=one.condition, routing=key)
            for one in tombstones
            if one.record is not None
            for key in [uri_key(one.record.uri)]
        ]
        return sum(isinstance(answer, Done) for answer in await writes.send(self._client, actions))


def _version(known: writes.Known) -> str:
    return known.live.version if known.live is not None else ""


def _before(known: writes.Known, moment_s: float) -> bool:
    return known.record is not None and known.record.changed_s <= moment_s


def _record(hit: api.Hit) -> Record:
    return msgspec.json.decode(hit.source, type=Record)


def _rewrite(index: str, uri: str, known: writes.Known, now_s: float) -> Action:
    """Return the write that gives a document's record a new number, and makes a tombstone where there is none."""
    if known.record is None:
        return known.action(index, writes.tombstone(uri, writes.new_version(), now_s))
    return known.action(index, msgspec.structs.replace(known.record, listed=known.listed))
