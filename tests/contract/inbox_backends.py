"""The backends that every contract test of inboxes runs on: processes that share one store, and what befalls it.

A contract test never asks which one it has. `STORES` are those where something lies between two processes, so that an
inbox can fill up; the servers are real ones, each for all tests of a module.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio
import trio.testing

from mcpd.drivers.redis import Options, Redis
from mcpd.storage.inbox import Inbox, InboxRoom, Message
from mcpd.storage.memory.inbox import InboxShelf, MemoryInbox
from mcpd.storage.redis.inbox import RedisInbox
from mcpd.storage.redis.keys import Keys
from mcpd.storage.sqlite.inbox import SqliteInbox, open_inbox
from tests.redis_servers import KINDS, RedisServer, free_port, serving

TOPIC = "topic"
LEASE_S = 1.0
WAIT_S = 30.0
ROOM: Final = InboxRoom(100, 200_000)
QUICK = Options(connect_s=2, stall_s=2, patience_s=10)
KEEPS = ("--appendonly", "yes")


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
        while len(self.heard) < len(bodies):
            await self._news.park()
        assert self.bodies == list(bodies)

    async def hears_at_last(self, body: bytes) -> None:
        """Wait until this message was heard."""
        while body not in self.bodies:
            await self._news.park()

    async def tell(self, other: Process, body: bytes) -> bool:
        """Send `body` to the other one."""
        return await self.inbox.send(other.inbox.address, TOPIC, body)


class Store:
    """What lies between processes, and what can befall it; here nothing does."""

    async def open(self, nursery: trio.Nursery) -> Inbox:
        """Return the inbox of one more process."""
        raise NotImplementedError

    async def cut(self) -> None:
        """Cut all connections."""

    async def restart(self) -> None:
        """Restart it with its data kept; return when it is there again."""

    async def forget(self) -> None:
        """Let all its data be lost."""

    def die(self, inbox: Inbox) -> None:
        """Let go of what a process that has died lets go of."""

    def child(self) -> list[str]:
        """Return the arguments of `inbox_child` for a process on this store."""
        raise NotImplementedError


class Neighbours:
    """Processes that share one store."""

    def __init__(self, nursery: trio.Nursery, store: Store) -> None:
        self._nursery = nursery
        self.store = store
        self._scopes: dict[Process, trio.CancelScope] = {}

    async def join(self) -> Process:
        """Start one more process, which hears what is sent to it."""
        process, scope = Process(await self.store.open(self._nursery)), trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await process.inbox.run(task_status=task_status)

        self._scopes[process] = scope
        await self._nursery.start(run)
        return process

    async def leave(self, process: Process) -> None:
        """End a process in order."""
        await process.inbox.leave()
        self._scopes.pop(process).cancel()

    async def stop(self, process: Process) -> None:
        """Let a process hear nothing for a while, and still live."""
        self._scopes.pop(process).cancel()
        await trio.testing.wait_all_tasks_blocked()

    def kill(self, process: Process) -> None:
        """Let a process die."""
        self._scopes.pop(process).cancel()
        self.store.die(process.inbox)


class MemoryStore(Store):
    def __init__(self) -> None:
        self._shelf = InboxShelf()

    async def open(self, nursery: trio.Nursery) -> Inbox:
        return MemoryInbox(self._shelf)


class RedisPlace:
    """A server that can be restarted at its port, with its data kept."""

    def __init__(self, kind: str) -> None:
        self.port = free_port()
        self._kind = kind
        self._folder: Path | None = None
        self._running = ExitStack()
        self._kept = ExitStack()
        self.server = self._start(self._kept)
        self._folder = self.server.folder

    def _start(self, stack: ExitStack) -> RedisServer:
        return stack.enter_context(serving(self._kind, *KEEPS, port=self.port, folder=self._folder))

    def restart(self) -> None:
        self.server.process.kill()
        self.server.process.wait()
        self.server = self._start(self._running)

    def close(self) -> None:
        self._running.close()
        self._kept.close()


class RedisStore(Store):
    def __init__(self, place: RedisPlace) -> None:
        self._place = place
        self._keys = Keys(f"{secrets.token_hex(4)}:")

    async def open(self, nursery: trio.Nursery) -> Inbox:
        redis = Redis(self._place.server.url, options=QUICK)
        await nursery.start(redis.run)
        return RedisInbox(redis, self._keys, lease_s=LEASE_S, room=ROOM)

    async def cut(self) -> None:
        self._place.server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        self._place.server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def restart(self) -> None:
        await trio.to_thread.run_sync(self._place.restart)

    async def forget(self) -> None:
        self._place.server.ask("FLUSHALL")

    def child(self) -> list[str]:
        return ["redis", self._place.server.url, self._keys.prefix]


class SqliteStore(Store):
    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack

    async def open(self, nursery: trio.Nursery) -> Inbox:
        return await self._stack.enter_async_context(open_inbox(self._folder, poll_s=0.01, room=ROOM))

    def die(self, inbox: Inbox) -> None:
        assert isinstance(inbox, SqliteInbox)
        inbox._owners.drop()

    def child(self) -> list[str]:
        return ["sqlite", str(self._folder)]


@asynccontextmanager
async def _sqlite() -> AsyncIterator[Neighbours]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            yield Neighbours(nursery, SqliteStore(Path(folder), stack))
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _neighbours(make: Callable[[], Store]) -> AsyncIterator[Neighbours]:
    async with trio.open_nursery() as nursery:
        yield Neighbours(nursery, make())
        nursery.cancel_scope.cancel()


Backend = Callable[[], AbstractAsyncContextManager[Neighbours]]
STORES: Final = ("sqlite", *KINDS)
BACKENDS: Final = ("memory", *STORES)


@contextmanager
def backend(name: str) -> Iterator[Backend]:
    """Give a backend; a server of it runs until the body is done."""
    if name not in KINDS:
        yield _sqlite if name == "sqlite" else partial(_neighbours, MemoryStore)
        return
    place = RedisPlace(name)
    try:
        yield partial(_neighbours, partial(RedisStore, place))
    finally:
        place.close()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it is so."""
    while not await true():  # noqa: ASYNC110 - there is nothing to wait for but the store
        await trio.sleep(LEASE_S / 50)
