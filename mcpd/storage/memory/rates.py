"""Rates of one process: for each share and name the one number that decides (`mcpd.rates`).

Made by: `storage.open`, also for the while that Redis is away (`storage.redis.rates`). Implements
`storage.shared.RateLimits`.

Law 8: at most `MAX_ITEMS` numbers. Those that are free again go first, then the oldest, whose share then has its whole
rate once more; that is observed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import trio

from mcpd.rates import Rate, Taken, decide

MAX_ITEMS: Final = 20_000
"""Shares and names that have used some of their rate: 3 MB."""

_US: Final = 1_000_000


class MemoryRates:
    """Implements `RateLimits`; `clock` gives seconds, `forgot` hears of each number that went too early."""

    def __init__(
        self, *, clock: Callable[[], float] = trio.current_time, forgot: Callable[[], None] | None = None
    ) -> None:
        self._clock = clock
        self._forgot = forgot
        self._free_us: dict[tuple[str, str], int] = {}

    async def take(self, share: str, rates: Mapping[str, Rate]) -> dict[str, Taken]:
        """See `RateLimits`. Not a checkpoint."""
        now_us = int(self._clock() * _US)
        keys = [(share, name) for name in rates]
        taken, free_us = decide([self._free_us.get(key, 0) for key in keys], now_us, list(rates.values()))
        for key, free in zip(keys, free_us, strict=True):
            self._free_us.pop(key, None)
            self._free_us[key] = free
        if len(self._free_us) > MAX_ITEMS:
            self._make_room(now_us)
        return dict(zip(rates, taken, strict=True))

    def _make_room(self, now_us: int) -> None:
        self._free_us = {key: free for key, free in self._free_us.items() if free > now_us}
        while len(self._free_us) > MAX_ITEMS:
            del self._free_us[next(iter(self._free_us))]
            if self._forgot is not None:
                self._forgot()

    def __len__(self) -> int:
        return len(self._free_us)
