"""Functions of every kind that raise whatever a function can raise; loaded by `test_raising.py`, also in a worker.

`throw(what)` raises one entry of `RAISED`; each declaration below does so where its kind of function runs: in the call,
in a thread, in a worker process, in a call-back of a thread, in a nursery. Deliberately not: functions that fail in
order (`tests/conversations/tools.py` has `fail`).
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - what a tool of its own may import
import types
from collections.abc import Callable, Generator
from typing import Any, NoReturn

from mcpd.authoring.context import Context
from mcpd.authoring.declarations import completion, prompt, resource, tool
from mcpd.errors import ToolError, WireError


class Odd(BaseException):
    """Not an Exception."""


class Unprintable(BaseException):
    """Has no text."""

    def __str__(self) -> str:
        raise Odd("not even that")


class Stubborn(BaseExceptionGroup[BaseException]):
    """Cannot be split."""

    def derive(self, _excs: Any) -> NoReturn:
        raise Odd("no part of me")


def _refuse(_: object) -> NoReturn:
    raise Odd("do not ask")


def secretive(base: type[BaseException], *hidden: str) -> type[BaseException]:
    """Return a class of exceptions that raise when one of these attributes is asked for."""
    return type("Secretive", (base,), dict.fromkeys(hidden, property(_refuse)))


def stray() -> BaseException:
    """Return a `trio.Cancelled` of a scope that is gone."""
    import trio

    return trio.Cancelled._create(source="unknown")


def ended() -> BaseException:
    """Return what `asyncio.run` raises when its task was cancelled."""

    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    try:
        asyncio.run(cancel_itself())
    except BaseException as error:  # noqa: ASYNC103, BLE001 - this is what is wanted
        return error  # noqa: ASYNC104 - as above
    raise AssertionError("it was not cancelled")


RAISED: dict[str, Callable[[], BaseException]] = {
    "bare": lambda: WireError("bare"),
    "error": lambda: ValueError("wrong"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "closed": GeneratorExit,
    "asyncio": asyncio.CancelledError,
    "odd": lambda: Odd("odd"),
    "unprintable": Unprintable,
    "stop": lambda: StopIteration("stop"),
    "stop_async": lambda: StopAsyncIteration("stop"),
    "stray": stray,
    "group": lambda: BaseExceptionGroup("g", [Odd("odd"), ValueError("wrong"), SystemExit(3)]),
    "stray_group": lambda: BaseExceptionGroup("g", [stray(), BaseExceptionGroup("h", [stray(), GeneratorExit()])]),
    "only_stray_group": lambda: BaseExceptionGroup("g", [stray()]),
    "causeless": secretive(Exception, "__cause__", "__context__", "__notes__"),
    "closed_group": lambda: secretive(BaseExceptionGroup[BaseException], "exceptions")(
        "g", [stray(), ValueError("wrong")]
    ),
    "endless": lambda: ToolError("too much " * 1_000_000),
    "stubborn": lambda: Stubborn("g", [stray(), Odd("odd")]),
}


def before() -> None:
    """Called before anything is raised; a test may put something in its place."""


def throw(what: str) -> NoReturn:
    """Raise the entry `what`."""
    before()
    error = RAISED[what]()
    raise error


@tool
async def in_call(what: str) -> None:
    """Raise in the call's own task."""
    throw(what)


@tool
async def in_nursery(what: str) -> None:
    """Raise in a child task, beside one that waits."""
    import trio

    async def child() -> None:
        throw(what)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(child)


@tool
async def after_cleanup(what: str) -> None:
    """Raise while a scope of its own is being cancelled."""
    import trio

    with trio.move_on_after(0.01):
        try:
            await trio.sleep_forever()
        finally:
            throw(what)


@tool
def in_thread(what: str) -> None:
    """Raise in a thread."""
    throw(what)


@tool
def in_asyncio(what: str) -> None:
    """Let a loop of asyncio be cancelled, in a thread."""
    raise ended()


@tool(isolation="process")
def in_process(what: str) -> None:
    """Raise in a worker process."""
    throw(what)


@tool
async def in_once(what: str, ctx: Context) -> None:
    """Raise in a step that runs once."""

    async def step() -> None:
        throw(what)

    await ctx.once("step", step)


@tool
async def in_resource(what: str, ctx: Context) -> None:
    """Raise in a resource that the tool reads."""
    await ctx.read(f"raise:///{what}")


@tool
def in_callback(what: str, ctx: Context) -> None:
    """Raise in a resource that the tool reads from its thread."""
    blocking: Any = ctx
    blocking.read(f"raise:///{what}")


@types.coroutine
def _foreign() -> Generator[object, None, None]:
    yield object()


@tool
async def in_another_loop(what: str) -> None:
    """Await what belongs to another event loop."""
    await _foreign()


@tool
async def out_of_order(what: str) -> None:
    """Enter a scope and never leave it."""
    import trio

    trio.CancelScope().__enter__()


@resource("raise:///{what}")
async def raise_resource(what: str) -> str:
    """Raise in a resource."""
    throw(what)


@resource("raise-in-thread:///{what}")
def raise_resource_in_thread(what: str) -> str:
    """Raise in a resource, in a thread."""
    throw(what)


@prompt
async def raise_prompt(what: str) -> str:
    """Raise in a prompt."""
    throw(what)


@prompt
def raise_prompt_in_thread(what: str) -> str:
    """Raise in a prompt, in a thread."""
    throw(what)


@completion(for_="raise_prompt", argument="what")
async def complete(value: str) -> list[str]:
    """Raise in a completion."""
    throw(value)


@completion(for_="raise_prompt_in_thread", argument="what")
def complete_in_thread(value: str) -> list[str]:
    """Raise in a completion, in a thread."""
    throw(value)
