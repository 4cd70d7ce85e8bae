"""FastMCP 4.x under uvicorn, stateless.

Called by: `tests/bench/servers.py`, as `python fastmcp_framework.py PORT [json|sse|defaults] [linger]`, in a virtual
environment of its own (see `fastmcp_framework.txt`). The modes are those of `python_sdk.py`.
"""

# mypy: ignore-errors
# Runs as a script, in an environment of its own: its imports are not those of the repository.
from __future__ import annotations

import sys

import anyio
from beacon import mark
from fastmcp import FastMCP


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
    server = FastMCP("peer")
    for tool in tools:
        server.tool(output_schema=None)(tool)
    quiet = {"log_level": "warning", "show_banner": False, "uvicorn_config": {"access_log": False}}
    server.run(transport="http", port=port, stateless_http=True, json_response=json, **quiet)


def run_defaults(port: int) -> None:
    """Serve as the framework does by itself."""
    server = FastMCP("peer")
    server.tool()(echo)
    server.run(transport="http", port=port, stateless_http=True, json_response=True)


def main() -> None:
    """Serve on the port of the first argument."""
    port, mode, lingers = int(sys.argv[1]), ([*sys.argv, "json"])[2], len(sys.argv) > 3
    if mode == "defaults":
        run_defaults(port)
    else:
        run_plain(port, json=mode == "json", tools=[echo, linger] if lingers else [echo])


if __name__ == "__main__":
    main()
