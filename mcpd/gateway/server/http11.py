"""The lean HTTP/1.1 path: one task for a connection, h11 for the protocol, the ASGI application called in that task.

Hypercorn spends some 19 task switches, 7 cancel scopes and 3 writes on a request; here it is one write and none of the
rest. Hypercorn still listens and takes over what is neither HTTP/1.1 nor a WebSocket on it: an HTTP/2 preface or an
upgrade to h2c is handed on with the bytes that have come.

Called by: `gateway.server.hypercorn`. Calls: any ASGI application; `gateway.server.rfc6455` for an upgrade.
Deliberately not: routing, access, TLS, a general server (no trailers, no push, no lifespan).

Laws: an idle connection ends after `keep_alive_s`, a head that trickles in after `header_s`; what comes behind a
request's body waits in a bounded buffer and does not hide that the client has gone; an exchange that broke poisons its
connection (law 6). A reply with a length leaves in one write; one without begins at once.

Sources: RFC 9112; ASGI HTTP specification 2.3; architecture traps 5, 6, 11, 12; h11's state machine.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

import h11
import trio

from mcpd.config import Limits, Timeouts
from mcpd.gateway.asgi import REQUEST_ID, WHOLE_BODY, Event, Scope
from mcpd.gateway.server.rfc6455 import WebSocket

Application = Callable[..., Awaitable[None]]
_log = logging.getLogger(__name__)
_RECEIVE_BYTES = 65536
_MAX_AHEAD_BYTES = 65536
"""Bytes of later requests that are kept while one is being answered. Left unread, more would hide that the client has
gone: the receive window fills, and its FIN stays behind it. So the surplus ends the connection and the call."""
_LINGER_S = 1.0
"""So long a client that is still sending may take to read a refusal before the connection is reset."""
_GONE: Event = {"type": "http.disconnect"}
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)


class Front:
    """What all connections of one listener share."""

    def __init__(self, limits: Limits, timeouts: Timeouts) -> None:
        self.limits = limits
        self.timeouts = timeouts
        self.closing = False
        self.idle: set[trio.CancelScope] = set()
        """What can be cancelled at once when the server closes: idle connections and WebSockets."""
        self._date = (0, b"")

    def close(self) -> None:
        """End idle connections and WebSockets now, and every other after its reply. Not a checkpoint."""
        self.closing = True
        for scope in list(self.idle):
            scope.cancel()

    def date(self) -> bytes:
        """Return the Date header's value; made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]


class Connection:
    """One connection, until it ends or turns out to be something else."""

    def __init__(self, application: Application, front: Front, stream: trio.abc.Stream) -> None:
        self._application = application
        self._front = front
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=front.limits.max_header_bytes)
        self._head = bytearray()
        self._keeps = True
        """True while a head is awaited: its bytes are kept, they may be Hypercorn's."""
        self._reading = False
        self._torn = False
        self.gone = False
        """The client has closed its side or sent too much ahead, or the connection broke."""
        self.scope = trio.CancelScope()
        self._requests = 0
        self._base = _base_scope(stream)

    async def run(self) -> bytes | None:
        """Serve requests. Return None when the connection is closed, else all bytes of a head that is Hypercorn's.

        Cancellation: safe; the connection is then closed.
        """
        handed_on = None
        try:
            with self.scope:
                handed_on = await self._serve()
        finally:
            if handed_on is None:
                await trio.aclose_forcefully(self._stream)
        return handed_on

    async def _serve(self) -> bytes | None:
        try:
            while (request := await self._next_request()) is not None:
                upgrade = _upgrade(request)
                if upgrade == b"websocket":
                    await self._serve_websocket(request)
                    return None
                if upgrade is not None:
                    return bytes(self._head)
                if not await self._answer(request):
                    break
        except h11.RemoteProtocolError as error:
            await self.refuse(error.error_status_hint)
        await self._end()
        return None

    async def _next_request(self) -> h11.Request | None:
        """Return the next request's head, None when there is none and the connection can be closed."""
        self._head, self._keeps, trickles = bytearray(self._http.trailing_data[0]), True, False
        self.scope.deadline = trio.current_time() + self._front.timeouts.keep_alive_s
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._head and not trickles:
                trickles = True
                self.scope.deadline = trio.current_time() + self._front.timeouts.header_s
            if not await (self._read() if self._head else self._read_idle()):
                return None
        self.scope.deadline = math.inf
        if len(self._head) - len(self._http.trailing_data[0]) > self._front.limits.max_header_bytes:
            raise h11.RemoteProtocolError("the head is too long", error_status_hint=431)
        return event if isinstance(event, h11.Request) else None

    async def _read_idle(self) -> bool:
        front = self._front
        if front.closing:
            return False
        front.idle.add(self.scope)
        try:
            return await self._read()
        finally:
            front.idle.discard(self.scope)

    async def _answer(self, request: h11.Request) -> bool:
        """Run the application for one request. True when another may follow."""
        self._requests += 1
        self._keeps = False
        exchange = _Exchange(self, self._http, request.method)
        scope = self._scope_of(request)
        if exchange.gather():
            scope["extensions"][WHOLE_BODY] = exchange.body
        try:
            await self._application(scope, exchange.receive, exchange.send)
        except Exception:  # noqa: BLE001 - the last line of defence: one request's bug must not end the server (law 7)
            _log.exception("the application failed, request %s", scope.get(REQUEST_ID, "-"))
        return await exchange.finish() and self._recycle()

    def _scope_of(self, request: h11.Request) -> Scope:
        path, _, query = request.target.partition(b"?")
        return {
            **self._base,
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii").upper(),
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers),
            "state": {},
            "extensions": {},
        }

    async def _serve_websocket(self, request: h11.Request) -> None:
        socket, front = WebSocket(self._stream, self._front.limits, self._front.timeouts), self._front
        front.idle.add(socket.scope)
        try:
            await socket.run(self._application, self._scope_of(request), self._http.trailing_data[0])
        finally:
            front.idle.discard(socket.scope)

    def _recycle(self) -> bool:
        http = self._http
        while http.their_state is h11.SEND_BODY and http.next_event() is not h11.NEED_DATA:
            pass
        if self.gone or self._torn or http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return False
        http.start_next_cycle()
        return True

    def closing_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every reply of this connection gets; one before the request's end is the last."""
        full = self._requests >= self._front.limits.max_requests_per_connection
        last = full or self._front.closing or self._http.their_state is h11.SEND_BODY
        date = (b"date", self._front.date())
        return [date, (b"connection", b"close")] if last else [date]

    async def _read(self) -> bool:
        """Give h11 what comes next; False when nothing can come any more. Ask h11 again after it in any case."""
        if self._reading:
            await trio.lowlevel.checkpoint()
            return True
        self._reading = True
        try:
            data = bytes(await self._stream.receive_some(_RECEIVE_BYTES))
        except _LOST:
            data = b""
        finally:
            self._reading = False
        if not data:
            self.gone = True
            return False
        self._http.receive_data(data)
        if self._keeps:
            self._head += data
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
        try:
            await self._stream.send_all(data)
        except _LOST:
            self.gone = True
        else:
            self._torn = False

    async def refuse(self, status: int) -> None:
        """Send an empty reply with this status, unless one has begun; the connection then ends."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-length", b"0"), (b"connection", b"close"), (b"date", self._front.date())]
            reply = self._http.send(h11.Response(status_code=status, headers=headers)) or b""
            await self.write(reply + (self._http.send(h11.EndOfMessage()) or b""))

    async def _end(self) -> None:
        """Close so that a client that is still sending can read the reply: a close on unread bytes is a reset."""
        if self.gone or self._torn:
            return
        with trio.move_on_after(_LINGER_S), contextlib.suppress(*_LOST):
            if isinstance(self._stream, trio.SocketStream):
                await self._stream.send_eof()
            if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
                while await self._stream.receive_some(_RECEIVE_BYTES):
                    pass
        with trio.move_on_after(_LINGER_S), contextlib.suppress(*_LOST):
            await self._stream.aclose()


class _Exchange:
    """One request and its reply: the application's `receive` and `send`."""

    __slots__ = ("_bodiless", "_connection", "_ended", "_http", "_start", "_started", "_told", "body")

    def __init__(self, connection: Connection, http: h11.Connection, method: bytes) -> None:
        self._connection = connection
        self._http = http
        self.body = b""
        """Bytes of the body that have come and were not handed out yet."""
        self._ended = self._told = False
        self._started = False
        self._bodiless = method == b"HEAD"
        self._start: Event | None = None

    def gather(self) -> bool:
        """Take what h11 has of the body; True when that is its end. Raises: h11.RemoteProtocolError."""
        while not self._ended:
            event = self._http.next_event()
            if isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._ended = True
            else:
                break
        return self._ended

    async def receive(self) -> Event:
        """The body, as it comes; then, when the client has gone, that. Cancellation: safe."""
        if self._told:
            await self._connection.wait_gone()
            return _GONE
        http = self._http
        if http.they_are_waiting_for_100_continue:
            await self._connection.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        try:
            while not self.gather() and not self.body:
                if not await self._connection.feed():
                    return _GONE
        except h11.RemoteProtocolError as error:
            await self._connection.refuse(error.error_status_hint)
            return _GONE
        body, self.body, self._told = self.body, b"", self._ended
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


def _upgrade(request: h11.Request) -> bytes | None:
    """Return the protocol to go on with, `websocket` or `h2c`; None for plain HTTP/1.1, other upgrades ignored."""
    if request.method == b"PRI":
        return b"h2c"
    for name, value in request.headers:
        if name == b"upgrade":
            wanted = bytes(value.lower())
            return wanted if wanted == b"h2c" or (wanted == b"websocket" and request.method == b"GET") else None
    return None


def _base_scope(stream: trio.abc.Stream) -> dict[str, Any]:
    secure = isinstance(stream, trio.SSLStream)
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    sock = transport.socket if isinstance(transport, trio.SocketStream) else None
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": "https" if secure else "http",
        "root_path": "",
        "client": None if sock is None else _address(sock.family, sock.getpeername()),
        "server": None if sock is None else _address(sock.family, sock.getsockname()),
    }


def _address(family: int, name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if family in (socket.AF_INET, socket.AF_INET6) else None
