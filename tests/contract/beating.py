"""Processes that share one Redis, each with a lease that it keeps until it is stopped: for backends of contract tests.

`Beating` opens their stores, `backend` gives one of the backends that every such contract has. Deliberately not: what
is in a store.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar

import trio

from mcpd.drivers.redis import Options, Redis
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.lease import Lease
from tests.redis_servers import KINDS, RedisServer, serving

S = TypeVar("S")
Backend = TypeVar("Backend", bound=Callable[..., Any])

BACKENDS: Final = ("memory", "sqlite", *KINDS)
QUICK: Final = Options(connect_s=2, stall_s=2, patience_s=1)


class Beating(Generic[S]):
    """The stores that `make` makes, one for each process."""

    def __init__(
        self, server: RedisServer, nursery: trio.Nursery, make: Callable[[Redis, Keys, Lease], S], *, lease_s: float
    ) -> None:
        self.keys = Keys(f"{secrets.token_hex(4)}:")
        self._server, self._nursery, self._make, self._lease_s = server, nursery, make, lease_s
        self._scopes: dict[S, trio.CancelScope] = {}

    async def open(self) -> S:
        """Return the store as a new process sees it."""
        redis = Redis(self._server.url, options=QUICK)
        await self._nursery.start(redis.run)
        lease = Lease(redis, self.keys, lease_s=self._lease_s)
        await lease.hold()
        store = self._make(redis, self.keys, lease)
        scope = self._scopes[store] = trio.CancelScope()
        self._nursery.start_soon(self._beat, lease, scope)
        return store

    async def _beat(self, lease: Lease, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(self._lease_s / 3)
                await lease._beat()

    def stop(self, store: S) -> None:
        """Let its process beat no more."""
        self._scopes[store].cancel()


@contextmanager
def backend(name: str, embedded: Mapping[str, Backend], redis: Callable[..., Any]) -> Iterator[Any]:
    """Give a backend; a server of it runs until the body is done."""
    if name in KINDS:
        with serving(name) as server:
            yield partial(redis, server=server)
    else:
        yield embedded[name]
