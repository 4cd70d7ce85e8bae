"""The backends that every contract test of idempotency keys runs on: processes on one store, that can be killed.

A contract test never asks which one it has. The servers are real ones, each for all tests of a run.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from mcpd.drivers.redis import Options, Redis
from mcpd.storage.memory.idempotency import KeyShelf, MemoryIdempotency
from mcpd.storage.redis.idempotency import RedisIdempotency
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.lease import Lease
from mcpd.storage.shared import Idempotency
from mcpd.storage.sqlite.idempotency import SqliteIdempotency, open_idempotency
from tests.contract.backends import Clock
from tests.redis_servers import KINDS, RedisServer, serving

LEASE_S = 0.4
QUICK = Options(connect_s=2, stall_s=2, patience_s=1)


class Processes(Protocol):
    """Several processes on one store, as far as the store can tell."""

    async def open(self) -> Idempotency:
        """Return the store as a new process sees it."""

    async def kill(self, store: Idempotency) -> None:
        """Let a process die, as with SIGKILL."""

    async def elapse(self, seconds: float) -> None:
        """Let time pass for the store."""


class MemoryProcesses:
    def __init__(self, clock: Clock) -> None:
        self._clock, self._shelf = clock, KeyShelf(clock=clock)

    async def open(self) -> Idempotency:
        return MemoryIdempotency(self._shelf)

    async def kill(self, store: Idempotency) -> None:
        assert isinstance(store, MemoryIdempotency)
        store.close()

    async def elapse(self, seconds: float) -> None:
        self._clock.now_s += seconds


class SqliteProcesses:
    def __init__(self, folder: Path, clock: Clock, stack: AsyncExitStack) -> None:
        self._folder, self._clock, self._stack = folder, clock, stack

    async def open(self) -> Idempotency:
        return await self._stack.enter_async_context(open_idempotency(self._folder, clock=self._clock))

    async def kill(self, store: Idempotency) -> None:
        assert isinstance(store, SqliteIdempotency)
        store._owners.drop()

    async def elapse(self, seconds: float) -> None:
        self._clock.now_s += seconds


class RedisProcesses:
    """Processes with a short lease; time is the server's, so it has to pass."""

    def __init__(self, server: RedisServer, nursery: trio.Nursery) -> None:
        self._server, self._nursery = server, nursery
        self.keys = Keys(f"{secrets.token_hex(4)}:")
        self._beating: dict[Idempotency, trio.CancelScope] = {}

    async def open(self) -> Idempotency:
        redis = Redis(self._server.url, options=QUICK)
        lease, scope = Lease(redis, self.keys, lease_s=LEASE_S), trio.CancelScope()
        await self._nursery.start(redis.run)
        store = RedisIdempotency(redis, self.keys, lease)
        self._beating[store] = scope
        self._nursery.start_soon(self._beat, lease, scope)
        return store

    async def _beat(self, lease: Lease, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(LEASE_S / 3)
                await lease._beat()

    async def kill(self, store: Idempotency) -> None:
        self._beating[store].cancel()

    async def elapse(self, seconds: float) -> None:
        await trio.sleep(seconds)


@asynccontextmanager
async def memory(clock: Clock) -> AsyncIterator[Processes]:
    yield MemoryProcesses(clock)


@asynccontextmanager
async def sqlite(clock: Clock) -> AsyncIterator[Processes]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            yield SqliteProcesses(Path(folder), clock, stack)


@asynccontextmanager
async def redis(clock: Clock, *, server: RedisServer) -> AsyncIterator[RedisProcesses]:
    async with trio.open_nursery() as nursery:
        yield RedisProcesses(server, nursery)
        nursery.cancel_scope.cancel()


Backend = Callable[[Clock], AbstractAsyncContextManager[Processes]]
BACKENDS = ("memory", "sqlite", *KINDS)


@contextmanager
def backend(name: str) -> Iterator[Backend]:
    """Give a backend; a server of it runs until the body is done."""
    if name in KINDS:
        with serving(name) as server:
            yield partial(redis, server=server)
    else:
        yield {"memory": memory, "sqlite": sqlite}[name]
