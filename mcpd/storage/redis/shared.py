"""What replicas share, in Redis: one client, what stands over it, and how both are.

    run      the client, the bus, and a line in the log for each change of state: there, away, there again
    check    asks the server; a server that is away makes a replica degraded, since calls go on without it

Called by: `storage.open`. Implements `storage.replicas.Shared`. Deliberately not: any of what is shared; each kind
has a file of its own.

Laws: nothing here ends the server, whatever Redis does or says; no line has a password in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from mcpd.drivers.redis import Redis, RedisError, Refused
from mcpd.storage.redis.bus import RedisBus
from mcpd.storage.redis.cache import RedisCache
from mcpd.storage.redis.idempotency import RedisIdempotency
from mcpd.storage.redis.inbox import RedisInbox
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.lease import Lease
from mcpd.storage.redis.rates import RedisRates
from mcpd.storage.redis.seals import RedisSeals
from mcpd.storage.redis.sessions import RedisSessions
from mcpd.storage.redis.tasks import RedisTasks
from mcpd.storage.replicas import Standing

BEGIN_S: Final = 1.0
"""How long the start of a server waits until it hears the others: on a server that is there, some milliseconds."""

RETRY_S: Final = 2.0
PING_S: Final = 1.0
"""Half of what a readiness check may take."""

AWAY: Final = "no connection; the log says why"

_log = logging.getLogger(__name__)


class RedisShared:
    """Implements `Shared` over one Redis server."""

    name = "redis"

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        rates: RedisRates,
        *,
        lease_s: float,
        normal: Callable[[str], str] = str,
        observe: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`normal` brings all spellings of a URI to one; `observe` hears what comes of cached values."""
        self._redis = redis
        self.bus = RedisBus(redis, keys, normal)
        self.cache = RedisCache(redis, keys, self.bus, observe=observe)
        self.rates = rates
        self._lease = Lease(redis, keys, lease_s=lease_s)
        self.idempotency = RedisIdempotency(redis, keys, self._lease)
        self.tasks = RedisTasks(redis, keys, self._lease)
        self.sessions = RedisSessions(redis, keys)
        self.inbox = RedisInbox(redis, keys, lease_s=lease_s)
        self._seals = RedisSeals(redis, keys, lease_s=lease_s)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Shared`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stay_connected)
            nursery.start_soon(self._tell_changes)
            nursery.start_soon(self.bus.run)
            nursery.start_soon(self.cache.run)
            nursery.start_soon(self._lease.run)
            with trio.move_on_after(BEGIN_S):
                await self._settle()
            task_status.started()

    async def _settle(self) -> None:
        """Return when the bus has begun, or the first attempt to connect has failed."""
        await self._redis.wait_change()
        if self._redis.statistics().connected:
            await self.bus.wait_begun()

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._redis.run()
            except Refused as error:
                _log.error("redis: %s", error)
            await trio.sleep(RETRY_S)

    async def _tell_changes(self) -> None:
        """Write one line whenever the server comes or goes, however often that is tried."""
        told: bool | None = None
        while True:
            await self._redis.wait_change()
            connected = self._redis.statistics().connected
            if connected and not told:
                _log.info("redis: connected to %s (%s)", self._redis.address, self._version())
            elif not connected and told is not False:
                _log.error("redis: %s; changes wait to be told to other replicas", self._redis.failure)
            told = connected

    def _version(self) -> str:
        server = self._redis.server
        return f"{server.get('server', '')} {server.get('version', '')}".strip()

    async def flush(self) -> None:
        """See `Shared`. Where there is no server nobody can see anything, and nothing is waited for."""
        await trio.lowlevel.checkpoint()
        if self._redis.statistics().connected:
            await self.bus.flush()

    async def agree(
        self, kids: Sequence[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `Shared`."""
        await self._seals.run(kids, task_status=task_status)

    async def check(self) -> Standing:
        """See `Shared`."""
        if not self._redis.statistics().connected:
            return Standing("down", AWAY)
        with trio.move_on_after(PING_S):
            return await self._ask()
        return Standing("down", f"no answer within {PING_S:g} s")

    async def _ask(self) -> Standing:
        try:
            await self._redis.execute("PING")
        except RedisError as error:
            return Standing("degraded", "it refuses commands; the log says why", str(error))
        if self.bus.trouble or not self.bus.hears:
            return Standing("degraded", f"changes of replicas: {self.bus.trouble or 'not heard yet'}")
        if self.inbox.trouble:
            return Standing("degraded", f"what replicas tell each other: {self.inbox.trouble}")
        if self._seals.trouble:
            return Standing("degraded", "replicas seal with different keys; the log says which")
        return Standing("ok", self._version())
