"""Argument completion for prompts and resource templates.

A completion function is declared for a prompt's name or a URI template, for one argument or (without one) for all; the
more particular one wins. What exists but has no function answers with no values: a client may always ask.

Called by: `service`. Calls the managers of `prompts` and `resources` to learn what exists for this caller.

Laws: at most 100 values in an answer, `total` and `hasMore` say what was left out; a reference or argument that does
not exist is refused (CMP-1).

Sources: MCP 2026-07-28 server/utilities/completion (CMP-1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from mcpd.authoring.declarations import CompletionDeclaration
from mcpd.authoring.functions import Run, call, described
from mcpd.authoring.signatures import inspect_function
from mcpd.errors import SHOWN_CHARS, InvalidParams, NotFound, RegistrationError
from mcpd.prompts.manager import PromptManager
from mcpd.resources.manager import ResourceManager
from mcpd.wire.call import ANONYMOUS, Principal

MAX_VALUES_ITEMS = 100
"""Values in one answer; the number is the protocol's."""


class Completions:
    """The completion functions of this server."""

    def __init__(
        self, declarations: Iterable[CompletionDeclaration], prompts: PromptManager, resources: ResourceManager
    ) -> None:
        """Raises: RegistrationError when two functions are for the same argument."""
        self._prompts = prompts
        self._resources = resources
        self._functions: dict[tuple[str, str | None], _Function] = {}
        for declaration in declarations:
            self._add(declaration)

    def _add(self, declaration: CompletionDeclaration) -> None:
        key = (declaration.for_, declaration.argument)
        where = f"the completion function {described(declaration.fn)}"
        if key in self._functions:
            raise RegistrationError(f"{where} is the second one for {key[0]!r}, argument {key[1]!r}")
        self._functions[key] = _Function(declaration.fn)

    def __len__(self) -> int:
        return len(self._functions)

    async def complete(self, params: dict[str, Any], run: Run, principal: Principal = ANONYMOUS) -> dict[str, Any]:
        """Return `{"completion": {"values": [...], "total", "hasMore"}}` for the request's `params` as received.

        Raises: NotFound for an unknown reference; InvalidParams for an unknown argument or members of a wrong shape;
        TypeError naming the function when it returns anything but strings.
        """
        target, names = self._target(params.get("ref"), principal)
        name, value = _named_value(params.get("argument"))
        if name not in names:
            raise InvalidParams(f"{target[:SHOWN_CHARS]!r} has no argument {name[:SHOWN_CHARS]!r}")
        known = _context_arguments(params.get("context"))
        found = self._functions.get((target, name)) or self._functions.get((target, None))
        if found is None:
            return _answer([], list)
        given = dict(zip(found.takes, (value, known), strict=False))
        return _answer(await call(run, found.fn, given), found.fn)

    def _target(self, ref: Any, principal: Principal) -> tuple[str, Collection[str]]:
        kind = ref.get("type") if isinstance(ref, dict) else None
        if kind == "ref/prompt":
            prompt = self._prompts.find(ref.get("name"), principal)
            return prompt.name, [argument.name for argument in prompt.arguments]
        if kind == "ref/resource":
            return self._resource(ref.get("uri"), principal)
        raise InvalidParams("'ref' must be an object of type 'ref/prompt' or 'ref/resource'")

    def _resource(self, uri: Any, principal: Principal) -> tuple[str, Collection[str]]:
        if not isinstance(uri, str):
            raise InvalidParams("'ref.uri' must be a string")
        template = self._resources.template(uri, principal)
        if template is None:
            raise NotFound(f"Unknown resource template: {uri[:SHOWN_CHARS]!r}", {"uri": uri})
        return template.text, template.variables


class _Function:
    """A completion function and what it calls its value and, if it takes them, the arguments already known."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        signature = inspect_function(fn, input_schema={"type": "object"}, validate=False)
        self.fn = fn
        self.takes = [argument.name for argument in signature.arguments]
        if not 1 <= len(self.takes) <= 2:
            raise RegistrationError(f"the completion function {described(fn)} must take (value) or (value, arguments)")


def _named_value(argument: Any) -> tuple[str, str]:
    if isinstance(argument, dict):
        name, value = argument.get("name"), argument.get("value")
        if isinstance(name, str) and isinstance(value, str):
            return name, value
    raise InvalidParams("'argument' must be an object with the strings 'name' and 'value'")


def _context_arguments(context: Any) -> dict[str, str]:
    if context is None:
        return {}
    arguments = context.get("arguments", {}) if isinstance(context, dict) else None
    if isinstance(arguments, dict) and all(isinstance(value, str) for value in arguments.values()):
        return arguments
    raise InvalidParams("'context.arguments' must be an object of strings")


def _answer(values: Any, fn: Callable[..., Any]) -> dict[str, Any]:
    if isinstance(values, list | tuple) and all(isinstance(value, str) for value in values):
        total = len(values)
        shown = list(values[:MAX_VALUES_ITEMS])
        return {"completion": {"values": shown, "total": total, "hasMore": total > len(shown)}}
    raise TypeError(
        f"the completion function {described(fn)} returned {type(values).__name__}; it may return list[str]"
    )
