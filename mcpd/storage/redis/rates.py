"""Rates over all replicas: the number that decides stands in Redis, and Redis's clock is the one that counts.

One script decides and writes for all rates of an attempt, so that two replicas are one after the other; it is what
`mcpd.rates.decide` is in Lua. While Redis is away each replica decides by itself, which is observed as `take_alone`: a
caller then has its rate on each of them, and calls go on.

Called by: `storage.open`. Implements `storage.shared.RateLimits`.

Laws: an attempt waits for Redis for `PATIENCE_S` at most, and after that did not help no other one does for `REST_S`;
keys end by themselves, when the whole rate is free again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Final

import msgspec
import trio

from mcpd.drivers.redis import Garbled, Redis, RedisError, Script, shaped
from mcpd.rates import Rate, Taken
from mcpd.storage.redis.keys import Keys
from mcpd.storage.shared import RateLimits

PATIENCE_S: Final = 0.5
"""Hundreds of times what the script takes; longer, and callers would notice that Redis is away."""

REST_S: Final = 1.0
_US: Final = 1_000_000
_FIELDS: Final = 4
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]

_TAKE: Final = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local starts, waits, ahead, allowed = {}, {}, {}, 1
for i = 1, #KEYS do
  local interval, items = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local free = tonumber(redis.call('GET', KEYS[i]) or '0')
  ahead[i] = free > now + interval * items
  starts[i] = math.min(math.max(free, now), now + interval * items)
  waits[i] = starts[i] + interval - interval * items - now
  if waits[i] > 0 then allowed = 0 end
end
local told = {}
for i = 1, #KEYS do
  local interval, items = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local used = starts[i] + interval * allowed - now
  if allowed == 1 or ahead[i] then
    redis.call('SET', KEYS[i], string.format('%.0f', now + used), 'PX', math.ceil(used / 1000) + 1)
  end
  told[#told + 1] = waits[i] <= 0 and 1 or 0
  told[#told + 1] = math.max(0, math.floor((interval * items - used) / interval))
  told[#told + 1] = math.max(0, waits[i])
  told[#told + 1] = used
end
return told
""",
    "take",
)


class RedisRates:
    """Implements `RateLimits`; `local` decides while Redis is away, and `alone` hears of each such attempt."""

    def __init__(self, redis: Redis, keys: Keys, local: RateLimits, *, alone: Callable[[], None] | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._local = local
        self._alone = alone
        self._rests_until = 0.0

    async def take(self, share: str, rates: Mapping[str, Rate]) -> dict[str, Taken]:
        """See `RateLimits`."""
        if trio.current_time() >= self._rests_until and self._redis.statistics().connected:
            with trio.move_on_after(PATIENCE_S):
                try:
                    return await self._ask(share, rates)
                except RedisError:
                    pass
            self._rests_until = trio.current_time() + REST_S
        if self._alone is not None:
            self._alone()
        return await self._local.take(share, rates)

    async def _ask(self, share: str, rates: Mapping[str, Rate]) -> dict[str, Taken]:
        keys = [self._keys.rate(share, name) for name in rates]
        numbers = [number for rate in rates.values() for number in (rate.interval_us, rate.items)]
        told = shaped(await self._redis.run_script(_TAKE, keys=keys, arguments=numbers), list[_Number])
        if len(told) != _FIELDS * len(rates):
            raise Garbled(f"{len(told)} numbers about {len(rates)} rates")
        rows = [told[at : at + _FIELDS] for at in range(0, len(told), _FIELDS)]
        return {name: _taken(*row) for name, row in zip(rates, rows, strict=True)}


def _taken(allowed: int, remaining: int, wait_us: int, used_us: int) -> Taken:
    return Taken(bool(allowed), remaining, wait_us / _US, used_us / _US)
