"""Tools of both work classes outside the event loop, for the soak. Loaded by the server and by its workers.

Deliberately free of trio, because workers load it (`async_tools.py` has the rest). What these tools raise on purpose
has `PLANNED` in its text, by which the log is judged.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - what a `def` tool may call, and what then escapes from it
import os
import time
from collections.abc import Callable

from mcpd import Context, ToolError, tool

PLANNED = "planned failure"


class Odd(BaseException):
    """What no `except Exception` takes."""


FAILURES: dict[str, Callable[[], BaseException]] = {
    "tool": lambda: ToolError(PLANNED),
    "value": lambda: ValueError(PLANNED),
    "odd": lambda: Odd(PLANNED),
    "generator": lambda: GeneratorExit(PLANNED),
    "exit": lambda: SystemExit(PLANNED),
    "interrupt": lambda: KeyboardInterrupt(PLANNED),
    "cancelled": lambda: asyncio.CancelledError(PLANNED),
    "stop": lambda: StopIteration(PLANNED),
    "stop_async": lambda: StopAsyncIteration(PLANNED),
    "memory": lambda: MemoryError(PLANNED),
    "recursion": lambda: RecursionError(PLANNED),
    "group": lambda: BaseExceptionGroup(PLANNED, [Odd(PLANNED), ValueError(PLANNED)]),
    "surrogate": lambda: ValueError(PLANNED + " \ud800"),
    "long": lambda: ValueError(PLANNED + "x" * 200_000),
}
"""Kind -> what a tool of that kind raises."""


def failure(kind: str) -> BaseException:
    """Return what is to be raised."""
    return FAILURES[kind]()


@tool
def echo_thread(text: str) -> str:
    """Return the text, from a thread."""
    return text


@tool(isolation="process")
def echo_process(text: str) -> str:
    """Return the text, from a worker process."""
    return text


@tool
def nap_thread(seconds: float) -> str:
    """Sleep in a thread."""
    time.sleep(seconds)
    return "rested"


@tool(isolation="process")
def nap_process(seconds: float, ctx: Context) -> str:
    """Sleep in a worker process, and say so."""
    ctx.progress(1, 2)  # type: ignore[unused-coroutine]
    time.sleep(seconds)
    return "rested"


@tool
def raise_thread(kind: str) -> str:
    """Raise in a thread."""
    raise failure(kind)


@tool(isolation="process")
def raise_process(kind: str) -> str:
    """Raise in a worker process, or end it."""
    if kind == "death":
        os._exit(3)
    raise failure(kind)


@tool
def event_loop_thread() -> str:
    """Let an event loop of one's own be cancelled, as libraries do."""

    async def give_up() -> None:
        raise asyncio.CancelledError(PLANNED)

    asyncio.run(give_up())
    return "never"
