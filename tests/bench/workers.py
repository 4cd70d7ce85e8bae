"""`python -m tests.bench.workers`: the echo call over HTTP, `mcpd serve --workers N` beside one process.

Both may use all cores, which the generator uses too on a machine of two, so calls per second of *server processor time*
are what is compared: the tree of processes, supervisor included. How busy the cores were, and how evenly connections
spread over the workers, is told besides: `spread` opens connections one after the other, a call on each, and looks in
/proc whose they are.

Called by: `just bench-workers`. Law: only ratios within a round are compared.

Sources: proc(5): /proc/net/tcp, /proc/PID/fd.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

from tests.bench import lanes, machine, report, rounds, servers

LEAST = 0.95
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


def main() -> None:
    """Measure and publish."""
    parser = rounds.load_parser(__doc__ or "", "workers")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    row = servers.mcpd_with_workers(options.workers)
    with servers.open_servers([servers.ANYWHERE, row]) as running:
        by_name = {one.name: one for one in running}
        samples = rounds.alternate(list(by_name), options.rounds, lambda name: rounds.generate(by_name[name], options))
        spreads = [spread(by_name[row.name], options.connections) for _ in range(options.rounds)]
    text = report.table(report.LOAD_HEADER, report.load_rows(samples, row.name))
    busy = {
        name: rounds.median(taken, "rate") * rounds.median(taken, "server_us") / 1e6 for name, taken in samples.items()
    }
    shares = [counts[0] / max(sum(counts), 1) for counts in spreads]
    text += f"\n\ncores that the servers used: {', '.join(f'{name} {value:.2f}' for name, value in busy.items())}"
    text += f"\nthe busiest worker's share of {options.connections} connections: median {median(shares):.2f}, {spreads}"
    ratio = report.core_ratio(samples, row.name, servers.ANYWHERE.name)
    targets = [report.Target(f"calls per second of processor time, {row.name} / one", ratio.median, least=LEAST)]
    data = {"rounds": options.rounds, "seconds": options.seconds, "spreads": spreads, "samples": samples}
    report.publish(f"HTTP: tools/call echo, {options.workers} workers", text, targets, data, options.json)


if __name__ == "__main__":
    main()
