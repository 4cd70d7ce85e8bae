"""Measuring the server: what /proc and its own metrics say at one moment, and a sampler that writes them to a CSV file.

`calm` waits until nothing is going on, within a bound, so that figures of two moments can be compared. Deliberately
not: a judgement (`verdict`).

Sources: proc(5), VmRSS and Threads of /proc/PID/status.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import trio

from tests.soak.world import GONE, World, describe

CALM_S = 60.0
"""After its last client, the server has forgotten all of it within this: the longest timeout of `course.SETTINGS`, and
what a busy machine adds."""
LOOK_S = 0.05
GAUGES = {
    "in_flight": "mcpd_calls_in_flight",
    "sessions": "mcpd_sessions",
    "subscriptions": "mcpd_subscriptions",
    "connections": "mcpd_connections",
    "abandoned": "mcpd_abandoned_threads",
    "cancelled": "mcpd_cancelled_total",
    "log_dropped": "mcpd_log_lines_dropped_total",
}
"""Our name -> metric."""


@dataclass(frozen=True)
class Figures:
    """One moment. `scrape_s` is how long /metrics took, so how busy the server's event loop was, if ours was not:
    `own_lag_s` is how late ours was at most since the last sample. `processor_s` is a total."""

    at_s: float
    phase: str
    resident_mib: float
    descriptors: int
    threads: int
    children: int
    in_flight: float
    sessions: float
    subscriptions: float
    connections: float
    abandoned: float
    cancelled: float
    log_dropped: float
    processor_s: float
    scrape_s: float
    own_lag_s: float


async def measure(world: World, phase: str, since: float, own_lag_s: float = 0.0) -> Figures:
    """Take all figures. Raises: OSError when the server is gone."""
    program = world.program
    begin = time.perf_counter()
    _, text = await program.get("/metrics")
    took = time.perf_counter() - begin
    status = Path(f"/proc/{program.pid}/status").read_text(encoding="ascii")  # noqa: ASYNC240 - no disk behind it
    gauges = {name: _sum(text, metric) for name, metric in GAUGES.items()}
    return Figures(
        at_s=round(time.monotonic() - since, 1),
        phase=phase,
        resident_mib=round(_number(status, "VmRSS") / 1024, 1),
        descriptors=program.descriptors(),
        threads=_number(status, "Threads"),
        children=len(program.workers()),
        processor_s=program.processor_ticks() / 100,
        scrape_s=round(took, 4),
        own_lag_s=round(own_lag_s, 4),
        **gauges,
    )


def _sum(text: str, metric: str) -> float:
    return sum(float(found[1]) for found in re.finditer(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def _number(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


class Sampler:
    """Takes figures every so often until it is cancelled; `phase` says what is going on."""

    def __init__(self, world: World, path: Path, every_s: float) -> None:
        self.samples: list[Figures] = []
        self.phase = "start"
        self.since = time.monotonic()
        self._world = world
        self._path = path
        self._every_s = every_s
        self._lag_s = 0.0

    async def watch_own_lag(self) -> None:
        """Note for ever how late this process is at most: what it measures is late by as much."""
        while True:
            due = trio.current_time() + LOOK_S
            await trio.sleep_until(due)
            self._lag_s = max(self._lag_s, trio.current_time() - due)

    async def run(self) -> None:
        """Sample for ever; a server that does not answer is a violation."""
        with self._path.open("w", newline="") as file:
            rows = csv.DictWriter(file, [field.name for field in fields(Figures)])
            rows.writeheader()
            while True:
                await self._sample(rows)
                file.flush()
                await trio.sleep(self._every_s)

    async def _sample(self, rows: csv.DictWriter[str]) -> None:
        try:
            with trio.fail_after(30):
                lag, self._lag_s = self._lag_s, 0.0
                figures = await measure(self._world, self.phase, self.since, lag)
        except (*GONE, AssertionError, trio.TooSlowError) as error:
            self._world.tally.violation(f"no sample: {describe(error)}")
            return
        self.samples.append(figures)
        rows.writerow(asdict(figures))


async def calm(world: World, quiet: Callable[[Figures], bool]) -> float:
    """Wait until the figures are `quiet`, at most `CALM_S`; return how many seconds that took."""
    begin = time.monotonic()
    with trio.move_on_after(CALM_S):
        while not quiet(await measure(world, "", begin)):  # noqa: ASYNC110 - a process rings no bell
            await trio.sleep(0.5)
    return time.monotonic() - begin


def processor_share(first: Figures, last: Figures) -> float:
    """Return the share of one core that the server with its workers has used between two samples."""
    return (last.processor_s - first.processor_s) / max(last.at_s - first.at_s, 0.001)
