"""Tools of each work class that hold on until they are told to go, as tasks; they leave word in a folder, `place`.

Loaded by servers and by worker processes, so this file must not import trio at its top.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from mcpd import Context, Elicit, tool


def note(place: str, name: str) -> None:
    """Write at once: whoever sees the file sees its text."""
    fresh = Path(place) / f".{name}"
    fresh.write_text(str(os.getpid()))
    fresh.replace(Path(place) / name)


@tool(task="optional")
async def hold_async(place: str) -> str:
    """Wait for a file `go`."""
    import trio

    note(place, "began")
    try:
        while not (Path(place) / "go").exists():  # noqa: ASYNC110, ASYNC240 - a file rings no bell
            await trio.sleep(0.01)
    finally:
        with trio.move_on_after(1, shield=True):
            await trio.sleep(0.01)
            note(place, "finally")
    return "gone"


@tool(task="optional")
def hold_thread(place: str) -> str:
    """Wait for a file `go` in a thread."""
    note(place, "began")
    while not (Path(place) / "go").exists():
        time.sleep(0.01)
    note(place, "late")
    return "gone"


@tool(task="optional", isolation="process")
def hold_process(place: str, ctx: Context) -> int:
    """Say something, then stay in one C call for hours, with the GIL held."""
    ctx.progress(1, 2, "spinning")  # type: ignore[unused-coroutine]
    note(place, "began")
    return sum(range(10**14))


@tool(task="optional")
async def ask(ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit(name=Elicit("Name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}"


@tool(task="optional")
def ask_in_thread(ctx: Context) -> str:
    """Ask for a name from a thread."""
    answer = ctx.elicit(name=Elicit("Name?", fields={"name": str}))
    return f"Hello, {answer.content['name']}"  # type: ignore[attr-defined]


@tool(task="required", asks_first=True)
def ask_first_in_thread(ctx: Context) -> str:
    """Ask for a name from a thread, before there is a task."""
    answer = ctx.elicit(name=Elicit("Name?", fields={"name": str}))
    ctx.start_task()  # type: ignore[unused-coroutine]
    return f"Hello, {answer.content['name']}"  # type: ignore[attr-defined]


@tool(task="optional")
async def quick() -> str:
    """Be done at once."""
    return "done"
