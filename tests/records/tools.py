"""Tools that end in every way, and one that changes what it was given."""

from __future__ import annotations

from typing import Any

import trio

from mcpd import RpcError, ToolError, tool


@tool
async def echo(text: str = "", secret: dict[str, Any] | None = None) -> str:
    """Say it again."""
    return text


@tool
async def scribble(data: dict[str, Any]) -> str:
    """Change the arguments."""
    data.clear()
    data["other"] = [1, 2, 3]
    return "done"


@tool
async def fail() -> str:
    """Fail as a tool does."""
    raise ToolError("no")


@tool
async def refuse() -> str:
    """End with an error of JSON-RPC."""
    raise RpcError(-32603, "no")


@tool
async def crash() -> str:
    """Raise something unforeseen."""
    raise KeyError("what")


@tool(timeout_s=0.05)
async def slow() -> str:
    """Take too long."""
    await trio.sleep(10)
    return "never"


@tool
async def hold() -> str:
    """Wait to be cancelled."""
    await trio.sleep(3600)
    return "never"


@tool(scopes=["vault"])
async def vault() -> str:
    """Be open to few."""
    return "gold"


@tool(task="required")
async def job() -> str:
    """Run as a task."""
    return "done"


@tool
async def linger(seconds: float = 0.5) -> str:
    """Take a while."""
    await trio.sleep(seconds)
    return "awake"
