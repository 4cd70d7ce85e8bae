"""The prompts of this server: listing them, and turning one into messages.

`PromptManager` holds the prompts declared in code and those that the loader found in files as one catalog; a prompt in
code wins over a file of the same name, so that a file can never replace what a program relies on.

Called by: `service`; `app` hands it what the loader found. Deliberately not: the loader, or the runner of functions
(`Run` is handed in).

Laws: what a caller may not see does not exist for it; arguments are checked before any function runs; a function that
returns something else than messages is a bug that the log names.

Sources: MCP 2026-07-28 server/prompts (PRM-1), RES-3, RES-4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mcpd.authoring.content import Audio, Embedded, Image, ResourceLink, Text
from mcpd.authoring.declarations import PromptDeclaration
from mcpd.authoring.functions import Run, call, described
from mcpd.authoring.signatures import ArgumentError, PromptArgument, Signature, inspect_function
from mcpd.catalog import Catalog, Listing, Paging
from mcpd.errors import SHOWN_CHARS, InvalidParams, NotFound
from mcpd.prompts.loader import FilePrompt
from mcpd.wire.call import ANONYMOUS, Principal

Message = dict[str, Any]
_ROLES = ("user", "assistant")
_BLOCKS = ("text", "image", "audio", "resource", "resource_link")


class Prompt:
    """One declaration made ready: its arguments known, its listing entry built."""

    def __init__(self, declaration: PromptDeclaration) -> None:
        self.declaration = declaration
        self.name: str = declaration.name
        self.scopes: frozenset[str] = frozenset(getattr(declaration, "scopes", ()))
        self._signature = _signature(declaration)
        self.arguments = _arguments(declaration, self._signature)
        self.entry = _entry(declaration, self._signature, self.arguments)
        self._known = frozenset(argument.name for argument in self.arguments)

    def permits(self, principal: Principal) -> bool:
        """Say whether `principal` holds all scopes that this prompt asks for."""
        return self.scopes <= principal.scopes

    def check(self, arguments: Any) -> dict[str, Any]:
        """Turn the arguments of a request (None: there are none) into those of the function.

        Raises: InvalidParams naming the one that is missing, unknown or does not fit.
        """
        given = {} if arguments is None else arguments
        if not isinstance(given, dict):
            raise InvalidParams("'arguments' must be an object of strings")
        for argument in self.arguments:
            if argument.required and argument.name not in given:
                raise InvalidParams(f"prompt {self.name!r} needs the argument {argument.name!r}")
        for name, value in given.items():
            self._check_one(name, value)
        try:
            return given if self._signature is None else self._signature.decode(given)
        except ArgumentError as error:
            raise InvalidParams(f"prompt {self.name!r}: {error}") from None

    def _check_one(self, name: str, value: Any) -> None:
        if name not in self._known:
            known = ", ".join(repr(argument.name) for argument in self.arguments) or "none"
            raise InvalidParams(f"prompt {self.name!r} has no argument {name[:SHOWN_CHARS]!r}; it has: {known}")
        if not isinstance(value, str):
            raise InvalidParams(f"argument {name!r} of prompt {self.name!r} must be a string")


class PromptManager:
    """Lists prompts and gets their messages."""

    def __init__(self, declarations: Iterable[PromptDeclaration], paging: Paging) -> None:
        """`declarations` are those found in code. Raises: RegistrationError, naming the prompt."""
        self._declared = [Prompt(declaration) for declaration in declarations]
        self._catalog: Catalog[Prompt] = Catalog(_name_of, self._declared)
        self._loaded: list[PromptDeclaration] = []
        self._listing = Listing("prompts", self._catalog, _entry_of, _scopes_of, paging)

    def adopt(self, loaded: Sequence[PromptDeclaration]) -> bool:
        """Swap in what the loader found, behind the prompts declared in code, and say whether anything changed.

        Raises: RegistrationError, leaving the old set.
        """
        if list(loaded) == self._loaded:
            return False
        names = {prompt.name for prompt in self._declared}
        found = [Prompt(declaration) for declaration in loaded if declaration.name not in names]
        self._catalog.replace([*self._declared, *found])
        self._loaded = list(loaded)
        return True

    def __len__(self) -> int:
        return len(self._catalog)

    def list(self, cursor: str | None, principal: Principal = ANONYMOUS) -> dict[str, Any]:
        """Return a page of `prompts/list`. Raises: InvalidParams for a bad cursor."""
        return self._listing.page(cursor, principal)

    def find(self, name: Any, principal: Principal = ANONYMOUS) -> Prompt:
        """Return the prompt `name`.

        Raises: InvalidParams when it is no string; NotFound when there is none for this caller.
        """
        if not isinstance(name, str):
            raise InvalidParams("'name' must be a string")
        prompt = self._catalog.get(name)
        if prompt is None or not prompt.permits(principal):
            raise NotFound(f"Unknown prompt: {name[:SHOWN_CHARS]!r}")
        return prompt

    async def get(self, name: Any, arguments: Any, run: Run, principal: Principal = ANONYMOUS) -> dict[str, Any]:
        """Return `{"description"?, "messages": [...]}`.

        Raises: NotFound; InvalidParams for arguments that do not fit; TypeError naming the function when it returns
        anything that is not messages.
        """
        prompt = self.find(name, principal)
        fn = prompt.declaration.fn
        messages = to_messages(await call(run, fn, prompt.check(arguments)), fn)
        description = prompt.entry.get("description")
        return {"messages": messages} if description is None else {"description": description, "messages": messages}


def to_messages(value: Any, fn: Callable[..., Any]) -> list[Message]:
    """Turn a prompt function's return value into messages: one value is one user message, a list is several."""
    items = value if isinstance(value, list) else [value]
    return [_message(item, fn) for item in items]


def _message(item: Any, fn: Callable[..., Any]) -> Message:
    if isinstance(item, dict):
        role, content = item.get("role"), item.get("content")
    elif isinstance(item, tuple) and len(item) == 2:
        role, content = item
    else:
        role, content = "user", item
    block = _block(content)
    if role not in _ROLES or block is None:
        raise TypeError(
            f"the prompt function {described(fn)} returned {type(item).__name__} where a message is wanted; it may "
            "return str, a content value, (role, content), a message dict, or a list of these; roles: user, assistant"
        )
    return {"role": role, "content": block}


def _block(content: Any) -> dict[str, Any] | None:
    if isinstance(content, str):
        return {"type": "text", "text": content}
    if isinstance(content, Text | Image | Audio | Embedded | ResourceLink):
        return content.block()
    if isinstance(content, dict) and content.get("type") in _BLOCKS:
        return content
    return None


def _signature(declaration: PromptDeclaration) -> Signature | None:
    return None if isinstance(declaration, FilePrompt) else inspect_function(declaration.fn, strict=False)


def _arguments(declaration: PromptDeclaration, signature: Signature | None) -> tuple[PromptArgument, ...]:
    if isinstance(declaration, FilePrompt):
        return declaration.arguments
    return () if signature is None else signature.arguments


def _entry(
    declaration: PromptDeclaration, signature: Signature | None, arguments: tuple[PromptArgument, ...]
) -> dict[str, Any]:
    d = declaration
    entry = {
        "name": d.name,
        "title": d.title,
        "description": d.description or (None if signature is None else signature.description),
        "arguments": [argument.entry() for argument in arguments],
        "icons": d.icons,
        "_meta": d.meta,
    }
    return {key: value for key, value in entry.items() if value not in (None, "", [], {}, ())}


def _name_of(prompt: Prompt) -> str:
    return prompt.name


def _entry_of(prompt: Prompt) -> dict[str, Any]:
    return prompt.entry


def _scopes_of(prompt: Prompt) -> frozenset[str]:
    return prompt.scopes
