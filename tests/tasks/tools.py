"""Tools that become tasks, of every kind: quick, slow, asking, failing.

What a run leaves behind is written to `WITNESS`, for tests in the server's own process.
"""

from __future__ import annotations

from typing import Any

import trio

from mcpd import Context, Elicit, RpcError, Sample, ToolError, tool

WITNESS: list[Any] = []


@tool(timeout_s=300)
async def slow(ctx: Context, seconds: float = 1.0) -> str:
    """May take long, which makes it a task for whoever knows tasks."""
    try:
        await ctx.progress(1, 2, "asleep")
        await trio.sleep(seconds)
    finally:
        with trio.move_on_after(1, shield=True):
            await trio.sleep(0.1)
            WITNESS.append("finally")
    return "awake"


@tool
async def quick() -> str:
    """Is never a task."""
    return "done"


@tool(task="forbidden", timeout_s=300)
async def never() -> str:
    """Is never a task, however long it may take."""
    return "done"


@tool(task="required")
async def always(ctx: Context) -> str:
    """Is served as a task only."""
    return f"until {ctx.deadline:.0f}"


@tool(task="optional")
async def ask_two(ctx: Context) -> str:
    """Ask two things at once, then a third one under an old name."""
    both = await ctx.ask(
        name=Elicit("Name?", fields={"name": str}),
        color=Elicit("Color?", fields={"color": str}),
    )
    again = await ctx.elicit(name=Elicit("Name again?", fields={"name": str}))
    names = [answer.content["name"] for answer in (both["name"], again)]
    return f"{names} {both['color'].content['color']}"


@tool(task="optional")
async def ask_in_time(ctx: Context) -> str:
    """Give up on a question."""
    with trio.move_on_after(5):
        await ctx.elicit(name=Elicit("Name?", fields={"name": str}))
    await trio.sleep(5)
    return "nobody answered"


@tool(task="optional")
async def ask_model(ctx: Context) -> str:
    """Ask the client's model."""
    return (await ctx.sample(reply=Sample("Say hi"))).text  # type: ignore[no-any-return]


@tool(task="required", asks_first=True)
async def ask_first(ctx: Context) -> str:
    """Ask before there is a task, and again in it."""
    number = await ctx.once("number", lambda: len(WITNESS))
    WITNESS.append("ran")
    first = await ctx.elicit(name=Elicit("Name?", fields={"name": str}))
    await ctx.start_task()
    then = await ctx.elicit(color=Elicit("Color?", fields={"color": str}))
    return f"{number} {first.content['name']} {then.content['color']}"


@tool(task="required", asks_first=True)
async def ask_side_by_side(ctx: Context) -> str:
    """Start the task in one of two tasks of the function, while the other one asks."""
    names: list[str] = []

    async def ask() -> None:
        answer = await ctx.elicit(name=Elicit("Name?", fields={"name": str}))
        names.append(answer.content["name"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ctx.start_task)
        nursery.start_soon(ask)
    return names[0]


@tool(task="optional")
async def fail(how: str) -> str:
    """Fail in one of the ways there are."""
    if how == "tool":
        raise ToolError("as a tool does")
    if how == "rpc":
        raise RpcError(-32603, "as a server does", {"why": "test"})
    if how == "crash":
        raise ZeroDivisionError("unforeseen")
    if how == "long":
        return "x" * 10_000_000
    await trio.sleep(50_000)
    return "never"
