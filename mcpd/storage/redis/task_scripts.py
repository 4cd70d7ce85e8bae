"""What happens to tasks in Redis, each step one script, so that two of them are one after the other.

    CREATE    a new record, if there is room       READ       a record, and whether its owner lives
    WRITE     a record in place of the one read    LOST       ids of tasks whose owner is gone
    PURGE     forgets what has expired             COUNT      how many there are in each state
    CHANGED   ids of what has changed since

None of them knows the state machine: a record is read, decided on in Python, and written only if it is still the one
that was read. CREATE and WRITE number each change, and tell it on a channel as `NUMBER PREDECESSOR ID RECORD`; a record
that is too long for that is left out. Numbers are microseconds of the server's clock, so that they go on after Redis
has lost everything.

Called by: `storage.redis.tasks`, `storage.redis.task_notices`. Deliberately not: keys, which are in `keys`.

Laws: CREATE and WRITE may run twice, because an unknown outcome is asked again: the token of the last change tells. An
owner that was given up writes nothing any more (fencing). Who asks for an owner is one, and beats (`lease`).
"""

from __future__ import annotations

from typing import Final

from mcpd.drivers.redis import Script
from mcpd.storage.redis.lease import LUA

MAX_TOLD_BYTES: Final = 16 << 10
"""Of a record that goes over the channel to all replicas; a longer one is read by who wants it."""

MAX_INLINE_BYTES: Final = 64 << 10
"""Of an outcome that comes with its record over the connection that everybody uses."""

MAX_PURGED_ITEMS: Final = 1_000
"""Of one PURGE, which holds up all others."""

_TELL: Final = """
local function tell(changes, id, record)
  local top = redis.call('ZREVRANGE', changes, 0, 0, 'WITHSCORES')
  local before = tonumber(top[2] or '0')
  local t = redis.call('TIME')
  local number = string.format('%.0f', math.max(t[1] * 1000000 + t[2], before + 1))
  redis.call('ZADD', changes, number, id)
  if #record > MAX then record = '' end
  redis.call('PUBLISH', changes, number .. ' ' .. string.format('%.0f', before) .. ' ' .. id .. ' ' .. record)
end
local function keep(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end
""".replace("MAX", str(MAX_TOLD_BYTES))

CREATE: Final = Script(
    LUA
    + _TELL
    + """
local task, all, mine, states, changes, owners, state = unpack(KEYS)
local id, epoch, token, record, now, expires, ttl, most, most_of_share, lease = unpack(ARGV)
if redis.call('HGET', task, 'token') == token then return 'NEW' end
if not is_open(owners, epoch) then return 'CLOSED' end
beat(owners, state, now_ms(), tonumber(lease), epoch)
redis.call('ZREMRANGEBYSCORE', mine, '-inf', now)
if redis.call('ZCARD', mine) >= tonumber(most_of_share) then return 'SHARE' end
if redis.call('ZCOUNT', all, '(' .. now, '+inf') >= tonumber(most) then return 'ALL' end
ttl = tonumber(ttl)
redis.call('HSET', task, 'rev', 1, 'owner', epoch, 'token', token, 'record', record)
redis.call('PEXPIRE', task, ttl)
redis.call('ZADD', all, expires, id)
redis.call('ZADD', mine, expires, id)
redis.call('HSET', states, id, 'working ' .. epoch)
tell(changes, id, record)
for _, key in ipairs({all, mine, states, changes}) do keep(key, ttl) end
return 'NEW'
""",
    "task_create",
)

READ: Final = Script(
    LUA
    + """
local task, owners, state = unpack(KEYS)
local own, lease, most = unpack(ARGV)
if not is_open(owners, own) then return {} end
beat(owners, state, now_ms(), tonumber(lease), own)
local t = redis.call('TIME')
local h = redis.call('HMGET', task, 'record', 'owner', 'rev')
if not h[1] then return {t[1], t[2]} end
local alive = is_alive(owners, state, now_ms(), h[2])
local size = redis.call('HSTRLEN', task, 'outcome')
local outcome = size <= tonumber(most) and redis.call('HGET', task, 'outcome')
return {t[1], t[2], h[1], alive and 1 or 0, size, outcome}
""",
    "task_read",
)

WRITE: Final = Script(
    LUA
    + _TELL
    + """
local task, states, changes, owners, all, mine = unpack(KEYS)
local id, rev, fence, token, state, owner, record, expires, ttl, outcome = unpack(ARGV)
local h = redis.call('HMGET', task, 'rev', 'token')
if h[2] == token then return 1 end
if h[1] ~= rev then return 0 end
if fence ~= '' and not is_open(owners, fence) then return 0 end
redis.call('HSET', task, 'rev', rev + 1, 'owner', owner, 'token', token, 'record', record)
if outcome then redis.call('HSET', task, 'outcome', outcome) end
redis.call('HSET', states, id, state .. ' ' .. owner)
if owner == '' then
  redis.call('PEXPIRE', task, ttl)
  redis.call('ZADD', all, 'XX', expires, id)
  redis.call('ZADD', mine, 'XX', expires, id)
end
tell(changes, id, record)
return 1
""",
    "task_write",
)

LOST: Final = Script(
    LUA
    + """
local states, owners, state = unpack(KEYS)
local own, lease = unpack(ARGV)
if not is_open(owners, own) then return {} end
local now, alive, lost, mine = now_ms(), {}, {}, {}
beat(owners, state, now, tonumber(lease), own)
local found = redis.call('HGETALL', states)
for i = 1, #found, 2 do
  local owner = string.match(found[i + 1], ' (.*)$') or ''
  if owner == own then
    mine[#mine + 1] = found[i]
  elseif owner ~= '' then
    if alive[owner] == nil then alive[owner] = is_alive(owners, state, now, owner) end
    if not alive[owner] then lost[#lost + 1] = found[i] end
  end
end
return {lost, mine}
""",
    "task_lost",
)

PURGE: Final = Script(
    """
local all, states, changes = unpack(KEYS)
local gone = redis.call('ZRANGEBYSCORE', all, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(gone) do
  redis.call('ZREM', all, id)
  redis.call('HDEL', states, id)
  redis.call('ZREM', changes, id)
end
return #gone
""",
    "task_purge",
)

COUNT: Final = Script(
    """
local counts, told = {}, {}
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  local state = string.match(value, '^%S+') or ''
  counts[state] = (counts[state] or 0) + 1
end
for state, count in pairs(counts) do
  told[#told + 1] = state
  told[#told + 1] = count
end
return told
""",
    "task_count",
)

CHANGED: Final = Script(
    """
local top = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local last, after = tonumber(top[2] or '0'), tonumber(ARGV[1])
if last < after then after = math.max(0, last - ARGV[2]) end
local found = redis.call(
  'ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', after), '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 2, #found, 2 do found[i] = string.format('%.0f', found[i]) end
return {string.format('%.0f', last), found}
""",
    "task_changed",
)
