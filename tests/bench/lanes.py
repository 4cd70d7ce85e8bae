"""One connection of the load generator, over HTTP or WebSocket: send, receive, and know a right reply by its bytes.

Called by: `generator`, which owns the poll loop and the clock. A lane learns the reply of each of its slots once,
with a full parse and a full check (`call.check`), and from then on compares bytes: cheap enough that the generator is
not what is measured. A slot is one call in flight; over HTTP/1.1 there is exactly one. Deliberately not a client: no
redirects, no pipelining, no compression, and anything unexpected is an error, never a retry.

Law: an answered slot had its own, complete, correct reply.

Sources: RFC 9112 (HTTP/1.1, via h11), RFC 6455 (WebSocket frames).
"""

from __future__ import annotations

import os
import socket
import time
from typing import Protocol

import h11

from tests.bench import call

TIMEOUT_S = 10.0
_PING = 0x89
"""Pings are left unanswered: none of the servers hangs up for it within a run."""


class Lane(Protocol):
    """What the generator needs of a connection."""

    socket: socket.socket
    slots: int

    def send(self, slots: list[int]) -> None:
        """Send the call of each slot, in one write."""

    def receive(self) -> list[int]:
        """Read what has come; the slots that are answered now."""


def connect(port: int) -> socket.socket:
    """A blocking connection to the loopback interface, with Nagle's algorithm off."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read(connection: socket.socket) -> bytes:
    """The next bytes.

    Raises:
        WrongReply: the server closed the connection.
    """
    data = connection.recv(65536)
    if not data:
        raise call.WrongReply("the server closed the connection")
    return data


def exchange(connection: socket.socket, request: bytes) -> tuple[int, bytes, bytes]:
    """One HTTP exchange on a blocking connection: status, body, and all that came after the head, as it came."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    connection.sendall(request)
    raw, body, status = b"", b"", 0
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            data = read(connection)
            raw += data
            client.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body, raw.partition(b"\r\n\r\n")[2]


class HttpLane:
    """Keep-alive HTTP/1.1, one call in flight."""

    slots = 1

    def __init__(self, port: int, path: str) -> None:
        self.socket = connect(port)
        self._request = call.http(port, call.body(), path=path)
        status, body, self._tail = exchange(self.socket, self._request)
        if status != 200:
            raise call.WrongReply(f"status {status}: {body[:400]!r}")
        call.check(body)
        self._rest = b""
        self.socket.setblocking(False)

    def send(self, slots: list[int]) -> None:
        """Send the call again. A request is far smaller than a socket's buffer, so one write takes it whole."""
        if slots and self.socket.send(self._request) != len(self._request):
            raise call.WrongReply("the server does not read")

    def receive(self) -> list[int]:
        """[0] when the reply is complete, [] when more must come."""
        data = self._rest + read(self.socket)
        if not data.endswith(self._tail):
            self._rest = data
            return []
        if not data.startswith(b"HTTP/1.1 200") or data.count(b"\r\n\r\n") > 1 + self._tail.count(b"\r\n\r\n"):
            raise call.WrongReply(f"unexpected reply: {data[:400]!r}")
        self._rest = b""
        return [0]


class WebSocketLane:
    """One WebSocket, `slots` calls in flight, each with an id of its own."""

    def __init__(self, port: int, path: str, slots: int, *, mirrored: bool) -> None:
        """`mirrored`: the server is a bare echo, and a reply is the request itself."""
        self.socket = connect(port)
        self.slots = slots
        self._rest = b""
        self._upgrade(port, path)
        self._frames: list[bytes] = []
        self._replies: dict[bytes, int] = {}
        for slot in range(slots):
            self._learn(slot, mirrored=mirrored)
        self.socket.setblocking(False)

    def _upgrade(self, port: int, path: str) -> None:
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += read(self.socket)
        head, _, self._rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise call.WrongReply(f"no upgrade: {head[:400]!r}")

    def _learn(self, slot: int, *, mirrored: bool) -> None:
        content = call.body(request_id=slot + 1)
        self._frames.append(masked(content))
        self.socket.sendall(self._frames[slot])
        limit = time.monotonic() + TIMEOUT_S
        while not (payloads := self._payloads()):
            if time.monotonic() > limit:
                raise call.WrongReply("no reply in time")
            self._rest += read(self.socket)
        if mirrored and payloads[0] != content:
            raise call.WrongReply("not an echo")
        if not mirrored:
            call.check(payloads[0], slot + 1)
        self._replies[payloads[0]] = slot

    def send(self, slots: list[int]) -> None:
        """Send the calls of these slots in one write."""
        data = b"".join([self._frames[slot] for slot in slots])
        if self.socket.send(data) != len(data):
            raise call.WrongReply("the server does not read")

    def receive(self) -> list[int]:
        """The slots answered by the frames that have come."""
        self._rest += read(self.socket)
        try:
            return [self._replies[payload] for payload in self._payloads()]
        except KeyError as error:
            raise call.WrongReply(f"unexpected reply: {error.args[0][:400]!r}") from error

    def _payloads(self) -> list[bytes]:
        """The payloads of all complete frames; what is left stays. Server frames are never masked."""
        data, at, payloads = self._rest, 0, []
        while len(data) >= at + 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4]), at + 4
            if len(data) < start + length:
                break
            if data[at] == 0x81 and length != 127:
                payloads.append(data[start : start + length])
            elif data[at] != _PING:
                raise call.WrongReply(f"unexpected frame: {data[at : at + 100]!r}")
            at = start + length
        self._rest = data[at:]
        return payloads


def masked(payload: bytes) -> bytes:
    """One masked text frame."""
    mask = os.urandom(4)
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
    return b"\x81" + length + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
