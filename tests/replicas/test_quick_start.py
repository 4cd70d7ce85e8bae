"""The README's quick start with two replicas, Redis and a balancer, typed into a shell as it is written there.

Only the ports are others, for those of the README may be taken. The official Python SDK's client then calls through the
balancer in both eras. Deliberately not: what replicas share in detail, which the other files of this folder test.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trio

from tests import readme
from tests.needs import need
from tests.redis_servers import free_port
from tests.served import client_at, environment

pytestmark = pytest.mark.slow
WAIT_S = 60.0
PORTS = ("6390", "8000", "8001", "8002")
"""As the README has them: Redis, the balancer, the replicas."""
SDK_CALL = Path(__file__).with_name("sdk_call.py")
STOP = "kill $(jobs -p)"


class Shell(NamedTuple):
    """A shell that is typed into. `folder` is where it is; it has the logs of the replicas."""

    process: subprocess.Popen[str]
    folder: Path

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    async def line(self, pattern: str) -> str:
        """Return the next line of its standard output in which this is found."""
        assert self.process.stdout is not None
        while line := await trio.to_thread.run_sync(self.process.stdout.readline, abandon_on_cancel=True):
            if re.search(pattern, line):
                return line
        raise AssertionError("the shell has ended")


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """Open a shell with `mcpd` on its path; whatever it has started ends with it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-u"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**environment(), "PATH": path},
        start_new_session=True,
    )
    with process:
        try:
            yield Shell(process, folder)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def quick_start() -> tuple[list[str], dict[str, str]]:
    """Return the commands, and for each port of the README the one that stands for it."""
    ports = {port: str(free_port()) for port in PORTS}
    text = readme.marked_block("command", "several")
    assert set(re.findall(r"\b\d{4}\b", text)) == set(PORTS)
    text = re.sub(r"\b\d{4}\b", lambda found: ports[found[0]], text)
    return re.findall(r"(?:.*<<END &\n(?:.*\n)*?END\n)|(?:.*\n)", text), ports


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[Shell, dict[str, str]]]:
    """Type all but the last command, wait until replicas and balancer answer, type the last one."""
    for program in ("redis-server", "haproxy"):
        need(program)
    commands, ports = quick_start()
    assert len(commands) == 5
    with trio.fail_after(WAIT_S), shell(folder) as bash:
        for command in commands[:-1]:
            bash.type(command)
        for name in ("8001", "8002", "8000"):
            await _wait_ready(f"http://127.0.0.1:{ports[name]}")
        bash.type(commands[-1])
        yield bash, ports


async def _wait_ready(url: str) -> None:
    async with client_at(url) as client:
        while True:
            with suppress(httpx.TransportError):
                if (await client.http.get("/readyz")).status_code == 200:
                    return
            await trio.sleep(0.1)


async def test_the_quick_start_with_several_servers_is_as_the_readme_says(tmp_path: Path) -> None:
    """ERA-1: its last command answers, and so does the balancer, in both eras; both replicas have served."""
    (tmp_path / "witness.txt").write_text("here")
    async with started(tmp_path) as (bash, ports):
        assert "witness.txt" in await bash.line("entries")
        url = f"http://127.0.0.1:{ports['8000']}"
        for mode, revision in (("auto", "2026-07-28"), ("legacy", "2025-11-25")):
            done = await trio.run_process([sys.executable, SDK_CALL, f"{url}/mcp", mode], capture_stdout=True)
            assert done.stdout.startswith(revision.encode())
            assert b"witness.txt" in done.stdout
        await _wait_both_serve(url, [tmp_path / f"{ports[name]}.log" for name in ("8001", "8002")])
        bash.type(f"{STOP}; wait; echo all have ended")
        await bash.line("all have ended")
    assert STOP in readme.text()


async def _wait_both_serve(url: str, logs: list[Path]) -> None:
    async with client_at(url) as client:
        while not all("method=tools/call" in log.read_text() for log in logs):
            reply = await client.ask("tools/call", {"name": "list_files", "arguments": {"path": "."}})
            assert reply.status == 200, reply.text
            await trio.sleep(0.1)
