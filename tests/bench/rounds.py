"""Alternated rounds, and the ratios that come out of them.

Called by: the benchmarks. `alternate` lets each of a set of servers take its turn, round after round, every second
round backwards; `Ratio` compares two of them *within* each round and takes the median of those pairs. A slow minute
of the machine thus weighs on both sides of a ratio, and the spread says how far to trust it.

Law: no ratio from fewer than `LEAST_ROUNDS` rounds is called a result; `report` marks it as a trial.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import call, machine, servers

LEAST_ROUNDS = 9
GENERATOR_CORE = 0

Sample = dict[str, float]
Samples = dict[str, list[Sample]]


@dataclass(frozen=True)
class Ratio:
    """The median of pairwise ratios; `low` and `high` are the quartiles, `least` and `most` the extremes."""

    median: float
    low: float
    high: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Ratio:
        """Pair the n-th with the n-th. Both lists are of one length, at least 2."""
        pairs = sorted(our / their for our, their in zip(ours, theirs, strict=True))
        low, median, high = statistics.quantiles(pairs, n=4, method="inclusive")
        return cls(median, low, high, pairs[0], pairs[-1], len(pairs))


def values(samples: list[Sample], key: str) -> list[float]:
    """One member of each sample."""
    return [sample[key] for sample in samples]


def median(samples: list[Sample], key: str) -> float:
    """The median of one member."""
    return statistics.median(values(samples, key))


def alternate(names: list[str], rounds: int, measure: Callable[[str], Sample]) -> Samples:
    """`rounds` rounds of `measure(name)` in turn, forwards and backwards; progress goes to stderr."""
    samples: Samples = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            samples[name].append(measure(name))
        print(f"round {turn + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
    print(" " * 30, end="\r", file=sys.stderr)
    return samples


def generate(running: servers.Running, options: argparse.Namespace, in_flight: int = 1) -> Sample:
    """Run the load generator against one server for one turn.

    Raises:
        call.WrongReply: a reply was not the echo; the generator's words are passed on.
    """
    server = running.server
    arguments = [
        *(sys.executable, "-m", "tests.bench.generator", str(running.port), "--pid", str(running.pid)),
        *("--transport", server.transport, "--path", server.path, "--connections", str(options.connections)),
        *("--in-flight", str(in_flight), "--seconds", str(options.seconds), "--warmup", str(options.warmup)),
        *(["--mirrored"] if server.mirrored else []),
    ]
    with machine.on_core(GENERATOR_CORE):
        process = subprocess.Popen(
            arguments, cwd=servers.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    output, errors = process.communicate()
    if process.returncode:
        raise call.WrongReply(f"{running.name}: {errors.strip().splitlines()[-1]}")
    sample: Sample = json.loads(output)
    return sample


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """The options that every benchmark has. `name` names its JSON file."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help=f"below {LEAST_ROUNDS} is only a trial")
    made.add_argument("--only", nargs="+", metavar="WORD", help="only servers whose name contains one of these")
    made.add_argument("--json", default=f"tests/bench/results/{name}.json", metavar="FILE", help="where the JSON goes")
    return made


def load_parser(description: str, name: str) -> argparse.ArgumentParser:
    """The same, with the load generator's options. All of `just bench` take them, needed or not."""
    made = parser(description, name)
    made.add_argument("--seconds", type=float, default=2.0, help="counted time per server and round")
    made.add_argument("--warmup", type=float, default=0.3)
    made.add_argument("--connections", type=int, default=16)
    return made


def chosen(rows: list[servers.Server], only: list[str] | None) -> list[servers.Server]:
    """The rows that `--only` asks for."""
    return [row for row in rows if not only or any(word.lower() in row.name.lower() for word in only)]
