"""The files in which runs of tools are counted: one for each name, one line for each step, written by whoever runs.

A line is `PID TIME WORD`, appended in one write, so that it outlives the process. Used by `tools` on the servers' side
and by the roles on the other. Deliberately free of anything but the standard library.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.chaos.oracle import Run

BEGAN = "began"


def note(folder: str, name: str, word: str) -> None:
    """Append a step of the run `name`."""
    with (Path(folder) / name).open("a", encoding="ascii") as file:
        file.write(f"{os.getpid()} {time.monotonic():.3f} {word}\n")


def read(folder: Path, name: str) -> list[Run]:
    """Return the runs of `name`, in the order in which they began."""
    path = folder / name
    lines = [line.split() for line in path.read_text("ascii").splitlines()] if path.exists() else []
    ends = {pid: word for pid, _, word in lines if word != BEGAN}
    return [Run(int(pid), float(at), ends.get(pid, "")) for pid, at, word in lines if word == BEGAN]
