"""Tools that hold the event loop, each in its own way: asleep, in C code that looks at signals or not, printing.

Each writes `began` into the folder `place` first.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from mcpd import tool


def begin(place: str) -> None:
    """Say that the tool runs."""
    (Path(place) / "began").touch()


@tool
async def sleep(place: str, seconds: float = 1000) -> str:
    """Sleep without giving the event loop back; the GIL is free."""
    begin(place)
    time.sleep(seconds)  # noqa: ASYNC251 - the fault that is tried
    return "rested"


@tool
async def backtrack(place: str, letters: int = 40) -> str:
    """Match for a time that doubles with each letter: C code with the GIL held, which looks at signals."""
    begin(place)
    return str(re.match(r"(a+)+$", "a" * letters + "b"))


@tool
async def add(place: str, numbers: int = 10**14) -> int:
    """Add numbers for hours: C code with the GIL held, in which no Python signal handler runs."""
    begin(place)
    return sum(range(numbers))


@tool
async def flood(place: str, stream: str = "stderr") -> str:
    """Print more than any pipe holds."""
    begin(place)
    for _ in range(1000):
        print("x" * 1000, file=getattr(sys, stream))
    return "printed"
