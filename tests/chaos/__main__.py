"""`python -m tests.chaos 20m [--seed N] [--folder F]`: run the storm, print its tables, exit with 1 on a violation.

The folder (default `out/chaos-SEED`) keeps logs, journal and report. The seed is printed before anything happens; the
same seed breaks the same things in the same order, at about the same times.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from functools import partial
from pathlib import Path

import trio

from tests.chaos.course import Plan, run
from tests.soak.__main__ import seconds


def main() -> int:
    """Run with the options of the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("duration", type=seconds, help="of the whole run, such as 20m")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder: Path = options.folder or Path("out") / f"chaos-{options.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"seed {options.seed}, in {folder}", flush=True)
    report = trio.run(partial(run, Plan.of(options.duration, options.seed), folder.absolute()))
    print(report.text)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
