"""The backends that every contract test of idempotency keys runs on: processes on one store, that can be killed.

A contract test never asks which one it has. The servers are real ones, each for all tests of a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import trio

from mcpd.storage.memory.idempotency import KeyShelf, MemoryIdempotency
from mcpd.storage.redis.idempotency import RedisIdempotency
from mcpd.storage.shared import Idempotency
from mcpd.storage.sqlite.idempotency import SqliteIdempotency, open_idempotency
from tests.contract import beating
from tests.contract.backends import Clock
from tests.redis_servers import RedisServer

LEASE_S = 0.4


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
        self._beating = beating.Beating(server, nursery, RedisIdempotency, lease_s=LEASE_S)

    async def open(self) -> Idempotency:
        return await self._beating.open()

    async def kill(self, store: Idempotency) -> None:
        assert isinstance(store, RedisIdempotency)
        self._beating.stop(store)

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


def backend(name: str) -> AbstractContextManager[Backend]:
    """Give a backend; a server of it runs until the body is done."""
    return beating.backend(name, {"memory": memory, "sqlite": sqlite}, redis)
