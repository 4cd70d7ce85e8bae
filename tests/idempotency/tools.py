"""Tools whose runs can be counted: each appends a line to a file, which outlives the process that ran it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from mcpd import Context, Elicit, RpcError, ToolError, tool


def _note(witness: str, word: str) -> None:
    with Path(witness).open("a", encoding="utf-8") as file:
        file.write(word + "\n")


@tool
async def run(witness: str, seconds: float = 0.0, word: str = "ran") -> str:
    """Leave a line, take a while, and leave another one if it was stopped."""
    _note(witness, word)
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        _note(witness, "stopped")
        raise
    return word


@tool
async def speak(ctx: Context, witness: str, seconds: float = 1.0) -> str:
    """Say something on the way."""
    _note(witness, "ran")
    await ctx.progress(1, 2, "half way")
    await trio.sleep(seconds)
    await ctx.progress(2, 2, "nearly")
    return "spoken"


@tool
async def ask_name(ctx: Context, witness: str, seconds: float = 0.0) -> str:
    """Ask for a name."""
    _note(witness, "ran")
    await trio.sleep(seconds)
    answer = await ctx.elicit(name=Elicit("Name?", fields={"name": str}))
    await trio.sleep(seconds)
    return str(answer.content["name"])


@tool
async def long_text(witness: str, chars: int) -> str:
    """Give a long result."""
    _note(witness, "ran")
    return "x" * chars


@tool
async def fail_so(witness: str, how: str) -> str:
    """Fail in one of the ways there are."""
    _note(witness, "ran")
    if how == "tool":
        raise ToolError("as a tool does")
    if how == "rpc":
        raise RpcError(-7, "as a server does", {"why": "test"})
    if how == "late":
        await trio.sleep(50_000)
    raise ZeroDivisionError("unforeseen")


@tool(concurrency=1)
async def narrow(witness: str, seconds: float = 0.0, which: int = 0) -> str:
    """Run alone."""
    _note(witness, f"ran {which}")
    await trio.sleep(seconds)
    return str(which)


@tool
async def structured(witness: str) -> dict[str, Any]:
    """Give structured content."""
    _note(witness, "ran")
    return {"list": [1, None, {"ü": 2.5}]}


@tool(task="optional")
async def long_job(witness: str, seconds: float = 1.0) -> str:
    """Become a task for whoever knows tasks."""
    _note(witness, "ran")
    await trio.sleep(seconds)
    return "worked"
