"""A server with idempotency keys in memory, without transports, and how often its tools have run.

`keyed` runs what `app` runs of it; two of them may share a `KeyShelf`, as two processes share a store. `Stubborn` is a
store that is away when a test says so. Deliberately not: assertions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from mcpd.assembly import Parts, Stores, build
from mcpd.messages.flight import Done, Failed, Flight, Outcome
from mcpd.messages.work import KeyedWork, TaskWork
from mcpd.monitoring.logs import Logs
from mcpd.monitoring.metrics import Metrics
from mcpd.search.embeddings import HashProvider
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.memory.idempotency import KeyShelf, MemoryIdempotency
from mcpd.storage.memory.inbox import MemoryInbox
from mcpd.storage.memory.sessions import MemorySessions
from mcpd.storage.memory.shared import LocalShared
from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.shared import Begun, Claim, Idempotency, Room
from mcpd.wire.call import Call
from mcpd.wire.envelope import IDEMPOTENCY_KEY
from tests.in_process import server_config
from tests.messages.memory import Wire, call
from tests.tasks.memory import clock, tasks_of

TOOLS = "tests.idempotency.tools"
REPLAYED = "dev.mcpd/replayed"


@asynccontextmanager
async def keyed(
    folder: Path, *, store: Idempotency | None = None, limits: dict[str, Any] | None = None, **timeouts: float
) -> AsyncIterator[Parts]:
    """Run a server's keyed calls and tasks; what is still running on leaving is stopped as if the process died."""
    logs = Logs(lambda _: None, requests=False)
    keys, tasks = store or MemoryIdempotency(KeyShelf(clock=clock)), MemoryTasks(TaskShelf(clock=clock))
    stores = Stores(
        MemoryDocuments(), HashProvider(), tasks, keys, MemorySessions(), MemoryInbox(), LocalShared(), Metrics()
    )
    parts = build(server_config(folder, TOOLS, limits=limits, **timeouts), logs, stores)
    logs.close()
    assert parts.keyed is not None
    async with trio.open_nursery() as services:
        await services.start(tasks_of(parts).run, partial(TaskWork, parts.manager))
        await services.start(parts.keyed.run, partial(KeyedWork, parts.manager))
        yield parts
        services.cancel_scope.cancel()


class Stubborn(MemoryIdempotency):
    """A store that is away while `away` says so: `begin`, `finish`, or both."""

    def __init__(self, shelf: KeyShelf) -> None:
        super().__init__(shelf)
        self.away: set[str] = set()

    def _check(self, step: str) -> None:
        if step in self.away:
            raise StoreUnreachable("it is away")

    async def begin(self, claim: Claim, room: Room, hold_s: float) -> Begun:
        self._check("begin")
        return await super().begin(claim, room, hold_s)

    async def finish(self, claim: Claim, holder: str, outcome: bytes, ttl_s: float) -> bool:
        self._check("finish")
        return await super().finish(claim, holder, outcome, ttl_s)


class Witness:
    """The file that tools write their runs to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "witness"

    @property
    def words(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").split() if self.path.exists() else []

    @property
    def lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []

    def call(self, tool: str, key: str | None = "k", *, meta: dict[str, Any] | None = None, **more: Any) -> Call:
        """Return a stateless call of a tool with a key; `more` are arguments, or fields of the call after `call_`."""
        fields = {name.removeprefix("call_"): more.pop(name) for name in list(more) if name.startswith("call_")}
        params = {"name": tool, "arguments": {"witness": str(self.path), **more}}
        if meta is not None:
            params["_meta"] = {IDEMPOTENCY_KEY: key, **meta}
        return call("tools/call", params, idempotency_key=key, **fields)


class Asking:
    """One client's call that runs beside the test."""

    def __init__(self, parts: Parts, of: Call, nursery: trio.Nursery, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        self.flight = Flight(of, self.wire)
        self._over = trio.Event()
        self._outcome: Outcome | None = None
        nursery.start_soon(self._serve, parts)

    async def _serve(self, parts: Parts) -> None:
        self._outcome = await parts.manager.serve(self.flight)
        self._over.set()

    async def outcome(self) -> Outcome:
        """Wait for it; bounded by the clock that jumps."""
        with trio.fail_after(100_000):
            await self._over.wait()
        assert self._outcome is not None
        return self._outcome

    async def result(self) -> dict[str, Any]:
        """Return the result that it has to have."""
        outcome = await self.outcome()
        assert isinstance(outcome, Done), outcome
        return outcome.result

    async def error(self) -> Any:
        """Return the error that it has to have."""
        outcome = await self.outcome()
        assert isinstance(outcome, Failed), outcome
        return outcome.error


def text(result: dict[str, Any]) -> str:
    """Return the text of a result."""
    found: str = result["content"][0]["text"]
    return found


def replayed(result: dict[str, Any]) -> bool:
    """Tell whether a result says that its tool did not run for it."""
    said = (result.get("_meta") or {}).get(REPLAYED, False)
    assert isinstance(said, bool)
    return said
