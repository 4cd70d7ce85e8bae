"""What /proc says: processor time and resident memory of a server and its children; and which core it may use.

Called by: `generator` (processor time around a run), `start_memory`, `servers` (pinning), `report` (the machine's
name). Linux only. It deliberately samples no load average: the rounds are alternated instead.

Law: a server is its whole process tree, so that work moved into a child is still paid for.

Sources: proc(5): /proc/PID/stat fields 14 and 15 (utime, stime), /proc/PID/status VmRSS, /proc/PID/smaps_rollup Pss.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def processor_s(pid: int) -> float:
    """Processor time of the tree so far, user and system, in seconds (resolution: one clock tick)."""
    return sum(_ticks(member) for member in tree(pid)) * TICK_S


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def resident_mib(pid: int) -> float:
    """Resident memory of the tree in MiB: the sum of each member's VmRSS."""
    return sum(_status_kib(member, "status", "VmRSS") for member in tree(pid)) / 1024


def proportional_mib(pid: int) -> float:
    """The same with shared pages divided among those that share them (Pss)."""
    return sum(_status_kib(member, "smaps_rollup", "Pss") for member in tree(pid)) / 1024


def _status_kib(pid: int, file: str, field: str) -> int:
    with suppress(OSError):
        match = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
        if match:
            return int(match[1])
    return 0


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes started inside run on this core only (None: anywhere); ours is put back afterwards."""
    before = os.sched_getaffinity(0)
    if core is not None and len(before) > 1:
        os.sched_setaffinity(0, {sorted(before)[core % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe() -> dict[str, str]:
    """What a reader of the numbers needs to know of the machine."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
