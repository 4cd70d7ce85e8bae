"""Half a minute of the long test: the same roles, phases and verdict as `just soak 40m`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from tests.soak.course import Plan, run

SECONDS, MOST_S = 30, 600


@pytest.mark.slow
async def test_a_server_under_all_kinds_of_clients_is_as_it_was_before(tmp_path: Path) -> None:
    """CAN-1, CAN-3, WS-4: and every answer on the way is right."""
    plan = Plan.of(SECONDS, random.randrange(10**6))
    with trio.fail_after(MOST_S):
        report = await run(plan, tmp_path)
    print(report.text)
    assert not report.violations, report.text
