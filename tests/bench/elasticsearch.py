"""`python -m tests.bench.elasticsearch`: our Elasticsearch client beside bare httpx and elasticsearch-py, taking turns.

A round is every client under one load, each in a process of its own on one core, the server on the other. Loads: index
one document by 1 and 16 tasks, search by 1 and 16, two searches in one `_msearch`, 5,000 documents by `_bulk`. What
counts is the processor time for each request (for each document, with `_bulk`): how fast they are answered is the
server's. elasticsearch-py has two ways to speak HTTP, aiohttp and httpx; both are shown.

Called by: `just bench-elasticsearch`. Law: only ratios within a round are compared.
"""

from __future__ import annotations

import sys
from functools import partial

from tests.bench import clients, install, machine, report, rounds
from tests.bench.clients import OURS
from tests.bench.rounds import Ratio
from tests.elasticsearch_server import ElasticsearchServer, serving

LOADS = ("index-1", "index-16", "search-1", "search-16", "msearch-1", "bulk")
BARE = "httpx"
PEERS = ("elasticsearch-py+aiohttp", "elasticsearch-py+httpx")
SERVER_CORE, CLIENT_CORE = 1, 0
MOST = 1.15
"""Of the processor time, ours to bare httpx doing the same."""

DOCUMENTS = 5_000


def interpreters() -> dict[str, str]:
    """Return client -> the Python that has it; peers that cannot be installed are left out, by name."""
    found = {OURS: sys.executable, BARE: sys.executable}
    try:
        found |= dict.fromkeys(PEERS, install.python_peer("elasticsearch_py"))
    except install.Missing as reason:
        print(f"left out: elasticsearch-py: {reason}", file=sys.stderr)
    return found


def prepare(server: ElasticsearchServer) -> None:
    """Make the index that everybody writes to and searches."""
    fields = {"text": {"type": "text"}, "number": {"type": "integer"}}
    settings = {"number_of_shards": 1, "number_of_replicas": 0}
    assert server.ask("PUT", "/bench", {"settings": settings, "mappings": {"properties": fields}})[0] == 200
    for number in range(20):
        body = {"text": "seven eight " * 20, "number": number}
        assert server.ask("PUT", f"/bench/_doc/p{number}?refresh=true", body)[0] == 201


def measure(pythons: dict[str, str], url: str, load: str, seconds: float, name: str) -> rounds.Sample:
    """Run one client for one turn."""
    return clients.measure(pythons[name], "elasticsearch_load.py", [name, url, load, str(seconds)], CLIENT_CORE)


def row(load: str, name: str, samples: rounds.Samples) -> list[str]:
    """One line of the table."""
    compared = "" if name == OURS else report.ratio_text(ratio(samples, name))
    return [f"{load} {name}", *clients.figures(samples[name]), compared]


def ratio(samples: rounds.Samples, name: str) -> Ratio:
    """Return how much processor time ours takes for one of `name`'s."""
    return Ratio.of(rounds.values(samples[OURS], "us"), rounds.values(samples[name], "us"))


def main() -> None:
    """Measure, print the table and the targets, write the JSON."""
    parser = rounds.parser(__doc__ or "", "elasticsearch")
    parser.add_argument("--seconds", type=float, default=2.0, help="counted time per client, load and round")
    options = parser.parse_args()
    pythons = interpreters()
    found: dict[str, rounds.Samples] = {}
    with machine.on_core(SERVER_CORE), serving() as server:
        prepare(server)
        for load in [load for load in LOADS if not options.only or load in options.only]:
            turn = partial(measure, pythons, server.url, load, options.seconds)
            found[load] = rounds.alternate(list(pythons), options.rounds, turn)
    rows = [row(load, name, samples) for load, samples in found.items() for name in samples]
    text = report.table(["load and client", "requests/s", "CPU us", "MiB", "CPU ours / its"], rows)
    targets = [
        report.Target(f"{load}: processor time, ours / bare httpx", ratio(samples, BARE).median, most=MOST)
        for load, samples in found.items()
    ]
    report.publish("Elasticsearch clients", text, targets, {"rounds": options.rounds, "samples": found}, options.json)


if __name__ == "__main__":
    main()
