"""Tools of test replicas that are called on one and reached on another: one asks, one runs until it is cancelled."""

from __future__ import annotations

import time
from pathlib import Path

import trio

from mcpd import Context, Elicit, tool


@tool
async def ask_name(ctx: Context) -> str:
    """Ask the client for a name."""
    answer = await ctx.elicit(who=Elicit("What is your name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}!"


@tool
async def hold_on(path: str) -> None:
    """Run until cancelled; the file `path`.ended says when that was, in seconds of the machine's clock."""
    Path(f"{path}.started").touch()  # noqa: ASYNC240 - a test's own folder
    try:
        await trio.sleep_forever()
    finally:
        Path(f"{path}.ended").write_text(f"{time.monotonic()}")  # noqa: ASYNC240 - a test's own folder
