"""Documents in one SQLite file, `<data>/mcpd.db`: the embedded default.

    schema    tables, migrations            query     conditions and words as SQL
    writes    changes -> tables             reads     documents, listings, full text
    vectors   nearest neighbours            facets    counts
    errors    SQLite's errors -> ours

This file is the adapter over them: it cuts writes into transactions, runs reads in snapshots, and tells watchers. Any
number of processes on one machine may share the file; writers queue, readers never wait. Over `drivers.sqlite`.

Called by: `storage.open`. Bounds: a transaction holds at most `BATCH_ITEMS` changes and about `BATCH_WEIGHT` of
text and chunks, or one change that is larger; that is also how long a cancelled `write` goes on.

Laws: 2, 7, 12. A write is acknowledged when its transaction is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from mcpd.drivers.mounts import network_file_system
from mcpd.drivers.sqlite import Connection, Database, in_thread
from mcpd.drivers.sqlite import Statistics as Connections
from mcpd.drivers.timing import Observe
from mcpd.storage.documents import (
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
    SchemaState,
    Statistics,
    StorageError,
    Where,
)
from mcpd.storage.putting import check_relation
from mcpd.storage.sqlite import reads, schema, writes
from mcpd.storage.sqlite.errors import ITEM_ERRORS, translated, unwritable
from mcpd.storage.sqlite.facets import facets as count_facets
from mcpd.storage.sqlite.vectors import Neighbours
from mcpd.storage.sqlite.writes import Ready

T = TypeVar("T")

FILE_NAME: Final = "mcpd.db"

READERS: Final = 8
"""Connections for reading, opened as they are needed: some for what is no search (`searcher.PLACES`)."""

BATCH_ITEMS: Final = 256
BATCH_WEIGHT: Final = 4_000_000
"""Characters and bytes of content, plus `SPAN_WEIGHT` for each span: some 0.2 s of work."""

SPAN_WEIGHT: Final = 1_000


class SqliteDocuments:
    """Implements `Documents`; made by `open_documents`.

    `poll_s`: how soon the changes of another process are noticed. `clock` gives seconds since the epoch.
    """

    def __init__(self, database: Database, *, poll_s: float = 0.9, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._poll_s = poll_s
        self._clock = clock
        self._neighbours = Neighbours()
        self._stirred = trio.Event()

    async def _read(self, work: Callable[[Connection], T]) -> T:
        with translated(self._database.path):
            return await self._database.read(work)

    async def _commit(self, work: Callable[[Connection], T]) -> T:
        result = await self._database.write(work)
        self._stirred.set()
        self._stirred = trio.Event()
        return result

    def connections(self) -> Connections:
        """Return how the connections to the file stand."""
        return self._database.statistics()

    async def ping(self) -> None:
        """See `Documents`."""
        await self._read(reads.ping)

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        """See `Documents`. Cancellation: between transactions; the one that has begun is finished."""
        outcomes: list[Outcome] = []
        await trio.lowlevel.checkpoint()
        with translated(self._database.path):
            for batch in _batches(changes):
                ready = [await in_thread(partial(writes.ready, change)) for change in batch]
                outcomes += await self._write_batch(ready)
        return outcomes

    async def _write_batch(self, batch: list[Ready]) -> list[Outcome]:
        """Write the changes in one transaction or, when one of them makes it fail, each in its own."""
        try:
            return await self._commit(partial(writes.apply_all, changes=batch, now_s=self._clock()))
        except ITEM_ERRORS as error:
            if len(batch) == 1:
                return [Outcome(batch[0].change.uri, "failed", reason=str(error))]
        return [outcome for change in batch for outcome in await self._write_batch([change])]

    async def get(self, uri: str) -> Document | None:
        """See `Documents`."""
        return await self._read(partial(reads.document, uri=uri))

    async def versions(self, uris: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """See `Documents`."""
        return await self._read(partial(reads.versions, uris=uris))

    async def page(self, where: Where, cursor: str | None, limit: int) -> Page:
        """See `Documents`."""
        return await self._read(partial(reads.page, where=where, cursor=cursor, limit=limit))

    async def match(self, query: Matching) -> Found:
        """See `Documents`. Cancellation: the statement stops within about a millisecond."""
        return await self._read(partial(reads.match, query=query))

    async def nearest(self, query: Near) -> list[Hit]:
        """See `Documents`. Cancellation: stops within some milliseconds."""
        return await self._read(partial(self._neighbours.nearest, query=query))

    async def facets(self, text: str, where: Where, facets: Sequence[Facet]) -> dict[str, list[Bucket]]:
        """See `Documents`."""
        return await self._read(partial(count_facets, text=text, where=where, wanted=facets))

    async def relate(self, relation: Relation) -> bool:
        """See `Documents`."""
        check_relation(relation)
        with translated(self._database.path):
            return await self._database.write(partial(writes.relate, relation=relation))

    async def unrelate(self, relation: Relation) -> bool:
        """See `Documents`."""
        with translated(self._database.path):
            return await self._database.write(partial(writes.unrelate, relation=relation))

    async def related(self, uri: str, limit: int) -> list[Relation]:
        """See `Documents`."""
        return await self._read(partial(reads.related, uri=uri, limit=limit))

    async def refresh(self) -> None:
        """See `Documents`. Every read sees all that has been committed: there is nothing to wait for."""
        await trio.lowlevel.checkpoint()

    async def statistics(self) -> Statistics:
        """See `Documents`."""
        return await self._read(reads.statistics)

    async def watch(
        self, notice: Callable[[Notice], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `Documents`. Own changes are told at once, another process's within `poll_s`."""
        with translated(self._database.path):
            seen = await self._database.data_version()
            last = await self._database.read(_newest)
            task_status.started()
            while True:
                stirred = self._stirred
                now = await self._database.data_version()
                if now != seen:
                    seen = now
                    last, notices = await self._database.read(partial(_notices, after=last))
                    for told in notices:
                        notice(told)
                with trio.move_on_after(self._poll_s):
                    await stirred.wait()


def _newest(connection: Connection) -> int:
    row = connection.one("SELECT seq FROM sqlite_sequence WHERE name = 'journal'")
    return int(row[0]) if row else 0


def _notices(connection: Connection, after: int) -> tuple[int, list[Notice]]:
    """Return the number of the last change, and what has changed since `after`."""
    rows = connection.execute("SELECT seq, uri, listed FROM journal WHERE seq > ? ORDER BY seq", (after,)).fetchall()
    newest = _newest(connection)
    if newest > after and (not rows or rows[0][0] > after + 1):
        return newest, [Notice(None, listed=True)]
    return newest, [Notice(uri, listed=bool(listed)) for _, uri, listed in rows]


def _batches(changes: Sequence[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    weight = 0
    for change in changes:
        heavy = _weight(change)
        if batch and (len(batch) == BATCH_ITEMS or weight + heavy > BATCH_WEIGHT):
            yield batch
            batch, weight = [], 0
        batch.append(change)
        weight += heavy
    if batch:
        yield batch


def _weight(change: Change) -> int:
    if not isinstance(change, Put):
        return SPAN_WEIGHT
    return len(change.document.text or change.document.blob or b"") + SPAN_WEIGHT * (1 + len(change.spans))


@asynccontextmanager
async def open_database(
    folder: Path, *, readers: int = READERS, busy_s: float = 30.0, observe: Observe | None = None
) -> AsyncIterator[Database]:
    """Open `<folder>/mcpd.db`, making folder and file when they are not there, at whatever schema it has.

    Raises: StorageError naming the `--data` flag when the folder cannot be used. Resources: closed with the block.
    """
    await in_thread(partial(make_folder, folder))
    database = Database(folder / FILE_NAME, readers=readers, busy_s=busy_s, prepare=reads.prepare, observe=observe)
    try:
        with translated(database.path):
            await database.open()
        yield database
    finally:
        await database.aclose()


def make_folder(folder: Path) -> None:
    """Make the data folder, if it is not there. Raises: StorageError naming the `--data` flag. Blocking."""
    kind = network_file_system(folder)
    if kind is not None:
        raise StorageError(
            f"{folder} is on a network file system ({kind}), where a database shared by processes gets damaged:"
            " choose a local folder with --data"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


@asynccontextmanager
async def open_documents(
    folder: Path,
    *,
    readers: int = READERS,
    busy_s: float = 30.0,
    poll_s: float = 0.9,
    clock: Callable[[], float] = time.time,
    observe: Observe | None = None,
) -> AsyncIterator[SqliteDocuments]:
    """Open the documents in `folder`, bringing the schema up to date.

    Raises: StorageError when the folder cannot be used or its database is of a newer mcpd. Resources: closed with the
    block; what is read or written must have ended before.
    """
    async with open_database(folder, readers=readers, busy_s=busy_s, observe=observe) as database:
        await migrate(database)
        yield SqliteDocuments(database, poll_s=poll_s, clock=clock)


async def migrate(database: Database, target: int = schema.VERSION) -> int:
    """Bring the schema to `target`; return the version before. Raises: StorageError."""
    with translated(database.path):
        version = await database.read(schema.version_of)
        if version == target:
            return version
        return await database.write(partial(schema.migrate, target=target))


async def schema_version(database: Database) -> int:
    """Return the version of the schema in the file, 0 when it is empty. Raises: StorageError."""
    with translated(database.path):
        return await database.read(schema.version_of)


class SqliteSchema:
    """Implements `Schema` for the database in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def status(self) -> SchemaState:
        """See `Schema`."""
        path = self._folder / FILE_NAME
        if not path.exists():
            return self._state(0, exists=False)
        async with open_database(self._folder) as database:
            return self._state(await schema_version(database))

    async def up(self, target: int | None = None) -> SchemaState:
        """See `Schema`."""
        return await self._migrate(schema.VERSION if target is None else target)

    async def down(self, target: int) -> SchemaState:
        """See `Schema`."""
        return await self._migrate(target)

    async def _migrate(self, target: int) -> SchemaState:
        async with open_database(self._folder) as database:
            await migrate(database, target)
            return self._state(await schema_version(database))

    def _state(self, version: int, *, exists: bool = True) -> SchemaState:
        return SchemaState("sqlite", str(self._folder / FILE_NAME), exists, version, schema.VERSION)
