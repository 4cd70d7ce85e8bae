"""What a worker process has started, wherever it has gone: found by a mark in its environment, and killed.

A kill of the worker's process group misses what has made a group or session of its own, and what has lost its parent.
Each worker therefore carries a mark of its own in its environment, which all its descendants inherit.

Called by: `tools.process`, in a thread, when a worker has ended. Pure standard library. Deliberately not: a subreaper,
which would become the parent of unrelated processes and have to reap them; nor what plain `def` tools start.

Not found: what has changed its environment, other users' processes, and anything elsewhere than on Linux.

Sources: proc_pid_environ(5); the same as Jenkins' process tree killer does.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator

VARIABLE = "MCPD_WORKER"
_PASSES = 5
"""A process that forks while it is looked for is found in the next pass; whoever forks on faster gets away."""


def new_mark() -> str:
    """Return a value for `VARIABLE` that no other worker has."""
    return secrets.token_hex(8)


def kill_marked(mark: str) -> int:
    """Send SIGKILL to every process that carries `mark`; return how many there were. Blocks for milliseconds."""
    wanted, killed = f"{VARIABLE}={mark}".encode(), set[int]()
    for _ in range(_PASSES):
        found = {pid for pid in _pids() if pid not in killed and wanted in _environment(pid)}
        if not found:
            break
        for pid in found:
            _kill(pid)
        killed |= found
    return len(killed)


def _pids() -> Iterator[int]:
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - names of numbers, hundreds of them
    except OSError:
        names = []
    return (int(name) for name in names if name.isdigit())


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123 - the quickest way
            return file.read().split(b"\0")
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return
