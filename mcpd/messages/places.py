"""Who may run now: the places of `limits.max_calls` and the queue before them, shared by callers.

Pure decisions: `enter` gives a `Ticket` that has a place or waits for one, `leave` gives the place of a ticket to the
caller who runs least. One caller has at most three quarters of the places and of the queue, so that there is always
room for another (`shares.may_take`). A call that waits for a person lends its place (`lend`); when the person has
answered it takes one again (`reclaim`), or waits for one before those of its caller that have not begun. So no more
calls than there are places ever run; those that return wait beside the queue, as many as have lent at most.

Called by: `messages.manager`, which waits. Deliberately not: time, cancellation, or the wording of a refusal.

Laws: a place is handed on without being given up (5); places, queue and loans are bounded (8).

Sources: max-min fairness with equal weights (Jaffe 1981), for whole calls.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcpd.shares import may_take


def _nobody() -> None:
    """Stands in until somebody waits."""


class Ticket(msgspec.Struct, eq=False):
    """One call's claim to a place. `grant` is called when it has waited and may run."""

    places: Places
    caller: str
    running: bool = False
    begun: bool = False
    """It has had a place, perhaps not now."""
    lent: bool = False
    grant: Callable[[], None] = _nobody


class Places:
    """`most` places, a queue of `queue`, and shares of both."""

    def __init__(self, most: int, queue: int) -> None:
        self._most = most
        self._queue = queue
        self._running: dict[str, int] = {}
        self._waiting: dict[str, dict[Ticket, None]] = {}
        self._away = 0
        """Calls that have begun and are without a place: lent, or not yet got again."""
        self.running = 0
        self.waiting = 0

    def enter(self, caller: str) -> Ticket | None:
        """Return a ticket, running or waiting; None when the queue, or this caller's share of it, is full."""
        ticket = Ticket(self, caller)
        if may_take(self._running.get(caller, 0), self._most - self.running):
            self._start(ticket)
            return ticket
        line = self._waiting.get(caller, {})
        if not may_take(len(line), self._queue - self.waiting):
            return None
        line[ticket] = None
        self._waiting[caller] = line
        self.waiting += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up a ticket, whether it runs, has lent its place or still waits."""
        if ticket.running:
            self._stop(ticket)
            if self._waiting:
                self._grant()
        elif ticket.lent:
            self._away -= 1
        elif ticket in self._waiting.get(ticket.caller, {}):
            self._unqueue(ticket)
            self._away -= ticket.begun

    def lend(self, ticket: Ticket) -> None:
        """Let others have the place while a person is asked; without effect when `most` calls are without theirs."""
        if ticket.running and self._away < self._most:
            self._stop(ticket)
            ticket.lent = True
            self._away += 1
            self._grant()

    def reclaim(self, ticket: Ticket) -> None:
        """Take a place again that was lent, or wait for one, before those of this caller that have not begun."""
        if ticket.lent:
            ticket.lent = False
            line = self._waiting.get(ticket.caller, {})
            returning = {other: None for other in line if other.begun}
            self._waiting[ticket.caller] = {**returning, ticket: None, **line}
            self.waiting += 1
            self._grant()

    def _start(self, ticket: Ticket) -> None:
        if ticket.begun:
            self._away -= 1
        ticket.running = ticket.begun = True
        self.running += 1
        self._running[ticket.caller] = self._running.get(ticket.caller, 0) + 1

    def _stop(self, ticket: Ticket) -> None:
        ticket.running = False
        self.running -= 1
        left = self._running.pop(ticket.caller) - 1
        if left:
            self._running[ticket.caller] = left

    def _unqueue(self, ticket: Ticket) -> None:
        line = self._waiting.pop(ticket.caller)
        del line[ticket]
        if line:
            self._waiting[ticket.caller] = line
        self.waiting -= 1

    def _grant(self) -> None:
        while self.running < self._most and self._waiting:
            caller = min(self._waiting, key=lambda name: self._running.get(name, 0))
            if not may_take(self._running.get(caller, 0), self._most - self.running):
                return
            ticket = next(iter(self._waiting[caller]))
            self._unqueue(ticket)
            self._start(ticket)
            grant, ticket.grant = ticket.grant, _nobody
            grant()
