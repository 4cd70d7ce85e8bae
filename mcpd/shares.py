"""Places for work, shared fairly by whoever asks for them.

An owner takes a further place only while it holds fewer than a multiple (`times`) of those that are free: with 1, one
owner alone gets half of them, with 3 three quarters, and whoever comes next finds one at once. A place that is given
back goes to the owner that holds the fewest, of equals to the one that has waited longest for its turn, and there to
the oldest of its jobs.

Called by: `search.searcher` for what it asks of its store, `tools.threads` for its threads; `may_take` is the rule of
`messages.places` too. Deliberately not a bound of its own on how many wait: whoever waits is a call in flight, and
those are bounded. Owners are opaque, kept only while they hold or wait.

Laws: 5, 8. A job that is cancelled while it waits leaves nothing behind; one that was just given a place hands it on.

Sources: dynamic queue thresholds (Choudhury and Hahn 1998).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, TypeVar

import trio

T = TypeVar("T")
QUARTERS: Final = 3
"""As `times`: one owner alone gets three quarters."""


def may_take(held: int, free: int, times: int = QUARTERS) -> bool:
    """True when an owner that has `held` of something may take one more of the `free` ones."""
    return held < times * free


def most_of(number: int) -> int:
    """Return how many of `number` one owner alone may take: three quarters, rounded up."""
    return number - number // 4


class Shares:
    """`places` jobs at most run at once."""

    def __init__(self, places: int, *, times: int = 1) -> None:
        self.free = places
        self._times = times
        self._held: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[trio.Event]] = {}

    @property
    def waiting(self) -> int:
        """How many jobs wait for a place."""
        return sum(map(len, self._waiting.values()))

    async def run(self, owner: Hashable, job: Callable[[], Awaitable[T]]) -> T:
        """Return what `job` returns, run when `owner` has a place for it.

        Raises: what `job` raises. Cancellation: while it waits, safe; later as `job`. A job must not ask for another
        place: two that each wait for the other's would never end.
        """
        await self.enter(owner)
        try:
            return await job()
        finally:
            self.leave(owner)

    async def enter(self, owner: Hashable) -> None:
        """Wait until `owner` has a place; it has to `leave`. Cancellation: safe."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if owner not in self._waiting and self.may_have_more(owner):
            self._take(owner)
            return
        given = trio.Event()
        self._waiting.setdefault(owner, deque()).append(given)
        try:
            await given.wait()
        except BaseException:
            if given.is_set():
                self.leave(owner)
            else:
                self._forget(owner, given)
            raise

    def may_have_more(self, owner: Hashable) -> bool:
        """True when there is a place for `owner` now."""
        return may_take(self._held.get(owner, 0), self.free, self._times)

    def _take(self, owner: Hashable) -> None:
        self.free -= 1
        self._held[owner] = self._held.get(owner, 0) + 1

    def leave(self, owner: Hashable) -> None:
        """Give a place back. Not a checkpoint."""
        self.free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._give()

    def _give(self) -> None:
        while entitled := [owner for owner in self._waiting if self.may_have_more(owner)]:
            owner = min(entitled, key=lambda one: self._held.get(one, 0))
            jobs = self._waiting.pop(owner)
            self._take(owner)
            jobs.popleft().set()
            if jobs:
                self._waiting[owner] = jobs

    def _forget(self, owner: Hashable, given: trio.Event) -> None:
        jobs = self._waiting[owner]
        jobs.remove(given)
        if not jobs:
            del self._waiting[owner]
