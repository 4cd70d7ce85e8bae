"""Tools of both work classes outside the event loop, which run until they are told to stop and leave word of it.

A call names a folder, `place`: the tool writes `began` there, with its pid, and waits for a file `go`. What it does
after that is late when its call is over: what it then meets is written to `late`. Loaded by the server and by its
workers, so this file must not import trio (`async_tools.py` does).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from mcpd import Context, tool


@tool
def linger_thread(place: str, ctx: Context) -> str:
    """Wait for `go` in a thread."""
    return wait(Path(place), ctx)


@tool(isolation="process")
def linger_process(place: str, ctx: Context) -> str:
    """Wait for `go` in a worker process."""
    return wait(Path(place), ctx)


def wait(place: Path, ctx: Context) -> str:
    """Say 1, wait, say 2 and return, whatever becomes of it: as deaf to its end as a tool can be."""
    ctx.progress(1, 2)  # type: ignore[unused-coroutine]
    write(place / "began", str(os.getpid()))
    while not (place / "go").exists():
        time.sleep(0.005)
    try:
        ctx.progress(2, 2)  # type: ignore[unused-coroutine]
    except BaseException as error:  # noqa: ASYNC103, BLE001 - a tool that swallows everything
        write(place / "late", type(error).__name__)
    return "done"


def write(path: Path, text: str) -> None:
    """Write at once: whoever sees the file sees its text."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text)
    fresh.replace(path)


@tool(isolation="process")
def spin_process(place: str) -> int:
    """Stay in one C call for hours, with the GIL held."""
    write(Path(place) / "began", str(os.getpid()))
    return sum(range(10**14))


@tool
def forever_thread(place: str) -> None:
    """Never end, whatever happens."""
    write(Path(place) / "began", str(os.getpid()))
    while True:
        time.sleep(60)


@tool
def nap_thread(seconds: float) -> str:
    """Sleep in a thread."""
    time.sleep(seconds)
    return "rested"


@tool(isolation="process")
def nap_process(seconds: float) -> str:
    """Sleep in a worker process."""
    time.sleep(seconds)
    return "rested"


@tool
def echo_thread(text: str) -> str:
    """Return the text, from a thread."""
    return text


@tool(isolation="process")
def echo_process(text: str) -> str:
    """Return the text, from a worker process."""
    return text


@tool
def long_text(items: int) -> str:
    """Return more than any buffer of the system holds."""
    return "x" * items
