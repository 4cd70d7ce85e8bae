"""`python -m tests.soak 40m [--seed N] [--folder F]`: run the soak, print its table, exit with 1 on a violation.

The folder (default `out/soak-SEED`) keeps log, samples and report. The seed is printed before anything happens.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import trio

from tests.soak.course import Plan, run

_UNITS = {"s": 1, "m": 60, "h": 3600}
LEAST_S = 20


def seconds(text: str) -> float:
    """Return a duration such as 30s, 40m, 2h in seconds. Raises: ArgumentTypeError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or float(found[1]) * _UNITS[found[2]] < LEAST_S:
        raise argparse.ArgumentTypeError(f"a duration such as 30s, 40m or 2h, at least {LEAST_S}s")
    return float(found[1]) * _UNITS[found[2]]


def main() -> int:
    """Run with the options of the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("duration", type=seconds, help="of the whole run, such as 40m")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder: Path = options.folder or Path("out") / f"soak-{options.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"seed {options.seed}, in {folder}", flush=True)
    report = trio.run(partial(run, Plan.of(options.duration, options.seed), folder.absolute()))
    print(report.text)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
