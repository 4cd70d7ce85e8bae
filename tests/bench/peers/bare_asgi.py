"""The bare limit for HTTP: a minimal ASGI application that answers a `tools/call` echo, under Hypercorn-Trio.

Called by: `tests/bench/servers.py`, as `python bare_asgi.py PORT`. It reads the body, decodes it, and writes the echo
as one JSON body with Content-Length. No headers are checked, no era, no cancellation, no limits, no metrics: whatever
mcpd costs above this is mcpd's own share of a request.
"""

# mypy: ignore-errors
# Runs as a script, some of it in an environment of its own: its imports are not those of the repository.
from __future__ import annotations

import sys
from typing import Any

import msgspec
from hypercorn_bare import run

Json = dict[str, Any]


def answer(body: bytes) -> bytes:
    """The reply bytes for a `tools/call` body."""
    request = msgspec.json.decode(body)
    text = request["params"]["arguments"]["text"]
    result = {"resultType": "complete", "content": [{"type": "text", "text": text}]}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request["id"], "result": result})


async def read_body(receive: Any) -> bytes:
    """All the body there is."""
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            return body


async def app(scope: Json, receive: Any, send: Any) -> None:
    """An ASGI application; refuses lifespan so that Hypercorn goes on without it."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    reply = answer(await read_body(receive))
    length = str(len(reply)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply})


if __name__ == "__main__":
    run(app, int(sys.argv[1]))
