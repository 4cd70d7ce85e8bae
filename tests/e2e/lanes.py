"""The lanes of the end-to-end tests: which real client, in which era, over which transport; and how a lane is run.

A lane is run once: its client program connects, takes all rows in order and prints one JSON report, which the tests
look at row by row. While it runs it asks whether a call has `started` or how it has `stopped`; the answer comes from
the server's side (`server`), while the client is connected. Called by: `test_clients`.

Laws: what a client cannot do is a named entry of its lane (`lacks`), and the client program itself looks whether that
is still so. Every wait is bounded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from tests.e2e import server as servers
from tests.e2e import websocket
from tests.e2e.server import Server

CLIENTS = Path(__file__).with_name("clients")
LANE_S = 120.0
STATELESS, NEWEST_STATEFUL = "2026-07-28", "2025-11-25"


class Lane(NamedTuple):
    """One client on one transport. `client` is its program; `lacks` maps rows to what the report must name."""

    name: str
    client: str
    transport: str
    version: str
    lacks: dict[str, Any]

    @property
    def era(self) -> str:
        return "stateless" if self.version == STATELESS else "stateful"

    @property
    def node(self) -> bool:
        return self.client.endswith(".mjs")


Report = dict[str, Any]


async def run(lane: Lane, server: Server, folder: Path) -> Report:
    """Run a lane against `server`, or, on stdio, against one that the client starts in `folder`; return its report.

    Raises: AssertionError when the client program fails; TooSlowError.
    """
    marks = folder / "marks"
    marks.mkdir(parents=True)
    if lane.transport == "stdio":
        answer = Answers(marks, None)
        order = {"command": servers.command("stdio", folder), "environment": servers.environment(marks)}
    else:
        answer = Answers(server.marks, server)
        order = {"url": server.websocket if lane.transport == "websocket" else server.mcp}
    with trio.fail_after(LANE_S):
        if lane.client == "websocket.py":
            return await websocket.take(server.websocket, lane.era, answer)
        return await _run_program(_command(lane, order), answer)


def _command(lane: Lane, order: dict[str, Any]) -> list[str]:
    order |= {"era": lane.era}
    if lane.node:
        order |= {"lane": lane.name.replace(" ", "-"), "version": lane.version}
    return ["node" if lane.node else sys.executable, str(CLIENTS / lane.client), json.dumps(order)]


class Answers:
    """Answers what a client asks about its calls, for one lane."""

    def __init__(self, marks: Path, server: Server | None) -> None:
        self._marks = marks
        self._server = server
        self._before: dict[str, dict[str, Any]] = {}

    async def __call__(self, question: str, mark: str) -> dict[str, Any]:
        if question == "started":
            self._before[mark] = await servers.wait_started(self._marks, mark, self._server)
            return {}
        assert question == "stopped", question
        return await servers.judge_stopped(self._marks, mark, self._server, self._before[mark])


async def _run_program(command: list[str], answer: Answers) -> Report:
    report: Report | None = None
    errors = bytearray()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(partial(trio.run_process, command, check=False, **pipes))
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        nursery.start_soon(_collect, process.stderr, errors)
        waiting = b""
        async for chunk in process.stdout:
            *lines, waiting = (waiting + chunk).split(b"\n")
            for message in map(json.loads, lines):
                report = message.get("report", report)
                if "ask" in message:
                    reply = await answer(message["ask"], message["mark"])
                    await process.stdin.send_all(json.dumps(reply).encode() + b"\n")
    assert report is not None, f"the client ended without a report:\n{errors.decode()[-4000:]}"
    return report


async def _collect(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    async for chunk in stream:
        into.extend(chunk)


NO_WEBSOCKET = {"websocket": "a WebSocket transport"}
PYTHON_STATELESS = NO_WEBSOCKET | {"other_subscription": "resources/subscribe"}
PYTHON_STATEFUL = NO_WEBSOCKET | {"other_subscription": "subscriptions/listen"}
FASTMCP = {"subscribe": "subscriptions"}
TYPESCRIPT_STATELESS = NO_WEBSOCKET | {"other_subscription": "resources/subscribe"}
TYPESCRIPT_STATEFUL = NO_WEBSOCKET | {"other_subscription": "subscriptions/listen"}
OLD_TYPESCRIPT = {"stateless": STATELESS, "other_subscription": "listen"}
BEFORE_STRUCTURE = OLD_TYPESCRIPT | {"structured": "structuredContent", "elicitation": "elicitation"}

LANES = (
    Lane("python-sdk http 2026-07-28", "python_sdk.py", "http", STATELESS, PYTHON_STATELESS),
    Lane("python-sdk http 2025-11-25", "python_sdk.py", "http", NEWEST_STATEFUL, PYTHON_STATEFUL),
    Lane("python-sdk stdio 2026-07-28", "python_sdk.py", "stdio", STATELESS, PYTHON_STATELESS),
    Lane("python-sdk stdio 2025-11-25", "python_sdk.py", "stdio", NEWEST_STATEFUL, PYTHON_STATEFUL),
    Lane("fastmcp http 2026-07-28", "fastmcp_client.py", "http", STATELESS, FASTMCP),
    Lane("fastmcp http 2025-11-25", "fastmcp_client.py", "http", NEWEST_STATEFUL, FASTMCP),
    Lane("typescript-client http 2026-07-28", "typescript_client.mjs", "http", STATELESS, TYPESCRIPT_STATELESS),
    Lane("typescript-client stdio 2026-07-28", "typescript_client.mjs", "stdio", STATELESS, TYPESCRIPT_STATELESS),
    Lane("typescript-client http 2025-11-25", "typescript_client.mjs", "http", NEWEST_STATEFUL, TYPESCRIPT_STATEFUL),
    Lane("typescript-sdk http 2025-11-25", "typescript_sdk.mjs", "http", NEWEST_STATEFUL, OLD_TYPESCRIPT),
    Lane("typescript-sdk http 2025-06-18", "typescript_sdk.mjs", "http", "2025-06-18", OLD_TYPESCRIPT),
    Lane("typescript-sdk http 2025-03-26", "typescript_sdk.mjs", "http", "2025-03-26", BEFORE_STRUCTURE),
    Lane("typescript-sdk stdio 2025-11-25", "typescript_sdk.mjs", "stdio", NEWEST_STATEFUL, OLD_TYPESCRIPT),
    Lane("typescript-sdk websocket 2025-11-25", "typescript_sdk.mjs", "websocket", NEWEST_STATEFUL, OLD_TYPESCRIPT),
    Lane("trio-websocket websocket 2026-07-28", "websocket.py", "websocket", STATELESS, {}),
    Lane("trio-websocket websocket 2025-11-25", "websocket.py", "websocket", NEWEST_STATEFUL, {}),
)
