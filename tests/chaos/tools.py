"""The tools of the storm: each leaves word of its runs in a witness file, so that what ran twice is seen."""

from __future__ import annotations

import os
import secrets

import trio

from mcpd import Context, tool
from tests.chaos.witness import BEGAN, note


@tool
async def rest(seconds: float) -> str:
    """Take a while."""
    await trio.sleep(seconds)
    return "rested"


@tool
async def tally(folder: str, name: str, seconds: float) -> str:
    """Count this run, take a while, and return what no other run returns."""
    note(folder, name, BEGAN)
    await trio.sleep(seconds)
    note(folder, name, "done")
    return f"{name} {secrets.token_hex(8)}"


@tool(task="optional")
async def work(folder: str, name: str, seconds: float) -> str:
    """Be a task: count this run, take a while, and say whether it was stopped."""
    note(folder, name, BEGAN)
    try:
        await trio.sleep(seconds)
    except trio.Cancelled:
        note(folder, name, "stopped")
        raise
    note(folder, name, "done")
    return name


@tool
async def announce(uri: str, ctx: Context) -> str:
    """Announce that a resource has changed; return who did."""
    ctx.changed("resource", uri)
    return str(os.getpid())


@tool(rate="4/2s")
async def limited() -> str:
    """Be called only so often."""
    return str(os.getpid())
