"""What goes out: a request's target and body, with the time that is left, and compressed.

The server gives up a little before the caller does, so that its answer still arrives: a search says that it ran out of
time, a write that its shard was not there.

Called by: `client`. Deliberately not: headers.
Source: `timeout` of _search, _bulk, _doc, _aliases and indices; `_msearch` takes it in each search's body.
"""

from __future__ import annotations

import zlib
from math import inf
from typing import Final
from urllib.parse import quote

import trio

from mcpd.drivers.elasticsearch_api import Request

SHARE: Final = 0.1
MOST_S: Final = 0.25
"""What is kept back of the time for the answer: a tenth, and at most so much."""


LONG_BYTES: Final = 128 << 10


def target_and_body(request: Request, left_s: float) -> tuple[str, bytes]:
    """Return the request's target and body; `left_s` is infinite for a caller without a deadline."""
    body = request.body
    query = [f"{name}={quote(value, safe=',*')}" for name, value in request.query.items()]
    if request.deadline != "none" and left_s < inf:
        left = f"{server_ms(left_s)}ms"
        if request.deadline == "query":
            query.append(f"timeout={left}")
        else:
            body = _timed(body, left)
    return (f"{request.path}?{'&'.join(query)}" if query else request.path), body


def server_ms(left_s: float) -> int:
    """Return how long the server may take; a caller that has been cancelled has no time left at all."""
    left_s = max(left_s, 0.0)
    return max(1, int((left_s - min(left_s * SHARE, MOST_S)) * 1000))


def printable(text: str) -> bytes:
    """Return a text as a header may have it: whatever is not printable ASCII is a question mark."""
    return "".join([char if " " <= char <= "~" else "?" for char in text]).strip().encode()


async def compressed(body: bytes) -> bytes:
    """Return `body` as gzip at its fastest; a long one is compressed in a thread, which takes some ms for each MB."""
    if len(body) < LONG_BYTES:
        return _gzip(body)
    return await trio.to_thread.run_sync(_gzip, body)


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, 1, wbits=31)


def _timed(body: bytes, left: str) -> bytes:
    """Return the lines of an `_msearch`, each search (every second line) with its `timeout`."""
    lines = body.split(b"\n")
    first = f'{{"timeout":"{left}"'.encode()
    for number in range(1, len(lines), 2):
        rest = lines[number].lstrip()[1:].lstrip()
        lines[number] = first + (rest if rest.startswith(b"}") else b"," + rest)
    return b"\n".join(lines)
