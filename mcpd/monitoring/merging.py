"""The metrics of several processes as those of one server: values that travel, and how they are added up.

Counters and histograms are summed, and those of a process that has ended stay (`lasting`), so that no count ever goes
back. Gauges are summed too, but for those that each process reads from the same store, of which the largest holds, and
the start of the server, which is that of its oldest process.

Called by: `monitoring.metrics` (a process's own values, and the text of all), `supervisor` (the sum). Pure: values in,
values out. Deliberately not: prometheus_client's multiprocess mode, which knows neither collectors of one's own nor
exemplars, and writes a file for each process.

Sources: OpenMetrics 1.0 (counters never fall).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

LARGEST: Final = frozenset({"mcpd_tasks", "mcpd_build"})
"""What every process reads from the same place."""
SMALLEST: Final = frozenset({"process_start_time_seconds"})
_LASTING: Final = ("counter", "histogram")

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels of one sample."""


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of one process: its samples in the order of the text format."""

    name: str
    kind: str
    documentation: str
    samples: tuple[tuple[Key, float], ...]


def merge(reports: Iterable[Sequence[Family]]) -> list[Family]:
    """Add up what several processes report."""
    first: dict[str, Family] = {}
    values: dict[str, dict[Key, float]] = {}
    for report in reports:
        for family in report:
            first.setdefault(family.name, family)
            _add(values.setdefault(family.name, {}), family)
    return [
        Family(name, family.kind, family.documentation, tuple(values[name].items())) for name, family in first.items()
    ]


def _add(values: dict[Key, float], family: Family) -> None:
    for key, value in family.samples:
        before = values.get(key)
        values[key] = value if before is None else _both(family.name, before, value)


def _both(name: str, one: float, other: float) -> float:
    if name in LARGEST:
        return max(one, other)
    return min(one, other) if name in SMALLEST else one + other


def lasting(report: Iterable[Family]) -> list[Family]:
    """Return what remains true of a process that has ended: what it has counted."""
    return [family for family in report if family.kind in _LASTING]


def count(name: str, value: float) -> Family:
    """Return a counter without labels; `name` is without `_total`."""
    return Family(name, "counter", "", ((((f"{name}_total"), ()), value),))
