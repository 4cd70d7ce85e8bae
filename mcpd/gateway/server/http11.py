"""The lean HTTP/1.1 path: one task for a connection, h11 for the protocol, the ASGI application called in that task.

Hypercorn spends some 19 task switches, 7 cancel scopes and 3 writes on a request; here it is one write and none of the
rest. Hypercorn still listens. Nothing on a connection leads from here to HTTP/2.

Called by: `gateway.server.hypercorn`. Calls: any ASGI application; `gateway.server.rfc6455` for an upgrade.
Deliberately not: routing, access, TLS, a general server (no trailers, no push, no lifespan).

Laws: an idle connection ends after `keep_alive_s`, a head that trickles in after `header_s`, a reader that stops after
`write_s`; what comes behind a request's body waits in a bounded buffer and does not hide that the client has gone; an
exchange that broke poisons its connection (law 6); between two turns of the scheduler a connection gets a bounded
number of events. A reply with a length leaves in one write; one without begins at once.

Sources: RFC 9112; ASGI HTTP specification 2.3; architecture traps 5, 6, 11, 12; h11's state machine.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import h11
import trio

from mcpd.config import Limits, Timeouts
from mcpd.gateway.asgi import REQUEST_ID, WHOLE_BODY, Event, Scope
from mcpd.gateway.server.heads import Head
from mcpd.gateway.server.refusals import SHOWN_BYTES, Refusals, known_of, reason_of
from mcpd.gateway.server.rfc6455 import WebSocket
from mcpd.gateway.server.streams import LOST, ByteStream, address_of, base_scope

Application = Callable[..., Awaitable[None]]
_log = logging.getLogger(__name__)
_RECEIVE_BYTES = 65536
_MAX_AHEAD_BYTES = 65536
"""Bytes of later requests that are kept while one is being answered. Left unread, more would hide that the client has
gone: the receive window fills, and its FIN stays behind it. So the surplus ends the connection and the call."""
_EVENTS_PER_TURN = 64
"""Parts of a body that are taken before others get a turn: 64 KiB of chunks of one byte are 11,000 parts."""
_LINGER_S = 1.0
"""So long a client that is still sending may take to read a refusal before the connection is reset."""
_BLANK_LINES = re.compile(rb"(?:\r?\n)*")
_GONE: Event = {"type": "http.disconnect"}


class Front:
    """What all connections of one server share."""

    def __init__(self, limits: Limits, timeouts: Timeouts, refusals: Refusals) -> None:
        self.limits = limits
        self.timeouts = timeouts
        self.refusals = refusals
        self.closing = False
        self.idle: dict[trio.CancelScope, str | None] = {}
        """Connections that wait for a request, with the client's address; the one that waits longest comes first."""
        self.websockets: set[trio.CancelScope] = set()
        self._date = (0, b"")

    def close(self) -> None:
        """End idle connections and WebSockets now, and every other after its reply. Not a checkpoint."""
        self.closing = True
        for scope in [*self.idle, *self.websockets]:
            scope.cancel()

    def date(self) -> bytes:
        """Return the Date header's value; made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]


class Connection:
    """One connection, until it ends."""

    def __init__(self, application: Application, front: Front, stream: trio.abc.Stream) -> None:
        self._application = application
        self._front = front
        self._stream = stream
        self._bytes = ByteStream(stream, front.timeouts.write_s)
        self._http = self._new_http()
        self._awaits_head = True
        """True while a request's head is awaited: blank lines before it are passed over."""
        self._line = b""
        """How the head begins, for the log."""
        self._request: h11.Request | None = None
        self._head_bytes = 0
        """What has come since the last request, perhaps with something of this one's body."""
        self._held: bytes | None = b""
        """A carriage return that may begin a blank line, or nothing; None once the head has begun."""
        self._reading = False
        self._torn = False
        self.gone = False
        """The client has closed its side or sent too much ahead, or the connection broke."""
        self.scope = trio.CancelScope()
        self._ambiguous = False
        self._base = base_scope(stream)
        self._address = address_of(stream)

    def _new_http(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._front.limits.max_header_bytes)

    async def run(self) -> None:
        """Serve requests until the connection is closed. Cancellation: safe; the connection is then closed."""
        try:
            with self.scope:
                await self._serve()
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _serve(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                head = Head(request)
                if head.websocket:
                    await self._serve_websocket(head)
                    return
                if not await self._answer(head):
                    break
        except h11.RemoteProtocolError as error:
            asked = known_of(self._line, () if self._request is None else self._request.headers, self._base["client"])
            await self.refuse(asked, error)
        await self._end()

    async def _next_request(self) -> h11.Request | None:
        """Return the next request's head, None when there is none and the connection can be closed."""
        self._begin_head()
        trickles = False
        self.scope.deadline = trio.current_time() + self._front.timeouts.keep_alive_s
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._head_bytes and not trickles:
                trickles = True
                self.scope.deadline = trio.current_time() + self._front.timeouts.header_s
            if not await (self._read() if self._head_bytes else self._read_idle()):
                return None
        self.scope.deadline = math.inf
        self._awaits_head = False
        longest = self._front.limits.max_header_bytes
        if self._head_bytes > longest and self._head_bytes - len(self._http.trailing_data[0]) > longest:
            raise h11.RemoteProtocolError("the head is too long", error_status_hint=431)
        self._request = event if isinstance(event, h11.Request) else None
        return self._request

    def _begin_head(self) -> None:
        carried = self._http.trailing_data[0]
        self._awaits_head, self._head_bytes, self._held = True, 0, b""
        self._line, self._request = b"", None
        if carried[:1] in (b"\r", b"\n"):
            self._http = self._new_http()
            self._take(carried)
        elif carried:
            self._head_bytes, self._held, self._line = len(carried), None, carried[:SHOWN_BYTES]

    def _take(self, data: bytes) -> None:
        """Give h11 what has come. Before a head, blank lines are passed over (RFC 9112 section 2.2)."""
        if self._awaits_head:
            self._head_bytes += len(data)
            if self._held is not None:
                data = _skip_blank_lines(self._held + data)
                self._held = data if data == b"\r" else None if data else b""
                if self._held is not None:
                    return
            self._line += data[: SHOWN_BYTES - len(self._line)]
        self._http.receive_data(data)

    async def _read_idle(self) -> bool:
        front = self._front
        if front.closing:
            return False
        front.idle[self.scope] = self._address
        try:
            return await self._read() and not self.scope.cancel_called
        finally:
            front.idle.pop(self.scope, None)

    async def _answer(self, head: Head) -> bool:
        """Run the application for one request. True when another may follow."""
        self._ambiguous = head.ambiguous
        scope = head.scope(self._base)
        exchange = _Exchange(self, self._http, scope)
        if exchange.gather():
            scope["extensions"][WHOLE_BODY] = exchange.look()
        try:
            await self._application(scope, exchange.receive, exchange.send)
        except Exception:  # noqa: BLE001 - the last line of defence: one request's bug must not end the server (law 7)
            _log.exception("the application failed, request %s", scope.get(REQUEST_ID, "-"))
        return await exchange.finish() and self._recycle()

    async def _serve_websocket(self, head: Head) -> None:
        socket, front = (
            WebSocket(self._stream, self._front.limits, self._front.timeouts, self._front.refusals),
            self._front,
        )
        front.websockets.add(socket.scope)
        try:
            await socket.run(self._application, head.scope(self._base), self._http.trailing_data[0])
        finally:
            front.websockets.discard(socket.scope)

    def _recycle(self) -> bool:
        http = self._http
        if self.gone or self._torn or http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return False
        http.start_next_cycle()
        return True

    def closing_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every reply of this connection gets; one before the request's end is the last."""
        last = self._ambiguous or self._front.closing or self._http.their_state is h11.SEND_BODY
        date = (b"date", self._front.date())
        return [date, (b"connection", b"close")] if last else [date]

    async def _read(self) -> bool:
        """Give h11 what comes next; False when nothing can come any more. Ask h11 again after it in any case."""
        if self._reading:
            await trio.lowlevel.checkpoint()
            return True
        self._reading = True
        try:
            data = await self._bytes.receive()
        finally:
            self._reading = False
        if not data:
            self.gone = True
            return False
        self._take(data)
        return True

    async def feed(self) -> bool:
        """Wait for more of the client's bytes. False when it has gone."""
        return not self.gone and await self._read()

    async def wait_gone(self) -> None:
        """Return when the client has gone, or has sent so much ahead that its going could not be heard any more.

        Cancellation: safe.
        """
        while not self.gone:
            await self._read()
            if len(self._http.trailing_data[0]) > _MAX_AHEAD_BYTES:
                self.gone = True

    async def write(self, data: bytes) -> None:
        """Send; nothing happens when the client has gone. Cancellation: poisons the connection."""
        if self.gone or self._torn or not data:
            return
        self._torn = True
        if await self._bytes.send(data):
            self._torn = False
        else:
            self.gone = True

    async def refuse(self, scope: Scope, error: h11.RemoteProtocolError) -> None:
        """Log and say what is wrong with the request, unless a reply has begun; the connection then ends."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status, last = error.error_status_hint, [(b"connection", b"close"), (b"date", self._front.date())]
            headers, body = self._front.refusals.refuse(scope, status, reason_of(error))
            reply = self._http.send(h11.Response(status_code=status, headers=[*headers, *last])) or b""
            if scope["method"] != "HEAD":
                reply += self._http.send(h11.Data(data=body)) or b""
            await self.write(reply + (self._http.send(h11.EndOfMessage()) or b""))

    async def _end(self) -> None:
        """Close so that a client that is still sending can read the reply: a close on unread bytes is a reset."""
        if self.gone or self._torn:
            return
        with trio.move_on_after(_LINGER_S), contextlib.suppress(*LOST):
            if isinstance(self._stream, trio.SocketStream):
                await self._stream.send_eof()
            if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
                while await self._stream.receive_some(_RECEIVE_BYTES):
                    pass
        with trio.move_on_after(_LINGER_S), contextlib.suppress(*LOST):
            await self._stream.aclose()


def _skip_blank_lines(data: bytes) -> bytes:
    found = _BLANK_LINES.match(data)
    return data[found.end() :] if found is not None else data


class _Exchange:
    """One request and its reply: the application's `receive` and `send`."""

    __slots__ = ("_bodiless", "_connection", "_ended", "_http", "_parts", "_scope", "_start", "_started", "_told")

    def __init__(self, connection: Connection, http: h11.Connection, scope: Scope) -> None:
        self._scope = scope
        self._connection = connection
        self._http = http
        self._parts: list[bytes] = []
        """What has come of the body and was not handed out yet."""
        self._ended = self._told = False
        self._started = False
        self._bodiless = scope["method"] == "HEAD"
        self._start: Event | None = None

    def gather(self) -> bool:
        """Take what h11 has of the body, but not all that may be; True when it is complete.

        Raises: h11.RemoteProtocolError.
        """
        for _ in range(0 if self._ended else _EVENTS_PER_TURN):
            event = self._http.next_event()
            if isinstance(event, h11.Data):
                self._parts.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._ended = True
                break
            else:
                break
        return self._ended

    def look(self) -> bytes:
        """Return what `gather` has found, and keep it for `receive`."""
        body = b"".join(self._parts)
        self._parts = [body]
        return body

    async def receive(self) -> Event:
        """The body, as it comes; then, when the client has gone, that. Cancellation: safe."""
        if self._told:
            await self._connection.wait_gone()
            return _GONE
        http = self._http
        if http.they_are_waiting_for_100_continue:
            await self._connection.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        try:
            while not self.gather() and not self._parts:
                if not await self._connection.feed():
                    return _GONE
            if not self._ended:
                await trio.lowlevel.checkpoint()
        except h11.RemoteProtocolError as error:
            await self._connection.refuse(self._scope, error)
            return _GONE
        body, self._parts, self._told = b"".join(self._parts), [], self._ended
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    async def send(self, event: Event) -> None:
        """Send a part of the reply. The head waits for the body when it tells its length.

        Raises: RuntimeError for an event that does not fit. Cancellation: poisons the connection.
        """
        kind = event["type"]
        if kind == "http.response.start" and not self._started:
            self._started = True
            self._start = event
            if not _has_length(event["headers"]):
                await self._connection.write(self._head())
        elif kind == "http.response.body" and self._started:
            await self._connection.write(self._head() + self._body(event))
        else:
            raise RuntimeError(f"{kind} does not fit here")

    def _head(self) -> bytes:
        start, self._start = self._start, None
        if start is None or self._http.our_state is not h11.SEND_RESPONSE:
            return b""
        status = start["status"]
        self._bodiless = self._bodiless or status in (204, 304)
        headers = [*start["headers"], *self._connection.closing_headers()]
        return self._http.send(h11.Response(status_code=status, headers=headers)) or b""

    def _body(self, event: Event) -> bytes:
        if self._http.our_state is not h11.SEND_BODY:
            return b""
        body = b"" if self._bodiless else event.get("body", b"")
        data = (self._http.send(h11.Data(data=body)) or b"") if body else b""
        return data if event.get("more_body") else data + (self._http.send(h11.EndOfMessage()) or b"")

    async def finish(self) -> bool:
        """Complete what the application left undone; False when the client cannot know that the reply is whole."""
        if not self._started or self._start is not None:
            self._started = False
            headers = [(b"content-length", b"0")]
            await self.send({"type": "http.response.start", "status": 500, "headers": headers})
            await self.send({"type": "http.response.body"})
        return self._http.our_state is h11.DONE


def _has_length(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-length" for name, _ in headers)
