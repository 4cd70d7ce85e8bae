"""Measuring a site, and the table of a run: what was broken, what each role met, what was acknowledged and lost.

`measure` reads /proc and /metrics of each replica and asks Redis; `compare` says what has not come back to what it was.
Deliberately not: judgements of single calls.

Sources: proc(5); Redis INFO and DBSIZE.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from tests.bench import machine
from tests.bench.report import table
from tests.cancellation.program import get
from tests.chaos.oracle import CLASSES
from tests.chaos.site import Replica, Site
from tests.chaos.world import World

EMPTY = {"calls in flight": "mcpd_calls_in_flight", "subscriptions": "mcpd_subscriptions"}
"""Of these nothing is left when nobody is there."""
OFFSET_MIB = 40.0
"""Resident memory of the replica that lived, more than before the storm: streams and sessions that clients left without
a word are kept for minutes, and the allocator keeps arenas."""
DESCRIPTORS = 6
"""More than before: a probe's connection that is about to be closed, a reader of a database that opened late."""


@dataclass(frozen=True)
class Figures:
    """One replica at one moment."""

    resident_mib: float
    descriptors: int
    threads: int
    left: dict[str, float]


async def measure(replica: Replica) -> Figures:
    """Take the figures of a replica that is alive."""
    assert replica.server is not None
    _, text = await get(replica.server.port, "/metrics")
    found = {name: _sum(text, metric) for name, metric in EMPTY.items()}
    place = Path(f"/proc/{replica.pid}")
    descriptors = sum(1 for entry in (place / "fd").iterdir() if ".db" not in _target(entry))  # noqa: ASYNC240
    return Figures(machine.resident_mib(replica.pid), descriptors, len(list((place / "task").iterdir())), found)  # noqa: ASYNC240


def _target(entry: Path) -> str:
    try:
        return entry.readlink().name
    except FileNotFoundError:
        return ".db"


def _sum(text: str, metric: str) -> float:
    return sum(float(found[1]) for found in re.finditer(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def redis_holds(site: Site) -> tuple[int, int, float]:
    """Return how many keys Redis has, how many of these without an end, and the MiB of all."""
    assert site.redis.server is not None
    found = re.search(rb"used_memory_dataset:(\d+)", site.redis.server.ask("INFO", "memory"))
    counts = [int(site.redis.server.ask(*words)[1:]) for words in (("DBSIZE",), ("EVAL", _ENDLESS, "0"))]
    return counts[0], counts[1], int(found[1]) / (1 << 20) if found else 0.0


_ENDLESS = """
local found = 0
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('PTTL', key) < 0 then found = found + 1 end
end
return found
"""


def compare(world: World, before: list[Figures], after: list[Figures]) -> None:
    """Note what is left, and what the replica that lived has more than before."""
    for number, figures in enumerate(after):
        for name, value in figures.left.items():
            _limit(world, f"replica {number}, after the storm: {name}", value, 0)
        most = before[number].descriptors + DESCRIPTORS
        _limit(world, f"replica {number}, after the storm: descriptors", figures.descriptors, most)
    spared = world.site.spared.number
    grown = after[spared].resident_mib - before[spared].resident_mib
    _limit(world, "MiB that the replica that lived has more", grown, OFFSET_MIB)
    _limit(world, "keys in Redis without an end", redis_holds(world.site)[1], 0)


def _limit(world: World, what: str, value: float, most: float) -> None:
    if value > most:
        world.tally.violation(f"{what}: {value:.0f}, at most {most:.0f}")


def report(world: World, before: list[Figures], after: list[Figures]) -> str:
    """Return the tables of a run."""
    parts = [
        _broken(world),
        _roles(world),
        _ledger(world),
        _delays(world),
        _replicas(world, before, after),
        _violations(world),
    ]
    return "\n\n".join(parts)


def _broken(world: World) -> str:
    history = world.history
    rows = [["SIGKILL of a replica", str(len(history.deaths)), "", ""]]
    for kind in sorted({one.kind for one in history.troubles}):
        spans = [one.end - one.begin for one in history.troubles if one.kind == kind]
        rows.append([f"Redis {kind}", str(len(spans)), f"{median(spans):.1f}", f"{max(spans):.1f}"])
    starts = [seconds for replica in world.site.replicas for seconds in replica.starts_s]
    rows.append(["start of a replica", str(len(starts)), f"{median(starts):.1f}", f"{max(starts):.1f}"])
    return table(["what was done", "times", "median s", "most s"], rows)


def _roles(world: World) -> str:
    header = ["role", "scenes", "answered", *CLASSES, "p50 ms", "p99 ms", "most ms", "besides"]
    rows = [_role(world, name) for name in sorted({who for who, _ in world.tally.counts})]
    return table(header, rows)


def _role(world: World, name: str) -> list[str]:
    counts = Counter({what: number for (who, what), number in world.tally.counts.items() if who == name})
    shown = [str(counts.pop(what, 0)) for what in ("scenes", "answered", *CLASSES)]
    besides = ", ".join(f"{what} {number}" for what, number in sorted(counts.items()))
    return [name, *shown, *_times(world.tally.durations_s.get(name, []), 1000), besides]


def _times(seconds: list[float], unit: int) -> list[str]:
    if len(seconds) < 2:
        return ["", "", ""]
    return [f"{value * unit:.0f}" for value in (median(seconds), quantiles(seconds, n=100)[98], max(seconds))]


def _ledger(world: World) -> str:
    ledger = world.ledger
    rows = [
        [kind, str(ledger.acknowledged[kind]), str(ledger.excused[kind]), str(ledger.lost[kind])]
        for kind in ("sessions", "tasks", "keys", "events")
    ]
    again = sum(ledger.repeated.values())
    text = table(["acknowledged", "times", "lost by the table", "lost without excuse"], rows)
    return f"{text}\nruns of keyed tools beyond the first, each after a death or a loss: {again}"


def _delays(world: World) -> str:
    rows = [[name, str(len(all_s)), *_times(all_s, 1000)] for name, all_s in sorted(world.delays_s.items())]
    return table(["in calm weather", "times", "p50 ms", "p99 ms", "most ms"], rows)


def _replicas(world: World, before: list[Figures], after: list[Figures]) -> str:
    rows = []
    for when, all_figures in (("before", before), ("after", after)):
        for number, one in enumerate(all_figures):
            left = [f"{value:.0f}" for value in one.left.values()]
            rows.append(
                [f"replica {number} {when}", f"{one.resident_mib:.0f}", str(one.descriptors), str(one.threads), *left]
            )
    keys, endless, mib = redis_holds(world.site)
    text = table(["the storm", "MiB", "descriptors", "threads", *EMPTY], rows)
    return f"{text}\nRedis holds {keys} keys of {mib:.1f} MiB, {endless} of them without an end"


def _violations(world: World) -> str:
    found = world.tally.violations.most_common()
    rows = [f"{number:6}  {text}" for text, number in found]
    return "\n".join([f"{len(rows)} kinds of violation:", *rows]) if rows else "no violation"
