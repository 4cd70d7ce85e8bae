"""The table on the terminal, the targets, and the JSON file.

Called by: the benchmarks, at their end. A target is printed as met or missed and never changes the exit code: a busy
machine is not a defect. The JSON holds every sample of every round, so that other statistics can be made of it later.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import machine, rounds
from tests.bench.rounds import Ratio

GENERATOR_BUSY = 0.8


@dataclass(frozen=True)
class Target:
    """A wanted ratio (or value): `least` and `most` bound it."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """True when the value lies within its bounds."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def line(self) -> str:
        """One line of the report."""
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return f"  {'met   ' if self.met else 'MISSED'}  {self.what}: {self.value:.3g} (wanted {bound})"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, the first flush left, the others flush right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines)


def ratio_text(ratio: Ratio) -> str:
    """Median and quartiles, e.g. `1.83 (1.79-1.90)`."""
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def load_rows(samples: rounds.Samples, ours: str) -> list[list[str]]:
    """A row per server: rate, latency, processor time, and the two ratios of `ours` to it, with their quartiles."""
    return [
        [
            name,
            f"{rounds.median(taken, 'rate'):,.0f}",
            f"{rounds.median(taken, 'p50_ms'):.2f}",
            f"{rounds.median(taken, 'p99_ms'):.2f}",
            f"{rounds.median(taken, 'server_us'):,.0f}",
            *_compared(samples, ours, name),
            _generator(taken),
        ]
        for name, taken in samples.items()
    ]


def _compared(samples: rounds.Samples, ours: str, name: str) -> list[str]:
    if ours not in samples or name == ours:
        return ["", ""]
    return [ratio_text(rate_ratio(samples, ours, name)), ratio_text(core_ratio(samples, ours, name))]


def _generator(taken: list[rounds.Sample]) -> str:
    busy, cost = rounds.median(taken, "busy"), rounds.median(taken, "generator_us")
    return f"{busy:.0%} {cost:.0f} us{' TOO BUSY' if busy > GENERATOR_BUSY else ''}"


LOAD_HEADER = ["server", "calls/s", "p50 ms", "p99 ms", "CPU us/call", "rate ours / it", "per core second", "generator"]


def rate_ratio(samples: rounds.Samples, ours: str, theirs: str) -> Ratio:
    """How many of our calls there are for one of theirs."""
    return Ratio.of(rounds.values(samples[ours], "rate"), rounds.values(samples[theirs], "rate"))


def core_ratio(samples: rounds.Samples, ours: str, theirs: str) -> Ratio:
    """The same for one second of processor time each: steadier than the rate on a machine with other work to do."""
    return Ratio.of(rounds.values(samples[theirs], "server_us"), rounds.values(samples[ours], "server_us"))


def publish(title: str, text: str, targets: list[Target], data: dict[str, Any], file: str) -> None:
    """Print, and write `data` with the machine's description to `file`."""
    trial = data.get("rounds", rounds.LEAST_ROUNDS) < rounds.LEAST_ROUNDS
    print(f"\n{title}{' (a trial: too few rounds for a result)' if trial else ''}\n\n{text}")
    if targets:
        print("\ntargets\n" + "\n".join(target.line() for target in targets))
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    aims = [{**asdict(target), "met": target.met} for target in targets]
    path.write_text(
        json.dumps({"title": title, "machine": machine.describe(), "targets": aims, **data}, indent=1) + "\n"
    )
    print(f"\n{path}")
