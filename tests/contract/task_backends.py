"""The backends that every contract test of tasks runs on: each lets several owners share one store, and kills them.

A contract test never asks which one it has.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.shared import Room, TaskStore
from mcpd.storage.sqlite.tasks import SqliteTasks, open_tasks
from mcpd.storage.task_states import Draft, Task
from tests.contract.backends import Clock

ROOM = Room(1000, 1000)


class Owners(Protocol):
    """Several processes on one store, as far as the store can tell."""

    async def open(self) -> TaskStore:
        """Return the store as a new owner sees it."""

    async def kill(self, store: TaskStore) -> None:
        """Let an owner die, as with SIGKILL."""


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


@asynccontextmanager
async def memory(clock: Clock) -> AsyncIterator[Owners]:
    yield MemoryOwners(clock)


@asynccontextmanager
async def sqlite(clock: Clock) -> AsyncIterator[Owners]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            yield SqliteOwners(Path(folder), clock, stack)


BACKENDS: dict[str, Callable[[Clock], AbstractAsyncContextManager[Owners]]] = {"memory": memory, "sqlite": sqlite}


def draft(name: str = "one", **more: Any) -> Draft:
    """A task of somebody, kept for a minute."""
    return Draft(**{"id": name, "principal": "alice", "share": "alice", "tool": "work", "ttl_s": 60.0, **more})


async def made(store: TaskStore, name: str = "one", **more: Any) -> Task:
    """Create one where there is room."""
    return await store.create(draft(name, **more), ROOM)


def question(text: str = "?") -> dict[str, Any]:
    """What a runner asks."""
    return {"method": "elicitation/create", "params": {"message": text}}
