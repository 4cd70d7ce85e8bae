"""The work of a task as a call of the Message Manager: the same path, one scope, one deadline, one row in the table.

Called by: `jobs`, through the `launch` that `app` hands to `tasks`. Calls: `messages.manager`. Deliberately not: the
record.

Laws: law 2 names a task as an exception, because it survives its creating call; its own flight is in the in-flight
table like any other, so that drain, the end of a key and an administrator find it.

Sources: TSK-7, TSK-8, TSK-13; CAN-4.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from mcpd.errors import Draining, Reason, WireError
from mcpd.jobs import Ended, Exchange
from mcpd.messages.flight import Done, Failed, Flight
from mcpd.messages.manager import MessageManager
from mcpd.wire import jsonrpc
from mcpd.wire.call import Call


class TaskWork:
    """Implements `jobs.Work`."""

    def __init__(self, manager: MessageManager, call: Call, exchange: Exchange) -> None:
        self._manager = manager
        self._flight = Flight(call, exchange)
        self._flight.counted = True

    def cancel(self, reason: Reason) -> None:
        """See `Work`."""
        self._flight.cancel(reason)

    def waiting_for_client(self) -> AbstractAsyncContextManager[None]:
        """See `Work`."""
        return self._flight.waiting_for_client()

    async def run(self) -> Ended:
        """See `Work`."""
        outcome = await self._manager.serve(self._flight)
        if isinstance(outcome, Done):
            return Ended("completed", outcome.data)
        if isinstance(outcome, Failed):
            return _failed(outcome.error)
        if outcome.reason == "drain":
            return _failed(Draining("The server stopped before the task had ended; start it again"))
        return Ended("cancelled", None, _CANCELLED.get(outcome.reason, "Cancelled"))


_CANCELLED = {
    "explicit": "Cancelled by the client",
    "admin": "Cancelled by the server",
    "client_gone": "The client left before it knew of the task",
}


def _failed(error: WireError) -> Ended:
    return Ended("failed", jsonrpc.error_of(error), error.message)
