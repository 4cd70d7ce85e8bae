"""A server with tasks in memory, without transports, and what a client of the extension says to it.

`tasking` runs what `app` runs of it; `Client` is one principal that declares the extension.
Deliberately not: assertions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from msgspec import json

from mcpd.assembly import Parts, Stores, build
from mcpd.messages.flight import Done, Failed, Flight
from mcpd.messages.work import TaskWork
from mcpd.monitoring.logs import Logs
from mcpd.monitoring.metrics import Metrics
from mcpd.search.embeddings import HashProvider
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.memory.idempotency import KeyShelf, MemoryIdempotency
from mcpd.storage.memory.inbox import MemoryInbox
from mcpd.storage.memory.sessions import MemorySessions
from mcpd.storage.memory.shared import LocalShared
from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.shared import TaskStore
from mcpd.tasks import Tasks
from mcpd.wire.call import ANONYMOUS, Call, Principal
from mcpd.wire.tasks import EXTENSION
from tests.in_process import server_config
from tests.messages.memory import Wire, call, serve

TOOLS = "tests.tasks.tools"
KNOWS: dict[str, Any] = {"extensions": {EXTENSION: {}}, "elicitation": {}, "sampling": {}}


def clock() -> float:
    """Seconds since the epoch, by the clock that jumps."""
    return 1_700_000_000.0 + trio.current_time()


@asynccontextmanager
async def tasking(
    folder: Path, *, store: TaskStore | None = None, limits: dict[str, Any] | None = None, **timeouts: float
) -> AsyncIterator[Parts]:
    """Run a server's tasks; what is still running on leaving is stopped as if the process died."""
    logs = Logs(lambda _: None, requests=False)
    stores = Stores(
        MemoryDocuments(),
        HashProvider(),
        store or MemoryTasks(TaskShelf(clock=clock)),
        MemoryIdempotency(KeyShelf(clock=clock)),
        MemorySessions(),
        MemoryInbox(),
        LocalShared(),
        Metrics(),
    )
    parts = build(server_config(folder, TOOLS, limits=limits, **timeouts), logs, stores)
    logs.close()
    async with trio.open_nursery() as services:
        await services.start(tasks_of(parts).run, partial(TaskWork, parts.manager))
        yield parts
        services.cancel_scope.cancel()


def tasks_of(parts: Parts) -> Tasks:
    """Return the server's tasks, which it has."""
    tasks = parts.manager.service.tasks
    assert tasks is not None
    return tasks


class Client:
    """Somebody who knows tasks."""

    def __init__(self, parts: Parts, principal: Principal = ANONYMOUS, capabilities: dict[str, Any] = KNOWS) -> None:
        self.parts = parts
        self.principal = principal
        self.capabilities = capabilities

    def call(self, method: str, params: dict[str, Any]) -> Call:
        """Return a call of this client."""
        return call(method, params, principal=self.principal, capabilities=dict(self.capabilities))

    async def ask(self, method: str, **params: Any) -> Any:
        """Serve a call; return its result, or its error."""
        outcome = await serve(self.parts, self.call(method, params))
        if isinstance(outcome, Failed):
            return outcome.error
        assert isinstance(outcome, Done)
        return json.decode(outcome.data)

    async def start(self, tool: str, **arguments: Any) -> str:
        """Call a tool that becomes a task; return its id."""
        created = await self.ask("tools/call", name=tool, arguments=arguments)
        assert isinstance(created, dict), created
        assert created["resultType"] == "task", created
        return created["taskId"]  # type: ignore[no-any-return]

    async def get(self, task_id: str) -> Any:
        """Return a task as it is, or why it is not shown."""
        return await self.ask("tasks/get", taskId=task_id)

    async def until(self, task_id: str, *statuses: str) -> Any:
        """Return a task once it has one of these statuses; bounded by the clock that jumps."""
        with trio.fail_after(10_000):
            while True:
                task = await self.get(task_id)
                assert isinstance(task, dict), task
                if task["status"] in statuses:
                    return task
                await trio.sleep(0.2)

    async def ended(self, task_id: str) -> Any:
        """Return a task once it has ended."""
        return await self.until(task_id, "completed", "failed", "cancelled")

    async def answer(self, task_id: str, **answers: Any) -> Any:
        """Answer questions of a task: key -> fields of an accepted form, or a raw answer that has an `action`."""
        raw = {key: _accepting(answer) for key, answer in answers.items()}
        return await self.ask("tasks/update", taskId=task_id, inputResponses=raw)


def _accepting(answer: Any) -> Any:
    return {"action": "accept", "content": answer} if isinstance(answer, dict) and "action" not in answer else answer


def listening(client: Client, *task_ids: str, **more: Any) -> tuple[Flight, Wire]:
    """Return a listen of these tasks, to be served, and where it will be heard."""
    wire = Wire()
    wanted = {"taskIds": list(task_ids), **more}
    return Flight(client.call("subscriptions/listen", {"notifications": wanted}), wire), wire
