"""The backends that every contract test of tasks runs on: each lets several owners share one store, and kills them.

A contract test never asks which one it has. The servers are real ones, each for all tests of a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from mcpd.drivers.redis import Script
from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.redis.lease import LUA
from mcpd.storage.redis.tasks import RedisTasks
from mcpd.storage.shared import Room, TaskStore
from mcpd.storage.sqlite.tasks import SqliteTasks, open_tasks
from mcpd.storage.task_states import Draft, Task
from tests.contract import beating
from tests.contract.backends import Clock
from tests.redis_servers import RedisServer

ROOM = Room(1000, 1000)
LEASE_S = 1.0
_ASK = Script(LUA + "return is_alive(KEYS[1], KEYS[2], now_ms(), ARGV[1]) and 1 or 0", "ask")


class Owners(Protocol):
    """Several processes on one store, as far as the store can tell."""

    async def open(self) -> TaskStore:
        """Return the store as a new owner sees it."""

    async def kill(self, store: TaskStore) -> None:
        """Let an owner die, as with SIGKILL; return when that can be known."""


class MemoryOwners:
    def __init__(self, clock: Clock) -> None:
        self._shelf = TaskShelf(clock=clock)

    async def open(self) -> TaskStore:
        return MemoryTasks(self._shelf)

    async def kill(self, store: TaskStore) -> None:
        assert isinstance(store, MemoryTasks)
        store.close()


class SqliteOwners:
    def __init__(self, folder: Path, clock: Clock, stack: AsyncExitStack) -> None:
        self._folder, self._clock, self._stack = folder, clock, stack

    async def open(self) -> TaskStore:
        return await self._stack.enter_async_context(open_tasks(self._folder, poll_s=0.02, clock=self._clock))

    async def kill(self, store: TaskStore) -> None:
        assert isinstance(store, SqliteTasks)
        store._owners.drop()


class RedisOwners:
    """Owners with a short lease, which has to lapse before one is dead."""

    def __init__(self, server: RedisServer, clock: Clock, nursery: trio.Nursery) -> None:
        self._beating = beating.Beating(server, nursery, partial(RedisTasks, clock=clock), lease_s=LEASE_S)

    async def open(self) -> TaskStore:
        return await self._beating.open()

    async def kill(self, store: TaskStore) -> None:
        assert isinstance(store, RedisTasks)
        self._beating.stop(store)
        with trio.fail_after(20 * LEASE_S):
            while await store._redis.run_script(_ASK, keys=store._lease.keys, arguments=[store.owner]):  # noqa: ASYNC110
                await trio.sleep(LEASE_S / 20)


@asynccontextmanager
async def memory(clock: Clock) -> AsyncIterator[Owners]:
    yield MemoryOwners(clock)


@asynccontextmanager
async def sqlite(clock: Clock) -> AsyncIterator[Owners]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            yield SqliteOwners(Path(folder), clock, stack)


@asynccontextmanager
async def redis(clock: Clock, *, server: RedisServer) -> AsyncIterator[Owners]:
    async with trio.open_nursery() as nursery:
        yield RedisOwners(server, clock, nursery)
        nursery.cancel_scope.cancel()


Backend = Callable[[Clock], AbstractAsyncContextManager[Owners]]


def backend(name: str) -> AbstractContextManager[Backend]:
    """Give a backend; a server of it runs until the body is done."""
    return beating.backend(name, {"memory": memory, "sqlite": sqlite}, redis)


def draft(name: str = "one", **more: Any) -> Draft:
    """A task of somebody, kept for a minute."""
    return Draft(**{"id": name, "principal": "alice", "share": "alice", "tool": "work", "ttl_s": 60.0, **more})


async def made(store: TaskStore, name: str = "one", **more: Any) -> Task:
    """Create one where there is room."""
    return await store.create(draft(name, **more), ROOM)


def question(text: str = "?") -> dict[str, Any]:
    """What a runner asks."""
    return {"method": "elicitation/create", "params": {"message": text}}
