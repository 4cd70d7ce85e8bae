"""The bare limit for WebSocket: every text frame is sent back as it came, under Hypercorn-Trio.

Called by: `tests/bench/servers.py`, as `python bare_websocket.py PORT`. It decodes nothing, so a caller that measures
it must expect its own request as the reply.
"""

# mypy: ignore-errors
# Runs as a script, some of it in an environment of its own: its imports are not those of the repository.
from __future__ import annotations

import sys
from typing import Any

from hypercorn_bare import run


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI WebSocket echo."""
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] != "websocket.receive":
            return
        await send({"type": "websocket.send", "text": event["text"]})


if __name__ == "__main__":
    run(app, int(sys.argv[1]))
