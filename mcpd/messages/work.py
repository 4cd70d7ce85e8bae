"""Work that may outlive its client, as a call of the Message Manager: the same path, one scope, one deadline.

`TaskWork` is a task's, `KeyedWork` that of the calls with one idempotency key.

Called by: `jobs` and `idempotency`, through the `launch` that `app` hands to them. Calls: `messages.manager`.
Deliberately not: the record.

Laws: law 2 names both as exceptions; their flights are in the in-flight table like any other, so that drain, the end of
an API key and an administrator find them.

Sources: TSK-7, TSK-8, TSK-13; CAN-4.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from mcpd.errors import Draining, Reason, WireError
from mcpd.jobs import Ended, Exchange
from mcpd.messages.flight import Done, Failed, Flight, Outcome, Stopped
from mcpd.messages.manager import MessageManager
from mcpd.wire import jsonrpc
from mcpd.wire.call import Call
from mcpd.wire.outcomes import Outcome as Kept
from mcpd.wire.outcomes import of_result


class _Work:
    def __init__(self, manager: MessageManager, call: Call, exchange: Exchange, client: str = "") -> None:
        self._manager = manager
        self._flight = Flight(call, exchange, client)
        self._flight.counted = True

    def cancel(self, reason: Reason) -> None:
        """See `Work`."""
        self._flight.cancel(reason)

    def waiting_for_client(self) -> AbstractAsyncContextManager[None]:
        """See `Work`."""
        return self._flight.waiting_for_client()


class TaskWork(_Work):
    """Implements `jobs.Work`."""

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


class KeyedWork(_Work):
    """Implements `idempotency.Work`."""

    _outcome: Outcome = Stopped("client_gone")

    async def run(self) -> Kept | WireError | Reason:
        """See `Work`."""
        outcome = self._outcome = await self._manager.perform(self._flight)
        if isinstance(outcome, Done):
            return of_result(outcome.raw, crashed=outcome.crashed)
        return outcome.error if isinstance(outcome, Failed) else outcome.reason

    def record(self) -> None:
        """See `Work`."""
        if not isinstance(self._outcome, Stopped):
            self._manager.record(self._flight, self._outcome)


_CANCELLED = {
    "explicit": "Cancelled by the client",
    "admin": "Cancelled by the server",
    "client_gone": "The client left before it knew of the task",
}


def _failed(error: WireError) -> Ended:
    return Ended("failed", jsonrpc.error_of(error), error.message)
