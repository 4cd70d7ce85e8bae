"""The whole server inside the test's own process, on real sockets or pipes, with every part within reach.

`http_server` and `stdio_server` run what `mcpd.app` runs, without its signals: a test looks at the in-flight table, the
metrics and the workers while a real client talks over loopback. `eventually` is how a test waits for something that
nobody announces. Deliberately not a fake of anything; `program.py` beside the tests of the program starts it for real.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from mcpd.app import run_http, run_stdio
from mcpd.assembly import Parts, build, open_stores
from mcpd.config import Config, Data, Files, Limits, Server, Timeouts, Tools
from mcpd.gateway.server.sockets import open_sockets
from mcpd.monitoring.logs import Logs

WAIT_S = 20.0
"""Bound of every wait: never reached by a test that is green."""
_POLL_S = 0.004


def server_config(folder: Path, *tools: Path | str, limits: dict[str, Any] | None = None, **timeouts: float) -> Config:
    """Return a configuration of a small server under `folder`, on a free port, with these tools and numbers."""
    (folder / "files").mkdir(exist_ok=True)
    return Config(
        server=Server(port=0),
        files=Files(root=folder / "files"),
        tools=Tools(modules=tuple(map(str, tools))),
        data=Data(folder=folder / "data"),
        timeouts=replace(Timeouts(), **timeouts),
        limits=replace(Limits(), **(limits or {})),
    )


@dataclass
class Running:
    """A server that runs. `stopping.set()` is its SIGTERM; `stopped` is set when it has ended by itself."""

    parts: Parts
    lines: list[bytes]
    """What it has logged."""
    port: int = 0
    stdin_fd: int = -1
    """Where its client writes (stdio); closed by whoever takes it."""
    stdout_fd: int = -1
    stopping: trio.Event = field(default_factory=trio.Event)
    stopped: trio.Event = field(default_factory=trio.Event)

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value as it is scraped; 0 for a label set that has none yet."""
        text = self.parts.metrics.exposition(None)[0].decode()
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        values = [
            float(match[2])
            for match in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
            if wanted <= set((match[1] or "").split(","))
        ]
        return sum(values)

    def in_flight(self) -> int:
        """Return how many calls are in the table."""
        return len(list(self.parts.manager.in_flight()))


@asynccontextmanager
async def http_server(config: Config) -> AsyncIterator[Running]:
    """Run the HTTP server in this process."""
    async with _built(config) as running:
        sockets = open_sockets(config.server, config.timeouts)
        running.port = sockets[0].getsockname()[1]

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            try:
                await run_http(running.parts, sockets, running.stopping, task_status=task_status)
            finally:
                _close(sockets)
            running.stopped.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            await running.parts.workers.wait_ready()
            yield running
            nursery.cancel_scope.cancel()


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


@asynccontextmanager
async def stdio_server(config: Config) -> AsyncIterator[Running]:
    """Run the stdio server in this process, on two pipes."""
    async with _built(config) as running:
        theirs, running.stdin_fd = os.pipe()
        running.stdout_fd, ours = os.pipe()

        async def run() -> None:
            await run_stdio(running.parts, theirs, ours, running.stopping)
            running.stopped.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await running.parts.workers.wait_ready()
            yield running
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _built(config: Config) -> AsyncIterator[Running]:
    lines: list[bytes] = []
    logs = Logs(lines.append, requests=True)
    try:
        async with open_stores(config) as stores:
            yield Running(build(config, logs, stores), lines)
    finally:
        logs.close()


async def eventually(met: Callable[[], object], what: str) -> None:
    """Wait until `met()` is true. Raises: AssertionError naming `what` after `WAIT_S`."""
    with trio.move_on_after(WAIT_S):
        while not met():  # noqa: ASYNC110 - files, counters and foreign processes ring no bell
            await trio.sleep(_POLL_S)
        return
    raise AssertionError(f"still waiting until {what}")


def count_tasks() -> int:
    """Return how many Trio tasks there are."""
    root = trio.lowlevel.current_root_task()
    waiting, count = [root] if root is not None else [], 0
    while waiting:
        task = waiting.pop()
        count += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return count


def count_descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing's own descriptor is in every count


def alive(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int | None = None) -> set[int]:
    """Return the worker processes of process `pid` (this one by default), zombies included."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _parent(folder) == (pid or os.getpid()):
            found.add(int(folder.name))
    return found


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
