"""What is left of finished replies, in Redis: any replica can give it out when their own is gone. `keys` says where.

The rests of one session are a hash, and a sorted set says when each ends, so that the oldest can give way. Both live as
long as the last of them, and are deleted with the session by whatever script deletes that.

Called by: `storage.redis.sessions`. Implements `storage.replies.Replies`. Deliberately not: what the bytes say.

Laws: 5, 7. The script may run twice: after an unknown outcome it finds its own work done. Times are the server's.
"""

from __future__ import annotations

from typing import Final

from mcpd.drivers.redis import Redis, Script
from mcpd.storage.redis.errors import translated
from mcpd.storage.redis.keys import Keys
from mcpd.storage.replies import MAX_REPLY_BYTES, MAX_SESSION_BYTES, MAX_SESSION_REPLIES

_KEEP: Final = Script(
    """
local session, rests, ends = unpack(KEYS)
local stream, data, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most, most_replies = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', session) == 0 then return false end
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now)) do
  redis.call('HDEL', rests, ended)
  redis.call('ZREM', ends, ended)
end
local stored = redis.call('HGET', rests, stream)
if stored then return stored end
local sum, held = #data, redis.call('ZRANGE', ends, 0, -1)
for _, other in ipairs(held) do sum = sum + redis.call('HSTRLEN', rests, other) end
for place, other in ipairs(held) do
  if sum <= most and #held - place + 1 < most_replies then break end
  sum = sum - redis.call('HSTRLEN', rests, other)
  redis.call('HDEL', rests, other)
  redis.call('ZREM', ends, other)
end
redis.call('HSET', rests, stream, data)
redis.call('ZADD', ends, now + ttl, stream)
for _, key in ipairs({rests, ends}) do
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end
return true
""",
    "keep_reply",
)

_GET: Final = Script(
    """
local session, rests, ends = unpack(KEYS)
local time, expires = redis.call('TIME'), redis.call('ZSCORE', ends, ARGV[1])
if redis.call('EXISTS', session) == 0 or not expires then return false end
if tonumber(expires) <= time[1] * 1000 + math.floor(time[2] / 1000) then return false end
return redis.call('HGET', rests, ARGV[1])
""",
    "get_reply",
)


class RedisReplies:
    """Implements `Replies`; works while the client runs."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def _of(self, session: str) -> tuple[str, str, str]:
        return self._keys.session(session), *self._keys.replies(session)

    async def keep(self, session: str, stream: str, data: bytes, ttl_s: float) -> bytes | None:
        """See `Replies`."""
        if len(data) > MAX_REPLY_BYTES:
            return None
        arguments = (stream, data, round(ttl_s * 1000), MAX_SESSION_BYTES, MAX_SESSION_REPLIES)
        with translated():
            said = await self._redis.run_script(_KEEP, keys=self._of(session), arguments=arguments, idempotent=True)
        return said if said is None or isinstance(said, bytes) else data

    async def get(self, session: str, stream: str) -> bytes | None:
        """See `Replies`."""
        with translated():
            found = await self._redis.run_script(_GET, keys=self._of(session), arguments=(stream,), idempotent=True)
        return found if isinstance(found, bytes) else None
