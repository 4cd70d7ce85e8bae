"""HTTP/2, which is Hypercorn's, with what its connections lack: an end.

Only a TLS connection whose client chose `h2` by ALPN comes here, and only with `server.http2`.

Called by: `gateway.server.hypercorn`. Deliberately not: HTTP/1.1, h2c, flow control, a bound of the memory that waits
behind windows which a client opens a little at a time (README, "Rough edges").

Laws: a connection ends `keep_alive_s` after its last stream, whatever frames come (that is Hypercorn's own);
`write_s`, or twice that, after its client has stopped reading, be it the socket or every window, whatever it sends
meanwhile; `cleanup_s` after it has gone. It is ended by a scope of its own: Hypercorn's nursery absorbs no `Cancelled`,
and one that leaves the connection would end the listener. DATA for a stream that was answered early is dropped, and its
siblings go on; priorities are ignored. WebSockets are not offered: on HTTP/1.1 they have bounds (of size, of frames
that trickle, of pings that nobody answers) which Hypercorn's lack, and who asks for one is sent there. What is no
HTTP/2 ends the connection and is logged: Hypercorn closes while it handles h2's error, the one place where that can be
seen.

Sources: Hypercorn 0.18.0 `hypercorn.trio.tcp_server`, `hypercorn.protocol.h2`; RFC 9113 sections 5.1, 5.2, 5.3.2 and 7;
RFC 8441; architecture trap 9.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.tcp_server import TCPServer

from mcpd.config import Timeouts
from mcpd.gateway.server.refusals import Refusals
from mcpd.gateway.server.streams import base_scope, send_within

MAX_STREAMS = 32
"""At once on one connection. Each may hold a whole result that waits for the client's window."""

_ENABLE_CONNECT_PROTOCOL: Final = 8
_HTTP_1_1_REQUIRED: Final = 0xD
_PIECE_BYTES = 65536
"""Bounds a client that opens its windows a little at a time: as much as elsewhere has to leave within `write_s`."""


class _Answered:
    """Takes the place of a stream that was answered before all of its request had come."""

    idle = True

    async def handle(self, event: object) -> None:
        """Drop what still comes."""


class _Streams(dict[int, Any]):
    """The streams of one connection by id. Hypercorn looks up those that are over, too."""

    def __missing__(self, stream_id: int) -> _Answered:
        return _Answered()


class PlainHttp2(H2Protocol):
    """Hypercorn's HTTP/2 without CONNECT."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        del self.connection.local_settings[_ENABLE_CONNECT_PROTOCOL]

    async def _create_stream(self, request: Any) -> None:
        if (b":method", b"CONNECT") in request.headers:
            self.connection.reset_stream(request.stream_id, _HTTP_1_1_REQUIRED)
            await self.send(RawData(self.connection.data_to_send()))
        else:
            await super()._create_stream(request)


class Http2Connection(TCPServer):
    """One connection."""

    def __init__(
        self, timeouts: Timeouts, refusals: Refusals, wrapper: Any, config: HypercornConfig, *arguments: Any
    ) -> None:
        super().__init__(wrapper, config, *arguments)
        self._timeouts = timeouts
        self._refusals = refusals
        self._client = base_scope(self.stream)["client"]
        self._sent = 0
        """Bytes of bodies that were sent; answers to pings and settings are no progress."""
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve until the connection ends. Cancellation: safe."""
        with self._scope:
            await super().run()

    async def _read_data(self) -> None:
        self._prepare(self._h2)
        self._task_group.spawn(self._watch)
        try:
            await super()._read_data()
        except (UnboundLocalError, UnicodeDecodeError):
            self._refusals.hang_up(
                self._client, "HTTP/2: a request without :path, or with a method or path not in ASCII"
            )
            self._scope.cancel()
        self._scope.deadline = trio.current_time() + self._timeouts.cleanup_s

    @property
    def _h2(self) -> H2Protocol:
        protocol = self.protocol.protocol
        assert isinstance(protocol, H2Protocol)
        return protocol

    def _prepare(self, protocol: Any) -> None:
        send_data = protocol.connection.send_data

        def count_data(stream_id: int, data: bytes) -> None:
            send_data(stream_id, data)
            self._sent += len(data)

        protocol.streams = _Streams()
        protocol.connection.send_data = count_data
        protocol._priority_updated = _ignore  # noqa: SLF001 - checked by the test of Hypercorn's version

    async def protocol_send(self, event: Event) -> None:
        """Send, within `write_s`, also while the application is being cancelled: half a frame breaks all streams."""
        if not isinstance(event, RawData):
            if isinstance(event, Closed) and (broken := sys.exception()) is not None:
                self._refusals.hang_up(self._client, f"HTTP/2: {broken}")
            await super().protocol_send(event)
            return
        async with self.send_lock:
            with trio.CancelScope(shield=True):
                sent = await send_within(self.stream, event.data, self._timeouts.write_s)
        if not sent:
            await self.protocol.handle(Closed())

    async def _watch(self) -> None:
        """End the connection when of what waits to be sent not all, nor even `_PIECE_BYTES`, goes within `write_s`."""
        while True:
            before, waited = self._sent, self._waiting()
            await trio.sleep(self._timeouts.write_s)
            if self._sent - before < min(waited, self._waiting(), _PIECE_BYTES):
                await trio.aclose_forcefully(self.stream)
                self._scope.cancel()

    def _waiting(self) -> int:
        return sum(len(buffer.buffer) for buffer in self._h2.stream_buffers.values())


async def _ignore(event: object) -> None:
    """Take the place of Hypercorn's tree of priorities, which ends the connection over 1,000 streams in it."""
