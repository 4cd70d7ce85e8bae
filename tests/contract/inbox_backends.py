"""The backends that every contract test of inboxes runs on: each gives processes that share one store.

A contract test never asks which one it has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
import trio.testing

from mcpd.storage.inbox import Inbox, Message
from mcpd.storage.memory.inbox import InboxShelf, MemoryInbox

TOPIC = "topic"


class Process:
    """One process: its inbox, and what it has heard on `TOPIC`."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.heard: list[Message] = []
        self._news = trio.lowlevel.ParkingLot()
        inbox.on(TOPIC, self._take)

    def _take(self, message: Message) -> None:
        self.heard.append(message)
        self._news.unpark_all()

    @property
    def bodies(self) -> list[bytes]:
        """What was heard, without who sent it."""
        return [message.body for message in self.heard]

    async def hears(self, *bodies: bytes) -> None:
        """Wait until as many messages were heard; these are they, in this order."""
        with trio.fail_after(30):
            while len(self.heard) < len(bodies):
                await self._news.park()
        assert self.bodies == list(bodies)

    async def tell(self, other: Process, body: bytes) -> bool:
        """Send `body` to the other one."""
        return await self.inbox.send(other.inbox.address, TOPIC, body)


class Neighbours:
    """Processes that share one store."""

    def __init__(self, nursery: trio.Nursery, make: Callable[[], Awaitable[Inbox]]) -> None:
        self._nursery = nursery
        self._make = make
        self._scopes: dict[Process, trio.CancelScope] = {}

    async def join(self) -> Process:
        """Start one more process, which hears what is sent to it."""
        process, scope = Process(await self._make()), trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await process.inbox.run(task_status=task_status)

        self._scopes[process] = scope
        await self._nursery.start(run)
        return process

    async def leave(self, process: Process) -> None:
        """End a process in order."""
        self._scopes.pop(process).cancel()
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def memory() -> AsyncIterator[Neighbours]:
    shelf = InboxShelf()

    async def make() -> Inbox:
        return MemoryInbox(shelf)

    async with trio.open_nursery() as nursery:
        yield Neighbours(nursery, make)
        nursery.cancel_scope.cancel()


BACKENDS: dict[str, Callable[[], AbstractAsyncContextManager[Neighbours]]] = {"memory": memory}
