"""`python -m tests.bench.start_memory`: cold start to the first answered call, and resident memory.

Start: from creating the process to the end of its first correct reply, knocking every millisecond; one start before
the counted rounds fills the file cache and writes byte code, so "cold" means the process, not the disk. Memory: of
the whole process tree, one second after the first reply (idle) and after a load of `--seconds` on 16 connections.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tests.bench import call, install, machine, report, rounds, servers

Row = dict[str, float]


def start_once(server: servers.Server) -> Row:
    """Start a server, take the time to its first reply, and stop it."""
    with tempfile.TemporaryDirectory(prefix="mcpd-bench-") as folder:
        port, log = servers.free_port(), Path(folder) / "log"
        begin = time.perf_counter()
        process = servers.spawn(server, port, str(Path(folder) / "data"), log)
        try:
            servers.wait_answered(server, process, port, log)
            return {"start_s": time.perf_counter() - begin, "start_cpu_s": machine.processor_s(process.pid)}
        finally:
            servers.stop(process)


def memory(server: servers.Server, options: argparse.Namespace) -> Row:
    """Resident and proportional MiB, idle and after a load."""
    with servers.open_server(server) as running:
        pid = running.pid
        time.sleep(1)
        idle = {"idle_mib": machine.resident_mib(pid), "idle_pss_mib": machine.proportional_mib(pid)}
        rounds.generate(running, options)
        processes = len(machine.tree(pid))
        loaded = {"loaded_mib": machine.resident_mib(pid), "loaded_pss_mib": machine.proportional_mib(pid)}
        return {**idle, **loaded, "processes": processes}


def able(rows: list[servers.Server]) -> dict[str, servers.Server]:
    """The servers that start at all, each started once (uncounted)."""
    found = {}
    for server in rows:
        try:
            start_once(server)
            found[server.name] = server
        except (install.Missing, call.WrongReply) as reason:
            print(f"left out: {server.name}: {reason}")
    return found


def row(name: str, starts: rounds.Samples, memories: dict[str, Row]) -> list[str]:
    """One line of the table."""
    low, middle, high = statistics.quantiles(rounds.values(starts[name], "start_s"), n=4, method="inclusive")
    used = memories[name]
    return [
        name,
        f"{middle * 1e3:,.0f} ({low * 1e3:,.0f}-{high * 1e3:,.0f})",
        f"{rounds.median(starts[name], 'start_cpu_s') * 1e3:,.0f}",
        f"{used['idle_mib']:.0f}",
        f"{used['loaded_mib']:.0f}",
        f"{used['loaded_pss_mib']:.0f}",
        f"{used['processes']:.0f}",
    ]


def targets(starts: rounds.Samples, memories: dict[str, Row]) -> list[report.Target]:
    """Below the Python SDK's, in all three."""
    ours, theirs = servers.MCPD.name, servers.PYTHON_SDK.name
    if ours not in starts or theirs not in starts:
        return []
    pairs = rounds.Ratio.of(rounds.values(starts[ours], "start_s"), rounds.values(starts[theirs], "start_s"))
    shares = {key: memories[ours][key] / memories[theirs][key] for key in ("idle_mib", "loaded_mib")}
    return [
        report.Target("cold start, mcpd / Python SDK", pairs.median, most=1.0),
        report.Target("resident memory idle, mcpd / Python SDK", shares["idle_mib"], most=1.0),
        report.Target("resident memory after load, mcpd / Python SDK", shares["loaded_mib"], most=1.0),
    ]


HEADER = ["server", "start ms (quartiles)", "start CPU ms", "idle MiB", "loaded MiB", "loaded PSS MiB", "processes"]


def main() -> None:
    """Measure and publish."""
    made = rounds.load_parser(__doc__ or "", "start_memory")
    made.set_defaults(seconds=5.0)
    options = made.parse_args()
    rows = able(rounds.chosen(servers.HTTP, options.only))
    starts = rounds.alternate(list(rows), options.rounds, lambda name: start_once(rows[name]))
    memories = {name: memory(server, options) for name, server in rows.items()}
    text = report.table(HEADER, [row(name, starts, memories) for name in rows])
    data = {"rounds": options.rounds, "starts": starts, "memory": memories}
    report.publish("Cold start and memory", text, targets(starts, memories), data, options.json)


if __name__ == "__main__":
    main()
