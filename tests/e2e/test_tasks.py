"""The official Python SDK's client and tasks: it finds them where it calls a tool, and gives the tool's result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio

from tests.cancellation.program import serving
from tests.served import environment
from tests.tasks.served import WORK

pytestmark = pytest.mark.slow

CLIENT = str(Path(__file__).with_name("clients") / "python_sdk_tasks.py")
RUN_S = 60.0


def command(target: object, folder: Path) -> list[str]:
    """Return the command line of the client: for a URL, or a server's command line."""
    return [sys.executable, CLIENT, json.dumps(target), str(folder)]


async def run(target: object, folder: Path) -> dict[str, list[str]]:
    """Run the client; return what it got of each tool: the text, and the states that it saw."""
    with trio.fail_after(RUN_S):
        done = await trio.run_process(command(target, folder), capture_stdout=True, env=environment(), cwd=folder)
    report: dict[str, list[str]] = json.loads(done.stdout)
    return report


def judge(report: dict[str, list[str]]) -> None:
    assert (report["quick"][0], report["quick"][-1]) == ("done", "completed")
    assert report["ask"][0] == "Hello, Ada"
    assert "input_required" in report["ask"]
    assert report["ask_first_in_thread"][0] == "Hello, Eve"
    assert report["hold_async"][0] == report["hold_async"][-1] == "cancelled"


async def test_the_python_sdk_finishes_tasks_over_http(tmp_path: Path) -> None:
    """TSK-3, TSK-5, TSK-6, TSK-7, TSK-12."""
    async with serving(tmp_path, tools=[WORK]) as program:
        judge(await run(f"{program.url}/mcp", tmp_path))


async def test_the_python_sdk_finishes_tasks_over_stdio(tmp_path: Path) -> None:
    """TSK-3, TSK-5, TSK-6, TSK-7, TSK-12."""
    (tmp_path / "files").mkdir()
    server = [sys.executable, "-m", "mcpd", "stdio", "--tools", WORK, "--data", str(tmp_path / "data")]
    judge(await run([*server, "--files", str(tmp_path / "files")], tmp_path))
