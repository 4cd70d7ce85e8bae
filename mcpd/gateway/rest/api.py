"""The `/api/v1` transport: one plain ASGI application over the table of routes.

A request is admitted as every other is (Host, Origin, key), becomes a `Call` by its row of the table, and is answered
with JSON, or with problem details. Calls are of the stateless revision: nothing outlives its request.

Called by: `gateway.app`. Calls: `messages.manager`, `gateway.rest.routes`, `gateway.rest.problems`. Deliberately not:
what a call does.

Laws: the client's going cancels its call (law 2); a refusal is problem details whatever its status.

Sources: surfaces "REST"; RFC 9457; RFC 9110.
"""

from __future__ import annotations

import math
from typing import Any

import trio

from mcpd.errors import InvalidRequest, WireError
from mcpd.gateway.access import Access, Refusal
from mcpd.gateway.arrivals import Arrivals, answer_preflight
from mcpd.gateway.asgi import Head, Headers, Receive, Responder, Scope, Send
from mcpd.gateway.disconnects import Disconnects
from mcpd.gateway.exchanges import failure_headers
from mcpd.gateway.rest import problems
from mcpd.gateway.rest.routes import PREFIX, Found, Route, find
from mcpd.messages.flight import Done, Failed, Flight, Outcome, answer_to
from mcpd.messages.manager import MessageManager
from mcpd.messages.recorder import Asked
from mcpd.monitoring.logs import RequestLine
from mcpd.monitoring.metrics import Metrics
from mcpd.wire.call import ANONYMOUS, Call, Principal
from mcpd.wire.envelope import read_traceparent
from mcpd.wire.versions import STATELESS

_NO_CONTENT = 204


class SilentExchange:
    """The way back of a call whose client hears of its result alone."""

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Say nothing."""

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002 - the Protocol's
        """Never happens: a stateless client is asked by the result."""
        raise AssertionError("a stateless call is never asked live")

    def release(self, retry_ms: int) -> None:
        """There is no stream to give up."""


class RestApi:
    """The ASGI application at `/api/v1`. Its tasks live in `nursery`, which outlives every request."""

    def __init__(self, manager: MessageManager, access: Access, metrics: Metrics, nursery: trio.Nursery) -> None:
        self._manager = manager
        self._metrics = metrics
        self._arrivals = Arrivals(access)
        self._disconnects = Disconnects()
        nursery.start_soon(self._disconnects.run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        head, responder, admitted = arrival = self._arrivals.judge(scope, send)
        if admitted is None:
            await answer_preflight(arrival)
            self._manager.note(_line(responder, responder.status))
            return
        if isinstance(admitted, Refusal):
            self._metrics.rejected(admitted.reason)
            await self._refuse(responder, admitted, ANONYMOUS)
            return
        found = find(scope["method"], _path(scope))
        if isinstance(found, Found):
            await self._serve(_call(found, head, responder, admitted), found.route, responder, receive)
        else:
            await self._refuse(responder, _unknown(found), admitted)

    async def _serve(self, call: Call, route: Route, responder: Responder, receive: Receive) -> None:
        flight = Flight(call, SilentExchange(), responder.client)
        guard = self._disconnects.watch(receive, flight, on_quiet=_nothing, quiet_s=math.inf)
        try:
            outcome = await self._manager.serve(flight)
        finally:
            guard.release()
        await _answer(outcome, route, responder)

    async def _refuse(self, responder: Responder, refusal: Refusal, caller: Principal) -> None:
        line = _line(responder, refusal.status)._replace(detail=refusal.logged)
        self._manager.refuse(InvalidRequest(refusal.message), line, Asked(caller, reason=refusal.reason))
        problem = problems.of_refusal(refusal.status, refusal.reason, refusal.message, responder.request_id)
        await _say(responder, problem, list(refusal.headers))


def _call(found: Found, head: Head, responder: Responder, principal: Principal) -> Call:
    return Call(
        method=found.route.calls,
        params=found.params,
        version=STATELESS,
        transport="rest",
        principal=principal,
        request_id=responder.request_id,
        traceparent=read_traceparent({}, head.named.get(b"traceparent")),
    )


def _path(scope: Scope) -> str:
    """Return the path behind the prefix as it was sent: an encoded slash separates nothing."""
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.partition(b"?")[0].decode("latin-1")
    return path.removeprefix(PREFIX)


def _unknown(allowed: tuple[str, ...] | None) -> Refusal:
    if allowed is None:
        return Refusal(404, "not found", f"There is nothing at this path; {PREFIX}/calls is what there is")
    methods = ", ".join(allowed)
    return Refusal(405, "method", f"Use {methods}", ((b"allow", methods.encode()),))


async def _answer(outcome: Outcome, route: Route, responder: Responder) -> None:
    if isinstance(outcome, Done):
        await responder.whole(route.status, b"" if route.status == _NO_CONTENT else outcome.data)
        return
    error: WireError | None = outcome.error if isinstance(outcome, Failed) else answer_to(outcome)
    if error is not None:
        await _say(responder, problems.of_error(error, responder.request_id), failure_headers(error))


async def _say(responder: Responder, problem: problems.Problem, headers: Headers) -> None:
    await responder.whole(problem.status, problem.body, headers, kind=problems.CONTENT_TYPE)


def _line(responder: Responder, status: int) -> RequestLine:
    return responder.line(status)._replace(transport="rest")


def _nothing() -> None:
    """A quiet call needs no sign of life: its client waits for one reply."""
