"""A client of the tasks extension over HTTP, for real servers. Deliberately not: assertions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.served import WAIT_S, Mcp, Reply, ReplyReader, client_at, stateless
from tests.tasks.memory import KNOWS

WORK = str(Path(__file__).with_name("work.py"))
_POLL_S = 0.01


class TaskClient:
    """Somebody who knows tasks."""

    def __init__(self, mcp: Mcp) -> None:
        self.mcp = mcp

    async def ask(self, method: str, **params: Any) -> Reply:
        """Send a request that declares the extension."""
        return await self.mcp.ask(method, params, capabilities=dict(KNOWS))

    async def start(self, tool: str, **arguments: Any) -> str:
        """Call a tool that becomes a task; return its id."""
        created = (await self.ask("tools/call", name=tool, arguments=arguments)).result
        assert created["resultType"] == "task", created
        return created["taskId"]  # type: ignore[no-any-return]

    async def get(self, task_id: str) -> Any:
        """Return a task as it is."""
        return (await self.ask("tasks/get", taskId=task_id)).result

    async def until(self, task_id: str, *statuses: str) -> Any:
        """Return a task once it has one of these statuses."""
        with trio.fail_after(WAIT_S):
            while (task := await self.get(task_id))["status"] not in statuses:  # noqa: ASYNC110 - polling is tested
                await trio.sleep(_POLL_S)
        return task

    async def ended(self, task_id: str) -> Any:
        """Return a task once it has ended."""
        return await self.until(task_id, "completed", "failed", "cancelled")

    async def answer(self, task_id: str, **content: Any) -> None:
        """Answer the question `name` with an accepted form."""
        responses = {"name": {"action": "accept", "content": content}}
        reply = await self.ask("tasks/update", taskId=task_id, inputResponses=responses)
        assert reply.result["resultType"] == "complete"

    @asynccontextmanager
    async def listening(self, *task_ids: str) -> AsyncIterator[ReplyReader]:
        """Listen to tasks; the acknowledgement comes first."""
        wanted = {"notifications": {"taskIds": list(task_ids)}}
        body, headers = stateless("subscriptions/listen", wanted, capabilities=dict(KNOWS))
        async with self.mcp.streaming("POST", body, headers) as reader:
            yield reader


@asynccontextmanager
async def task_client(url: str, **headers: str) -> AsyncIterator[TaskClient]:
    """Open a client of the server at `url`."""
    async with client_at(url, **headers) as mcp:
        yield TaskClient(mcp)
