"""Idempotency keys in Redis, for all replicas: one script for each step, which decides on what is stored.

A key is a hash, and an entry of two sorted sets that bound how many there are. It lives longer than any run, so that
only the death of its holder's process frees it (`lease`); once it has an outcome, as long as outcomes are kept.

Called by: `storage.redis.shared`. Deliberately not: what is worth keeping.

Laws: every script may run twice, because an unknown outcome is asked again: a claim by its token, an end by its holder.
Who was taken for dead is refused at the end by the holder that the key shows (fencing). What Redis loses is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import msgspec

from mcpd.drivers.redis import Redis, RedisError, Script, number, shaped
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.lease import LUA, Lease
from mcpd.storage.shared import Begun, Busy, Claim, Kept, Mismatch, New, NoRoom, Room

_Said = Annotated[list[bytes], msgspec.Meta(min_length=1)]

_INDEX: Final = """
local function enter(set, name, now, ms)
  redis.call('ZADD', set, now + ms, name)
  if redis.call('PTTL', set) < ms then redis.call('PEXPIRE', set, ms) end
end
local function count(set, now)
  redis.call('ZREMRANGEBYSCORE', set, '-inf', now)
  return redis.call('ZCARD', set)
end
"""

_BEGIN: Final = Script(
    LUA
    + _INDEX
    + """
local key, all, mine, owners, state = unpack(KEYS)
local name, digest, epoch, token, hold, most, most_of_share, lease = unpack(ARGV)
local now = now_ms()
lease, hold = tonumber(lease), tonumber(hold)
if not is_open(owners, epoch) then return {'CLOSED'} end
beat(owners, state, now, lease, epoch)
local h = redis.call('HMGET', key, 'digest', 'epoch', 'token', 'outcome')
if not h[1] then
  if count(mine, now) >= tonumber(most_of_share) then return {'FULL', 'share'} end
  if count(all, now) >= tonumber(most) then return {'FULL', 'all'} end
elseif h[4] then
  if h[1] ~= digest then return {'MISMATCH'} end
  return {'KEPT', h[4]}
elseif not (h[2] == epoch and h[3] == token) and is_alive(owners, state, now, h[2]) then
  if h[1] ~= digest then return {'MISMATCH'} end
  return {'BUSY', h[2] .. '.' .. h[3]}
end
redis.call('HSET', key, 'digest', digest, 'epoch', epoch, 'token', token)
redis.call('PEXPIRE', key, hold)
enter(all, name, now, hold)
enter(mine, name, now, hold)
return {'NEW', epoch .. '.' .. token}
""",
    "idempotency_begin",
)

_FINISH: Final = Script(
    LUA
    + _INDEX
    + """
local key, all, mine = unpack(KEYS)
local name, epoch, token, outcome, ttl = unpack(ARGV)
local h = redis.call('HMGET', key, 'epoch', 'token')
if not (h[1] == epoch and h[2] == token) then return 0 end
local now = now_ms()
ttl = tonumber(ttl)
redis.call('HSET', key, 'outcome', outcome)
redis.call('PEXPIRE', key, ttl)
enter(all, name, now, ttl)
enter(mine, name, now, ttl)
return 1
""",
    "idempotency_finish",
)

_RELEASE: Final = Script(
    """
local key, all, mine = unpack(KEYS)
local h = redis.call('HMGET', key, 'epoch', 'token', 'outcome')
if h[1] == ARGV[2] and h[2] == ARGV[3] and not h[3] then
  redis.call('DEL', key)
  redis.call('ZREM', all, ARGV[1])
  redis.call('ZREM', mine, ARGV[1])
end
return 1
""",
    "idempotency_release",
)

_PURGE: Final = Script(LUA + _INDEX + "return count(KEYS[1], now_ms())", "idempotency_purge")


class RedisIdempotency:
    """Implements `Idempotency`; works while the lease and the client run."""

    def __init__(self, redis: Redis, keys: Keys, lease: Lease) -> None:
        self._redis = redis
        self._keys = keys
        self._lease = lease

    def _of(self, claim: Claim) -> tuple[str, str, str]:
        keys = self._keys
        return keys.idempotency_key(claim.id), keys.idempotency_keys, keys.idempotency_keys_of(claim.share)

    async def _run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        return await self._redis.run_script(script, keys=keys, arguments=arguments, idempotent=True)

    async def begin(self, claim: Claim, room: Room, hold_s: float) -> Begun:
        """See `Idempotency`."""
        with _translated():
            while True:
                epoch = await self._lease.hold()
                said = await self._begin(claim, room, hold_s, epoch)
                if said[0] != b"CLOSED":
                    return _begun(said, room)
                self._lease.lose(epoch)

    async def _begin(self, claim: Claim, room: Room, hold_s: float, epoch: str) -> list[bytes]:
        reply = await self._run(
            _BEGIN,
            [*self._of(claim), self._keys.owners, self._keys.lease],
            claim.id,
            claim.digest,
            epoch,
            claim.token,
            round(hold_s * 1000),
            room.most,
            room.most_of_share,
            self._lease.lease_ms,
        )
        return shaped(reply, _Said)

    async def finish(self, claim: Claim, holder: str, outcome: bytes, ttl_s: float) -> bool:
        """See `Idempotency`."""
        epoch, _, token = holder.partition(".")
        with _translated():
            return bool(await self._run(_FINISH, self._of(claim), claim.id, epoch, token, outcome, round(ttl_s * 1000)))

    async def release(self, claim: Claim, holder: str) -> None:
        """See `Idempotency`."""
        epoch, _, token = holder.partition(".")
        with _translated():
            await self._run(_RELEASE, self._of(claim), claim.id, epoch, token)

    async def purge(self) -> int:
        """See `Idempotency`; keys go by themselves, their entries here."""
        with _translated():
            return number(await self._run(_PURGE, [self._keys.idempotency_keys]))


def _begun(said: list[bytes], room: Room) -> Begun:
    kind, rest = said[0], said[1:]
    if kind == b"FULL":
        if rest[0] == b"share":
            raise NoRoom("share", room.most_of_share, "idempotency key")
        raise NoRoom("all", room.most, "idempotency key")
    if kind == b"KEPT":
        return Kept(rest[0])
    if kind == b"MISMATCH":
        return Mismatch()
    return New(rest[0].decode()) if kind == b"NEW" else Busy(rest[0].decode("utf-8", "replace"))


@contextmanager
def _translated() -> Iterator[None]:
    """Raise storage errors for what the client raises inside (law 7)."""
    try:
        yield
    except RedisError as error:
        raise StoreUnreachable(f"redis: {error}") from error
