"""The little ASGI that the MCP transports share: the head of a request, its body, and a responder.

Plain ASGI, so that whatever server stands in front can be exchanged; nothing here knows Hypercorn, Quart or MCP.

Called by: `gateway.streamable_http`, `gateway.stateful_http`, `gateway.websocket`. Deliberately not: routing, access.

Laws: a reply is one start and one body with Content-Length unless it streams; a body has a size and a time (law 8).

Sources: ASGI HTTP & WebSocket specification 2.5; RFC 9110; RSP-3, LAD step 0.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any, cast

import trio

from mcpd.monitoring.logs import RequestLine
from mcpd.wire.headers import by_name

_MAX_DIGITS = 20
"""Of a Content-Length: what has more is too large by itself, and would cost time to convert."""

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

WHOLE_BODY = "mcpd.body"
"""ASGI extension of ours: the whole body, where it came with the head. `receive` tells it, too, whoever asks first."""

REQUEST_ID = "mcpd.request_id"
"""Key of a scope: the request's `X-Request-Id`, the same in its reply, its errors and the log."""

REASON = "mcpd.reason"
"""Key of a scope: why the request was refused, for the log."""
REFUSED = "mcpd.refused"
"""Key of a scope: the server below has refused the request, and has logged that."""

_NOTHING: dict[str, Any] = {}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,64}")
_JSON = (b"content-type", b"application/json")
_SSE: Headers = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class RequestNames:
    """Gives every request its `X-Request-Id`: the client's own when well-formed, else one that is unique here."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = count(1)

    def __call__(self) -> str:
        """Return a new name."""
        return f"{self._prefix}-{next(self._count):x}"

    def name(self, scope: Scope, sent: bytes | None) -> str:
        """Give a request its name and return it: `sent` if that can be used, else a new one."""
        name = sent.decode("ascii") if sent is not None and _REQUEST_ID.fullmatch(sent) else self()
        scope[REQUEST_ID] = name
        return name


def client_address(scope: Scope) -> str:
    """Return where a request comes from, "" when that is not known."""
    client = scope.get("client")
    return "" if client is None else str(client[0])


class Head:
    """The head of a request, and what every transport wants to know from it."""

    __slots__ = ("body", "client", "named", "repeated", "takes_events", "takes_json")

    def __init__(self, scope: Scope) -> None:
        self.named, self.repeated = by_name(scope["headers"])
        """The headers by name, as `by_name` returns them."""
        self.client = client_address(scope)
        self.body: bytes | None = scope.get("extensions", _NOTHING).get(WHOLE_BODY)
        """The whole body, if it is known already."""
        accept = (self.repeated.get(b"accept") or self.named.get(b"accept", b"*/*")).decode("latin-1")
        self.takes_json = _takes(accept, "application/json")
        """True when a reply may be one JSON text."""
        self.takes_events = _takes(accept, "text/event-stream")
        """True when a reply may be an event stream."""

    @property
    def sends_json(self) -> bool:
        """True when the body is declared as JSON."""
        kind = self.named.get(b"content-type", b"")
        return kind == b"application/json" or kind.split(b";", 1)[0].strip().lower() == b"application/json"


def _takes(accept: str, kind: str) -> bool:
    """True when `Accept` admits the media type `kind`."""
    if ";" not in accept and (kind in accept or "*/*" in accept):
        return True
    return _admits(accept.lower(), kind)


def _admits(accept: str, kind: str) -> bool:
    """Ask the range that names `kind` most closely: whether it has a weight above 0 (RFC 9110 section 12.5.1)."""
    ranges: dict[str, bool] = {}
    for item in accept.split(","):
        name, _, parameters = item.partition(";")
        ranges[name.strip()] = _REFUSING.search(parameters) is None
    closest = (kind, kind.partition("/")[0] + "/*", "*/*")
    return next((ranges[name] for name in closest if name in ranges), False)


_REFUSING = re.compile(r"(?:^|;)\s*q\s*=\s*0(?:\.0*)?\s*(?:;|$)")


class BodyRefused(Exception):
    """The body was not read to its end: `status` 413 (too large), 408 (too slow) or 415 (compressed)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClientGone(Exception):
    """The client left before its request was complete."""


async def read_body(head: Head, receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """Return the whole body, and let go of it: some calls run for days. Raises: BodyRefused, ClientGone."""
    encoding = head.repeated.get(b"content-encoding") or head.named.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise BodyRefused(415, "Send the body as it is, without Content-Encoding")
    length = head.named.get(b"content-length", b"")
    if length.isdigit() and int(length[:_MAX_DIGITS]) > max_bytes:
        raise BodyRefused(413, f"The body may have {max_bytes} bytes")
    body, head.body = head.body, None
    if body is not None and len(body) <= max_bytes:
        return body
    body = None
    with trio.move_on_after(timeout_s):
        body = await _collect(receive, max_bytes)
    if body is not None:
        return body
    raise BodyRefused(408, f"The body did not arrive within {timeout_s:g} s")


async def _collect(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        body += cast(bytes, event.get("body", b""))
        if len(body) > max_bytes:
            raise BodyRefused(413, f"The body may have {max_bytes} bytes")
        if not event.get("more_body", False):
            return bytes(body)


async def wait_disconnect(receive: Receive) -> None:
    """Return when the client has gone. Cancellation: safe."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Responder:
    """One reply. Either `whole`, or `start_events`, `chunk`..., `end`."""

    __slots__ = ("_headers", "_send", "client", "method", "path", "request_id", "started", "status")

    def __init__(self, send: Send, scope: Scope, client: str) -> None:
        """`scope` has been given its name."""
        self._send = send
        self.request_id: str = scope[REQUEST_ID]
        self.client = client
        """Address of whom it goes to, for the log."""
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._headers: Headers = [(b"x-request-id", self.request_id.encode())]
        self.started = False
        self.status = 0
        """What was sent; 0 before."""

    def line(self, status: int, method: str = "", seconds: float = 0.0) -> RequestLine:
        """Return the log line of what is no call; `method` is that of its message, when there is one."""
        line = RequestLine(self.request_id, "http", method or self.method, "ok", seconds, target=self.path)
        return line._replace(client=self.client, status=str(status))

    def add(self, headers: Headers) -> None:
        """Add headers to whatever reply follows."""
        self._headers += headers

    async def whole(
        self, status: int, body: bytes = b"", headers: Headers | None = None, kind: tuple[bytes, bytes] = _JSON
    ) -> None:
        """Send a complete reply; a non-empty body is JSON, or what the header `kind` says."""
        self.started, self.status = True, status
        lines = [*self._headers, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        if body:
            lines.append(kind)
        if headers:
            lines.extend(headers)
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
        await self._send({"type": "http.response.body", "body": body})

    async def start_events(self) -> None:
        """Commit to 200 and an event stream."""
        self.started, self.status = True, 200
        await self._send({"type": "http.response.start", "status": 200, "headers": [*self._headers, *_SSE]})

    async def chunk(self, data: bytes) -> None:
        """Send a part of the stream, starting it first if need be."""
        if not self.started:
            await self.start_events()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
