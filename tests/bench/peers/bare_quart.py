"""The same echo as `bare_asgi.py`, as one Quart-Trio route: what the framework itself costs.

Called by: `tests/bench/servers.py`, as `python bare_quart.py PORT`. No MCP work at all is done here; the difference
to the bare ASGI application is the price of a Quart route, which is why mcpd's `/mcp` is a plain ASGI callable.
"""

# mypy: ignore-errors
# Runs as a script, some of it in an environment of its own: its imports are not those of the repository.
from __future__ import annotations

import sys

from bare_asgi import answer
from hypercorn_bare import run
from quart import Response, request
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.post("/mcp")
async def mcp() -> Response:
    """Echo one `tools/call`."""
    body = await request.get_data()
    return Response(answer(body), content_type="application/json")


if __name__ == "__main__":
    run(app, int(sys.argv[1]))
