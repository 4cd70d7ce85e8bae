"""Tools made ready to be called: everything that can be computed once is computed here, at registration.

A `Tool` is a declaration with its schema compiled, its listing entry built and its header parameters found, so that a
call compiles nothing. `ToolRegistry` is the ordered set of them, swapped as a whole (law 10).

Called by: `tools.manager`, `assembly`. Deliberately not: running anything.

Sources: MCP 2026-07-28 server/tools (TOOL-1, JSC-1..4), transports (HDR-9).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf
from typing import Any

from mcpd.authoring.declarations import ToolDeclaration
from mcpd.authoring.signatures import Signature, inspect_function
from mcpd.catalog import Catalog
from mcpd.errors import RegistrationError
from mcpd.rates import Rate, read_rate
from mcpd.wire.headers import HeaderParameter, find_parameters
from mcpd.wire.schema import compile_schema

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def _rate(written: str | None, where: str) -> Rate | None:
    try:
        return None if written is None else read_rate(written)
    except (ValueError, AttributeError) as error:
        raise RegistrationError(f"{where}: rate {error}") from None


class Tool:
    """One callable tool."""

    def __init__(self, declaration: ToolDeclaration, *, task_after_s: float = inf) -> None:
        """Compile `declaration`; one that may take longer than `task_after_s` may become a task unless told otherwise.

        Raises: RegistrationError, naming the tool and the offending part.
        """
        where = f"tool {declaration.name!r}"
        if not _NAME.fullmatch(declaration.name):
            raise RegistrationError(f"{where}: a name is 1 to 128 of A-Z a-z 0-9 _ . -")
        self.declaration = declaration
        self.name = declaration.name
        self.signature: Signature = inspect_function(
            declaration.fn, input_schema=declaration.input_schema, output_schema=declaration.output_schema
        )
        self.decode = self.signature.decode
        """Turns arguments into keyword arguments of the function; as `Signature.decode`."""
        self.scopes = frozenset(declaration.scopes)
        self.rate = _rate(declaration.rate, where)
        self.parameters: tuple[HeaderParameter, ...] = find_parameters(self.signature.input_schema)
        self._output = None
        if self.signature.output_schema is not None:
            self._output = compile_schema(self.signature.output_schema, where=f"{where}, output_schema", root="result")
        self.checks_output = self._output is not None
        """Structured content has a schema that it must fit."""
        self._check_work_class(where)
        slow = (declaration.timeout_s or 0.0) > task_after_s or declaration.asks_first
        self.task = declaration.task or ("optional" if slow else "forbidden")
        self.entry = self._listing_entry()

    def _check_work_class(self, where: str) -> None:
        if self.declaration.isolation == "process" and self.signature.is_async:
            raise RegistrationError(f"{where}: isolation='process' needs a plain def function")

    def _listing_entry(self) -> dict[str, Any]:
        d = self.declaration
        entry = {
            "name": d.name,
            "title": d.title,
            "description": d.description or self.signature.description,
            "inputSchema": self.signature.input_schema,
            "outputSchema": self.signature.output_schema,
            "annotations": d.annotations,
            "icons": d.icons,
            "_meta": d.meta,
        }
        return {key: value for key, value in entry.items() if value}

    def finish(self, value: Any) -> dict[str, Any]:
        """Turn the function's return value into a result.

        Raises: ValueError, TypeError when it is no JSON or breaks the tool's own output schema.
        """
        result = self.signature.finish(value)
        self.check_output(result)
        return result

    def check_output(self, result: dict[str, Any]) -> None:
        """Check structured content against the advertised schema (TOOL-3). Raises: ValueError."""
        if self._output is None or result.get("isError"):
            return
        problem = self._output.check(result.get("structuredContent"))
        if problem is not None:
            raise ValueError(f"tool {self.name!r} returned a value that breaks its output_schema: {problem}")


class ToolRegistry:
    """The tools of this server, in the order they were declared."""

    def __init__(self, *, task_after_s: float = inf) -> None:
        self._task_after_s = task_after_s
        self.catalog: Catalog[Tool] = Catalog(key=_name_of)

    def replace(self, declarations: Iterable[ToolDeclaration]) -> bool:
        """Swap the whole set; returns whether anything changed. Raises: RegistrationError, leaving the old set."""
        tools: dict[str, Tool] = {}
        for declaration in declarations:
            if declaration.name in tools:
                raise RegistrationError(f"tool {declaration.name!r} is declared twice")
            tools[declaration.name] = Tool(declaration, task_after_s=self._task_after_s)
        return self.catalog.replace(tools.values())

    def get(self, name: str) -> Tool | None:
        """Return the tool `name`, if there is one."""
        return self.catalog.get(name)


def _name_of(tool: Tool) -> str:
    return tool.name
