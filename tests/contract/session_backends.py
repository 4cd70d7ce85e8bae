"""The backends that every contract test of sessions runs on: each gives several processes' views of one store.

A contract test never asks which one it has. Redis's clock is its own, so time passes in two ways: a clock that is set,
or for real on Redis, where a test lets little pass. Whatever a test leaves there has to end by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from mcpd.drivers.redis import Redis
from mcpd.storage.memory.sessions import MemorySessions, SessionShelf
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.sessions import RedisSessions
from mcpd.storage.session_records import SessionRecord, SessionRoom, Use
from mcpd.storage.shared import SessionStore
from mcpd.storage.sqlite.sessions import open_sessions
from tests.contract.backends import Clock
from tests.redis_servers import KINDS, serving

ROOM = SessionRoom(1000, 1000)
USE = Use(0.0, 600.0)
LONGEST_MS = 700_000


class Servers:
    """What several processes see of one store."""

    def __init__(self, first: SessionStore, second: SessionStore, let_pass: Callable[[float], Any]) -> None:
        self.first, self.second = first, second
        self._let_pass = let_pass

    async def let_pass(self, seconds: float) -> None:
        """Let time pass by the store's clock."""
        await self._let_pass(seconds)


def _set(clock: Clock) -> Callable[[float], Any]:
    async def let_pass(seconds: float) -> None:
        clock.now_s += seconds
        await trio.lowlevel.checkpoint()

    return let_pass


@asynccontextmanager
async def memory(clock: Clock) -> AsyncIterator[Servers]:
    shelf = SessionShelf(clock=clock)
    yield Servers(MemorySessions(shelf), MemorySessions(shelf), _set(clock))


@asynccontextmanager
async def sqlite(clock: Clock) -> AsyncIterator[Servers]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            first, second = [
                await stack.enter_async_context(open_sessions(Path(folder), clock=clock)) for _ in range(2)
            ]
            yield Servers(first, second, _set(clock))


@asynccontextmanager
async def redis(_: Clock, *, kind: str) -> AsyncIterator[Servers]:
    with serving(kind) as server:
        async with trio.open_nursery() as nursery:
            clients = [Redis(server.url) for _ in range(2)]
            for client in clients:
                await nursery.start(client.run)
            first, second = (RedisSessions(client, Keys("test:")) for client in clients)
            yield Servers(first, second, trio.sleep)
            for key in await clients[0].execute("KEYS", "*"):
                assert 0 < await clients[0].execute("PTTL", key) <= LONGEST_MS, f"{key} has no end"
            nursery.cancel_scope.cancel()


BACKENDS: dict[str, Callable[[Clock], AbstractAsyncContextManager[Servers]]] = {
    "memory": memory,
    "sqlite": sqlite,
    **{kind: partial(redis, kind=kind) for kind in KINDS},
}


def session(key: str = "one", **more: Any) -> SessionRecord:
    """A session of somebody."""
    return SessionRecord(**{"key": key, "principal": "alice", "share": "alice", "revision": "2025-11-25", **more})
