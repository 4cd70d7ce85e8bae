"""The `/mcp` transport: MCP over Streamable HTTP, both eras on one path.

Plain ASGI. Step 0 of the ladder (Host, Origin, key, method, media types, size) is done here; then the body decides the
era. A stateless POST is answered right here, as JSON if the call is done before it says anything, else as an event
stream that starts with its first notification or after `timeouts.ping_s` (deferred commit, RSP-4). Everything stateful
goes to `gateway.stateful_http`.

Called by: `gateway.app`. Calls: `messages.manager`, `wire`. Deliberately not: MCP decisions, which `wire.envelope` and
the Message Manager make.

Laws: the client's going cancels its call, also while a JSON reply is being computed (CAN-1); a refusal has a JSON-RPC
body whatever its status (ERA-9); nothing is written behind the last message.

Sources: MCP 2026-07-28 basic/transports; sections 1.2 to 1.5, 2.6, 2.7.
"""

from __future__ import annotations

from collections.abc import Awaitable

import trio

from mcpd.config import Limits, Timeouts
from mcpd.errors import InvalidRequest, ParseError, UnsupportedVersion, WireError, facing
from mcpd.gateway.access import Access, Refusal
from mcpd.gateway.arrivals import Arrivals, answer_preflight
from mcpd.gateway.asgi import (
    REFUSED,
    BodyRefused,
    ClientGone,
    Receive,
    Responder,
    Scope,
    Send,
    read_body,
)
from mcpd.gateway.disconnects import Disconnects
from mcpd.gateway.exchanges import PostExchange
from mcpd.gateway.quotas import Quotas
from mcpd.gateway.readers import Post
from mcpd.gateway.stateful_http import StatefulHttp
from mcpd.messages.flight import Flight
from mcpd.messages.manager import MessageManager
from mcpd.messages.outbox import Outbox
from mcpd.messages.recorder import Asked
from mcpd.monitoring.metrics import Metrics
from mcpd.wire import jsonrpc, sse
from mcpd.wire.call import ANONYMOUS, Call, Principal
from mcpd.wire.envelope import VERSION_KEY, is_stateless_post, open_http
from mcpd.wire.headers import RoutingHeaders, check_parameters
from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS, is_stateless

_ACCEPTED = 202
_SERVED = range(200, 300)
_METHODS = b"POST, GET, DELETE, OPTIONS"


class StreamableHttp:
    """The ASGI application at `/mcp`. Its tasks live in `nursery`, which outlives every request."""

    def __init__(
        self,
        manager: MessageManager,
        stateful: StatefulHttp,
        access: Access,
        *,
        limits: Limits,
        timeouts: Timeouts,
        metrics: Metrics,
        nursery: trio.Nursery,
    ) -> None:
        self._manager = manager
        self._stateful = stateful
        self._limits = limits
        self._timeouts = timeouts
        self._metrics = metrics
        self._nursery = nursery
        self._arrivals = Arrivals(access)
        self._disconnects = Disconnects()
        nursery.start_soon(self._disconnects.run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        head, responder, admitted = arrival = self._arrivals.judge(scope, send)
        if admitted is None:
            await answer_preflight(arrival)
            self._note(responder, trio.current_time())
            return
        if isinstance(admitted, Refusal):
            await self._turn_away(responder, admitted)
            return
        headers = RoutingHeaders.read(head.named, head.repeated)
        if scope["method"] == "POST":
            try:
                await self._post(Post(head, headers, admitted, responder, receive))
            except ClientGone:
                self._note_gone(scope, responder)
            if responder.status == _ACCEPTED:
                self._note(responder, trio.current_time())
        else:
            await self._other(scope["method"], Post(head, headers, admitted, responder, receive))

    def _note(self, responder: Responder, started: float) -> None:
        """Log what is neither a call nor a refusal: those log themselves."""
        self._manager.note(responder.line(responder.status, seconds=trio.current_time() - started))

    def _note_gone(self, scope: Scope, responder: Responder) -> None:
        """Log a request whose client left before it was complete, unless the server below has refused it."""
        if REFUSED not in scope:
            self._manager.note(responder.line(0)._replace(outcome="cancelled", status="", detail="no reply"))

    async def _other(self, method: str, post: Post) -> None:
        if method in ("GET", "DELETE"):
            version = post.headers.version
            if version is None or version in STATEFUL:
                started = trio.current_time()
                try:
                    await (self._stateful.get(post) if method == "GET" else self._stateful.delete(post))
                finally:
                    if post.responder.status in _SERVED:
                        self._note(post.responder, started)
                return
            await self._turn_away(post.responder, _NOT_STATELESS, post.principal)
            return
        await self._turn_away(post.responder, _NO_METHOD, post.principal)

    async def _turn_away(self, responder: Responder, refusal: Refusal, caller: Principal = ANONYMOUS) -> None:
        """Refuse in step 0, before anything is known about the message."""
        error = InvalidRequest(refusal.message)
        self._metrics.rejected(refusal.reason)
        line = responder.line(refusal.status)._replace(detail=refusal.logged)
        self._manager.refuse(error, line, Asked(caller, reason=refusal.reason))
        body = jsonrpc.failure_of(error, None, stateless=True)
        await responder.whole(refusal.status, body, list(refusal.headers))

    async def _post(self, post: Post) -> None:
        head = post.head
        try:
            if not head.sends_json:
                raise BodyRefused(415, "Send Content-Type: application/json")
            if not (head.takes_json or head.takes_events):
                raise BodyRefused(406, "Accept application/json and text/event-stream")
            limits, timeout_s = self._limits, self._timeouts.body_s
            body = read_body(head, post.receive, max_bytes=limits.max_body_bytes, timeout_s=timeout_s)
            value = jsonrpc.decode(await body, max_depth=limits.max_depth)
        except BodyRefused as refused:
            await self._turn_away(post.responder, Refusal(refused.status, "body", str(refused)), post.principal)
            return
        except ParseError as error:
            await self._refuse(error, post)
            return
        if type(value) is list:
            await self._stateful.batch(value, post)
        else:
            await self._route(jsonrpc.parse(value), post)

    def _route(self, message: jsonrpc.Message, post: Post) -> Awaitable[None]:
        if isinstance(message, jsonrpc.Malformed):
            return self._refuse(message.error, post, message)
        if isinstance(message, jsonrpc.Response):
            return self._stateful.response(message, post)
        if not is_stateless_post(message, post.headers):
            return self._stateful.post(message, post)
        if isinstance(message, jsonrpc.Request):
            return self._serve(message, post)
        return self._notification(message, post)

    async def _notification(self, notification: jsonrpc.Notification, post: Post) -> None:
        version = (notification.params.get("_meta") or {}).get(VERSION_KEY, post.headers.version)
        if version is None or not is_stateless(version):
            await self._refuse(UnsupportedVersion(str(version), SUPPORTED_STATELESS), post, notification)
            return
        await post.responder.whole(202)

    async def _serve(self, request: jsonrpc.Request, post: Post) -> None:
        try:
            call = open_http(
                request,
                post.headers,
                principal=post.principal,
                request_id=post.responder.request_id,
                traceparent=post.head.named.get(b"traceparent"),
            )
            self._check_parameters(call, post.headers)
        except WireError as error:
            await self._refuse(error, post, request)
            return
        if call.method == "subscriptions/listen" and not post.head.takes_events:
            await self._turn_away(
                post.responder, Refusal(406, "body", "Accept text/event-stream to listen"), post.principal
            )
            return
        exchange = PostExchange(call, post.responder, self._open_events, post.head)
        flight = Flight(call, exchange, post.responder.client)
        if self._manager.has_rates:
            flight.tell_quotas = Quotas(post.responder).tell
        guard = self._disconnects.watch(post.receive, flight, on_quiet=exchange.commit, quiet_s=self._timeouts.ping_s)
        try:
            outcome = await self._manager.serve(flight)
        finally:
            guard.release()
        await exchange.finish(outcome)

    def _check_parameters(self, call: Call, headers: RoutingHeaders) -> None:
        parameters = self._manager.service.header_parameters(call)
        if not parameters:
            return
        arguments = call.params.get("arguments")
        if arguments is None or isinstance(arguments, dict):
            check_parameters(parameters, headers, arguments or {})

    async def _refuse(self, error: WireError, post: Post, message: jsonrpc.Message | None = None) -> None:
        status, (method, params) = facing(error).mcp_status, jsonrpc.asked_by(message)
        self._manager.refuse(error, post.responder.line(status, method), Asked(post.principal, params))
        request_id = message.id if isinstance(message, jsonrpc.Request | jsonrpc.Malformed) else None
        await post.responder.whole(status, jsonrpc.failure_of(error, request_id, stateless=True))

    def _open_events(self, responder: Responder, scope: trio.CancelScope) -> Outbox:
        """Start an event stream: its queue, and a writer in `scope` beside the call that fills it."""
        outbox = Outbox(responder.chunk, max_items=self._limits.max_outbox_items)
        self._nursery.start_soon(_write, outbox, scope, self._timeouts.ping_s)
        return outbox


_NOT_STATELESS = Refusal(405, "method", f"Revision {STATELESS} has POST only", ((b"allow", b"POST"),))
_NO_METHOD = Refusal(405, "method", f"Use {_METHODS.decode()}", ((b"allow", _METHODS),))


async def _write(outbox: Outbox, scope: trio.CancelScope, ping_s: float) -> None:
    with scope:
        await outbox.run(ping=sse.PING, ping_s=ping_s)
