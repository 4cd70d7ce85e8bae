"""A few places for work, shared fairly by whoever asks for them.

An owner takes a further place only while more places are free than it holds already: one alone gets half of them, and
whoever comes next finds one at once. A place that is given back goes to the owner that holds the fewest, of equals to
the one that has waited longest for its turn, and there to the oldest of its jobs.

Called by: `searcher`, for what it asks of its store. Deliberately not a bound of its own on how many wait: whoever
waits is a call in flight, and those are bounded. Owners are opaque, kept only while they hold or wait.

Laws: 5, 8. A job that is cancelled while it waits leaves nothing behind; one that was just given a place hands it on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

import trio

T = TypeVar("T")


class Shares:
    """`places` jobs at most run at once."""

    def __init__(self, places: int) -> None:
        self.free = places
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
        await self._enter(owner)
        try:
            return await job()
        finally:
            self._leave(owner)

    async def _enter(self, owner: Hashable) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if owner not in self._waiting and self._may_have_more(owner):
            self._take(owner)
            return
        given = trio.Event()
        self._waiting.setdefault(owner, deque()).append(given)
        try:
            await given.wait()
        except BaseException:
            if given.is_set():
                self._leave(owner)
            else:
                self._forget(owner, given)
            raise

    def _may_have_more(self, owner: Hashable) -> bool:
        return self.free > self._held.get(owner, 0)

    def _take(self, owner: Hashable) -> None:
        self.free -= 1
        self._held[owner] = self._held.get(owner, 0) + 1

    def _leave(self, owner: Hashable) -> None:
        self.free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._give()

    def _give(self) -> None:
        while entitled := [owner for owner in self._waiting if self._may_have_more(owner)]:
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
