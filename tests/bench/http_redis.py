"""`python -m tests.bench.http_redis`: the echo call over HTTP, mcpd with Redis behind it beside mcpd without.

The load of `http`: 2026-07-28, JSON reply, 16 keep-alive connections. A stateless call sends no command to Redis
(`tests/replicas/test_quiet_calls.py` has MONITOR as its witness), so the two should be alike: what Redis costs then is
what goes on beside the calls. The commands that Redis has got while each of the two was measured are told, too.

Called by: `just bench-with-redis`. Law: only ratios within a round are compared.
"""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack

from tests.bench import machine, report, rounds, servers
from tests.redis_servers import RedisServer
from tests.redis_servers import serving as redis_serving

LEAST = 0.97
"""Of the rate, with Redis to without; both measure the same code path."""


def commands(redis: RedisServer) -> int:
    """Return how many commands the server has got so far, this one among them."""
    found = re.search(rb"total_commands_processed:(\d+)", redis.ask("INFO", "stats"))
    assert found is not None
    return int(found[1])


def measure(redis: RedisServer, running: servers.Running, options: argparse.Namespace) -> rounds.Sample:
    """Run one server for one turn, and count what Redis gets meanwhile from all who are connected."""
    before = commands(redis)
    sample = rounds.generate(running, options)
    return {**sample, "redis_commands": commands(redis) - before - 1}


def main() -> None:
    """Measure and publish."""
    options = rounds.load_parser(__doc__ or "", "http_redis").parse_args()
    with ExitStack() as stack:
        with machine.on_core(rounds.GENERATOR_CORE):
            redis = stack.enter_context(redis_serving("redis-7"))
        rows = [servers.MCPD, servers.mcpd_with_redis(redis.url)]
        by_name = {one.name: one for one in stack.enter_context(servers.open_servers(rows))}
        samples = rounds.alternate(list(by_name), options.rounds, lambda name: measure(redis, by_name[name], options))
    ours = servers.mcpd_with_redis("").name
    text = report.table(report.LOAD_HEADER, report.load_rows(samples, ours))
    got = {name: rounds.median(taken, "redis_commands") for name, taken in samples.items()}
    text += f"\n\ncommands that Redis got in a turn: {', '.join(f'{name} {value:.0f}' for name, value in got.items())}"
    ratio = report.rate_ratio(samples, ours, servers.MCPD.name)
    targets = [report.Target(f"calls/s, {ours} / {servers.MCPD.name}", ratio.median, least=LEAST)]
    data = {"rounds": options.rounds, "seconds": options.seconds, "connections": options.connections}
    report.publish(
        "HTTP: tools/call echo, with Redis and without", text, targets, {**data, "samples": samples}, options.json
    )


if __name__ == "__main__":
    main()
