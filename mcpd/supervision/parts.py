"""The part of a server's limits that each of its workers keeps.

What a process counts by itself is divided, rounded up: calls and their queue, connections, listen streams, threads,
processes for tools, and the cache. What bounds one message, one connection, one session or what all share (the store's
tasks and sessions) is everybody's as it is. Rates are divided where they are counted (`Rate.among`).

Called by: `supervisor`. Pure. Deliberately not: any limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mcpd.config import Config, Limits

DIVIDED: Final = (
    "max_calls",
    "max_queued_calls",
    "max_connections",
    "max_connections_per_address",
    "max_listen_streams",
    "max_threads",
    "max_abandoned_threads",
    "max_worker_processes",
    "max_cache_bytes",
)


def part_of(config: Config) -> Config:
    """Return the configuration of one worker of `config.server.workers`."""
    number = config.server.workers
    shares = {name: -(-getattr(config.limits, name) // number) for name in DIVIDED}
    shares["worker_processes"] = min(config.limits.worker_processes, shares["max_worker_processes"])
    limits: Limits = replace(config.limits, **shares)
    return replace(config, limits=limits, origins=dict(config.origins))
