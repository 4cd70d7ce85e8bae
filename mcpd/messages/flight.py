"""One call in the air: its cancel scope, its time budget, and why it was stopped.

A transport makes a `Flight` for a `Call`, hands it to `MessageManager.serve`, and keeps it so that it can cancel it.
What comes back is one of `Done`, `Failed`, `Stopped`: values, not exceptions, because a transport has to treat all
three.

Called by: `messages.manager`, `messages.duplex`, the transports. Deliberately not: anything that runs.

Laws 1 and 2: the scope is opened by the Message Manager alone; a scope that fires says why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import msgspec
import trio

from mcpd.errors import CallCancelled, Draining, Reason, WireError
from mcpd.messages.arguments import NOTHING, Noted
from mcpd.messages.places import Ticket
from mcpd.rates import Rate, Taken
from mcpd.service import Exchange
from mcpd.wire import jsonrpc
from mcpd.wire.call import Call

_FOREVER = float("inf")


class Done(msgspec.Struct, frozen=True):
    """The call gave a result, already in the form of its revision."""

    result: dict[str, Any]
    data: bytes
    """The result as JSON, within `limits.max_result_bytes`."""
    crashed: bool = False
    """The result says that the tool raised something unforeseen."""
    raw: dict[str, Any] = {}
    """The result in the form of the core."""


class Failed(msgspec.Struct, frozen=True):
    """The call was refused or failed; `error` is what the client is told."""

    error: WireError


class Stopped(msgspec.Struct, frozen=True):
    """The call was cancelled. Whether its client is still told anything is the transport's matter (`answer_to`)."""

    reason: Reason


Outcome = Done | Failed | Stopped


class Budget(msgspec.Struct, frozen=True):
    """The tightest time limit of a call, and whose it is: `request`, `tool` or `server`."""

    owner: str
    limit_s: float


class Quota(NamedTuple):
    """What a call found of one of its caller's rates; `name` is `caller` or `tool`."""

    name: str
    rate: Rate
    taken: Taken


def unheard(_quotas: Sequence[Quota]) -> None:
    """Stands where a transport has no place for quotas."""


class Flight(msgspec.Struct, eq=False):
    """A call with its scope. Not reusable."""

    call: Call
    exchange: Exchange
    client: str = ""
    """Address that the call came from, for the log."""
    scope: trio.CancelScope | None = None
    _latest: float | None = None
    reason: Reason | None = None
    started: float = msgspec.field(default_factory=trio.current_time)
    cancelled_at: float = 0.0
    counted: bool = False
    """True for work that outlives its call: that has been counted under its caller's rates."""
    tell_quotas: Callable[[Sequence[Quota]], None] = unheard
    """Hears what is left of the caller's rates, where there are any; HTTP has headers for it."""
    ticket: Ticket | None = None
    """Its claim to a place among the running calls, once it has one."""
    noted: Noted = NOTHING
    """What its record will say of its arguments."""

    @property
    def key(self) -> str:
        """Names the call for whoever cancels it."""
        return self.call.request_id

    def open_scope(self, budget: Budget | None, *, most_s: float) -> trio.CancelScope:
        """Make the call's one scope (the Message Manager does). `most_s` bounds what `waiting_for_client` may add."""
        deadline = _FOREVER if budget is None else self.started + budget.limit_s
        if budget is not None and budget.owner == "server":
            self._latest = self.started + most_s
        self.scope = trio.CancelScope(deadline=deadline)
        return self.scope

    @asynccontextmanager
    async def waiting_for_client(self) -> AsyncIterator[None]:
        """Lend the call's place and stop the clock of the server's default limit while a person is asked.

        That limit bounds the tool's work. One that the tool or the client named goes on counting. At the end the call
        waits until it has a place again; where a time limit of the tool's own ends that wait, it goes on without one.
        """
        ticket = self.ticket
        if ticket is not None:
            ticket.places.lend(ticket)
        try:
            with self._clock_stopped():
                yield
        finally:
            if ticket is not None:
                ticket.places.reclaim(ticket)
                await wait_turn(ticket)  # noqa: ASYNC102 - a call that is cancelled does not wait

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        scope, latest = self.scope, self._latest
        if scope is None or latest is None:
            yield
            return
        since, before = trio.current_time(), scope.deadline
        scope.deadline = latest
        try:
            yield
        finally:
            scope.deadline = min(latest, before + trio.current_time() - since)

    def cancel(self, reason: Reason) -> None:
        """Stop the call, whether it has started or not. The first reason stands. Cancellation: not a checkpoint."""
        if self.reason is None:
            self.reason = reason
            self.cancelled_at = trio.current_time()
            if self.scope is not None:
                self.scope.cancel(reason=reason)


async def wait_turn(ticket: Ticket) -> None:
    """Return when `ticket` has its place. Cancellation: safe."""
    if ticket.running:
        return
    turn, others = trio.Event(), ticket.grant

    def grant() -> None:
        others()
        turn.set()

    ticket.grant = grant
    await turn.wait()


def answer_to(stopped: Stopped) -> WireError | None:
    """Return what the client of a stopped call is told: nothing if it left or asked for it (CAN-3)."""
    if stopped.reason == "drain":
        return Draining("The server is stopping and had to cancel this call")
    return CallCancelled(stopped.reason) if stopped.reason == "admin" else None


def encode_outcome(call: Call, outcome: Done | Failed) -> bytes:
    """Return the JSON-RPC response. Never raises."""
    if isinstance(outcome, Failed):
        return jsonrpc.failure_of(outcome.error, call.id, stateless=call.stateless)
    assert call.id is not None
    return jsonrpc.success_of(call.id, outcome.data)
