"""Server-sent events as bytes: one frame for each message, a comment to keep a stream alive, the priming event.

Called by: `gateway.streamable_http`, and the other transports that stream. Calls nothing. Deliberately not: a stream;
who writes, when, and what is kept for a later resume is decided in `messages` and the gateway.

Laws: a message is compact JSON and so fits one `data` line; anything else that holds line breaks is split over
several, as the format wants. Field names end in a colon and one space; an event ends with an empty line.

Sources: WHATWG HTML section 9.2 (server-sent events); MCP basic/transports (RSP-3, RSP-5, RSM-3, RSM-4).
"""

from __future__ import annotations

from typing import Final

PING: Final = b": ping\n\n"
"""A comment: resets the idle timers of proxies, and no client sees it as an event."""


def event(
    data: bytes,
    *,
    id: str | None = None,  # noqa: A002 - the name of the field
    retry_ms: int | None = None,
    event: str | None = "message",
) -> bytes:
    """Return one event that carries `data`, which is UTF-8.

    `id` is what `Last-Event-ID` will name; `retry_ms` sets the client's reconnection delay; `event` None leaves the
    type out, which readers take as `message`.

    Raises: ValueError for an `id` or `event` with a line break or NUL.
    """
    head = b"" if event is None else _field(b"event: ", event)
    if id is not None:
        head += _field(b"id: ", id)
    if retry_ms is not None:
        head += b"retry: %d\n" % retry_ms
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"%bdata: %b\n\n" % (head, data)


def _field(name: bytes, value: str) -> bytes:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError("an SSE field cannot hold a line break or NUL")
    return name + value.encode() + b"\n"


def prime(id: str, retry_ms: int | None = None) -> bytes:  # noqa: A002 - the name of the field
    """Return the event with empty data that gives a client its first `Last-Event-ID`. Raises: as `event`."""
    return event(b"", id=id, retry_ms=retry_ms, event=None)
