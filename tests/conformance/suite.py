"""The official conformance suite as a program: how it is started against a server, and what it has found.

`run` takes every scenario of one revision and reads the files that the suite writes. With `one_connection_each` every
request of the suite goes on a connection of its own (see `one_connection_each.cjs`), as clients behind a balancer may
do it: Node.js would else keep to few, and a balancer of connections could not tell requests apart. Used by the tests of
this folder. Deliberately not: assertions about what was found.

Sources: @modelcontextprotocol/conformance 0.2.0-alpha.12.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.needs import ROOT, need

HERE = Path(__file__).parent
FIXTURE = HERE / "fixture.py"
NODE = "tests/conformance/node_modules/node/bin/node"
RUN_S = 300.0
"""For one run of the suite; it takes some ten seconds."""

SCORED = {"2026-07-28": 37, "2025-11-25": 30}
"""Revision -> how many scenarios the suite requires for it."""
TASKS = tuple(
    f"tasks-{name}"
    for name in (
        "lifecycle",
        "capability-negotiation",
        "wire-fields",
        "request-state-removal",
        "mrtr-input",
        "request-headers",
        "dispatch-and-envelope",
        "required-task-error",
        "mrtr-composition",
    )
)
PROMISED = [
    ("2026-07-28", "json-schema-2020-12"),
    ("2026-07-28", "http-header-validation"),
    ("2026-07-28", "http-custom-header-server-validation"),
    *(("2026-07-28", name) for name in TASKS),
    ("2025-11-25", "json-schema-2020-12"),
    ("2025-11-25", "server-session-lifecycle"),
    ("2025-11-25", "server-sse-polling"),
]
"""Scenarios that the suite runs without scoring them, and that have to be clean all the same."""


class Run(NamedTuple):
    """One run of the suite: `checks` maps scenarios to what was checked, as `(status, description)`."""

    exit_code: int
    printed: str
    checks: dict[str, list[tuple[str, str]]]

    def complaints(self, scenario: str) -> list[tuple[str, str]]:
        """Return the failures and warnings of a scenario."""
        return [check for check in self.checks[scenario] if check[0] in ("FAILURE", "WARNING")]

    def proven(self, scenario: str) -> bool:
        """Return whether the scenario has checked something, and has found nothing wrong."""
        return not self.complaints(scenario) and any(status == "SUCCESS" for status, _ in self.checks[scenario])


def suite() -> list[str]:
    """Return the command that starts the suite, with the Node.js that came with it."""
    if not (ROOT / NODE).exists():
        need("npm")
    node = need(NODE)
    return [str(node), str(node.parents[2] / "@modelcontextprotocol" / "conformance" / "dist" / "index.js")]


def run(url: str, revision: str, results: Path, *, one_connection_each: bool = False) -> Run:
    """Run the suite for one revision against the server at `url`; it writes into the folder `results`."""
    command = [*suite(), "server", "--url", url, "--requirements", revision, "-o", str(results)]
    options = {"NODE_OPTIONS": f"--require={HERE / 'one_connection_each.cjs'}"} if one_connection_each else {}
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_S,
        check=False,
        env={**os.environ, **options},
    )
    return Run(done.returncode, done.stdout, _checks(results))


def _checks(results: Path) -> dict[str, list[tuple[str, str]]]:
    checks = {}
    for file in results.glob("*/checks.json"):
        found = re.fullmatch(r"server-(.+?)-\d{4}-\d\d-\d\dT[\d-]+Z", file.parent.name)
        assert found is not None, file
        checks[found[1]] = [(check["status"], _described(check)) for check in json.loads(file.read_text())]
    return checks


def _described(check: dict[str, object]) -> str:
    return f"{check['id']}: {check.get('errorMessage') or check.get('description')}"


def required(revision: str) -> list[str]:
    """Return the server scenarios that a revision requires, as the suite lists them."""
    command = [*suite(), "list", "--requirements", revision]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
    section = re.search(r"^Server scenarios.*?\n((?:  - \S+\n)+)", listed, re.MULTILINE)
    assert section is not None, listed
    return re.findall(r"- (\S+)", section[1])
