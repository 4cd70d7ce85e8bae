"""Is the server as it was? Limits with their reasons, the log, and the table that a run prints.

Four moments are compared, each after an idle time: `warm` after a burst of all roles, `main` after the long part,
`again` and `once more` after bursts that are the same as the first. A leak is a slope: it shows between two equal
bursts, where an offset (arenas, caches that have filled) does not.

Called by: `course`. Deliberately not: anything about single calls, which the roles judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median, quantiles

from tests.soak.figures import Figures, processor_share
from tests.soak.tools import PLANNED
from tests.soak.world import Tally, World

EMPTY = ("in_flight", "sessions", "subscriptions", "abandoned")
"""Nothing of these is left when nobody is there."""
READERS = 10
"""Descriptors more than after warming up: when searches meet, the store opens up to four readers of two files each."""
THREADS = 4
"""Threads more: Trio keeps idle ones for ten seconds, and a scrape needs one."""
OFFSET_MIB = 64
"""Resident memory after the long part, more than after warming up: filled caches (`max_cache_bytes` of the soak is 8
MiB, four readers of 8), and the allocator's arenas of threads that met."""
SLOPE_MIB = 10
"""The same between two equal bursts: what the allocator's luck gives and takes."""
GROWTH_MIB = 24
"""Between the medians of the middle and the last third of the samples of a long part."""
LEAST_SAMPLES = 30
SLOWEST_SCRAPE_S = 10.0
"""Nothing holds the event loop for so long, on the busiest machine."""
_RECORD = re.compile(r"^(?=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", re.MULTILINE)
_OURS = (PLANNED, "soak/tools.py", "soak/async_tools.py")


def compare(tally: Tally, moments: dict[str, Figures]) -> None:
    """Note what is left at the moments after the first, and how memory went."""
    first = moments["warm"]
    for name, figures in moments.items():
        for gauge in EMPTY:
            _limit(tally, f"{name}: {gauge}", getattr(figures, gauge), 0)
        _limit(tally, f"{name}: connections", figures.connections, 1)
        _limit(tally, f"{name}: descriptors", figures.descriptors, first.descriptors + READERS)
        _limit(tally, f"{name}: threads", figures.threads, first.threads + THREADS)
        _limit(tally, f"{name}: children", figures.children, first.children)
        _limit(tally, f"{name}: resident MiB", figures.resident_mib, first.resident_mib + OFFSET_MIB)
    if "once more" in moments:
        grown = moments["once more"].resident_mib - moments["again"].resident_mib
        _limit(tally, "resident MiB between two equal bursts", grown, SLOPE_MIB)


def _limit(tally: Tally, what: str, value: float, most: float) -> None:
    if value > most:
        tally.violation(f"{what}: {value:g}, at most {most:g}")


def growth_mib(samples: Iterable[Figures]) -> float:
    """Return how much more resident memory the last third of the long part had than the middle one."""
    resident = [sample.resident_mib for sample in samples if sample.phase == "main"]
    third = len(resident) // 3
    return median(resident[2 * third :]) - median(resident[third : 2 * third]) if third else 0.0


def watch_samples(tally: Tally, samples: list[Figures]) -> None:
    """Note a memory that goes on growing under an even load, and an event loop that was held."""
    if len(samples) >= LEAST_SAMPLES:
        _limit(tally, "resident MiB from the middle to the last third", growth_mib(samples), GROWTH_MIB)
    _limit(tally, "seconds of the slowest scrape", slowest_scrape_s(samples), SLOWEST_SCRAPE_S)


def slowest_scrape_s(samples: list[Figures]) -> float:
    """Return the longest scrape, without what this process was late by itself before, during or after it."""
    lags = [0.0, *(sample.own_lag_s for sample in samples), 0.0]
    return max((s.scrape_s - sum(lags[n : n + 3]) for n, s in enumerate(samples)), default=0.0)


def read_logs(world: World) -> None:
    """Note every traceback that no tool has planned, and every internal error of something that does not fail."""
    for name in ("log", "stdio.log", "ingest.log"):
        path = world.folder / name
        if path.exists():
            _read_log(world.tally, path)


def _read_log(tally: Tally, path: Path) -> None:
    for record in _RECORD.split(path.read_text(errors="replace")):
        planned = any(word in record for word in _OURS)
        if "Traceback" in record and not planned:
            tally.violation(f"{path.name}: traceback: {_raised(record)}", record)
        elif "outcome=internal_error" in record and "target=raise_" not in record:
            tally.violation(f"{path.name}: internal error: {_without_ids(record)}", record)


def _raised(record: str) -> str:
    """Return the last line that names an error, without a group's frame."""
    lines = [line.lstrip(" |+-") for line in record.splitlines()]
    return next((line[:150] for line in reversed(lines) if re.match(r"[\w.]+(: |$)", line)), "")


def _without_ids(line: str) -> str:
    return re.sub(r"^\S+ |\b(id|ms)=\S+ ?", "", line.strip())[:200]


def table(world: World, moments: dict[str, Figures], samples: list[Figures]) -> str:
    """Return all figures as text."""
    parts = [
        _moments(moments),
        _roles(world.tally),
        _summary(world.tally, samples),
        _violations(world.tally),
    ]
    return "\n\n".join(parts)


def _moments(moments: dict[str, Figures]) -> str:
    columns = ["resident_mib", "descriptors", "threads", "children", "connections", *EMPTY, "cancelled", "log_dropped"]
    rows = [["after", *columns]]
    rows += [[name, *(f"{getattr(figures, column):g}" for column in columns)] for name, figures in moments.items()]
    return _aligned(rows)


def _roles(tally: Tally) -> str:
    rows = [["role", "scenes", "p50 ms", "p99 ms", "most ms", "what happened"]]
    for role in sorted({who for who, _ in tally.counts}):
        if role.startswith("probe"):
            continue
        counts = {what: number for (who, what), number in sorted(tally.counts.items()) if who == role}
        scenes = counts.pop("scenes", 0)
        happened = ", ".join(f"{what} {number}" for what, number in counts.items())
        rows.append([role, str(scenes), *_times(tally.durations_s.get(role, [])), happened])
    return _aligned(rows)


def _times(seconds: list[float]) -> list[str]:
    if len(seconds) < 2:
        return ["", "", ""]
    return [f"{value * 1000:.0f}" for value in (median(seconds), quantiles(seconds, n=100)[98], max(seconds))]


def _summary(tally: Tally, samples: list[Figures]) -> str:
    answered, cancelled = tally.total("answered"), tally.total("cancelled")
    probes = sum(count for (who, what), count in tally.counts.items() if who.startswith("probe"))
    busy = [s for s in samples if s.phase == "main"]
    share = processor_share(busy[0], busy[-1]) if len(busy) > 1 else 0.0
    return (
        f"calls answered {answered} (of these {probes} probes), cancelled {cancelled}"
        f" ({cancelled / max(answered + cancelled, 1):.0%}), server {share:.0%} of a core in the long part,"
        f" resident {growth_mib(samples):+.1f} MiB from its middle to its last third,"
        f" slowest scrape {slowest_scrape_s(samples):.2f} s, this process late by up to"
        f" {max((s.own_lag_s for s in samples), default=0):.2f} s"
    )


def _violations(tally: Tally) -> str:
    rows = [f"{number:6}  {text}" for text, number in tally.violations.most_common()]
    return "no violation" if not rows else "\n".join([f"{len(rows)} kinds of violation:", *rows])


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
