"""How the managers of resources, prompts and completion run an author's function.

A manager knows what a function gets and may return; only `turns` knows how it runs (in the call's scope or in a
thread, with or without a Context) and hands that in as `Run`, for one call.

Called by: `resources`, `prompts`, `completions`. Deliberately not: the path of tools, whose failures are results.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mcpd.errors import InvalidParams, ToolError, plain

Run = Callable[[Callable[..., Any], dict[str, Any]], Awaitable[Any]]
"""`await run(fn, kwargs)` calls `fn(**kwargs)`, adds its Context if it wants one, and returns what it returned."""


async def call(run: Run, fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Run an author's function outside `tools/call`.

    Raises: InvalidParams with the text of a ToolError, since no result of these methods can say `isError`.
    """
    try:
        return await run(fn, arguments)
    except (ToolError, BaseExceptionGroup) as error:
        found = plain(error)
        if isinstance(found, ToolError):
            raise InvalidParams(str(found)) from error
        raise found from None


def described(fn: Callable[..., Any]) -> str:
    """Name a function for the log: `module.function`."""
    return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', repr(fn))}"
