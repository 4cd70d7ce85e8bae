"""A server that records its calls in memory, without transports; the recorder alone; a store that can be away.

Time is that of the clock that jumps. Deliberately not: assertions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from mcpd.assembly import Parts, Stores, build
from mcpd.config import Records as Settings
from mcpd.messages.flight import Done, Flight
from mcpd.messages.recorder import Recorder
from mcpd.monitoring.logs import Logs
from mcpd.monitoring.metrics import Metrics
from mcpd.search.embeddings import HashProvider
from mcpd.storage.documents import StorageError
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.memory.idempotency import KeyShelf, MemoryIdempotency
from mcpd.storage.memory.inbox import MemoryInbox
from mcpd.storage.memory.records import MemoryRecords
from mcpd.storage.memory.sessions import MemorySessions
from mcpd.storage.memory.shared import LocalShared
from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.records import Keep, Record
from mcpd.wire.methods import TABLE
from tests.in_process import server_config
from tests.messages.memory import Wire, call

TOOLS = "tests.records.tools"
CLEANUP_S = 2.0
DONE = Done({"content": []}, b'{"content":[]}')


def clock() -> float:
    """Seconds since the epoch, by the clock that jumps."""
    return 1_800_000_000.0 + trio.current_time()


class Store(MemoryRecords):
    """A store that is away, stuck or choosy when a test says so, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.stuck = False
        self.choosy = False
        self.added: list[int] = []

    async def add(self, records: Sequence[Record]) -> None:
        self.added.append(len(records))
        await trio.lowlevel.checkpoint()
        if self.stuck:
            await trio.sleep_forever()
        if self.away:
            raise StorageError("the disk is full")
        if self.choosy:
            raise ValueError("not this one")
        await super().add(records)

    async def prune(self, keep: Keep) -> int:
        if self.away:
            raise StorageError("the disk is full")
        return await super().prune(keep)

    @property
    def records(self) -> list[Record]:
        """What is kept, oldest first."""
        return sorted(self.shelf.values(), key=lambda record: record.id)


class Recording:
    """A recorder that runs by itself."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.metrics = Metrics()
        self.recorder = Recorder(store, settings, self.metrics, cleanup_s=CLEANUP_S, clock=clock)

    def end(self, count: int = 1, **more: Any) -> None:
        """Let calls end."""
        for _ in range(count):
            self.recorder.ended(Flight(call(**more), Wire()), DONE, "ok", 0.001)

    def lost(self, why: str) -> int:
        """How many records were dropped."""
        return self.metrics.records_dropped.of(why).value

    @property
    def failed(self) -> int:
        """How often the store failed."""
        return self.metrics.records_failed.of().value


@asynccontextmanager
async def recording(**settings: Any) -> AsyncIterator[Recording]:
    """Run a recorder; on leaving it is stopped as by a server that ends."""
    made = Recording(Store(), Settings(**settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.recorder.run)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def recorded(folder: Path, **settings: Any) -> AsyncIterator[tuple[Parts, Store]]:
    """Run a server whose calls are recorded; all records are in the store on leaving."""
    store, logs = Store(), Logs(lambda _: None, requests=False)
    stores = Stores(
        MemoryDocuments(),
        HashProvider(),
        MemoryTasks(TaskShelf(clock=clock)),
        MemoryIdempotency(KeyShelf(clock=clock)),
        MemorySessions(),
        MemoryInbox(),
        LocalShared(),
        Metrics(methods=TABLE),
        store,
    )
    parts = build(replace(server_config(folder, TOOLS), records=Settings(**settings)), logs, stores)
    logs.close()
    assert parts.manager.recorder is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(parts.manager.recorder.run)
        yield parts, store
        nursery.cancel_scope.cancel()
