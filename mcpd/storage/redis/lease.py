"""The lease of a process: what it owns in Redis is its own while it beats, and free when it has stopped for too long.

    hold    the epoch that new property is written down under; taken at the first need, a new one after it was refused
    run     beats at a third of the lease, and gives the epoch up in the end

One lease serves all that a process owns. `LUA` has the functions that scripts decide with: an owner is given up by
whoever meets it after its lease has ended, for good, in the script that takes its property.

Called by: `storage.redis.shared`, and the stores of this package that know owners. Deliberately not: what is owned.

Laws: time is the server's. Missing beats stop nothing: an outage of Redis must not end running work. After a gap in
*all* beats nobody is given up for one more lease, because it was Redis that was away; that is kept in Redis itself, so
that a question that had waited cannot come before the beats that had waited. An epoch that was given up never returns.
A clock that was put back (a failover) counts as a gap, and no lease ends later than one lease from then.

Sources: reference of Redis on TIME and scripts; fencing by epochs.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

import trio

from mcpd.deadlines import bounded_shield
from mcpd.drivers.redis import Redis, RedisError, Script
from mcpd.storage.redis.keys import OWNERS_TTL_MS, Keys

CLOSE_S: Final = 0.5
_log = logging.getLogger(__name__)

LUA: Final = """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function beat(owners, state, now, lease, epoch)
  local h = redis.call('HMGET', state, 'last', 'grace')
  local last, grace = tonumber(h[1] or '0') or 0, tonumber(h[2] or '0') or 0
  if now - last > lease * 2 / 3 then grace = now + lease end
  if last > now then
    grace = now + lease
    for _, owner in ipairs(redis.call('ZRANGE', owners, 0, -1)) do redis.call('ZADD', owners, 'LT', grace, owner) end
  end
  redis.call('HSET', state, 'last', now, 'grace', grace)
  redis.call('ZADD', owners, now + lease, epoch)
  if grace <= now then redis.call('ZREMRANGEBYSCORE', owners, '-inf', now - TTL) end
  redis.call('PEXPIRE', owners, TTL)
  redis.call('PEXPIRE', state, TTL)
end
local function is_open(owners, epoch)
  return redis.call('ZSCORE', owners, epoch)
end
local function is_alive(owners, state, now, epoch)
  local ends = redis.call('ZSCORE', owners, epoch)
  if not ends then return false end
  if tonumber(ends) > now or tonumber(redis.call('HMGET', state, 'grace')[1]) > now then return true end
  redis.call('ZREM', owners, epoch)
  return false
end
""".replace("TTL", str(OWNERS_TTL_MS))
"""Scripts that begin with this take the keys `owners` and `lease`, and the lease in milliseconds. Who asks `is_alive`
has called `beat` for itself in the same script, which is where a gap is noticed."""

_BEAT: Final = Script(
    LUA
    + """
if ARGV[3] == '0' and not is_open(KEYS[1], ARGV[1]) then return 0 end
beat(KEYS[1], KEYS[2], now_ms(), tonumber(ARGV[2]), ARGV[1])
return 1
""",
    "beat",
)


class Lease:
    """This process as an owner. Beats while `run` runs."""

    def __init__(self, redis: Redis, keys: Keys, *, lease_s: float) -> None:
        self._redis = redis
        self.keys = (keys.owners, keys.lease)
        """What scripts that know owners are given."""
        self._lease_s = lease_s
        self._epoch = ""
        self._taking = trio.Lock()

    @property
    def epoch(self) -> str:
        """What new property is written down under; empty before `hold`, and after it was refused."""
        return self._epoch

    @property
    def lease_ms(self) -> int:
        """How long an owner lives without a beat."""
        return round(self._lease_s * 1000)

    async def hold(self) -> str:
        """Return the epoch, which is written down in Redis. Raises: RedisError."""
        async with self._taking:
            if not self._epoch:
                self._epoch = await self._take()
            return self._epoch

    async def _take(self) -> str:
        epoch = secrets.token_hex(12)
        arguments = (epoch, self.lease_ms, "1")
        await self._redis.run_script(_BEAT, keys=self.keys, arguments=arguments, idempotent=True)
        return epoch

    def lose(self, epoch: str) -> None:
        """Take note that an epoch is over: the next `hold` begins another. Not a checkpoint."""
        if epoch == self._epoch:
            _log.warning("redis: this process was taken for dead and what it owned may be run again elsewhere")
            self._epoch = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled; then what this process owns is free at once, if Redis can be told."""
        task_status.started()
        try:
            while True:
                await trio.sleep(self._lease_s / 3)
                await self._beat()
        finally:
            await self._close()  # noqa: ASYNC102 - shielded and bounded inside

    async def _beat(self) -> None:
        epoch = self._epoch
        if not epoch:
            return
        try:
            said = await self._redis.run_script(
                _BEAT, keys=self.keys, arguments=(epoch, self.lease_ms, "0"), idempotent=True
            )
        except RedisError as error:
            _log.debug("a beat was missed: %s", error)
            return
        if not said:
            self.lose(epoch)

    async def _close(self) -> None:
        epoch, self._epoch = self._epoch, ""
        if not (epoch and self._redis.statistics().connected):
            return
        with bounded_shield(CLOSE_S):
            try:
                await self._redis.execute("ZREM", self.keys[0], epoch, idempotent=True)
            except RedisError as error:
                _log.debug("the lease could not be given up: %s", error)
