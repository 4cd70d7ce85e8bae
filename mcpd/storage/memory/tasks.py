"""Tasks in memory: the contract in plain Python, for tests, and an oracle for the other backends.

A `TaskShelf` is what several owners share, as processes share a data folder; each `MemoryTasks` is one owner's view.
Nothing survives the process, so "acknowledged means durable" is as true as it can be.

Called by: tests. Deliberately not: bounded by itself, which `Room` is for.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping

import trio
from msgspec import structs

from mcpd.storage.shared import NoRoom, Room
from mcpd.storage.task_states import Draft, Event, Refused, State, Task, lost, new_task, step


class TaskShelf:
    """The tasks of all owners, and who of them is alive. `clock` gives seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.tasks: dict[str, Task] = {}
        self.alive: set[str] = set()
        self.watchers: dict[object, Callable[[Task], None]] = {}

    def put(self, task: Task) -> None:
        """Store a record and tell everybody who watches."""
        self.tasks[task.id] = task
        for notice in list(self.watchers.values()):
            notice(structs.replace(task, outcome=None))


class MemoryTasks:
    """Implements `TaskStore` for one owner. Resources: `close`, or the owner goes on being alive."""

    def __init__(self, shelf: TaskShelf) -> None:
        self._shelf = shelf
        self.owner = secrets.token_urlsafe(12)
        shelf.alive.add(self.owner)

    def close(self) -> None:
        """The owner ends, in order or not. Idempotent."""
        self._shelf.alive.discard(self.owner)

    async def create(self, draft: Draft, room: Room) -> Task:
        """See `TaskStore`."""
        await trio.lowlevel.checkpoint()
        now_s = self._shelf.clock()
        kept = [task for task in self._shelf.tasks.values() if now_s < task.expires_s]
        if sum(task.share == draft.share for task in kept) >= room.most_of_share:
            raise NoRoom("share", room.most_of_share)
        if len(kept) >= room.most:
            raise NoRoom("all", room.most)
        task = new_task(draft, self.owner, now_s=now_s)
        self._shelf.put(task)
        return task

    async def get(self, task_id: str) -> Task | None:
        """See `TaskStore`."""
        await trio.lowlevel.checkpoint()
        task = self._shelf.tasks.get(task_id)
        if task is None or self._shelf.clock() >= task.expires_s:
            return None
        return self._end_if_lost(task)

    async def peek(self, task_id: str) -> Task | None:
        """See `TaskStore`."""
        await trio.lowlevel.checkpoint()
        task = self._shelf.tasks.get(task_id)
        if task is None or self._shelf.clock() >= task.expires_s:
            return None
        return structs.replace(task, outcome=None)

    def _end_if_lost(self, task: Task) -> Task:
        if task.ended or task.owner in self._shelf.alive:
            return task
        ended = self._step(task, lost(task))
        return ended if isinstance(ended, Task) else task

    async def apply(self, task_id: str, event: Event) -> Task | Refused:
        """See `TaskStore`."""
        await trio.lowlevel.checkpoint()
        task = self._shelf.tasks.get(task_id)
        return Refused("gone") if task is None else self._step(self._end_if_lost(task), event)

    def _step(self, task: Task, event: Event) -> Task | Refused:
        after = step(task, event, now_s=self._shelf.clock())
        if isinstance(after, Task) and after is not task:
            self._shelf.put(after)
        return after

    async def recover(self) -> int:
        """See `TaskStore`."""
        await trio.lowlevel.checkpoint()
        return sum(self._end_if_lost(task) is not task for task in list(self._shelf.tasks.values()))

    async def purge(self) -> int:
        """See `TaskStore`."""
        await trio.lowlevel.checkpoint()
        now_s = self._shelf.clock()
        expired = [task.id for task in self._shelf.tasks.values() if now_s >= task.expires_s]
        for task_id in expired:
            del self._shelf.tasks[task_id]
        return len(expired)

    async def count(self) -> Mapping[State, int]:
        """See `TaskStore`."""
        await trio.lowlevel.checkpoint()
        return Counter(task.state for task in self._shelf.tasks.values())

    async def watch(
        self, notice: Callable[[Task], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `TaskStore`. Every change is told at once."""
        key = object()
        self._shelf.watchers[key] = notice
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            del self._shelf.watchers[key]
