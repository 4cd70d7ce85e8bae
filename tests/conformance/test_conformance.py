"""The official conformance suite against mcpd, both revisions, judged by the suite's own result files.

One server, `mcpd serve --tools tests/conformance/fixture.py`, serves both runs, as the suite's scenarios leave their
sessions and subscriptions behind. Every scenario that the suite requires, and those others that mcpd promises, must
come out without a failure and without a warning; there is no list of expected failures. `just conformance` runs this
file. The suite and its own Node.js come from package-lock.json (`just node`).

The suite has a tenth scenario for tasks, `tasks-status-notifications`, which it
always skips.

Deliberately not: what the suite cannot see (authorization, WebSocket, stdio).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

import mcpd
from tests.conformance.server import Server, serving
from tests.conformance.suite import FIXTURE, PROMISED, SCORED, Run, required, run, suite


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start the server; afterwards it has to stop in order."""
    suite()
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, folder / "data") as server:
        yield server


@pytest.fixture(scope="module")
def runs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Run the suite once for each revision."""
    return {revision: run(server.url, revision, tmp_path_factory.mktemp("results")) for revision in SCORED}


@pytest.mark.slow
@pytest.mark.parametrize("revision", SCORED)
def test_every_required_scenario_is_clean(runs: dict[str, Run], revision: str) -> None:
    """37 of 37 for 2026-07-28, 30 of 30 for 2025-11-25, and not one warning among them.

    ERA-7, LAD-1, SEC-2, DIS-1, DIS-4, RES-1, RES-3, RSC-2, RSP-5, SUB-1, SUB-3, MRT-1, MRT-2, MRT-3, MRT-8; INI-1,
    S2C-1, S2C-4.
    """
    run, scenarios = runs[revision], required(revision)
    assert set(scenarios) <= run.checks.keys(), run.printed
    assert {name: run.complaints(name) for name in scenarios if run.complaints(name)} == {}
    assert run.exit_code == 0, run.printed
    proven = [name for name in scenarios if any(status == "SUCCESS" for status, _ in run.checks[name])]
    assert len(proven) == len(scenarios) == SCORED[revision]


@pytest.mark.slow
@pytest.mark.parametrize(("revision", "scenario"), PROMISED)
def test_a_promised_scenario_is_clean(runs: dict[str, Run], revision: str, scenario: str) -> None:
    """HDR-2, HDR-3, HDR-7, HDR-8, JSC-4; SES-3, SES-4, RSM-2..4; TSK-1..9, TSK-11, TSK-12, TSK-14.

    Not scored by the suite, and held all the same.
    """
    run = runs[revision]
    assert run.complaints(scenario) == []
    assert {status for status, _ in run.checks[scenario]} <= {"SUCCESS", "INFO"}
    assert any(status == "SUCCESS" for status, _ in run.checks[scenario])


@pytest.mark.slow
def test_the_suite_still_skips_the_notices_of_tasks(runs: dict[str, Run]) -> None:
    """TSK-10: the day that it does not, this scenario belongs to the promised ones."""
    assert [status for status, _ in runs["2026-07-28"].checks["tasks-status-notifications"]] == ["SKIPPED"]


@pytest.mark.slow
def test_the_suite_meets_no_internal_error(runs: dict[str, Run], server: Server) -> None:
    """A bug may hide behind an error that a scenario accepts; the log would tell."""
    log = server.log.read_text()
    assert len(log.splitlines()) > len(runs["2026-07-28"].checks)
    assert "internal_error" not in log
    assert "Traceback" not in log


def test_the_fixture_uses_only_what_an_author_has() -> None:
    """Surfaces, "Writing tools": the names of `mcpd.__all__` suffice."""
    tree = ast.parse(FIXTURE.read_text())
    whole = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    parts = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {alias.name for node in parts if node.module == "mcpd" for alias in node.names}
    others = whole | {str(node.module) for node in parts if node.module != "mcpd"}
    assert ours
    assert ours <= set(mcpd.__all__)
    assert {name.split(".")[0] for name in others} <= {*sys.stdlib_module_names, "trio"}
