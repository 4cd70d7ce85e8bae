"""The calls that one client of a connection or session has in flight, by JSON-RPC id: one table for every transport.

A transport asks `check` before it makes a call of a request, enters the call's `Flight`, and takes it out when it has
ended. `notifications/cancelled` finds its call here, and so does whoever ends the client.

Called by: `messages.duplex` (a connection's), `messages.sessions` and `gateway.stateful_http` (a session's; a session
on a connection has the connection's). Deliberately not: the table of all calls, which is the Message Manager's; a
stateless HTTP call has a request of its own and no id to be found by.

Laws: an id names one call at a time, and its type counts (RPC-3, RPC-5); what cannot be cancelled is ignored (IO-7);
the number of calls is bounded (law 8).

Sources: RPC-3, RPC-5, CAN-3, IO-7, INI-3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcpd.errors import InvalidRequest, Overloaded, Reason, counted
from mcpd.messages.flight import Flight
from mcpd.wire.call import RequestId


class InFlight:
    """One client's calls. Nothing here is a checkpoint."""

    def __init__(self, *, max_items: int, cancelled: Callable[[RequestId], bool] = lambda _: False) -> None:
        """`cancelled` tells, once, whether the cancel of a call has come before the call."""
        self._max_items = max_items
        self._cancelled = cancelled
        self._flights: dict[RequestId, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def check(self, request_id: RequestId) -> None:
        """Say whether a call may be entered under this id. Raises: InvalidRequest if one is, Overloaded."""
        if request_id in self._flights:
            raise InvalidRequest(f"A request with the id {request_id!r} is still in progress")
        if len(self._flights) >= self._max_items:
            raise Overloaded(f"This client has {counted(len(self._flights), 'call')} in flight; wait for one to end")

    def enter(self, flight: Flight) -> None:
        """Enter a call that `check` has let pass; one whose cancel came first is cancelled."""
        assert flight.call.id is not None
        self._flights[flight.call.id] = flight
        if self._cancelled(flight.call.id):
            self.cancel(flight.call.id)

    def leave(self, flight: Flight) -> None:
        """Take a call out that has ended."""
        del self._flights[flight.call.id]  # type: ignore[arg-type]

    def cancel(self, request_id: Any, reason: Reason = "explicit") -> bool:
        """Cancel the call with this id; False when there is none. `initialize` cannot be cancelled."""
        flight = self._flights.get(request_id) if type(request_id) in (str, int) else None
        if flight is not None and flight.call.method != "initialize":
            flight.cancel(reason)
        return flight is not None

    def end(self, reason: Reason, *, only: str | None = None) -> None:
        """Cancel all, or `only` the calls of this method: the client is gone, or is not served any longer."""
        for flight in list(self._flights.values()):
            if only in (None, flight.call.method):
                flight.cancel(reason)
