"""Who waits for a worker process, and who is next: fairly by owner, whatever each has waiting.

The next worker goes to the owner with the fewest calls running, and among these to the one whose turn is longest ago;
within an owner the call that came first. When the queue is full, a newcomer takes the place of the latest call of the
owner that has most waiting, unless that is its own.

Called by: `tools.workers`. Deliberately not: a waiter itself; it decides, and the waiting task finds the decision
(law 5). Nothing here is a checkpoint.

Laws: 8 (at most `max_items` wait; one more is refused with `Overloaded`).
"""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

from mcpd.errors import McpdError, Overloaded

T = TypeVar("T")


class Waiter(Generic[T]):
    """One call in the queue; when `decided` is set it has been `given` something or has an `error`."""

    __slots__ = ("decided", "error", "given", "owner")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.decided = trio.Event()
        self.given: T | None = None
        self.error: McpdError | None = None


class Waiting(Generic[T]):
    """The queue, and how many calls of each owner are running."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._count = 0
        self._queues: dict[str, dict[Waiter[T], None]] = {}
        """Owner -> its waiters in their order; the owner whose turn is longest ago comes first. Never empty ones."""
        self._running: dict[str, int] = {}
        self.refused = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, owner: str) -> Waiter[T]:
        """Queue a call. Raises: Overloaded."""
        if self._count >= self._max_items:
            self._make_room(owner)
        waiter = Waiter[T](owner)
        self._queues.setdefault(owner, {})[waiter] = None
        self._count += 1
        return waiter

    def _make_room(self, owner: str) -> None:
        self.refused += 1
        error = Overloaded(f"Too many calls wait for a worker process ({self._count})")
        greatest = max(self._queues.values(), key=len, default={})
        if len(greatest) <= len(self._queues.get(owner, ())) + 1:
            raise error
        waiter = next(reversed(greatest))
        self.leave(waiter)
        waiter.error = error
        waiter.decided.set()

    def leave(self, waiter: Waiter[T]) -> None:
        """Take a call out that waits no more. Idempotent."""
        queue = self._queues.get(waiter.owner, {})
        if waiter in queue:
            del queue[waiter]
            self._count -= 1
            if not queue:
                del self._queues[waiter.owner]

    def give(self, something: T) -> bool:
        """Give `something` to the call whose turn it is; False when none waits."""
        if not self._queues:
            return False
        owner = min(self._queues, key=lambda name: self._running.get(name, 0))
        waiter = next(iter(self._queues[owner]))
        self.leave(waiter)
        if owner in self._queues:
            self._queues[owner] = self._queues.pop(owner)
        waiter.given = something
        waiter.decided.set()
        return True

    def refuse_all(self, error: McpdError) -> None:
        """End every wait with `error`."""
        for queue in self._queues.values():
            for waiter in queue:
                waiter.error = error
                waiter.decided.set()
        self._queues.clear()
        self._count = 0

    def began(self, owner: str) -> None:
        """A call of this owner has begun to run."""
        self._running[owner] = self._running.get(owner, 0) + 1

    def ended(self, owner: str) -> None:
        """It has ended: the owner has had its turn."""
        if owner in self._queues:
            self._queues[owner] = self._queues.pop(owner)
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
