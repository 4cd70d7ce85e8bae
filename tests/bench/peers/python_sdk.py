"""The official Python SDK (`mcp` 2.x): its `MCPServer` under uvicorn, stateless.

Called by: `tests/bench/servers.py`, as `python python_sdk.py PORT [json|sse|defaults] [linger]`, in a virtual
environment
of its own (see `python_sdk.txt`), with the server loop that the SDK's own dependencies bring.

`json` gives the SDK its best: an `async def` tool, text only, no logging below warning, no access log. `defaults` is
what
an author gets who sets nothing: structured output beside the text, and log lines. `sse` is for the disconnect
benchmark:
there the SDK watches for a client that leaves, in JSON it does not.
"""

# mypy: ignore-errors
# Runs as a script, in an environment of its own: its imports are not those of the repository.
from __future__ import annotations

import sys

import anyio
import uvicorn
from beacon import mark
from mcp.server.mcpserver import MCPServer


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


def run_plain(port: int, *, json: bool, tools: list) -> None:
    """Serve with everything off that costs time and was not asked for."""
    server = MCPServer("peer", log_level="WARNING")
    for tool in tools:
        server.tool(structured_output=False)(tool)
    app = server.streamable_http_app(json_response=json, stateless_http=True)
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def run_defaults(port: int) -> None:
    """Serve as the SDK does by itself."""
    server = MCPServer("peer")
    server.tool()(echo)
    server.run(transport="streamable-http", port=port, json_response=True, stateless_http=True)


def main() -> None:
    """Serve on the port of the first argument."""
    port, mode, lingers = int(sys.argv[1]), ([*sys.argv, "json"])[2], len(sys.argv) > 3
    if mode == "defaults":
        run_defaults(port)
    else:
        run_plain(port, json=mode == "json", tools=[echo, linger] if lingers else [echo])


if __name__ == "__main__":
    main()
