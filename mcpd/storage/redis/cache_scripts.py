"""The Lua of the shared cache: each script is one step, and its time is the server's.

    ASK      a value, or the turn to load it, or word that somebody else loads
    KEEP     the value of a turn, if the state that it was loaded in is still the state
    RENEW    the claims of loads that go on, with the states that they refer to
    RELEASE  a claim without a value
    PUT      values that depend on nothing but their name

A claim is `STATE TOKEN`: one of an older state keeps nobody waiting. What is kept is listed by its end and weighed;
when it weighs too much, what would end soonest goes first, and with it the state, so that states are bounded too.

Called by: `cache`. Deliberately not: policy. Laws: every script may run twice; none does more than its arguments and
`MAX_KEPT_BYTES` allow.
"""

from __future__ import annotations

from typing import Final

from mcpd.drivers.redis import Script

ENTRY_BYTES: Final = 300
"""What one entry takes besides its value: its key, and its places in the list and the scales."""

_NOW: Final = """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function state_of(all, one)
  return (redis.call('GET', all) or '-') .. '/' .. (redis.call('GET', one) or '-')
end
local function is_of(holder, token)
  return holder and string.sub(holder, -#token) == token
end
"""

_WEIGH: Final = """
local function enter(index, sizes, item)
  local total = tonumber(redis.call('HGET', sizes, 'total') or '0')
  local function leave(name)
    total = total - tonumber(redis.call('HGET', sizes, name) or '0')
    redis.call('HDEL', sizes, name)
    redis.call('ZREM', index, name)
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', item.now, 'LIMIT', 0, 100)) do leave(name) end
  leave(item.name)
  local bytes = item.bytes + ENTRY
  while total + bytes > item.most do
    local name = redis.call('ZRANGE', index, 0, 0)[1]
    if not name then break end
    redis.call('DEL', item.prefix .. name)
    if item.states then redis.call('DEL', item.states .. string.sub(name, 1, 24)) end
    leave(name)
  end
  redis.call('ZADD', index, item.ends, item.name)
  redis.call('HSET', sizes, item.name, bytes, 'total', total + bytes)
  redis.call('PEXPIRE', index, item.ttl)
  redis.call('PEXPIRE', sizes, item.ttl)
end
""".replace("ENTRY", str(ENTRY_BYTES))

ASK: Final = Script(
    _NOW
    + """
local value, claim, all, one = unpack(KEYS)
local token, early, claim_ms, large, longest, spare = unpack(ARGV)
local state = state_of(all, one)
local holder = redis.call('GET', claim)
local taken = holder and string.sub(holder, 1, #state + 1) == state .. ' ' and not is_of(holder, token)
local h = redis.call('HMGET', value, 'state', 'ends', 'load', 'apart')
local left = h[1] == state and math.max(0, tonumber(h[2]) - now_ms()) or 0
local load, size, found = 0, 0, ''
if left > 0 then
  if h[4] == '1' then return {'APART', '', 0, 0, 0, ''} end
  load, size = tonumber(h[3]), redis.call('HSTRLEN', value, 'value')
  if size <= tonumber(large) then found = redis.call('HGET', value, 'value') end
  if taken or left > load * tonumber(early) then return {'FOUND', '', left, load, size, found} end
elseif taken then
  return {'BUSY', '', 0, 0, 0, ''}
end
redis.call('SET', all, token, 'NX', 'PX', longest + spare)
redis.call('SET', one, token, 'NX', 'PX', spare)
redis.call('PEXPIRE', one, spare, 'GT')
state = state_of(all, one)
redis.call('SET', claim, state .. ' ' .. token, 'PX', claim_ms)
return {'TURN', state, left, load, size, found}
""",
    "cache_ask",
)

KEEP: Final = Script(
    _NOW
    + _WEIGH
    + """
local value, claim, all, one, index, sizes = unpack(KEYS)
local token, state, payload, apart, load, ttl, name, prefix, states, most, longest, spare = unpack(ARGV)
local mine = redis.call('GET', claim) == state .. ' ' .. token
if mine then redis.call('DEL', claim) end
if state_of(all, one) ~= state then return 'STALE' end
if not mine then return 'LAPSED' end
local now = now_ms()
redis.call('HSET', value, 'state', state, 'ends', now + ttl, 'load', load, 'apart', apart, 'value', payload)
redis.call('PEXPIRE', value, ttl)
redis.call('PEXPIRE', one, ttl + spare, 'GT')
redis.call('PEXPIRE', all, longest + spare)
enter(index, sizes, {now = now, ends = now + ttl, name = name, bytes = #payload, most = tonumber(most),
                     prefix = prefix, states = states, ttl = longest})
return 'KEPT'
""",
    "cache_keep",
)

RENEW: Final = Script(
    _NOW
    + """
for i = 3, #ARGV do
  local claim, one = KEYS[2 * i - 5], KEYS[2 * i - 4]
  if is_of(redis.call('GET', claim), ARGV[i]) then
    redis.call('PEXPIRE', claim, ARGV[1])
    redis.call('PEXPIRE', one, ARGV[2], 'GT')
  end
end
return 1
""",
    "cache_renew",
)

RELEASE: Final = Script(
    _NOW
    + """
if is_of(redis.call('GET', KEYS[1]), ARGV[1]) then redis.call('DEL', KEYS[1]) end
return 1
""",
    "cache_release",
)

PUT: Final = Script(
    _NOW
    + _WEIGH
    + """
local now, ttl = now_ms(), tonumber(ARGV[2])
for i = 4, #ARGV, 2 do
  redis.call('SET', ARGV[1] .. ARGV[i], ARGV[i + 1], 'PX', ttl)
  enter(KEYS[1], KEYS[2], {now = now, ends = now + ttl, name = ARGV[i], bytes = #ARGV[i + 1], most = tonumber(ARGV[3]),
                           prefix = ARGV[1], ttl = ttl})
end
return 1
""",
    "cache_put",
)
