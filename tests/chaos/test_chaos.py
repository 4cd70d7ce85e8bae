"""A short storm: each trouble of Redis once, and replicas killed meanwhile. `just chaos 20m` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.chaos.site import TURNS
from tests.needs import need
from tests.served import environment

pytestmark = pytest.mark.slow
RUN_S = 240.0


async def test_nothing_acknowledged_is_lost_in_a_short_storm(tmp_path: Path) -> None:
    """Section 4 of what replicas must do when a store fails; the table that is printed has the numbers."""
    need("redis-server")
    with trio.fail_after(RUN_S):
        words = [sys.executable, "-m", "tests.chaos", "25s", "--seed", "1", "--folder", str(tmp_path / "storm")]
        done = await trio.run_process(
            words, capture_stdout=True, stderr=subprocess.STDOUT, check=False, env=environment()
        )
    said = done.stdout.decode()
    assert done.returncode == 0, said + (tmp_path / "storm" / "violations.txt").read_text()
    assert "no violation" in said
    for turn in TURNS:
        assert re.search(rf"^Redis {turn} +[1-9]", said, re.MULTILINE), f"Redis was not {turn}"
    assert int(re.findall(r"^SIGKILL of a replica +(\d+)", said, re.MULTILINE)[0]) >= 1
    for kind in ("sessions", "tasks", "keys", "events"):
        assert re.search(rf"^{kind} +[1-9]\d* +\d+ +0$", said, re.MULTILINE), f"no {kind} were acknowledged"
