"""Client libraries side by side, each in a process of its own on one core: what their benchmarks share.

Called by: `redis_client`, `elasticsearch`. A load program (`peers/*_load.py`) is told client, server, load and seconds,
and prints one sample as JSON: `rate`, `us` of processor time for each, `mib`. `OURS` is the row that others are
compared with.
"""

from __future__ import annotations

import json
import subprocess

from tests.bench import install, machine, rounds

OURS = "mcpd"


def measure(python: str, program: str, words: list[str], core: int) -> rounds.Sample:
    """Run a load program with one client for one turn. Raises: SystemExit with the program's last words."""
    with machine.on_core(core):
        done = subprocess.run(
            [python, f"tests/bench/peers/{program}", *words],
            cwd=install.PEERS.parents[2],
            env={"PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    sample: rounds.Sample = json.loads(done.stdout)
    return sample


def figures(taken: list[rounds.Sample]) -> list[str]:
    """Return the medians of a row: how many a second, processor time for each in us, memory in MiB."""
    rate, us, mib = (rounds.median(taken, name) for name in ("rate", "us", "mib"))
    return [f"{rate:,.0f}", f"{us:,.1f}", f"{mib:.0f}"]
