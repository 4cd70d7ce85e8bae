"""Starts the server that the clients of the end-to-end tests talk to, and looks at it from the outside.

A real process, started as a user would start it. Called by: `lanes` and the fixtures of `test_clients`. Deliberately
not: a second way to build a server; nothing of the package is imported.

Laws: whether a call was stopped is judged here and only here, by what the server's tool left on disk and by the
server's own metrics, while the client is still connected.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import trio

TOOLS = Path(__file__).with_name("tools.py")
PASSAGE = "# Tides\n\nThe tide turns at noon."
"""What a search for the tide must lead to, and nothing before it."""
PATIENCE_S = 10.0
POLL_S = 0.01
IDLE_S = 5.0
"""A busy machine takes a second to read the metrics of three servers."""
IN_FLIGHT = "mcpd_calls_in_flight"


class Server(NamedTuple):
    """A running HTTP server. `base` is `host:port`; `marks` is the folder where stopped calls leave their traces.

    Where `base` is that of a balancer, `replicas` are those of the servers behind it, which count for themselves.
    """

    base: str
    marks: Path
    log: Path
    replicas: tuple[str, ...] = ()

    @property
    def mcp(self) -> str:
        return f"http://{self.base}/mcp"

    @property
    def websocket(self) -> str:
        return f"ws://{self.base}/ws"


def command(kind: str, folder: Path) -> list[str]:
    """Return the command line of `mcpd serve` or `mcpd stdio`, with its data and files below `folder`."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    port = ["--port", "0"] if kind == "serve" else []
    places = ["--data", str(folder / "data"), "--files", str(files), "--tools", str(TOOLS)]
    ingest(folder)
    return [sys.executable, "-m", "mcpd", kind, *port, *places]


def ingest(folder: Path) -> None:
    """Put one document of two sections into the store below `folder`, by the command."""
    source = folder / "almanac"
    source.mkdir(exist_ok=True)
    (source / "sea.md").write_text(f"# Fish\n\n{'Herring come in shoals. ' * 40}\n\n{PASSAGE}")
    words = [sys.executable, "-m", "mcpd", "ingest", str(source), "--data", str(folder / "data")]
    subprocess.run(words, check=True, capture_output=True)


def environment(marks: Path) -> dict[str, str]:
    """Return the variables that the server's tools need."""
    return {"MCPD_E2E_MARKS": str(marks)}


@contextmanager
def serving(folder: Path, settings: str = "", *flags: str, name: str = "stderr.txt") -> Iterator[Server]:
    """Run a server with further flags for the duration of the block, which logs to `name`; several may share a folder.

    Raises: AssertionError if it does not start, or not stop cleanly.
    """
    marks, log = folder / "marks", folder / name
    marks.mkdir(exist_ok=True)
    (folder / "mcpd.toml").write_text(settings)
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [*command("serve", folder), "--config", str(folder / "mcpd.toml"), *flags],
            env={**os.environ, **environment(marks)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            yield Server(_base(process, log), marks, log)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(20)
    assert code == 0, f"the server ended with {code}: {log.read_text()[-2000:]}"


def _base(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://([\w.]+:\d+)/mcp", line)
        if found:
            return found[1]
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


async def wait_started(marks: Path, mark: str, server: Server | None) -> dict[str, Any]:
    """Wait until the call that bears `mark` runs; say how many calls are then in flight. Raises: TooSlowError."""
    await _wait_file(marks / f"{mark}.started")
    return {} if server is None else {"in_flight": await _read(server, IN_FLIGHT), "cancelled": await _reasons(server)}


async def judge_stopped(marks: Path, mark: str, server: Server | None, before: dict[str, Any]) -> dict[str, Any]:
    """Wait until the call that bears `mark` has stopped; say how, why, and how many calls are then in flight.

    `before` is what `wait_started` said. A server on stdio has no metrics, and tells only how. Raises: TooSlowError.
    """
    await _wait_file(marks / f"{mark}.stopped", whole=True)
    told: dict[str, Any] = {"how": (marks / f"{mark}.stopped").read_text()}
    if server is not None:
        told["in_flight"] = [before["in_flight"], await _wait_idle(server)]
        after, known = await _reasons(server), before["cancelled"]
        told["why"] = {reason: number - known.get(reason, 0) for reason, number in after.items()}
        told["why"] = {reason: number for reason, number in told["why"].items() if number}
    return told


async def _wait_file(path: Path, *, whole: bool = False) -> None:
    with trio.fail_after(PATIENCE_S):
        while not _is_there(path, whole=whole):  # noqa: ASYNC110 - another process writes it
            await trio.sleep(POLL_S)


def _is_there(path: Path, *, whole: bool) -> bool:
    return path.exists() and (not whole or path.stat().st_size > 0)


async def _wait_idle(server: Server) -> float:
    """Return how many calls are in flight once there are none, or after some seconds if there still are some."""
    calls = -1.0
    with trio.move_on_after(IDLE_S):
        while calls := await _read(server, IN_FLIGHT):  # noqa: ASYNC110 - another process counts them
            await trio.sleep(POLL_S)
    return calls


async def _reasons(server: Server) -> dict[str, float]:
    found = re.findall(r'^mcpd_cancelled_total\{reason="(\w+)"\} (\S+)$', await _metrics(server), re.MULTILINE)
    sums: dict[str, float] = {}
    for reason, number in found:
        sums[reason] = sums.get(reason, 0.0) + float(number)
    return sums


async def _read(server: Server, metric: str) -> float:
    found = re.findall(rf"^{metric}\{{[^}}]*\}} (\S+)$", await _metrics(server), re.MULTILINE)
    assert found, f"{metric} is not on /metrics"
    return sum(map(float, found))


async def _metrics(server: Server) -> str:
    async with httpx.AsyncClient(verify=False) as client:
        bases = server.replicas or (server.base,)
        return "".join([(await client.get(f"http://{base}/metrics")).raise_for_status().text for base in bases])
