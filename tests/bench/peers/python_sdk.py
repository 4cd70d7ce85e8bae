"""The official Python SDK (`mcp` 2.x): its `MCPServer` under uvicorn, stateless.

Called by: `tests/bench/servers.py`, as `python python_sdk.py PORT [json|sse]`, in a virtual environment of its own
(see `python_sdk.txt`). Replies are JSON unless `sse` is asked for, which only the disconnect benchmark does: there
the SDK watches for a client that leaves, in JSON it does not. Log level warning, no access log, the server loop that
the SDK's own dependencies bring.
"""

from __future__ import annotations

import sys

import anyio
import uvicorn
from beacon import mark
from mcp.server.mcpserver import MCPServer

server = MCPServer("peer", log_level="WARNING")


@server.tool(structured_output=False)
async def echo(text: str) -> str:
    """Return the text unchanged."""
    return text


async def linger(port: int, seconds: float) -> str:
    """Wait, and tell the benchmark when that began and ended."""
    mark(port, "began")
    try:
        await anyio.sleep(seconds)
    finally:
        mark(port, "ended")
    return "done"


def main() -> None:
    """Serve on the port of the first argument."""
    mode = sys.argv[2] if len(sys.argv) > 2 else "json"
    if len(sys.argv) > 3:
        server.tool(structured_output=False)(linger)
    app = server.streamable_http_app(json_response=mode == "json", stateless_http=True)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
