"""The official Python SDK's client with the tasks extension, by the SDK's own interface for extensions.

The SDK knows no tasks by itself: an extension claims `resultType: "task"` and finishes it, so that `call_tool` gives
the tool's result, whether there was a task or not. Prints one JSON object; started by `test_tasks`, with the address
or the command line of a server. Deliberately not: a judge.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

import anyio
import httpx2
import mcp_types
from mcp import Client, StdioServerParameters
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, RequestParams, Result
from pydantic import ConfigDict, Field


class TaskFields(Result):
    """The members of a task."""

    model_config = ConfigDict(populate_by_name=True)
    task_id: str = Field(alias="taskId")
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    created_at: str = Field(alias="createdAt")
    last_updated_at: str = Field(alias="lastUpdatedAt")
    ttl_ms: int | None = Field(alias="ttlMs")
    poll_interval_ms: int = Field(alias="pollIntervalMs")


class Created(TaskFields):
    """What `tools/call` answers."""

    result_type: Literal["task"] = Field(alias="resultType")


class Detailed(TaskFields):
    """What `tasks/get` answers."""

    result_type: Literal["complete"] = Field(alias="resultType")
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    input_requests: dict[str, Any] | None = Field(default=None, alias="inputRequests")


class TaskParams(RequestParams):
    """Parameters of all three requests."""

    task_id: str = Field(serialization_alias="taskId")
    input_responses: dict[str, Any] | None = Field(default=None, serialization_alias="inputResponses")


class TaskRequest(mcp_types.Request[TaskParams, str]):
    """One of the three requests."""

    method: str
    params: TaskParams


class Tasks(ClientExtension):
    """The extension: declares it, finishes tasks, and keeps what it has seen of them."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.cancel_first = False

    def settings(self) -> dict[str, Any]:
        return {}

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=Created, resolve=self.finish),)

    async def finish(self, created: Created, ctx: ClaimContext) -> CallToolResult:
        if self.cancel_first:
            await self.send(ctx, "tasks/cancel", Result, created.task_id)
        while True:
            task = await self.send(ctx, "tasks/get", Detailed, created.task_id)
            self.seen.append(task.status)
            if task.status == "completed":
                return CallToolResult.model_validate(task.result, by_name=False)
            if task.status in ("failed", "cancelled"):
                text = task.error["message"] if task.error else task.status
                return CallToolResult(content=[mcp_types.TextContent(type="text", text=text)], is_error=True)
            answers = {key: {"action": "accept", "content": {"name": "Ada"}} for key in task.input_requests or {}}
            if answers:
                await self.send(ctx, "tasks/update", Result, created.task_id, answers)
            await anyio.sleep(0.05)

    async def send(self, ctx: ClaimContext, method: str, shape: Any, task_id: str, answers: Any = None) -> Any:
        params = TaskParams(task_id=task_id, input_responses=answers)
        return await ctx.session.send_request(TaskRequest(method=method, params=params), shape)


async def answer(_: ClientRequestContext, __: mcp_types.ElicitRequestParams) -> mcp_types.ElicitResult:
    return mcp_types.ElicitResult(action="accept", content={"name": "Eve"})


def one_connection_each(url: str) -> Any:
    """Return a transport that opens a connection for each request, which a balancer gives to the next server."""
    timeout = httpx2.Timeout(30.0, read=300.0)
    kept = httpx2.Limits(max_keepalive_connections=0)
    return streamable_http_client(url, http_client=httpx2.AsyncClient(timeout=timeout, limits=kept))


async def main(target: str, place: str) -> None:
    words = json.loads(target)
    tasks = Tasks()
    server: Any = StdioServerParameters(command=words[0], args=words[1:]) if isinstance(words, list) else None
    server = server or one_connection_each(words)
    report = {}
    async with Client(server, elicitation_callback=answer, extensions=[tasks]) as client:
        for name, arguments in (
            ("quick", {}),
            ("ask", {}),
            ("ask_first_in_thread", {}),
            ("hold_async", {"place": place}),
        ):
            tasks.seen.clear()
            tasks.cancel_first = name == "hold_async"
            result = await client.call_tool(name, arguments)
            assert isinstance(result.content[0], mcp_types.TextContent)
            report[name] = [result.content[0].text, *dict.fromkeys(tasks.seen)]
    print(json.dumps(report))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
