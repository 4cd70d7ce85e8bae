"""`python -m tests.bench.workers`: the echo call over HTTP, `mcpd serve --workers N` beside one process.

All may use all cores, which the generator uses too on a machine of two, so calls per second of *server processor time*
are what is compared: the tree of processes, supervisor included. Two cores that work at once may do less each than one
alone, whoever they work for (shared caches, clocks, threads of one core): N servers that know nothing of each other,
each with its part of the connections, say how much less, and workers are compared with them as well.

How busy the cores were, and how evenly connections spread over the workers, is told besides: `spread` opens connections
one after the other, a call on each, and looks in /proc whose they are.

Called by: `just bench-workers`. Law: only ratios within a round are compared.

Sources: proc(5): /proc/net/tcp, /proc/PID/fd.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

from tests.bench import lanes, machine, report, rounds, servers

LEAST = 0.95
APART = "mcpd, apart"
"""As many processes as there are workers, each a server of its own."""
ESTABLISHED = "01"


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    found = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(entry.readlink().name.removeprefix("socket:[").rstrip("]"))
    return found


def connections_at(port: int) -> set[str]:
    """Return the inodes of the established connections that a server at this port has accepted."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == ESTABLISHED and int(row[1].rpartition(":")[2], 16) == port}


def spread(running: servers.Running, connections: int) -> list[int]:
    """Open connections with a call on each; return how many each process has got, the busiest first, none left out."""
    with ExitStack() as opened:
        for _ in range(connections):
            opened.callback(lanes.HttpLane(running.port, running.server.path).socket.close)
        theirs, counts = connections_at(running.port), Counter[int]()
        for pid in machine.tree(running.pid)[1:] or [running.pid]:
            counts[pid] = len(sockets_of(pid) & theirs)
    return sorted(counts.values(), reverse=True)


def together(running: Sequence[servers.Running], options: argparse.Namespace) -> rounds.Sample:
    """Load some servers at once, each with its part of the connections; return what they did all together."""
    part = argparse.Namespace(**{**vars(options), "connections": options.connections // len(running)})
    with ThreadPoolExecutor(len(running)) as pool:
        samples = list(pool.map(lambda one: rounds.generate(one, part), running))
    calls = sum(sample["calls"] for sample in samples)
    weighted = {
        key: sum(sample[key] * sample["calls"] for sample in samples) / calls
        for key in ("server_us", "generator_us", "p50_ms", "p99_ms", "seconds")
    }
    return {**weighted, "calls": calls, **{key: sum(one[key] for one in samples) for key in ("rate", "busy")}}


def main() -> None:
    """Measure and publish."""
    parser = rounds.load_parser(__doc__ or "", "workers")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    row, apart = servers.mcpd_with_workers(options.workers), servers.mcpd_apart(options.workers)
    with servers.open_servers([servers.ANYWHERE, row, *apart]) as running:
        by_name = {one.name: one for one in running[:2]}

        def measure(name: str) -> rounds.Sample:
            return rounds.generate(by_name[name], options) if name in by_name else together(running[2:], options)

        samples = rounds.alternate([*by_name, APART], options.rounds, measure)
        spreads = [spread(by_name[row.name], options.connections) for _ in range(options.rounds)]
    text = report.table(report.LOAD_HEADER, report.load_rows(samples, row.name))
    busy = {
        name: rounds.median(taken, "rate") * rounds.median(taken, "server_us") / 1e6 for name, taken in samples.items()
    }
    shares = [counts[0] / max(sum(counts), 1) for counts in spreads]
    text += f"\n\ncores that the servers used: {', '.join(f'{name} {value:.2f}' for name, value in busy.items())}"
    text += f"\nthe busiest worker's share of {options.connections} connections: median {median(shares):.2f}, {spreads}"
    ratio = report.core_ratio(samples, row.name, servers.ANYWHERE.name)
    beside = report.core_ratio(samples, row.name, APART)
    targets = [
        report.Target(f"calls per second of processor time, {row.name} / one", ratio.median, least=LEAST),
        report.Target(f"the same, {row.name} / {APART}", beside.median, least=LEAST),
    ]
    data = {"rounds": options.rounds, "seconds": options.seconds, "spreads": spreads, "samples": samples}
    report.publish(f"HTTP: tools/call echo, {options.workers} workers", text, targets, data, options.json)


if __name__ == "__main__":
    main()
