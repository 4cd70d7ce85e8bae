"""The lean WebSocket path: frames by wsproto, the ASGI application called in the connection's own task.

Its `receive` reads the socket and its `send` writes it: no channel and no task switch lies between a frame and the
application. The plainest frames, which are nearly all, do not need wsproto (`gateway.server.frames`).

Called by: `gateway.server.http11`, with the request that asked for the upgrade. Calls: any ASGI application.
Deliberately not: what the messages mean, who may connect.

Laws: compression is never agreed on (a 200 KB frame can hold 300 MB, trap 13); a message has a size (close 1009);
frames leave whole and one after another; a close is answered, a broken frame is told why. A ping goes out every
`ping_s`, and a client that has sent nothing by the next one has gone; a frame or a message that is not complete within
`body_s` ends the connection. Between two turns of the scheduler a connection gets a bounded number of frames.

Sources: RFC 6455; ASGI WebSocket specification 2.3, extension `websocket.http.response`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import trio
import wsproto
import wsproto.events as frames
from wsproto.connection import ConnectionState
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from mcpd.config import Limits, Timeouts
from mcpd.gateway.asgi import REQUEST_ID, Event, Headers, Scope
from mcpd.gateway.server.frames import Frames, text_frame
from mcpd.gateway.server.refusals import Refusals, reason_of
from mcpd.gateway.server.streams import ByteStream

Application = Callable[..., Awaitable[None]]
_log = logging.getLogger(__name__)
_LINGER_S = 1.0
"""So long a client may take to answer our close frame."""
_NORMAL, _GOING_AWAY, _PROTOCOL_ERROR, _NO_STATUS, _LOST, _TOO_BIG, _BUG = 1000, 1001, 1002, 1005, 1006, 1009, 1011
_POLICY = 1008
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_FRAMES_PER_TURN = 4
"""Frames that are taken before others get a turn: one read may bring 9,000 that each cost a call's refusal."""


class WebSocket:
    """One WebSocket, from the request to upgrade to its end. Resources: the caller closes the stream."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits, timeouts: Timeouts, refusals: Refusals) -> None:
        self._stream = stream
        self._bytes = ByteStream(stream, timeouts.write_s)
        self._refusals = refusals
        self._max_bytes = limits.max_message_bytes
        self._timeouts = timeouts
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self._sending = trio.Lock()
        self._came = Frames(limits.max_message_bytes)
        self._events: Iterator[frames.Event] = iter(())
        """What wsproto has made of the frame that it was given last."""
        self._accepted = False
        self._taken = 0
        """Frames since others had a turn."""
        self._parts: bytearray | None = None
        """The message that is not complete yet."""
        self._size = 0
        self._greeted = self._gone = False
        self._frame_began = self._message_began = math.inf
        """When the first bytes came of what is not complete yet; infinite when all is."""
        self._waits = self._waiting = 0
        """How often more was waited for, and which of these times it is now; 0 when it is not."""
        self.scope = trio.CancelScope()
        """Cancel it to take leave of the client: 1001."""

    async def run(self, application: Application, scope: Scope, rest: bytes) -> None:
        """Shake hands and run `application`; `rest` came behind the request. Cancellation: safe."""
        self._came.feed(rest)
        try:
            _check_key(scope["headers"])
            self._ws.initiate_upgrade_connection(scope["headers"], scope["raw_path"])
        except (RemoteProtocolError, UnicodeError) as error:
            await self._refuse(scope, error)
            return
        request = next(iter(self._ws.events()))
        assert isinstance(request, frames.Request)
        scheme = "wss" if scope["scheme"] == "https" else "ws"
        offered = {"type": "websocket", "scheme": scheme, "subprotocols": request.subprotocols}
        code = await self._run(application, {**scope, **offered, "extensions": {"websocket.http.response": {}}})
        await self._leave(code)

    async def _refuse(self, scope: Scope, error: Exception) -> None:
        status, headers = _rejection(error)
        reason = "A header is no text" if isinstance(error, UnicodeError) else reason_of(error)
        more, body = self._refusals.refuse({**scope, "type": "websocket"}, status, reason)
        await self._send(frames.RejectConnection(status, _closing([*headers, *more]), has_body=True))
        await self._send(frames.RejectData(body, body_finished=True))

    async def _run(self, application: Application, scope: Scope) -> int:
        """Run the application and return the code to close with."""
        failed = False
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    await application(scope, self.receive, self.send)
                    nursery.cancel_scope.cancel()
        except* Exception:  # noqa: BLE001 - the last line of defence: one connection's bug must not end the server (law 7)
            _log.exception("the application failed, request %s", scope.get(REQUEST_ID, "-"))
            failed = True
        if failed:
            return _BUG
        return _GOING_AWAY if self.scope.cancelled_caught else _NORMAL

    async def _watch(self) -> None:
        """Ping, and end the connection of a client that does not answer or does not complete what it has begun."""
        ping_s, body_s = self._timeouts.ping_s, self._timeouts.body_s
        pinged, now = -1, trio.current_time()
        ping_at = now + ping_s
        while not self._gone:
            await trio.sleep_until(min(ping_at, now + body_s))
            now = trio.current_time()
            if min(self._frame_began, self._message_began) <= now - body_s:
                await self._give_up(f"a message has to be complete within {body_s:g} s")
            elif ping_at <= now:
                if self._waiting and self._waiting == pinged:
                    await self._give_up("no answer to a ping")
                pinged, ping_at = self._waiting, now + ping_s
                if self._ws.state is ConnectionState.OPEN:
                    await self._send(frames.Ping())

    async def _give_up(self, reason: str) -> None:
        if self._ws.state is ConnectionState.OPEN:
            await self._send(frames.CloseConnection(_POLICY, reason))
        self._gone = True
        await trio.aclose_forcefully(self._stream)

    async def _leave(self, code: int) -> None:
        with trio.move_on_after(_LINGER_S):
            if self._ws.state is ConnectionState.CONNECTING:
                await self._send(frames.RejectConnection(500 if code == _BUG else 403))
            elif self._ws.state is ConnectionState.OPEN:
                await self._send(frames.CloseConnection(code))
            while not self._gone and self._ws.state is ConnectionState.LOCAL_CLOSING:
                await self.receive()

    async def receive(self) -> Event:
        """The next ASGI event. Cancellation: safe."""
        if not self._greeted:
            self._greeted = True
            return {"type": "websocket.connect"}
        while not self._gone:
            if self._taken >= _FRAMES_PER_TURN:
                self._taken = 0
                await trio.lowlevel.checkpoint()
            frame = next(self._events, None)
            if frame is not None:
                if (event := await self._take(frame)) is not None:
                    return event
            elif self._parts is None and self._accepted and (text := self._came.text()) is not None:
                self._taken += 1
                self._frame_began = math.inf
                return {"type": "websocket.receive", "text": text}
            elif part := self._came.part():
                await self._parse(part)
            else:
                await self._read()
        return {"type": "websocket.disconnect", "code": _LOST}

    async def _parse(self, part: bytes) -> None:
        try:
            self._ws.receive_data(part)
        except RemoteProtocolError as error:
            await self._send(error.event_hint or frames.CloseConnection(_PROTOCOL_ERROR))
            self._gone = True
        self._events = self._ws.events()

    async def _read(self) -> None:
        if self._frame_began == math.inf and self._came.unfinished:
            self._frame_began = trio.current_time()
        self._waits += 1
        self._waiting = self._waits
        try:
            data = await self._bytes.receive()
        finally:
            self._waiting = 0
        self._taken = 0
        self._gone = self._gone or not data
        self._came.feed(data)

    async def _take(self, frame: frames.Event) -> Event | None:
        self._taken += 1
        if isinstance(frame, frames.Message):
            if frame.frame_finished:
                self._frame_began = math.inf
            return await self._put_together(frame)
        self._frame_began = math.inf
        if isinstance(frame, frames.Ping):
            await self._send(frame.response())
        elif isinstance(frame, frames.CloseConnection):
            # Still open: wsproto found a broken frame, and says what to close with.
            if self._ws.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.OPEN):
                await self._send(frame.response())
            self._gone = True
            return {"type": "websocket.disconnect", "code": frame.code or _NO_STATUS}
        return None

    async def _put_together(self, frame: frames.Message[Any]) -> Event | None:
        data, kind = frame.data, "text" if isinstance(frame, frames.TextMessage) else "bytes"
        self._size += len(data) if kind == "bytes" or data.isascii() else len(data.encode())
        if self._size > self._max_bytes:
            await self._send(frames.CloseConnection(_TOO_BIG, f"a message may have {self._max_bytes} bytes"))
            self._gone = True
            return {"type": "websocket.disconnect", "code": _TOO_BIG}
        if self._parts is not None or not frame.message_finished:
            whole = self._collect(data)
            if not frame.message_finished:
                return None
            data = whole.decode() if kind == "text" else bytes(whole)
        self._size, self._parts, self._message_began = 0, None, math.inf
        return {"type": "websocket.receive", kind: data}

    def _collect(self, data: str | bytes) -> bytearray:
        """Add a part of a message. It costs what its bytes do, be it empty or one character."""
        if self._parts is None:
            self._parts, self._message_began = bytearray(), trio.current_time()
        self._parts += data.encode() if isinstance(data, str) else data
        return self._parts

    async def send(self, event: Event) -> None:
        """Send what the application says; nothing happens when the client has gone. Cancellation: poisons it."""
        if self._gone:
            return
        kind = event["type"]
        if kind == "websocket.send":
            text = event.get("text")
            await (self._say(text) if text is not None else self._send(frames.BytesMessage(event["bytes"])))
        elif kind == "websocket.accept":
            await self._send(_acceptance(event))
            self._accepted = self._ws.state is ConnectionState.OPEN
        elif kind == "websocket.http.response.start":
            await self._send(frames.RejectConnection(event["status"], _closing(event["headers"]), has_body=True))
        elif kind == "websocket.http.response.body":
            await self._send(frames.RejectData(event.get("body", b""), not event.get("more_body", False)))
        elif self._ws.state is ConnectionState.CONNECTING:
            await self._send(frames.RejectConnection(403))
        else:
            await self._send(frames.CloseConnection(event.get("code") or _NORMAL, event.get("reason")))

    async def _say(self, text: str) -> None:
        """Send a message, at once where nothing is in its way."""
        if self._sending.locked() or self._ws.state is not ConnectionState.OPEN:
            await self._send(frames.TextMessage(text))
        elif rest := self._bytes.send_now(text_frame(text)):
            self._sending.acquire_nowait()
            try:
                await self._write(rest)
            finally:
                self._sending.release()

    async def _send(self, frame: frames.Event) -> None:
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            with contextlib.suppress(LocalProtocolError):
                await self._write(self._ws.send(frame))
        finally:
            self._sending.release()

    async def _write(self, data: bytes | memoryview) -> None:
        if self._gone or not data:
            return
        torn = True
        try:
            torn = not await self._bytes.send(data)
        finally:
            if torn:
                self._gone = True


def _check_key(headers: Headers) -> None:
    """A key is 16 bytes in base64, and there is one at most. Raises: RemoteProtocolError."""
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    if len(keys) > 1 or any(_KEY.fullmatch(key) is None for key in keys):
        raise RemoteProtocolError("This is no Sec-WebSocket-Key", event_hint=frames.RejectConnection())


def _rejection(error: Exception) -> tuple[int, Headers]:
    """Return how a handshake is refused; wsproto decodes headers without expecting that they are no text."""
    hint = getattr(error, "event_hint", None)
    return (hint.status_code, list(hint.headers)) if isinstance(hint, frames.RejectConnection) else (400, [])


def _acceptance(event: Event) -> frames.AcceptConnection:
    return frames.AcceptConnection(subprotocol=event.get("subprotocol"), extra_headers=list(event.get("headers", [])))


def _closing(headers: Headers) -> Headers:
    return [*headers, (b"connection", b"close")]
