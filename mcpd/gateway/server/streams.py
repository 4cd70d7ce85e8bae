"""Byte streams under the protocols: reading, writing with a bound, who is at the other end. TCP, Unix and TLS alike.

The kernel's TCP_USER_TIMEOUT ends a connection whose peer has vanished; it knows nothing of Unix sockets, and a peer
that answers window probes but never reads is alive to it. The bound here is on progress, for every kind of stream.

A plain socket is read and written directly: most writes fit into its buffer, and most reads wait first. Trio's stream
tries a read before it waits, and gives up its turn for each write, which costs as much as a third of a call.

Called by: the other modules of `gateway.server`. Deliberately not: protocols.

Laws: a piece of at most 64 KiB leaves within `write_s`, else the stream is closed; so a slow reader may take as long as
it likes over a large reply, one that has stopped may not. A write that was not completed ends its stream (law 6). Who
writes without reading gives others a turn after a bounded number of writes.

Sources: tcp(7), unix(7); trio.abc.SendStream on partial sends; architecture law 8, traps 5 and 11.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import trio

LOST = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What a stream raises whose peer, or whose own end, has gone."""
_PIECE_BYTES = 65536
_RECEIVE_BYTES = 65536
_WRITES_PER_TURN = 4


class ByteStream:
    """A stream and its bound on writing. Resources: the caller closes the stream."""

    __slots__ = ("_in_a_row", "_socket", "_stream", "_write_s")

    def __init__(self, stream: trio.abc.Stream, write_s: float) -> None:
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._write_s = write_s
        self._in_a_row = 0
        """Writes since others had a turn, as far as is known here."""

    async def receive(self) -> bytes:
        """Return what comes next, nothing when nothing can come any more. Cancellation: safe."""
        self._in_a_row = 0
        try:
            if self._socket is None:
                return bytes(await self._stream.receive_some(_RECEIVE_BYTES))
            while (fd := self._socket.fileno()) >= 0:
                await trio.lowlevel.wait_readable(fd)
                try:
                    return os.read(self._socket.fileno(), _RECEIVE_BYTES)
                except BlockingIOError:
                    continue
        except (*LOST, OSError):
            pass
        return b""

    def send_now(self, data: bytes) -> bytes | memoryview:
        """Send what can be sent without waiting and return the rest: all of it when it is another's turn."""
        if self._socket is None or len(data) > _PIECE_BYTES or self._in_a_row >= _WRITES_PER_TURN:
            return data
        self._in_a_row += 1
        try:
            sent = os.write(self._socket.fileno(), data)
        except OSError:
            return data  # `send` meets it again, unless the socket was only full
        return b"" if sent == len(data) else memoryview(data)[sent:]

    async def send(self, data: bytes | memoryview) -> bool:
        """Send all of `data`; False, and cancellation, as `send_within`. A checkpoint only when it has to wait."""
        rest = self.send_now(data) if isinstance(data, bytes) else data
        if not rest:
            return True
        self._in_a_row = 0
        return await send_within(self._stream, rest, self._write_s)


async def send_within(stream: trio.abc.Stream, data: bytes | memoryview, write_s: float) -> bool:
    """Send all of `data`; False when the peer has gone or stopped reading, and the stream is closed then.

    Cancellation: poisons; the caller closes the stream.
    """
    view = memoryview(data) if len(data) > _PIECE_BYTES else None
    try:
        if view is None:
            return await _send_piece(stream, data, write_s)
        for begin in range(0, len(view), _PIECE_BYTES):
            if not await _send_piece(stream, view[begin : begin + _PIECE_BYTES], write_s):
                return False
    except LOST:
        await trio.aclose_forcefully(stream)
        return False
    return True


async def _send_piece(stream: trio.abc.Stream, piece: bytes | memoryview, write_s: float) -> bool:
    with trio.CancelScope(deadline=trio.current_time() + write_s) as scope:
        await stream.send_all(piece)
    if scope.cancelled_caught:
        await trio.aclose_forcefully(stream)
        return False
    return True


def socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """Return the socket below a stream, below TLS too; None for a stream in memory."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return transport.socket if isinstance(transport, trio.SocketStream) else None


def address_of(stream: trio.abc.Stream) -> str | None:
    """Return what one client can be told by: its IPv4 address, or the /64 of its IPv6 address; None without one."""
    sock = socket_of(stream)
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        name = sock.getpeername()[0]
    except OSError:
        return None
    return client_key(ipaddress.ip_address(name.partition("%")[0]))


def client_key(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return the same for all addresses that one client can have."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def base_scope(stream: trio.abc.Stream) -> dict[str, Any]:
    """Return what the ASGI scopes of all requests on one connection share."""
    sock = socket_of(stream)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": "https" if isinstance(stream, trio.SSLStream) else "http",
        "root_path": "",
        "client": None if sock is None else _address(sock.family, sock.getpeername()),
        "server": None if sock is None else _address(sock.family, sock.getsockname()),
    }


def _address(family: int, name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if family in (socket.AF_INET, socket.AF_INET6) else None
