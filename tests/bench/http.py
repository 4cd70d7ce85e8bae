"""`python -m tests.bench.http`: the echo call over HTTP, mcpd beside the bare limits and every peer.

2026-07-28, JSON reply, 16 keep-alive connections with one call in flight each, one process per server on one core.
With nine rounds of two seconds this takes about four minutes on an otherwise idle machine. The Python peers stand there
twice, at their best and with their defaults; the targets are about their best.
"""

from __future__ import annotations

from tests.bench import report, rounds, servers

LEAST = {servers.BARE_ASGI.name: 0.85, servers.PYTHON_SDK.name: 1.8, servers.FASTMCP.name: 3.0}


def targets(samples: rounds.Samples) -> list[report.Target]:
    """What was wanted, for the servers that took part."""
    ours = servers.MCPD.name
    if ours not in samples:
        return []
    return [
        report.Target(f"calls/s, mcpd / {name}", report.rate_ratio(samples, ours, name).median, least=least)
        for name, least in LEAST.items()
        if name in samples
    ]


def main() -> None:
    """Measure and publish."""
    options = rounds.load_parser(__doc__ or "", "http").parse_args()
    with servers.open_servers(rounds.chosen([*servers.HTTP, *servers.DEFAULTS, servers.NULL], options.only)) as running:
        by_name = {one.name: one for one in running}
        samples = rounds.alternate(list(by_name), options.rounds, lambda name: rounds.generate(by_name[name], options))
    text = report.table(report.LOAD_HEADER, report.load_rows(samples, servers.MCPD.name))
    title = (
        f"HTTP: tools/call echo, {options.connections} connections, {options.rounds} rounds of {options.seconds:g} s"
    )
    data = {"rounds": options.rounds, "seconds": options.seconds, "connections": options.connections}
    report.publish(title, text, targets(samples), {**data, "samples": samples}, options.json)


if __name__ == "__main__":
    main()
