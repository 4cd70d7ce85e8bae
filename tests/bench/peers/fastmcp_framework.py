"""FastMCP 4.x under uvicorn, stateless.

Called by: `tests/bench/servers.py`, as `python fastmcp_framework.py PORT [json|sse] [linger]`, in a virtual
environment of its own (see `fastmcp_framework.txt`). Replies are JSON unless `sse` is asked for (see
`python_sdk.py`). The output schema is switched off so that the reply is the same text content as everyone else's.
"""

from __future__ import annotations

import sys

import anyio
from beacon import mark
from fastmcp import FastMCP

server = FastMCP("peer")


@server.tool(output_schema=None)
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
        server.tool(output_schema=None)(linger)
    server.run(
        transport="http",
        port=int(sys.argv[1]),
        log_level="warning",
        show_banner=False,
        stateless_http=True,
        json_response=mode == "json",
        uvicorn_config={"access_log": False},
    )


if __name__ == "__main__":
    main()
