"""Tools of servers with several workers: which process answers, and calls that last until a test says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio

from mcpd import tool


@tool
async def pid() -> str:
    """Return the process id of the worker."""
    return str(os.getpid())


@tool
async def wait_for(path: str) -> str:
    """Return when a file is there, having made the file `path`.started."""
    Path(f"{path}.started").touch()  # noqa: ASYNC240 - a test's own folder
    while not Path(path).exists():  # noqa: ASYNC240, ASYNC110 - a test's own folder, and nobody tells
        await trio.sleep(0.01)
    return "there"


@tool
async def hold_loop(path: str) -> str:
    """Hold the event loop for longer than any test lasts, having made the file `path`.started."""
    Path(f"{path}.started").touch()  # noqa: ASYNC240 - a test's own folder
    time.sleep(600)  # noqa: ASYNC251 - that is what it is for
    return "held"
