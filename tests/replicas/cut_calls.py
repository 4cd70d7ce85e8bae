"""Tools of test replicas whose calls are cut off: they say where they run, wait for a file, and go on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio

from mcpd import Context, Elicit, tool


async def wait_file(path: Path) -> None:
    """Wait until there is such a file; nothing tells a process of that."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240
        await trio.sleep(0.005)


@tool
async def steps(ctx: Context, place: str, count: int = 5, size: int = 0) -> str:
    """Say one thing, wait for the file `go`, say the others, each `size` bytes long; touch `ended`."""
    (Path(place) / "pid").write_text(str(os.getpid()))  # noqa: ASYNC240
    await ctx.log("info", {"number": 1})
    await wait_file(Path(place) / "go")
    for number in range(2, count + 1):
        await ctx.log("info", {"number": number, "more": "x" * size})
    await wait_file(Path(place) / "end")
    (Path(place) / "ended").touch()  # noqa: ASYNC240
    return "answer"


@tool
async def ask_name(ctx: Context, place: str) -> str:
    """Wait for the file `go`, and ask."""
    (Path(place) / "pid").write_text(str(os.getpid()))  # noqa: ASYNC240
    await ctx.log("info", {"number": 1})
    await wait_file(Path(place) / "go")
    answer = await ctx.elicit(user=Elicit("What is your name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}"


@tool
async def let_go(ctx: Context, place: str) -> str:
    """Have the client come back, wait for the file `go`, and answer."""
    (Path(place) / "pid").write_text(str(os.getpid()))  # noqa: ASYNC240
    ctx.release_stream(10)
    await wait_file(Path(place) / "go")
    return "answer"


@tool
async def paced(ctx: Context, count: int, pause_s: float) -> str:
    """Say `count` times what time it is."""
    for number in range(1, count + 1):
        await trio.sleep(pause_s)
        await ctx.log("info", {"number": number, "at": time.time()})
    return "answer"
