"""The official Python SDK's client in a storm: works for ever, and prints one JSON line for each thing that it did.

Started by `tests.chaos.sdk_roles` with one JSON argument: `url`, `era`, the witnesses' `folder`, `seed`. Stateless
clients list, call, and finish tasks by the SDK's interface for extensions; stateful ones keep a session over their
calls. A line says what was done, from when to when (`time.monotonic()`), and how it failed. Deliberately not a judge,
and no client of ours: what the SDK makes of a lost connection is a part of what is tested.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext
from mcp_types import CONNECTION_CLOSED, CallToolResult, Result, TextContent

from python_sdk_tasks import Created, Detailed, Tasks, one_connection_each

warnings.simplefilter("ignore")  # the handshake era's methods are marked as deprecated
logging.disable(logging.CRITICAL)
CALLS = 8
OPERATION_S = 60.0
SPREAD = 0.5
"""The share of clients that open a connection for each request; the others keep theirs, and so mostly their replica."""
RETRY_S = 0.1


def say(line: dict[str, Any]) -> None:
    """Print a line of the journal."""
    print(json.dumps(line), flush=True)


def failure_of(error: BaseException) -> dict[str, Any]:
    """Return how the storm's judge names an error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MCPError):
        kind = "broken" if error.code == CONNECTION_CLOSED else "refused"
        return {"kind": kind, "text": text, "code": error.code, "data": error.data}
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return {"kind": "silent", "text": text}
    return {"kind": "broken" if isinstance(error, httpx2.TransportError) else "refused", "text": text}


class Journal:
    """What one client does. `doing` outlives the operation when the whole client is torn down under it."""

    def __init__(self) -> None:
        self.doing: tuple[str, float] | None = None
        self.session_since: float | None = None

    async def do(self, what: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        """Do it and write down how that went; None when it failed."""
        self.doing = what, time.monotonic()
        try:
            with anyio.fail_after(OPERATION_S):
                result = await operation()
        except (MCPError, TimeoutError) as error:
            self.end(error)
            return None
        self.end(None)
        return result

    def end(self, error: BaseException | None) -> None:
        """Write down how what is being done has ended."""
        what, begin = self.doing or ("leave", time.monotonic())
        line = {"what": what, "begin": begin, "end": time.monotonic(), "session_since": self.session_since}
        say(line | {"failure": None if error is None else failure_of(error)})
        self.doing = None


class PatientTasks(Tasks):
    """Finishes tasks, and asks again when it is told that this may help."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    async def finish(self, created: Created, ctx: ClaimContext) -> CallToolResult:
        since = time.monotonic()
        say({"what": "task created", "id": created.task_id, "name": self.name, "since": since})
        while True:
            try:
                task = await self.send(ctx, "tasks/get", Detailed, created.task_id)
            except MCPError as error:
                if not (isinstance(error.data, dict) and error.data.get("retryable")):
                    raise
                await anyio.sleep(RETRY_S)
                continue
            if task.status in {"completed", "failed", "cancelled"}:
                told = {"status": task.status, "result": task.result, "error": task.error}
                say({"what": "task ended", "id": created.task_id, "name": self.name, "since": since, "task": told})
                return CallToolResult(content=[TextContent(type="text", text=task.status)])
            await anyio.sleep(RETRY_S)

    async def send(self, ctx: ClaimContext, method: str, shape: Any, task_id: str, answers: Any = None) -> Any:
        return await super().send(ctx, method, shape or Result, task_id, answers)


async def scene(order: dict[str, Any], chance: random.Random) -> None:
    """Connect, work for a while, leave."""
    stateless, journal = order["era"] == "stateless", Journal()
    tasks = PatientTasks(f"sdk-{chance.getrandbits(64):016x}")
    client = Client(
        one_connection_each(order["url"]) if chance.random() < SPREAD else order["url"],
        mode="auto" if stateless else "legacy",
        extensions=[tasks] if stateless else None,
        cache=None,
    )
    journal.doing = "connect", time.monotonic()
    if not stateless:
        journal.session_since = time.monotonic()
    try:
        async with client:
            journal.end(None)
            say({"what": "revision", "revision": client.protocol_version})
            await work(client, journal, order["folder"], tasks, chance)
    except Exception as error:  # noqa: BLE001 - whatever tears a client down is what it has to report
        journal.end(error)


async def work(client: Client, journal: Journal, folder: str, tasks: PatientTasks, chance: random.Random) -> None:
    """Make some calls; with tasks, one of them."""
    if tasks in (client.extensions or ()):
        arguments = {"folder": folder, "name": tasks.name, "seconds": chance.choice([0.1, 1.0, 3.0])}
        await journal.do("task", lambda: client.call_tool("work", arguments))
    for _ in range(CALLS):
        if chance.random() < 0.3:
            await journal.do("tools/list", client.list_tools)
        else:
            seconds = chance.choice([0.0, 0.1, 1.0])
            result = await journal.do("rest", lambda: client.call_tool("rest", {"seconds": seconds}))  # noqa: B023
            if result is not None and result.content[0].text != "rested":
                say({"what": "wrong", "text": repr(result)})
        await anyio.sleep(chance.uniform(0, 0.3))


async def main() -> None:
    """Play scenes for ever."""
    order = json.loads(sys.argv[1])
    chance = random.Random(order["seed"])
    while True:
        await scene(order, chance)
        await anyio.sleep(0.1)


anyio.run(main, backend="trio")
