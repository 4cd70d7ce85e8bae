"""The Tool Manager: lists tools and runs one, in the work class that its author chose.

`async def` runs in the call's own scope; `def` in a bounded thread, abandoned when the call is cancelled; with
`isolation="process"` in a worker that is killed then. Arguments that break the schema and a `ToolError` become results
with `isError`, so that a model can correct itself (TOOL-2); anything else that a function raises is a bug and passes
through to the Message Manager.

Law: large arguments and results are checked in a thread, small ones where they are: checking never holds the loop long.

Called by: `service`. Calls: `tools.registry`, `tools.threads`, `tools.workers`. Deliberately not: deadlines and
cancellation, which arrive as the scope it is called in; nor what a `Context` can do.

Sources: MCP 2026-07-28 server/tools (TOOL-1..5); surfaces "Writing tools".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from mcpd.authoring.context import BlockingContext, Context
from mcpd.catalog import Listing, Paging
from mcpd.errors import Forbidden, InvalidParams, NotFound, Overloaded, ToolError
from mcpd.monitoring.metrics import Metrics
from mcpd.tools.frames import Job
from mcpd.tools.registry import Tool, ToolRegistry
from mcpd.tools.threads import ThreadPool, call_back
from mcpd.tools.workers import WorkerPool
from mcpd.wire.call import Principal
from mcpd.wire.faults import is_small
from mcpd.wire.headers import HeaderParameter

_NO_ARGUMENTS: dict[str, Any] = {}


class ToolManager:
    """Finds, checks and runs tools."""

    def __init__(
        self,
        registry: ToolRegistry,
        *,
        paging: Paging,
        threads: ThreadPool,
        workers: WorkerPool,
        metrics: Metrics,
        max_result_bytes: int,
    ) -> None:
        self.registry = registry
        self._threads = threads
        self._workers = workers
        self._metrics = metrics
        self._max_result_bytes = max_result_bytes
        self._running: dict[str, int] = {}
        self._listing = Listing("tools", registry.catalog, _entry_of, _scopes_of, paging)

    def list(self, cursor: str | None, principal: Principal) -> dict[str, Any]:
        """Return one page of the tools that `principal` may call. Raises: InvalidParams for a bad cursor."""
        return self._listing.page(cursor, principal)

    def find(self, name: Any, principal: Principal) -> Tool:
        """Return the tool `name`. Raises: InvalidParams (no name), NotFound, Forbidden."""
        if not isinstance(name, str):
            raise InvalidParams("params.name must be a string")
        tool = self.registry.get(name)
        if tool is None:
            raise NotFound(f"Unknown tool: {name[:128]}", {"name": name[:128]})
        missing = tool.scopes - principal.held(tool.scopes)
        if missing:
            raise Forbidden(min(missing))
        return tool

    def budget_s(self, name: Any) -> float | None:
        """Return the tool's own time limit, if it has one."""
        tool = self.registry.get(name) if isinstance(name, str) else None
        return None if tool is None else tool.declaration.timeout_s

    def header_parameters(self, name: Any, principal: Principal) -> tuple[HeaderParameter, ...]:
        """Return the `Mcp-Param-*` headers that a call of `name` must mirror; none for a tool not for `principal`."""
        tool = self.registry.get(name) if isinstance(name, str) else None
        return tool.parameters if tool is not None and tool.scopes <= principal.held(tool.scopes) else ()

    async def call(
        self, params: dict[str, Any], principal: Principal, make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        """Run a `tools/call` and return its result.

        Raises: InvalidParams, NotFound, Forbidden, Overloaded, and whatever the function raises.
        Cancellation: stops the work as its class allows; a late result is dropped.
        """
        tool = self.find(params.get("name"), principal)
        arguments = params.get("arguments", _NO_ARGUMENTS)
        if not isinstance(arguments, dict):
            raise InvalidParams("params.arguments must be an object")
        started = trio.current_time()
        outcome = "cancelled"
        try:
            result = await self._attempt(tool, arguments, make_context)
            outcome = "tool_error" if result.get("isError") else "ok"
        except Exception:
            outcome = "internal_error"
            raise
        else:
            return result
        finally:
            self._metrics.tool_finished(tool.name, outcome, trio.current_time() - started)

    async def _attempt(
        self, tool: Tool, arguments: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        try:
            kwargs = await self._decode(tool, arguments)
            self._enter(tool)
            try:
                result = await self._run(tool, arguments, kwargs, make_context)
            finally:
                self._leave(tool)
            self._check_size(result)
        except ToolError as error:
            return {"content": [{"type": "text", "text": str(error)}], "isError": True}
        return result

    async def _decode(self, tool: Tool, arguments: dict[str, Any]) -> dict[str, Any]:
        if is_small(arguments):
            return tool.decode(arguments)
        return await self._threads.run(lambda: tool.decode(arguments), name=tool.name)

    async def _check_output(self, tool: Tool, result: dict[str, Any]) -> dict[str, Any]:
        if is_small(result.get("structuredContent")):
            tool.check_output(result)
        else:
            await self._threads.run(lambda: tool.check_output(result), name=tool.name)
        return result

    def _check_size(self, result: dict[str, Any]) -> None:
        size = sum(map(_size_of, result["content"]))
        if size > self._max_result_bytes:
            raise ToolError(f"The result is {size} bytes long; at most {self._max_result_bytes} bytes are allowed")

    async def _run(
        self, tool: Tool, arguments: dict[str, Any], kwargs: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        if tool.declaration.isolation == "process":
            return await self._run_in_worker(tool, arguments, make_context())
        wanted = tool.signature.context
        if tool.signature.is_async:
            if wanted is not None:
                kwargs[wanted] = make_context()
            return await self._check_output(tool, tool.signature.finish(await tool.declaration.fn(**kwargs)))
        if wanted is not None:
            kwargs[wanted] = BlockingContext(make_context(), call_back)
        return await self._threads.run(lambda: tool.finish(tool.declaration.fn(**kwargs)), name=tool.name)

    async def _run_in_worker(self, tool: Tool, arguments: dict[str, Any], context: Context) -> dict[str, Any]:
        result = await self._workers.call(
            Job(tool.declaration.source, tool.name, arguments, context.deadline),
            on_progress=context.progress,
            on_log=context.log,
            owner=context.principal.share,
        )
        return await self._check_output(tool, result)

    def _enter(self, tool: Tool) -> None:
        limit = tool.declaration.concurrency
        if limit is None:
            return
        running = self._running.get(tool.name, 0)
        if running >= limit:
            raise Overloaded(f"The tool {tool.name!r} is already running {limit} times; try again shortly")
        self._running[tool.name] = running + 1

    def _leave(self, tool: Tool) -> None:
        if tool.declaration.concurrency is not None:
            self._running[tool.name] -= 1


def _size_of(block: dict[str, Any]) -> int:
    """Return the bytes of what a content block carries."""
    carrier = block.get("resource", block)
    text = carrier.get("text") or carrier.get("data") or carrier.get("blob") or ""
    return len(text) if text.isascii() else len(text.encode())


def _entry_of(tool: Tool) -> dict[str, Any]:
    return tool.entry


def _scopes_of(tool: Tool) -> frozenset[str]:
    return tool.scopes
