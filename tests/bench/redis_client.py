"""`python -m tests.bench.redis_client`: our Redis client beside redis-py and coredis, on one server, taking turns.

A round is every client under one load, each in a process of its own on one core, the server on the other. Loads: GET
and SET of 100 bytes by 1, 16 and 64 tasks, 100 GETs in one pipeline, a GET of 1 MB.

Called by: `just bench-redis`. Law: only ratios within a round are compared.
"""

from __future__ import annotations

import sys
from functools import partial

from tests.bench import clients, install, machine, report, rounds
from tests.bench.clients import OURS
from tests.bench.rounds import Ratio
from tests.redis_servers import serving

LOADS = ("get-1", "get-16", "get-64", "set-16", "pipeline", "big")
SERVER_CORE, CLIENT_CORE = 1, 0
WANTED = {"get-1": 1.0, "get-16": 3.0, "set-16": 3.0}
"""Load -> the least ratio to redis-py with hiredis."""


def interpreters() -> dict[str, str]:
    """Return client -> the Python that has it; peers that cannot be installed are left out, by name."""
    found = {OURS: sys.executable}
    for name, peer in (("redis-py", "redis_py"), ("redis-py+hiredis", "redis_py_hiredis"), ("coredis", "coredis")):
        try:
            found[name] = install.python_peer(peer)
        except install.Missing as reason:
            print(f"left out: {name}: {reason}", file=sys.stderr)
    return found


def measure(pythons: dict[str, str], port: int, load: str, seconds: float, name: str) -> rounds.Sample:
    """Run one client for one turn."""
    return clients.measure(pythons[name], "redis_load.py", [name, str(port), load, str(seconds)], CLIENT_CORE)


def row(load: str, name: str, samples: rounds.Samples) -> list[str]:
    """One line of the table."""
    compared = "" if name == OURS else report.ratio_text(ratio(samples, name))
    return [f"{load} {name}", *clients.figures(samples[name]), compared]


def ratio(samples: rounds.Samples, name: str) -> Ratio:
    """Return how many of our commands there are for one of `name`'s."""
    return Ratio.of(rounds.values(samples[OURS], "rate"), rounds.values(samples[name], "rate"))


def main() -> None:
    """Measure, print the table and the targets, write the JSON."""
    parser = rounds.parser(__doc__ or "", "redis_client")
    parser.add_argument("--seconds", type=float, default=1.0, help="counted time per client, load and round")
    options = parser.parse_args()
    pythons = interpreters()
    found: dict[str, rounds.Samples] = {}
    with machine.on_core(SERVER_CORE), serving("redis-7") as server:
        for load in [load for load in LOADS if not options.only or load in options.only]:
            turn = partial(measure, pythons, server.port, load, options.seconds)
            found[load] = rounds.alternate(list(pythons), options.rounds, turn)
    rows = [row(load, name, samples) for load, samples in found.items() for name in samples]
    text = report.table(["load and client", "commands/s", "CPU us", "MiB", "rate ours / it"], rows)
    rival = "redis-py+hiredis"
    targets = [
        report.Target(f"{load}: rate, ours / {rival}", ratio(found[load], rival).median, least=least)
        for load, least in WANTED.items()
        if load in found and rival in found[load]
    ]
    report.publish("Redis clients", text, targets, {"rounds": options.rounds, "samples": found}, options.json)


if __name__ == "__main__":
    main()
