"""`python -m tests.bench.websocket`: the echo call over WebSocket, beside a bare WebSocket echo under Hypercorn-Trio.

16 connections, first with one call in flight on each, then with 16 on each. No SDK peer speaks WebSocket, so the Go
SDK's HTTP stands beside them: its rate for each core second of the server is compared with ours.
"""

from __future__ import annotations

import argparse

from tests.bench import report, rounds, servers

LEAST = {1: 0.65, 16: 0.5}


def targets(samples: rounds.Samples, in_flight: int) -> list[report.Target]:
    """What was wanted, for the servers that took part."""
    ours, bare, go = servers.MCPD_WEBSOCKET.name, servers.BARE_WEBSOCKET.name, servers.GO_SDK.name
    found = []
    if ours in samples and bare in samples:
        ratio = report.rate_ratio(samples, ours, bare).median
        found.append(report.Target(f"messages/s, mcpd / bare, {in_flight} in flight", ratio, least=LEAST[in_flight]))
    if ours in samples and go in samples:
        pairs = report.core_ratio(samples, ours, go)
        what = f"calls per core second, mcpd WebSocket ({in_flight} in flight) / Go SDK HTTP"
        found.append(report.Target(what, pairs.median, least=1.0))
    return found


def take(running: list[servers.Running], options: argparse.Namespace, in_flight: int) -> rounds.Samples:
    """All rounds with this many calls in flight on each WebSocket."""
    by_name = {one.name: one for one in running}
    return rounds.alternate(
        list(by_name), options.rounds, lambda name: rounds.generate(by_name[name], options, in_flight)
    )


def main() -> None:
    """Measure both loads and publish."""
    options = rounds.load_parser(__doc__ or "", "websocket").parse_args()
    rows = rounds.chosen([servers.MCPD_WEBSOCKET, servers.BARE_WEBSOCKET, servers.GO_SDK], options.only)
    with servers.open_servers(rows) as running:
        taken = {in_flight: take(running, options, in_flight) for in_flight in LEAST}
    ours = servers.MCPD_WEBSOCKET.name
    text = "\n\n".join(
        f"{in_flight} in flight per WebSocket (HTTP: always 1)\n"
        + report.table(report.LOAD_HEADER, report.load_rows(samples, ours))
        for in_flight, samples in taken.items()
    )
    aims = [target for in_flight, samples in taken.items() for target in targets(samples, in_flight)]
    title = f"WebSocket: tools/call echo, {options.connections} connections, {options.rounds} rounds"
    data = {"rounds": options.rounds, "seconds": options.seconds, "connections": options.connections}
    report.publish(title, text, aims, {**data, "samples": taken}, options.json)


if __name__ == "__main__":
    main()
