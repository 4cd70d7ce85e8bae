"""The Tool Manager: lists tools and runs one, in the work class that its author chose.

`async def` runs in the call's own scope; `def` in a bounded thread, abandoned when the call is cancelled; with
`isolation="process"` in a worker that is killed then. Arguments that break the schema and a `ToolError` become results
with `isError`, so that a model can correct itself (TOOL-2). Anything else that a function raises becomes `ToolCrashed`,
which the Message Manager logs and answers in the same form; a value that is no result is a bug and passes as it is.

Law: large arguments and results are checked in a thread, small ones where they are: checking never holds the loop long.

Called by: `service`. Calls: `tools.registry`, `tools.threads`, `tools.workers`. Deliberately not: deadlines and
cancellation, which arrive as the scope it is called in; nor what a `Context` can do.

Sources: MCP 2026-07-28 server/tools (TOOL-1..5); surfaces "Writing tools".
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NoReturn

import trio

from mcpd.authoring.context import BlockingContext, Context, InputRequired
from mcpd.catalog import Listing, Paging
from mcpd.errors import (
    SHOWN_CHARS,
    Forbidden,
    InvalidParams,
    NotFound,
    Overloaded,
    ToolCrashed,
    ToolError,
    WireError,
    counted,
    describe,
    leaves,
    plain,
)
from mcpd.monitoring.logs import mask
from mcpd.monitoring.metrics import Metrics
from mcpd.rates import Rate
from mcpd.tools.frames import Job
from mcpd.tools.registry import Tool, ToolRegistry
from mcpd.tools.threads import ThreadPool, call_back
from mcpd.tools.workers import WorkerLost, WorkerPool, WorkerToolRaised
from mcpd.wire.call import Principal
from mcpd.wire.faults import is_small
from mcpd.wire.headers import HeaderParameter
from mcpd.wire.sieve import failed

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
        mask_errors: bool = False,
    ) -> None:
        self.registry = registry
        self._threads = threads
        self._workers = workers
        self._metrics = metrics
        self._mask_errors = mask_errors
        self._running: dict[str, int] = {}
        self._listing = Listing("tools", registry.catalog, _entry_of, _scopes_of, paging)

    def list(self, cursor: str | None, principal: Principal) -> dict[str, Any]:
        """Return one page of the tools that `principal` may call. Raises: InvalidParams for a bad cursor."""
        return self._listing.page(cursor, principal)

    def find(self, name: Any, principal: Principal) -> Tool:
        """Return the tool `name`. Raises: InvalidParams (no name), NotFound, Forbidden."""
        if not isinstance(name, str):
            raise InvalidParams("params.name must be a string")
        tool = self.registry.catalog.get(name)
        if tool is None:
            raise NotFound(f"Unknown tool: {name[:SHOWN_CHARS]}", {"name": name[:SHOWN_CHARS]})
        if tool.scopes:
            missing = tool.scopes - principal.held(tool.scopes)
            if missing:
                raise Forbidden(min(missing))
        return tool

    def budget_s(self, name: Any) -> float | None:
        """Return the tool's own time limit, if it has one."""
        tool = self.registry.catalog.get(name) if isinstance(name, str) else None
        return None if tool is None else tool.declaration.timeout_s

    def task_support(self, name: Any) -> str:
        """Return whether calls of a tool may become tasks: `optional`, `required` or `forbidden` (also if unknown)."""
        tool = self.registry.catalog.get(name) if isinstance(name, str) else None
        return "forbidden" if tool is None else tool.task

    def asks_first(self, params: dict[str, Any], principal: Principal) -> bool:
        """Return whether a tool asks before its call becomes a task, having checked what would fail before that.

        Raises: InvalidParams, NotFound, Forbidden.
        """
        tool = self.find(params.get("name"), principal)
        if not isinstance(params.get("arguments"), dict | None):
            raise InvalidParams("params.arguments must be an object")
        return tool.declaration.asks_first

    def rate(self, name: Any, principal: Principal, default: Rate | None) -> Rate | None:
        """Return how often `principal` may call the tool, `default` if it does not say; None for no tool of theirs."""
        tool = self.registry.catalog.get(name) if isinstance(name, str) else None
        if tool is None or not tool.scopes <= principal.held(tool.scopes):
            return None
        return tool.rate or default

    def header_parameters(self, name: Any, principal: Principal) -> tuple[HeaderParameter, ...]:
        """Return the `Mcp-Param-*` headers that a call of `name` must mirror; none for a tool not for `principal`."""
        tool = self.registry.catalog.get(name) if isinstance(name, str) else None
        if tool is None or not tool.parameters:
            return ()
        return tool.parameters if tool.scopes <= principal.held(tool.scopes) else ()

    async def call(
        self, params: dict[str, Any], principal: Principal, make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        """Run a `tools/call` and return its result.

        Raises: InvalidParams, NotFound, Forbidden, Overloaded, and whatever the function raises.
        Cancellation: stops the work as its class allows; a late result is dropped.
        """
        tool = self.find(params.get("name"), principal)
        arguments = params.get("arguments")
        if arguments is None:
            arguments = _NO_ARGUMENTS
        if not isinstance(arguments, dict):
            raise InvalidParams("params.arguments must be an object")
        started = perf_counter()
        outcome = "cancelled"
        try:
            result = await self._attempt(tool, arguments, make_context)
            outcome = "tool_error" if result.get("isError") else "ok"
        except (Exception, BaseExceptionGroup, InputRequired) as error:
            outcome = "ok" if _asks(error) else "internal_error"
            raise
        else:
            return result
        finally:
            self._metrics.tool_finished(tool.name, outcome, perf_counter() - started)

    async def _attempt(
        self, tool: Tool, arguments: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        try:
            if is_small(arguments):
                kwargs = tool.decode(arguments)
            else:
                kwargs = await self._decode(tool, arguments, make_context)
            if tool.declaration.concurrency is None:
                return await self._run(tool, arguments, kwargs, make_context)
            self._enter(tool, tool.declaration.concurrency)
            try:
                return await self._run(tool, arguments, kwargs, make_context)
            finally:
                self._running[tool.name] -= 1
        except ToolError as error:
            return failed(str(error))

    async def _decode(
        self, tool: Tool, arguments: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        owner = make_context().principal.share
        return await self._threads.run(lambda: tool.decode(arguments), name=tool.name, owner=owner)

    async def _check_output(
        self, tool: Tool, result: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        if is_small(result.get("structuredContent")):
            tool.check_output(result)
        else:
            owner = make_context().principal.share
            await self._threads.run(lambda: tool.check_output(result), name=tool.name, owner=owner)
        return result

    async def _run(
        self, tool: Tool, arguments: dict[str, Any], kwargs: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        if tool.declaration.isolation == "process":
            return await self._run_in_worker(tool, arguments, make_context)
        wanted = tool.signature.context
        if not tool.signature.is_async:
            if wanted is not None:
                kwargs[wanted] = BlockingContext(make_context(), call_back)
            return await self._run_in_thread(tool, kwargs, make_context)
        if wanted is not None:
            kwargs[wanted] = make_context()
        try:
            value = await tool.declaration.fn(**kwargs)
        except (ToolError, WireError, InputRequired):
            raise
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a function may raise anything
            await self._fail(error, make_context)  # noqa: ASYNC102 - raises, the call's own cancellation too
        result = tool.signature.finish(value)
        return await self._check_output(tool, result, make_context) if tool.checks_output else result

    async def _run_in_thread(
        self, tool: Tool, kwargs: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        owner = make_context().principal.share

        def run() -> dict[str, Any]:
            try:
                value = tool.declaration.fn(**kwargs)
            except BaseException as error:
                raise _Raised from error  # noqa: ASYNC104 - a thread
            return tool.finish(value)

        try:
            return await self._threads.run(run, name=tool.name, owner=owner)
        except _Raised as raised:
            await self._fail(raised.__cause__ or raised, make_context)

    async def _fail(self, error: BaseException, make_context: Callable[[], Context]) -> NoReturn:
        """Raise what a function's exception is to the rest of the server, or the cancellation of the call."""
        if all(type(leaf) is trio.Cancelled for leaf in leaves(error)):
            await trio.lowlevel.checkpoint_if_cancelled()
        found = plain(error)
        if not (issubclass(type(found), (ToolError, WireError)) or _asks(found)):
            found = self._crash(describe(found), make_context)
        raise found from error

    def _crash(self, text: str, make_context: Callable[[], Context]) -> ToolCrashed:
        if self._mask_errors:
            return ToolCrashed(f"The tool failed; the server's log says why, under {make_context().request_id}")
        return ToolCrashed(mask(text))

    async def _run_in_worker(
        self, tool: Tool, arguments: dict[str, Any], make_context: Callable[[], Context]
    ) -> dict[str, Any]:
        context = make_context()
        try:
            result = await self._workers.call(
                Job(tool.declaration.source, tool.name, arguments, context.deadline),
                on_progress=context.progress,
                on_log=context.log,
                owner=context.principal.share,
            )
        except (WorkerLost, WorkerToolRaised) as error:
            raise self._crash(str(error), make_context) from error
        return await self._check_output(tool, result, make_context)

    def _enter(self, tool: Tool, limit: int) -> None:
        running = self._running.get(tool.name, 0)
        if running >= limit:
            raise Overloaded(f"The tool {tool.name!r} is already running {counted(limit, 'time')}; try again shortly")
        self._running[tool.name] = running + 1


class _Raised(Exception):
    """Out of a thread: its function raised the `__cause__`."""


def _asks(error: BaseException) -> bool:
    """True when the function wants answers of its client, and nothing else has happened."""
    return all(issubclass(type(leaf), InputRequired) for leaf in leaves(error))


def _entry_of(tool: Tool) -> dict[str, Any]:
    return tool.entry


def _scopes_of(tool: Tool) -> frozenset[str]:
    return tool.scopes
