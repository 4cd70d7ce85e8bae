"""The `async def` half of `tools.py`: echo, nap, report progress, ask, fail in every way, return a lot."""

from __future__ import annotations

import trio

from mcpd import Context, Elicit, ToolError, prompt, tool
from tests.soak.tools import PLANNED, failure


@tool
async def echo_async(text: str) -> str:
    """Return the text."""
    return text


@tool
async def nap_async(seconds: float) -> str:
    """Sleep in the call's scope; leaving takes a moment, as closing a connection would."""
    try:
        await trio.sleep(seconds)
    finally:
        with trio.move_on_after(1, shield=True):
            await trio.sleep(0.001)
    return "rested"


@tool
async def count(steps: int, pause_s: float, ctx: Context) -> dict[str, int]:
    """Count, reporting progress."""
    for done in range(1, steps + 1):
        await ctx.progress(done, steps, f"step {done}")
        await trio.sleep(pause_s)
    return {"steps": steps}


@tool
async def greet(ctx: Context) -> str:
    """Ask for a name."""
    answers = await ctx.ask(who=Elicit("What is your name?", fields={"name": str}))
    answer = answers["who"]
    return f"Hello, {answer.content['name']}!" if answer.accepted else "Hello!"


@tool
async def long_text(items: int) -> str:
    """Return a lot."""
    return "x" * items


@tool
async def raise_async(kind: str) -> str:
    """Raise in the call's scope."""
    if kind == "nursery":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fail)
            await trio.sleep_forever()
    raise failure(kind)


@prompt
async def review(topic: str) -> str:
    """Ask for a review."""
    return f"Review {topic}."


async def _fail() -> None:
    raise ToolError(PLANNED)
