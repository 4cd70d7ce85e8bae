"""Sessions in Redis: any replica finds a session that another one has made. `keys` says where.

A session is a hash that ends by itself; two sorted sets, of all and of one caller, list the living ones, so that they
can be counted. Times are the server's own. A script first drops what has expired from the sets that it counts.

    create    when there is no room, the script returns the places that are taken and changes nothing; the rule of
              `session_records` chooses who gives way, and the script is asked again with these. It refuses when one of
              them has been used meanwhile, so that the limits hold whoever else creates at the same time

Called by: `storage.redis.shared`. Implements `storage.shared.SessionStore`. Deliberately not: a copy in this process.

Laws: 5, 7. Every script may run twice: after an unknown outcome it finds its own work done.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mcpd.drivers.redis import Garbled, Redis, Script, number, shaped
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.redis.errors import translated
from mcpd.storage.redis.keys import Keys, digest
from mcpd.storage.redis.replies import RedisReplies
from mcpd.storage.session_records import (
    Place,
    SessionRecord,
    SessionRoom,
    Use,
    decode,
    encode,
    giving_way,
    retimed,
)

MAX_ATTEMPTS: Final = 20
"""To make room while others make it, too."""

BATCH_ITEMS: Final = 200
"""Sessions that one script renews or removes: a millisecond, in which Redis serves nobody else."""

_PRELUDE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(key, field) return tonumber(redis.call('HGET', key, field) or '0') or 0 end
local function list(set, key, expires)
  redis.call('ZADD', set, 'GT', expires, key)
  if redis.call('PTTL', set) < expires - now then redis.call('PEXPIREAT', set, expires) end
end
"""

_CREATE: Final = Script(
    _PRELUDE
    + """
local all, mine, one = KEYS[1], KEYS[2], KEYS[3]
local key, share, record, rev = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ago, keep, busy, most, most_of_share = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local prefix, prefix_of, rests, ends = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
if redis.call('EXISTS', one) == 1 then return {now} end
redis.call('ZREMRANGEBYSCORE', all, '-inf', now)
redis.call('ZREMRANGEBYSCORE', mine, '-inf', now)
local total, of_share, changed = redis.call('ZCARD', all), redis.call('ZCARD', mine), false
for at = 14, #ARGV, 2 do
  local loser = prefix .. ARGV[at]
  if redis.call('EXISTS', loser) == 1 then
    changed = changed or (redis.call('HGET', loser, 'used') or '') ~= ARGV[at + 1]
    total = total - 1
    if redis.call('HGET', loser, 'share') == share then of_share = of_share - 1 end
  end
end
if changed or total >= most or of_share >= most_of_share then
  local places = {now}
  for _, other in ipairs(redis.call('ZRANGE', all, 0, -1)) do
    local held = redis.call('HMGET', prefix .. other, 'share', 'used', 'busy')
    if held[1] then
      for _, part in ipairs({other, held[1], held[2], held[3]}) do places[#places + 1] = part end
    else
      redis.call('ZREM', all, other)
      redis.call('ZREM', mine, other)
    end
  end
  return places
end
for at = 14, #ARGV, 2 do
  local loser = prefix .. ARGV[at]
  local of = redis.call('HGET', loser, 'share')
  if of then
    redis.call('ZREM', prefix_of .. of, ARGV[at])
    redis.call('ZREM', all, ARGV[at])
    redis.call('DEL', loser, rests .. ARGV[at], ends .. ARGV[at])
  end
end
local used = now - ago
local expires = used + keep
redis.call('HSET', one, 'record', record, 'rev', rev, 'share', share, 'created', now, 'used', used,
  'expires', expires, 'busy', busy > 0 and now + busy or 0)
redis.call('PEXPIREAT', one, expires)
redis.call('DEL', rests .. key, ends .. key)
list(all, key, expires)
list(mine, key, expires)
return {now}
""",
    "create_session",
)

_REPLACE: Final = Script(
    """
local held = redis.call('HMGET', KEYS[1], 'rev', 'record', 'created', 'used', 'expires', 'busy')
if held[1] and tonumber(held[1]) == tonumber(ARGV[1]) - 1 then
  redis.call('HSET', KEYS[1], 'record', ARGV[2], 'rev', ARGV[1])
end
return held
""",
    "replace_session",
)

_RENEW: Final = Script(
    _PRELUDE
    + """
local all, prefix, prefix_of, gone = KEYS[1], ARGV[1], ARGV[2], {}
for at = 3, #ARGV, 4 do
  local key, one = ARGV[at], prefix .. ARGV[at]
  local share = redis.call('HGET', one, 'share')
  if not share then
    gone[#gone + 1] = key
  else
    local used = now - ARGV[at + 1]
    local expires = math.max(number(one, 'expires'), used + ARGV[at + 2])
    local busy = tonumber(ARGV[at + 3])
    redis.call('HSET', one, 'used', math.max(number(one, 'used'), used), 'expires', expires,
      'busy', math.max(number(one, 'busy'), busy > 0 and now + busy or 0))
    redis.call('PEXPIREAT', one, expires)
    list(all, key, expires)
    list(prefix_of .. share, key, expires)
  end
end
return gone
""",
    "renew_sessions",
)

_REMOVE: Final = Script(
    """
for at = 5, #ARGV do
  local one = ARGV[1] .. ARGV[at]
  local share = redis.call('HGET', one, 'share')
  if share then redis.call('ZREM', ARGV[2] .. share, ARGV[at]) end
  redis.call('ZREM', KEYS[1], ARGV[at])
  redis.call('DEL', one, ARGV[3] .. ARGV[at], ARGV[4] .. ARGV[at])
end
return {}
""",
    "remove_sessions",
)

_PURGE: Final = Script(
    _PRELUDE + "return {redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now), redis.call('ZCARD', KEYS[1])}",
    "purge_sessions",
)


class _Taken(NamedTuple):
    key: bytes
    share: bytes
    used: bytes | None
    busy: bytes | None


class _Held(NamedTuple):
    record: bytes | None
    created: bytes | None
    used: bytes | None
    expires: bytes | None
    busy: bytes | None


class RedisSessions:
    """Implements `SessionStore`; works while the client runs."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._prefixes = (keys.session(""), keys.sessions_of(""))
        self._prefixes_of_replies = keys.replies("")
        self.replies = RedisReplies(redis, keys)

    async def _run(self, script: Script, keys: Sequence[str], *arguments: Any) -> list[Any]:
        with translated():
            reply = await self._redis.run_script(script, keys=keys, arguments=arguments, idempotent=True)
            return shaped(reply, list[Any])

    async def create(self, record: SessionRecord, use: Use, room: SessionRoom) -> list[str]:
        """See `SessionStore`."""
        data, share = encode(record), digest(record.share)
        room = room._replace(others=tuple(one._replace(share=digest(one.share)) for one in room.others))
        of_share = sum(place.share == share for place in room.others)
        gone: list[str] = []
        losers: list[Any] = []
        for _ in range(MAX_ATTEMPTS):
            going = [place for place in room.others if place.key in gone]
            most = room.most - len(room.others) + len(going)
            most_of_share = room.most_of_share - of_share + sum(place.share == share for place in going)
            said = await self._run(
                _CREATE,
                [self._keys.sessions, self._keys.sessions_of(share), self._keys.session(record.key)],
                *(record.key, share, data, record.rev, *_milliseconds(use), most, most_of_share),
                *(*self._prefixes, *self._prefixes_of_replies, *losers),
            )
            now, taken = _moment(said), _taken(said[1:])
            if not taken:
                return gone
            used = {_text(place.key): place.used or b"" for place in taken}
            gone = giving_way([*room.elsewhere(now / 1000), *_places(taken, room, now)], share, room)
            losers = [word for key in gone if key in used for word in (key, used[key])]
        raise StoreUnreachable("too many replicas make room for sessions at once")

    async def get(self, key: str) -> SessionRecord | None:
        """See `SessionStore`."""
        with translated():
            reply = await self._redis.execute(
                "HMGET", self._keys.session(key), *("record", "created", "used", "expires", "busy"), idempotent=True
            )
            return _record(*shaped(reply, _Held))

    async def replace(self, record: SessionRecord) -> SessionRecord | None:
        """See `SessionStore`."""
        said = await self._run(_REPLACE, [self._keys.session(record.key)], record.rev, encode(record))
        with translated():
            stored = _record(*shaped(said[1:], _Held))
        if stored is None or _time(said[0]) != record.rev - 1:
            return stored
        return retimed(record, stored)

    async def renew(self, uses: Mapping[str, Use]) -> set[str]:
        """See `SessionStore`."""
        gone: set[str] = set()
        for some in _batches(list(uses)):
            words = [word for key in some for word in (key, *_milliseconds(uses[key]))]
            gone.update(map(_text, await self._run(_RENEW, [self._keys.sessions], *self._prefixes, *words)))
        return gone

    async def remove(self, keys: Collection[str]) -> None:
        """See `SessionStore`."""
        for some in _batches(list(keys)):
            await self._run(_REMOVE, [self._keys.sessions], *self._prefixes, *self._prefixes_of_replies, *some)

    async def purge(self) -> int:
        """See `SessionStore`. The hashes have ended by themselves."""
        return _moment(await self._run(_PURGE, [self._keys.sessions]))

    async def count(self) -> int:
        """See `SessionStore`."""
        return _moment((await self._run(_PURGE, [self._keys.sessions]))[1:])


def _milliseconds(use: Use) -> list[int]:
    return [round(seconds * 1000) for seconds in use]


def _taken(said: list[Any]) -> list[_Taken]:
    """Return what `create` says of each session. Raises: StorageError."""
    with translated():
        return [shaped(said[at : at + 4], _Taken) for at in range(0, len(said), 4)]


def _places(taken: Sequence[_Taken], room: SessionRoom, now: int) -> list[Place]:
    return [
        room.place(_text(one.key), _text(one.share), _time(one.used) / 1000, _time(one.busy) / 1000, now / 1000)
        for one in taken
    ]


def _record(data: bytes | None, *times: bytes | None) -> SessionRecord | None:
    if data is None:
        return None
    names = ("created_s", "used_s", "expires_s", "busy_s")
    return decode(data, **{name: _time(time) / 1000 for name, time in zip(names, times, strict=True)})


def _moment(said: Sequence[Any]) -> int:
    """Return the number that a script's answer begins with. Raises: StorageError."""
    with translated():
        return number(said[0] if said else None)


def _time(value: Any) -> int:
    """Return a number of a record; what is none is 0, as it is to the scripts."""
    try:
        return number(value or 0)
    except Garbled:
        return 0


def _batches(items: list[str]) -> list[list[str]]:
    return [items[at : at + BATCH_ITEMS] for at in range(0, len(items), BATCH_ITEMS)]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
