"""Documents in Elasticsearch: the store of servers on several machines.

    indices   the three indices, mappings      query     conditions, words, facets as request bodies
    keys      names and values that compare    analysis  words, endings, marks
    records   documents as records             writes    changes -> indices
    reads     documents, listings, searches    watching  changes of others
    schema    versions of the indices          reconciling  what dead writers left
    errors    the client's errors -> ours

This file is the adapter over them: it finds the indices, cuts writes into batches, and tells watchers. Over
`drivers.elasticsearch`.

Called by: `storage.open`. Bounds: a batch holds at most `BATCH_ITEMS` changes and about `BATCH_WEIGHT` of text and
chunks, or one change that is larger; a cancelled `write` finishes the batch that has begun, in at most `FINISH_S`.

Laws: 2, 7, 12. A write is acknowledged when its record is committed, on the disk of all copies that are in sync, and
what it replaced is gone.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
import trio

from mcpd.deadlines import bounded_shield
from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Conflict, Elasticsearch, Missing
from mcpd.storage import putting
from mcpd.storage.documents import (
    BadQuery,
    Bucket,
    Change,
    Document,
    Facet,
    Found,
    Hit,
    Matching,
    Near,
    Notice,
    Outcome,
    Page,
    Put,
    Relation,
    Statistics,
    StoreUnreachable,
    Where,
)
from mcpd.storage.elasticsearch import schema, writes
from mcpd.storage.elasticsearch.errors import translated
from mcpd.storage.elasticsearch.indices import Generation, vector_mapping
from mcpd.storage.elasticsearch.keys import MAX_URI_CHARS, relation_key, uri_key
from mcpd.storage.elasticsearch.reads import Reader
from mcpd.storage.elasticsearch.reconciling import EVERY_S, Reconciler
from mcpd.storage.elasticsearch.watching import Follower
from mcpd.storage.elasticsearch.writes import Batch, Ready

T = TypeVar("T")
_log = logging.getLogger(__name__)

BATCH_ITEMS: Final = 100
BATCH_WEIGHT: Final = 4_000_000
"""Characters and bytes of content, plus `SPAN_WEIGHT` for each chunk."""
SPAN_WEIGHT: Final = 1_000

FINISH_S: Final = 30.0
"""A batch takes a second or two where the cluster is not overloaded."""

MAX_CONTENT: Final = 48 << 20
"""Characters or bytes of one document: as JSON, with its words, it has to be less than the 100 MB of a request."""

MAX_OWN: Final = 100_000
"""Numbers of own writes that are remembered, so that they are not told twice: those of some seconds."""


class ElasticsearchDocuments:
    """Implements `Documents`; made by `open_documents`.

    `poll_s`: how soon changes of others are noticed, once searches see them. `clock` gives seconds since the epoch.
    """

    def __init__(
        self, client: Elasticsearch, prefix: str, *, poll_s: float = 0.9, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._poll_s = poll_s
        self._clock = clock
        self._names: Generation | None = None
        self._dims: dict[str, int] = {}
        self._mapped: set[int] = set()
        self._watchers: set[Callable[[Notice], None]] = set()
        self._own: OrderedDict[int, None] = OrderedDict()

    async def _ask(self, work: Callable[[Generation], Awaitable[T]]) -> T:
        """Return what `work` returns, given the indices as they are now."""
        with translated():
            if self._names is None:
                self._names = schema.usable(await schema.current(self._client, self._prefix), self._prefix)
            try:
                return await work(self._names)
            except Missing:
                self._forget()
                raise

    def _forget(self) -> None:
        self._names = None
        self._dims.clear()
        self._mapped.clear()

    async def _read(self, work: Callable[[Reader], Awaitable[T]]) -> T:
        return await self._ask(lambda names: work(Reader(self._client, names)))

    async def ping(self) -> None:
        """See `Documents`."""
        await self._ask(self._ping)

    async def _ping(self, names: Generation) -> None:
        await self._client.perform(api.get_documents(names.metadata, [{"_id": "ping", "routing": "ping"}]))

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        """See `Documents`. Cancellation: between batches; the one that has begun is finished."""
        outcomes: list[Outcome] = []
        await trio.lowlevel.checkpoint()
        for batch in _batches(changes):
            ready = await trio.to_thread.run_sync(_all_ready, batch)
            ready = [await self._mapped_first(change) for change in ready]
            outcomes += await self._ask(partial(self._apply, ready))
        return outcomes

    async def _apply(self, ready: Sequence[Ready], names: Generation) -> list[Outcome]:
        with bounded_shield(FINISH_S):
            return await Batch(self._client, names, self._clock(), self._tell).apply(ready)
        raise StoreUnreachable(f"Elasticsearch has not finished a batch of writes within {FINISH_S:g} s")

    async def _mapped_first(self, ready: Ready) -> Ready:
        """See that there is a field for the change's vectors, and that its model's others are as long."""
        put = ready.change
        if ready.problem or not isinstance(put, Put) or not put.vectors:
            return ready
        dims, model = len(put.vectors[0]), put.model or ""
        try:
            await self._ask(partial(self._check_dimensions, put.uri, model, dims))
        except ValueError as error:
            return Ready(put, str(error))
        return ready

    async def _check_dimensions(self, uri: str, model: str, dims: int, names: Generation) -> None:
        if self._dims.get(model, dims) != dims:
            await self._client.perform(api.refresh(names.metadata))
        if self._dims.get(model) != dims:
            known = await Reader(self._client, names).dimensions(model, besides=uri)
            putting.check_dimensions(model, dims if known is None else known, dims)
            self._dims[model] = dims
        if dims not in self._mapped:
            await self._client.perform(api.put_mapping(names.vector, vector_mapping(dims)))
            self._mapped.add(dims)

    def _tell(self, notice: Notice, number: int) -> None:
        if not self._watchers:
            return
        self._own[number] = None
        if len(self._own) > MAX_OWN:
            self._own.popitem(last=False)
        for watcher in tuple(self._watchers):
            watcher(notice)

    async def get(self, uri: str) -> Document | None:
        """See `Documents`."""
        return await self._read(lambda reader: reader.get(uri))

    async def versions(self, uris: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """See `Documents`."""
        return await self._read(lambda reader: reader.versions(uris))

    async def page(self, where: Where, cursor: str | None, limit: int) -> Page:
        """See `Documents`."""
        return await self._read(lambda reader: reader.page(where, cursor, limit))

    async def match(self, query: Matching) -> Found:
        """See `Documents`. Cancellation: closes the connection, which ends the search on the server."""
        return await self._read(lambda reader: reader.match(query))

    async def nearest(self, query: Near) -> list[Hit]:
        """See `Documents`. Cancellation: as with `match`."""
        return await self._read(lambda reader: reader.nearest(query))

    async def facets(self, text: str, where: Where, facets: Sequence[Facet]) -> dict[str, list[Bucket]]:
        """See `Documents`. Cancellation: as with `match`."""
        return await self._read(lambda reader: reader.facets(text, where, facets))

    async def relate(self, relation: Relation) -> bool:
        """See `Documents`. Returns when searches see it: within the indices' `refresh_interval`."""
        putting.check_relation(relation)
        if any(len(part) > MAX_URI_CHARS for part in (relation.source, relation.kind, relation.target)):
            raise BadQuery(f"A part of a relation has at most {MAX_URI_CHARS} characters")
        return await self._ask(partial(self._relate, relation))

    async def _relate(self, relation: Relation, names: Generation) -> bool:
        described = {"source": relation.source, "relation": relation.kind, "target": relation.target}
        source = {"kind": "relation", **described, "changed_s": self._clock()}
        key, routing = relation_key(relation), uri_key(relation.source)
        request = api.put_document(
            names.metadata, key, source, condition=api.CREATE, routing=routing, refresh="wait_for"
        )
        try:
            await self._client.perform(request)
        except Conflict:
            return False
        return True

    async def unrelate(self, relation: Relation) -> bool:
        """See `Documents`."""
        return await self._ask(partial(self._unrelate, relation))

    async def _unrelate(self, relation: Relation, names: Generation) -> bool:
        key, routing = relation_key(relation), uri_key(relation.source)
        try:
            await self._client.perform(api.delete_document(names.metadata, key, routing=routing, refresh="wait_for"))
        except Missing as error:
            if error.kind:
                raise
            return False
        return True

    async def related(self, uri: str, limit: int) -> list[Relation]:
        """See `Documents`."""
        return await self._read(lambda reader: reader.related(uri, limit))

    async def refresh(self) -> None:
        """See `Documents`."""
        await self._ask(self._refresh)

    async def _refresh(self, names: Generation) -> None:
        await self._client.perform(api.refresh(names.metadata, names.fulltext, names.vector))

    async def statistics(self) -> Statistics:
        """See `Documents`."""
        return await self._read(lambda reader: reader.statistics())

    async def watch(
        self, notice: Callable[[Notice], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `Documents`. Own changes are told at once, those of others within `poll_s` of the next refresh.

        Whoever watches also reconciles, when it is due and no other process has done so.
        """
        self._watchers.add(notice)
        try:
            await self._ask(partial(self._follow, notice, task_status))
        finally:
            self._watchers.discard(notice)

    async def _follow(
        self, notice: Callable[[Notice], None], task_status: trio.TaskStatus[None], names: Generation
    ) -> None:
        follower = Follower(self._client, names.metadata, self._own)
        await follower.start()
        task_status.started()
        due_s = trio.current_time() + self._poll_s
        while True:
            await trio.sleep(self._poll_s)
            for told in await follower.poll(trio.current_time()):
                notice(told)
            if trio.current_time() >= due_s:
                due_s += EVERY_S
                await self._reconcile(names)

    async def _reconcile(self, names: Generation) -> None:
        reconciler = Reconciler(self._client, names)
        if await reconciler.take(self._clock()):
            removed = await reconciler.run(self._clock())
            if any(msgspec.structs.astuple(removed)):
                _log.info("reconciled the document store: %s", removed)


def _all_ready(batch: Sequence[Change]) -> list[Ready]:
    return [_checked_size(writes.ready(change)) for change in batch]


def _checked_size(ready: Ready) -> Ready:
    size = _weight(ready.change) - SPAN_WEIGHT
    return ready if size <= MAX_CONTENT else Ready(ready.change, f"{size} characters are too long for Elasticsearch")


def _batches(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Give the changes in order, each URI and each model's length of vectors once in a batch."""
    batch: list[Change] = []
    weight, uris, dims = 0, set[str](), dict[str | None, int]()
    for change in changes:
        heavy = _weight(change)
        full = len(batch) == BATCH_ITEMS or weight + heavy > BATCH_WEIGHT
        if batch and (full or change.uri in uris or _dims_of(change, dims) is None):
            yield batch
            batch, weight, uris, dims = [], 0, set[str](), dict[str | None, int]()
        batch.append(change)
        uris.add(change.uri)
        dims |= _dims_of(change, dims) or {}
        weight += heavy
    if batch:
        yield batch


def _dims_of(change: Change, known: Mapping[str | None, int]) -> dict[str | None, int] | None:
    """Return what the change says of its model's dimensions; None when the batch's others say otherwise."""
    if not isinstance(change, Put) or not change.vectors:
        return {}
    dims = len(change.vectors[0])
    return {change.model: dims} if known.get(change.model, dims) == dims else None


def _weight(change: Change) -> int:
    if not isinstance(change, Put):
        return SPAN_WEIGHT
    return len(change.document.text or change.document.blob or b"") + SPAN_WEIGHT * (1 + len(change.spans))


@asynccontextmanager
async def open_documents(
    client: Elasticsearch,
    prefix: str,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    poll_s: float = 0.9,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[ElasticsearchDocuments]:
    """Give the documents in the indices with `prefix`, making them where there are none.

    A cluster that does not answer is no error: it may come. `options` are settings of indices that are made.
    Raises: StorageError when it refuses, or the indices are not ours. Resources: none but the client's.
    """
    with suppress(StoreUnreachable), translated():
        if await schema.current(client, prefix) is None:
            await schema.create(client, prefix, options)
    yield ElasticsearchDocuments(client, prefix, poll_s=poll_s, clock=clock)
