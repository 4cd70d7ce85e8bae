"""The `async def` half of `tools.py`: what runs in the call's own scope writes `finally` when it leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio

from mcpd import Context, tool


def began(folder: Path) -> None:
    """Write `began` at once: whoever sees the file sees its text."""
    fresh = folder / ".began"
    fresh.write_text(str(os.getpid()))
    fresh.replace(folder / "began")


@tool
async def linger_async(place: str, ctx: Context) -> str:
    """Wait for `go` in the call's scope; leaving takes a moment, as closing a connection would."""
    folder = Path(place)
    await ctx.progress(1, 2)
    began(folder)
    try:
        while not (folder / "go").exists():  # noqa: ASYNC110, ASYNC240 - the test's way to let it go on
            await trio.sleep(0.005)
        await ctx.progress(2, 2)
        return "done"
    finally:
        with trio.move_on_after(1, shield=True):
            await trio.sleep(0.01)
            (folder / "finally").write_text("")


@tool
async def nap_async(seconds: float) -> str:
    """Sleep in the call's scope."""
    await trio.sleep(seconds)
    return "rested"


@tool
async def echo_async(text: str) -> str:
    """Return the text."""
    return text


@tool
async def block_in_finally(place: str) -> None:
    """Break the rules: hold up the whole event loop while being cancelled."""
    try:
        began(Path(place))
        await trio.sleep_forever()
    finally:
        time.sleep(1000)  # noqa: ASYNC251 - the point


@tool
async def chatter(ctx: Context) -> None:
    """Send long progress messages without end, as fast as they are taken."""
    done = 0
    while True:
        done += 1
        await ctx.progress(done, done, message="y" * 100_000)
        await trio.lowlevel.checkpoint()
