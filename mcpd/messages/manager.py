"""The Message Manager: the one path of every call, whatever transport it came through.

`serve` admits a call or refuses it, opens its one cancel scope with its one deadline, lets the service answer, and
turns whatever happens into `Done`, `Failed` or `Stopped`, with metrics, one log line and one record. It owns the
in-flight table, so it is also who cancels (`cancel`) and who drains.

Called by: the transports, `messages.duplex`, `app`. Calls: `service`, `messages.listens`, `messages.recorder`.
Deliberately not: bytes, headers, sockets, sessions.

Laws: one call, one scope, one deadline (1); no call outlives its request (2); the second of two translation boundaries
(7): here, and only here, an exception becomes a wire error, and what a function raises passes no further, `Cancelled`
included: the call's own cancellation is raised anew; every queue has a number and a refusal (8).

Cancellation reasons: `client_gone`, `explicit`, `deadline`, `drain`, `admin`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from mcpd.config import Limits, Timeouts
from mcpd.deadlines import bounded_shield
from mcpd.errors import (
    SHOWN_CHARS,
    DeadlineExceeded,
    Draining,
    Forbidden,
    InternalError,
    MethodNotFound,
    Overloaded,
    Reason,
    ResultTooLarge,
    StoreUnavailable,
    ToolCrashed,
    WireError,
    facing,
    leaves,
)
from mcpd.idempotency import KeyedCalls, Told
from mcpd.messages.calls import Calls
from mcpd.messages.flight import Budget, Done, Failed, Flight, Outcome, Stopped, wait_turn
from mcpd.messages.listens import Listens
from mcpd.messages.places import Places
from mcpd.messages.rates import Rates
from mcpd.messages.recorder import Asked, Recorder
from mcpd.messages.sessions import Sessions
from mcpd.monitoring.logs import Logs, RequestLine, raised
from mcpd.monitoring.metrics import TRANSPORTS, Metrics
from mcpd.service import McpService
from mcpd.wire import jsonrpc, sieve
from mcpd.wire.call import Call
from mcpd.wire.methods import OTHERS, TABLE, Method, lookup

_log = logging.getLogger(__name__)
_MAX_MESSAGE_CHARS = 65_536
"""Of an error that a client is told; an author's ToolError may say more."""
_MAX_DETAIL_CHARS = 512
"""Of an error's text that waits in the log's queue."""


MAX_TASK_RESULT_BYTES = jsonrpc.MAX_SAID_BYTES * 3 // 4
"""Of a task's result as JSON: it is stored, and told whole in one notification."""


class MessageManager:
    """Runs calls and keeps the table of those in flight."""

    def __init__(
        self,
        service: McpService,
        listens: Listens,
        sessions: Sessions,
        *,
        limits: Limits,
        timeouts: Timeouts,
        metrics: Metrics,
        logs: Logs,
        rates: Rates | None = None,
        keyed: KeyedCalls | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.service = service
        self._listens = listens
        self._sessions = sessions
        self._limits = limits
        self._timeouts = timeouts
        self._metrics = metrics
        self._logs = logs
        self._rates = rates
        self.keyed = keyed
        """Runs calls with an idempotency key; None on a server without a store for them."""
        self.recorder = recorder
        """Records calls that have ended; None where nobody wants that."""
        self._default_budget = Budget("server", timeouts.call_s)
        self._flights: dict[int, Flight] = {}
        self.calls = Calls(self.in_flight, sessions.inbox)
        """Says what is in flight on all processes."""
        self._places = Places(limits.max_calls, limits.max_queued_calls)
        self._landed = trio.Event()
        self.draining = False
        for transport in TRANSPORTS:
            metrics.watch("calls_in_flight", partial(self.count_in_flight, transport), transport)

    @property
    def has_rates(self) -> bool:
        """True when calls have quotas to tell of."""
        return self._rates is not None

    async def serve(self, flight: Flight) -> Outcome:
        """Run one call to its end.

        Cancellation: an outer cancellation (a connection torn down) passes through after the call was stopped.
        Raises: nothing but `trio.Cancelled`.
        """
        call = flight.call
        if self.recorder is not None:
            flight.noted = self.recorder.note(call)
        try:
            row = self._admit(call)
        except WireError as error:
            return self._finish(flight, Failed(error))
        self._flights[id(flight)] = flight
        try:
            return self._finish(flight, await self._run(flight, row))
        except trio.Cancelled:
            self._finish(flight, Stopped(flight.reason or "client_gone"))
            raise
        finally:
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        del self._flights[id(flight)]
        if self.draining and not self._flights:
            self._landed.set()
            self._landed = trio.Event()

    def _admit(self, call: Call) -> Method:
        row = lookup(call.method, call.version, call.transport)
        if row is None or not self.service.offers(row):
            raise MethodNotFound(f"Method not found: {call.method[:SHOWN_CHARS]}")
        if not call.principal.has(row.scope):
            raise Forbidden(row.scope)
        if self.draining:
            raise Draining("The server is stopping; try again")
        return row

    async def _run(self, flight: Flight, row: Method) -> Outcome:
        most_s = self._timeouts.call_max_s if flight.call.task is None else self._timeouts.task_max_s
        budget = None if row.stream else self._budget(flight.call, most_s)
        scope = flight.open_scope(budget, most_s=most_s)
        outcome: Outcome | None = None
        if flight.reason is None:
            try:
                with scope:
                    outcome = await self._attempt(flight, row)
            except RuntimeError as misnested:
                outcome = self._crashed(flight.call, misnested)
        if flight.reason is not None:
            return Stopped(flight.reason)
        if outcome is None or (isinstance(outcome, Failed) and scope.cancel_called):
            return self._timed_out(flight, budget, scope.deadline)
        return outcome

    def _budget(self, call: Call, most_s: float) -> Budget:
        budget = self._default_budget if call.task is None else Budget("server", most_s)
        own = self.service.budget_s(call)
        if own is not None:
            budget = Budget("tool", own)
        if call.timeout_ms is not None and (own is None or call.timeout_ms < own * 1000):
            budget = Budget("request", call.timeout_ms / 1000)
        return budget if budget.limit_s <= most_s else Budget("server", most_s)

    def _timed_out(self, flight: Flight, budget: Budget | None, deadline: float) -> Outcome:
        assert budget is not None, "only a deadline ends a scope that nobody cancelled"
        flight.cancelled_at = deadline
        self._metrics.deadline(budget.owner)
        return Failed(DeadlineExceeded(budget.owner, round(budget.limit_s * 1000)))

    async def _attempt(self, flight: Flight, row: Method) -> Outcome:
        # The only place where an exception becomes what a client is told (law 7).
        call = flight.call
        try:
            if row.stream:
                result = await self._listens.run(call, flight.exchange)
            elif row.session:
                result = await self._sessions.apply(call)
            elif row.ours:
                result = await self.calls.answer(call)
            elif call.idempotency_key is not None and call.method == "tools/call":
                told = await self._answer_once(flight)
                return self._done(call, told.result, crashed=told.crashed)
            else:
                result = await self._answer(flight)
            return self._done(call, result)
        except WireError as error:
            error.message = error.message[:_MAX_MESSAGE_CHARS]
            return Failed(error)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - the boundary: nothing that a function raises may pass
            if _is_cancellation(error):
                await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102 - raises the call's own cancellation
            failed = self._crashed(call, error)
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102 - as above
            return failed  # noqa: ASYNC104 - what is left is no cancellation of the call

    def _done(self, call: Call, result: dict[str, Any], *, crashed: bool = False) -> Outcome:
        # The one place where a result gets its form, its bytes and their bound, whatever the method.
        if call.transport in OTHERS:
            shaped = result
        elif call.stateless:
            shaped = sieve.complete(result, self.service.info)
        else:
            shaped = sieve.sift(result, call.method, call.version)
        data = jsonrpc.encode(shaped)
        most = self._limits.max_result_bytes
        if call.task is not None:
            most = min(most, MAX_TASK_RESULT_BYTES)
        if len(data) <= most:
            return Done(shaped, data, crashed, result)
        self._metrics.rejected("result")
        error = ResultTooLarge(len(data), most)
        return self._done(call, sieve.failed(error.message)) if call.method == "tools/call" else Failed(error)

    def _crashed(self, call: Call, error: BaseException) -> Outcome:
        told = issubclass(type(error), ToolCrashed)
        cause = error if not told or error.__cause__ is None else error.__cause__
        with suppress(BaseException):  # a handler of others may render the exception, which may raise anything
            _log.error(
                "request_id=%s %s %s failed",
                call.request_id,
                call.method,
                _target(call),
                exc_info=raised(cause),
            )
        if told:
            return self._done(call, sieve.failed(str(error)), crashed=True)
        return Failed(InternalError(call.request_id))

    async def _answer(self, flight: Flight) -> dict[str, object]:
        if self._rates is not None and not flight.counted:
            await self._rates.admit(flight)
        ticket = self._places.enter(flight.call.principal.share)
        if ticket is None:
            self._metrics.rejected("calls")
            raise Overloaded(
                f"Too many calls are running ({self._places.running}) and the queue is full; try again shortly"
            )
        flight.ticket = ticket
        try:
            if not ticket.running:
                await wait_turn(ticket)
            assert flight.scope is not None
            return await self.service.handle(flight.call, flight.exchange, flight.scope.deadline)
        finally:
            self._places.leave(ticket)

    async def _answer_once(self, flight: Flight) -> Told:
        if self._rates is not None:
            await self._rates.admit(flight)
        self.service.check_tool(flight.call)
        if self.keyed is None:
            raise StoreUnavailable("This server keeps no idempotency keys")
        return await self.keyed.answer(flight)

    async def perform(self, flight: Flight) -> Outcome:
        """Run the work that calls with an idempotency key wait for: these are counted and logged, it is not.

        Cancellation: stops it. Raises: nothing but `trio.Cancelled`.
        """
        if self.recorder is not None:
            flight.noted = self.recorder.note(flight.call)
        self._flights[id(flight)] = flight
        try:
            return await self._run(flight, TABLE["tools/call"])
        finally:
            self._land(flight)

    def _finish(self, flight: Flight, outcome: Outcome) -> Outcome:
        call = flight.call
        seconds = trio.current_time() - flight.started
        label = outcome_label(outcome)
        self._metrics.call_finished(call.transport, call.method, call.version, label, seconds)
        if self.recorder is not None:
            self.recorder.ended(flight, outcome, label, seconds)
        if flight.cancelled_at:
            reason = flight.reason or "deadline"
            self._metrics.cancelled(reason, max(0.0, trio.current_time() - flight.cancelled_at))
        if not self._logs.requests:
            return outcome
        self._logs.request(
            RequestLine(
                call.request_id,
                call.transport,
                call.method,
                label,
                seconds,
                target=_target(call),
                principal=call.principal.name,
                client=flight.client,
                traceparent=call.traceparent or "",
                detail=flight.reason or (_detail(outcome.error) if isinstance(outcome, Failed) else ""),
            )
        )
        return outcome

    def record(self, flight: Flight, outcome: Outcome) -> None:
        """Record what `perform` has done for a client that has gone, and whose own record says only that."""
        if self.recorder is not None:
            self.recorder.ended(flight, outcome, outcome_label(outcome), trio.current_time() - flight.started)

    def refuse(self, error: WireError, line: RequestLine, asked: Asked) -> None:
        """Count, log and record a message that was refused before it became a call; `line` says all but the end."""
        line = line._replace(
            outcome=facing(error).outcome, principal=asked.principal.name, detail=line.detail or _detail(error)
        )
        self._metrics.request_finished(line.transport, line.method, line.outcome, 0.0)
        self._logs.request(line)
        if self.recorder is not None:
            self.recorder.refused(error, line, asked)

    def note(self, line: RequestLine) -> None:
        """Log a request that was served and is no call: a notification taken in, a stream, the end of a session."""
        self._logs.request(line)

    def cancel(self, key: str, reason: Reason = "admin") -> bool:
        """Cancel the call named `key` (its request id); False when it is not in flight. Not a checkpoint."""
        found = [flight for flight in self._flights.values() if flight.key == key]
        for flight in found:
            flight.cancel(reason)
        return bool(found)

    def in_flight(self) -> Iterator[Flight]:
        """The calls in flight, oldest first."""
        return iter(list(self._flights.values()))

    def count_in_flight(self, transport: str) -> int:
        """How many calls of one transport are in flight."""
        return sum(flight.call.transport == transport for flight in self._flights.values())

    async def drain(self) -> None:
        """Refuse new calls, end listen streams, let the rest finish for `timeouts.grace_s`, then cancel them.

        Returns when the in-flight table is empty, or `timeouts.cleanup_s` after the cancellation.
        """
        self.draining = True
        self._listens.end_all()
        with trio.move_on_after(self._timeouts.grace_s):
            await self._wait_empty()
        for flight in self.in_flight():
            flight.cancel("drain")
        with bounded_shield(self._timeouts.cleanup_s):
            await self._wait_empty()

    async def _wait_empty(self) -> None:
        while self._flights:
            await self._landed.wait()


def outcome_label(outcome: Outcome) -> str:
    """Return the value of the metric label `outcome`."""
    if isinstance(outcome, Done):
        if outcome.crashed:
            return "internal_error"
        return "tool_error" if outcome.result.get("isError") else "ok"
    return facing(outcome.error).outcome if isinstance(outcome, Failed) else "cancelled"


def _detail(error: WireError) -> str:
    return (error.detail or error.message)[:_MAX_DETAIL_CHARS]


def _is_cancellation(error: BaseException) -> bool:
    return all(type(leaf) is trio.Cancelled for leaf in leaves(error))


def _target(call: Call) -> str:
    """Return what a call is about, for the log, which is never told the id of a task."""
    target = call.params.get("name") or call.params.get("uri")
    return target if isinstance(target, str) else ""
