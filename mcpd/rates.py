"""How often something may happen: a rate as it is written, and the decision of one attempt, as values.

    100/m      100 calls at once, and again one every 0.6 s: a hundred a minute in the long run
    5/10s      5 calls at once, and again one every 2 s

The decision is the generic cell rate algorithm, which is a leaky bucket: of each caller one number is kept, the time at
which its whole rate will be free again. An attempt moves it by one interval, and is refused when that would take it
further than one period from now. There is nothing to count up or to reset.

Called by: `settings`, `tools.registry` (read), the stores of rates (`decide`), `messages.rates`. Pure: microseconds of
whatever clock the caller has are an argument. Deliberately not: whose rate, and what for.

Sources: ITU-T I.371 (GCRA), as a virtual scheduling algorithm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_WRITTEN: Final = re.compile(r"([1-9]\d{0,8})\s*/\s*([1-9]\d{0,5})?\s*([smhd])")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_US: Final = 1_000_000
LONGEST_S: Final = 86400 * 31
"""A longer period would keep its number of each caller for longer than that."""


class Rate(NamedTuple):
    """`items` at once, and `items` in each `period_s` in the long run."""

    items: int
    period_s: int

    @property
    def interval_us(self) -> int:
        """What one attempt costs of the period, in microseconds."""
        return self.period_s * _US // self.items

    def among(self, number: int) -> Rate:
        """Return the part of each of `number` processes that count by themselves, rounded up."""
        if self.items >= number:
            return Rate(-(-self.items // number), self.period_s)
        return Rate(1, self.period_s * number // self.items)


class Taken(NamedTuple):
    """What came of one attempt under one rate."""

    allowed: bool
    remaining: int
    """How many more would be allowed now."""
    retry_after_s: float
    """When the same attempt would be allowed; 0 when it was."""
    reset_s: float
    """When the whole rate is free again."""


def read_rate(text: str) -> Rate:
    """Return the rate that is written `ITEMS/PERIOD`. Raises: ValueError, saying what would do."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be written as calls/time, such as 100/m or 5/10s (s, m, h or d)")
    rate = Rate(int(found[1]), int(found[2] or 1) * _UNITS_S[found[3]])
    if not rate.interval_us or rate.period_s > LONGEST_S:
        raise ValueError("must be at most a million calls a second, and its period at most 31 days")
    return rate


def decide(free_us: Sequence[int], now_us: int, rates: Sequence[Rate]) -> tuple[list[Taken], list[int]]:
    """Decide one attempt under all of `rates`: allowed only if each allows it, and only then does it cost anything.

    `free_us` says of each when its whole rate is free again (0: it is). That is never more than one period from now,
    so what lies further ahead (the clock was put back, or the rate was another one) counts as that.
    Returns what came of each, and the new numbers.
    """
    starts = [min(max(free, now_us), now_us + _span(rate)) for free, rate in zip(free_us, rates, strict=True)]
    waits = [start + rate.interval_us - _span(rate) - now_us for start, rate in zip(starts, rates, strict=True)]
    allowed = all(wait <= 0 for wait in waits)
    ends = [start + rate.interval_us * allowed for start, rate in zip(starts, rates, strict=True)]
    taken = [_taken(end - now_us, wait, rate) for end, wait, rate in zip(ends, waits, rates, strict=True)]
    return taken, ends


def _span(rate: Rate) -> int:
    return rate.interval_us * rate.items


def _taken(used_us: int, wait_us: int, rate: Rate) -> Taken:
    remaining = max(0, (_span(rate) - used_us) // rate.interval_us)
    return Taken(wait_us <= 0, remaining, max(0, wait_us) / _US, used_us / _US)
