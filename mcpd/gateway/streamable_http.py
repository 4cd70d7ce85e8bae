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

from collections.abc import Iterable
from typing import Any

import trio

from mcpd.config import Limits, Timeouts
from mcpd.errors import Forbidden, InvalidRequest, ParseError, UnsupportedVersion, WireError, facing
from mcpd.gateway.access import Access, Refusal, cors, preflight
from mcpd.gateway.asgi import (
    BodyRefused,
    ClientGone,
    Head,
    Receive,
    RequestNames,
    Responder,
    Scope,
    Send,
    client_address,
    read_body,
)
from mcpd.gateway.disconnects import Disconnects
from mcpd.gateway.stateful_http import Post, StatefulHttp, retry_after
from mcpd.messages.flight import Failed, Flight, Outcome, Stopped, answer_to, encode_outcome
from mcpd.messages.manager import MessageManager
from mcpd.messages.outbox import Outbox
from mcpd.monitoring.metrics import Metrics
from mcpd.wire import jsonrpc, sse
from mcpd.wire.call import Call
from mcpd.wire.envelope import VERSION_KEY, is_stateless_post, open_http
from mcpd.wire.headers import RoutingHeaders, check_parameters
from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS

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
        self._access = access
        self._limits = limits
        self._timeouts = timeouts
        self._metrics = metrics
        self._nursery = nursery
        self._names = RequestNames()
        self._disconnects = Disconnects()
        nursery.start_soon(self._disconnects.run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        head = Head(scope)
        responder = Responder(send, self._names.name(scope, head.request_id), client_address(scope))
        if scope["method"] == "OPTIONS":
            await self._preflight(scope, responder)
            return
        admitted = self._access.admit(scope)
        if isinstance(admitted, Refusal):
            await self._turn_away(responder, admitted.status, admitted.reason, admitted.message, admitted.headers)
            return
        if head.origin is not None:
            responder.add(cors(head.origin))
        headers = RoutingHeaders.read(scope["headers"])
        if scope["method"] == "POST":
            await self._post(Post(head, headers, admitted, responder, receive))
            if responder.status == _ACCEPTED:
                self._note("POST", responder, trio.current_time())
        else:
            await self._other(scope["method"], Post(head, headers, admitted, responder, receive))

    async def _preflight(self, scope: Scope, responder: Responder) -> None:
        refusal = self._access.admit_anyone(scope)
        if refusal is not None:
            await self._turn_away(responder, refusal.status, refusal.reason, refusal.message)
            return
        await responder.whole(204, b"", preflight(scope["headers"]))
        self._note("OPTIONS", responder, trio.current_time())

    def _note(self, method: str, responder: Responder, started: float) -> None:
        """Log what is neither a call nor a refusal: those log themselves."""
        seconds = trio.current_time() - started
        name, client = responder.request_id, responder.client
        self._manager.note(transport="http", method=method, request_id=name, client=client, seconds=seconds)

    async def _other(self, method: str, post: Post) -> None:
        if method in ("GET", "DELETE"):
            version = post.headers.version
            if version is None or version in STATEFUL:
                started = trio.current_time()
                try:
                    await (self._stateful.get(post) if method == "GET" else self._stateful.delete(post))
                finally:
                    if post.responder.status in _SERVED:
                        self._note(method, post.responder, started)
                return
            await self._turn_away(post.responder, 405, "method", _ONLY_POST, [(b"allow", b"POST")])
            return
        await self._turn_away(post.responder, 405, "method", f"Use {_METHODS.decode()}", [(b"allow", _METHODS)])

    async def _turn_away(
        self, responder: Responder, status: int, reason: str, message: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Refuse in step 0, before anything is known about the message."""
        error = InvalidRequest(message)
        self._metrics.rejected(reason)
        self._manager.refuse(
            error, transport="http", method="", request_id=responder.request_id, client=responder.client
        )
        await responder.whole(status, jsonrpc.failure_of(error, None, stateless=True), list(headers))

    async def _post(self, post: Post) -> None:
        head = post.head
        try:
            if not head.sends_json:
                raise BodyRefused(415, "Send Content-Type: application/json")
            if not (head.takes(b"application/json") or head.takes(b"text/event-stream")):
                raise BodyRefused(406, "Accept application/json and text/event-stream")
            body = await read_body(
                head, post.receive, max_bytes=self._limits.max_body_bytes, timeout_s=self._timeouts.body_s
            )
        except ClientGone:
            return
        except BodyRefused as refused:
            await self._turn_away(post.responder, refused.status, "body", str(refused))
            return
        try:
            value = jsonrpc.decode(body, max_depth=self._limits.max_depth)
        except ParseError as error:
            await self._refuse(error, post, None, "")
            return
        if type(value) is list:
            await self._stateful.batch(value, post)
        else:
            await self._route(jsonrpc.parse(value), post)

    async def _route(self, message: jsonrpc.Message, post: Post) -> None:
        if isinstance(message, jsonrpc.Malformed):
            await self._refuse(message.error, post, message.id, "")
        elif isinstance(message, jsonrpc.Response):
            await self._stateful.response(message, post)
        elif not is_stateless_post(message, post.headers):
            await self._stateful.post(message, post)
        elif isinstance(message, jsonrpc.Request):
            await self._serve(message, post)
        else:
            await self._notification(message, post)

    async def _notification(self, notification: jsonrpc.Notification, post: Post) -> None:
        version = (notification.params.get("_meta") or {}).get(VERSION_KEY, post.headers.version)
        if version != STATELESS:
            await self._refuse(UnsupportedVersion(str(version), SUPPORTED_STATELESS), post, None, notification.method)
            return
        await post.responder.whole(202)

    async def _serve(self, request: jsonrpc.Request, post: Post) -> None:
        try:
            call = open_http(
                request,
                post.headers,
                principal=post.principal,
                request_id=post.responder.request_id,
                traceparent=post.head.traceparent,
            )
            self._check_parameters(call, post.headers)
        except WireError as error:
            await self._refuse(error, post, request.id, request.method)
            return
        streams = post.head.takes(b"text/event-stream")
        if call.method == "subscriptions/listen" and not streams:
            await self._turn_away(post.responder, 406, "body", "Accept text/event-stream to listen")
            return
        exchange = _PostExchange(self, call, post.responder, streams=streams)
        flight = Flight(call, exchange, post.responder.client)
        guard = self._disconnects.watch(post.receive, flight, on_quiet=exchange.commit, quiet_s=self._timeouts.ping_s)
        try:
            outcome = await self._manager.serve(flight)
        finally:
            guard.release()
        await exchange.finish(outcome)

    def _check_parameters(self, call: Call, headers: RoutingHeaders) -> None:
        parameters = self._manager.service.header_parameters(call)
        arguments = call.params.get("arguments")
        if parameters and (arguments is None or isinstance(arguments, dict)):
            check_parameters(parameters, headers, arguments or {})

    async def _refuse(self, error: WireError, post: Post, request_id: Any, method: str) -> None:
        name, client = post.responder.request_id, post.responder.client
        self._manager.refuse(error, transport="http", method=method, request_id=name, client=client)
        body = jsonrpc.failure_of(error, request_id, stateless=True)
        await post.responder.whole(facing(error).mcp_status, body)

    def start_writer(self, outbox: Outbox, scope: trio.CancelScope) -> None:
        """Run an event stream's writer beside the call that fills it."""
        self._nursery.start_soon(_write, outbox, scope, self._timeouts.ping_s)

    def open_outbox(self, responder: Responder) -> Outbox:
        """Make the queue in front of an event stream."""
        return Outbox(responder.chunk, max_items=self._limits.max_outbox_items)


_ONLY_POST = f"Revision {STATELESS} has POST only"


async def _write(outbox: Outbox, scope: trio.CancelScope, ping_s: float) -> None:
    with scope:
        await outbox.run(ping=sse.PING, ping_s=ping_s)


class _PostExchange:
    """The way back of one stateless call: JSON, or an event stream from the first notification on."""

    __slots__ = ("_call", "_outbox", "_responder", "_streams", "_transport", "_writer")

    def __init__(self, transport: StreamableHttp, call: Call, responder: Responder, *, streams: bool) -> None:
        self._transport = transport
        self._call = call
        self._responder = responder
        self._streams = streams
        self._outbox: Outbox | None = None
        self._writer = trio.CancelScope()

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        if self._streams:
            await self._open().put(sse.event(jsonrpc.notification(method, params)))

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002 - the Protocol's
        raise AssertionError("a stateless call is never asked live")

    def release(self, retry_ms: int) -> None:
        """A stateless stream cannot be resumed, so it is not given up (GET-2)."""

    def commit(self) -> None:
        """Start the event stream although there is nothing to say yet: a proxy would give up waiting."""
        if self._outbox is None and self._streams:
            self._open().offer(sse.PING)

    def _open(self) -> Outbox:
        if self._outbox is None:
            self._outbox = self._transport.open_outbox(self._responder)
            self._transport.start_writer(self._outbox, self._writer)
        return self._outbox

    async def finish(self, outcome: Outcome) -> None:
        """Send the last message, if the client is there to read it, and end the exchange."""
        if isinstance(outcome, Stopped):
            error = answer_to(outcome)
            if error is None:
                self._abandon()
                return
            outcome = Failed(error)
        body = encode_outcome(self._call, outcome)
        if self._outbox is not None:
            await self._end_stream(self._outbox, body)
        elif isinstance(outcome, Failed):
            await self._responder.whole(facing(outcome.error).mcp_status, body, _failure_headers(outcome.error))
        else:
            await self._responder.whole(200, body)

    async def _end_stream(self, outbox: Outbox, body: bytes) -> None:
        await outbox.deliver(sse.event(body))
        await outbox.flush()
        self._writer.cancel()
        await self._responder.end()

    def _abandon(self) -> None:
        self._writer.cancel()
        if self._outbox is not None:
            self._outbox.close()


def _failure_headers(error: WireError) -> list[tuple[bytes, bytes]]:
    if isinstance(error, Forbidden):
        challenge = f'Bearer error="insufficient_scope", scope="{error.scope}"'
        return [(b"www-authenticate", challenge.encode("latin-1"))]
    return retry_after(error)
