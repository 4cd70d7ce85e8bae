"""The MCP Service: which manager answers which method, and what this server is able to do.

It owns the method table's right-hand side: `handle` takes a `Call` and returns a result in the form of 2026-07-28, or
raises a `WireError`. Functions of authors run in a `Turn` each, which gets what it may ask of the server from here.

Called by: `messages.manager`. Calls: the Tool, Resource and Prompt Managers, `turns`. Deliberately not: deadlines,
cancellation, metrics, the wire form of revisions (`wire.sieve`), sessions.

Sources: MCP 2026-07-28 (DIS-1..4, MRT-1..12, RES-4); 2025-11-25 lifecycle (INI-1, INI-7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from mcpd.authoring.context import Exchange, InputRequired, StartTask
from mcpd.authoring.signatures import Signature, inspect_function
from mcpd.completions import Completions
from mcpd.errors import InvalidParams, StoreUnavailable
from mcpd.events import Bus, Changed
from mcpd.prompts.manager import PromptManager
from mcpd.rates import Rate
from mcpd.resources.manager import ResourceManager
from mcpd.tasks import Tasks
from mcpd.tools.manager import ToolManager
from mcpd.tools.threads import ThreadPool
from mcpd.turns import Reach, Sealing, Turn, merge
from mcpd.wire.call import Call, Principal
from mcpd.wire.headers import HeaderParameter
from mcpd.wire.methods import TABLE, Method
from mcpd.wire.rounds import Rounds
from mcpd.wire.tasks import EXTENSION, declared, undeclared
from mcpd.wire.versions import SUPPORTED_STATELESS, can, is_stateless

__all__ = ["Exchange", "Managers", "McpService", "Offer"]

Result = dict[str, Any]
_WATCHING = ("resources/subscribe", "resources/unsubscribe")
_KINDS = ("tools", "prompts", "resources", "resource")


@dataclass(frozen=True)
class Offer:
    """What the server says of itself: instructions, how long listings may be kept, whether changes are told."""

    instructions: str | None = None
    ttl_ms: int = 0
    change_notices: bool = True


class McpService:
    """Answers MCP methods."""

    def __init__(
        self,
        info: Result,
        offer: Offer,
        *,
        managers: Managers,
        sealing: Sealing,
        bus: Bus,
    ) -> None:
        self.info = info
        """The server's Implementation object: name, version, title."""
        self._offer = offer
        self._instructions = offer.instructions
        self._tools, self._resources, self._prompts = managers.tools, managers.resources, managers.prompts
        self._completions = managers.completions
        self.tasks = managers.tasks
        """None on a server without a store for them: then the extension does not exist."""
        self._search = managers.search
        self._sealing = sealing
        self._bus = bus
        self._signatures: dict[Callable[..., Any], Signature] = {}
        self._reach = Reach(
            self._signature_of, managers.threads.run, self._resources.read, self._search_documents, self._changed
        )
        self._capabilities = self._build_capabilities()
        self._offered = frozenset(row.name for row in TABLE.values() if self._has(row))
        self._handlers: dict[str, Callable[[Call, Exchange, float], Awaitable[Result]]] = {
            "server/discover": self._discover,
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "resources/list": self._list_resources,
            "resources/templates/list": self._list_templates,
            "resources/read": self._read_resource,
            "prompts/list": self._list_prompts,
            "prompts/get": self._get_prompt,
            "completion/complete": self._complete,
        }
        if self.tasks is not None:
            methods = {"get": self.tasks.get, "update": self.tasks.update, "cancel": self.tasks.cancel}
            self._handlers |= {f"tasks/{name}": _of_call(method) for name, method in methods.items()}

    def _build_capabilities(self) -> Result:
        told = {"listChanged": True} if self._offer.change_notices else {}
        watched = {"subscribe": True} if self._offer.change_notices else {}
        return {"tools": told, "resources": {**told, **watched}, "prompts": told, "completions": {}, "logging": {}}

    def capabilities(self, version: str) -> Result:
        """Return the capabilities as the revision `version` knows them (TSK-14: tasks are of the stateless one)."""
        if is_stateless(version):
            return self._capabilities if self.tasks is None else {**self._capabilities, "extensions": {EXTENSION: {}}}
        if can(version, "completions"):
            return self._capabilities
        return {key: value for key, value in self._capabilities.items() if key != "completions"}

    def offers(self, row: Method) -> bool:
        """True when the capability that `row` needs is advertised (step 10 of the ladder)."""
        return row.name in self._offered

    def _has(self, row: Method) -> bool:
        if row.name in _WATCHING and not self._offer.change_notices:
            return False
        if row.extension is not None and self.tasks is None:
            return False
        return row.capability is None or row.capability in self._capabilities

    def initialize(self, version: str) -> Result:
        """Return the InitializeResult for the negotiated `version` (INI-1)."""
        info = dict(self.info)
        if not can(version, "title"):
            info.pop("title", None)
        result = {"protocolVersion": version, "capabilities": self.capabilities(version), "serverInfo": info}
        if self._instructions:
            result["instructions"] = self._instructions
        return result

    def budget_s(self, call: Call) -> float | None:
        """Return the time limit that the called tool sets itself."""
        return self._tools.budget_s(call.params.get("name")) if call.method == "tools/call" else None

    def tool_rate(self, call: Call, default: Rate | None) -> Rate | None:
        """Return how often the caller may call this tool, `default` when it does not say; None for any other call."""
        if call.method != "tools/call":
            return None
        return self._tools.rate(call.params.get("name"), call.principal, default)

    def check_tool(self, call: Call) -> None:
        """Say whether the called tool exists for its caller. Raises: InvalidParams, NotFound, Forbidden."""
        self._tools.find(call.params.get("name"), call.principal)

    def header_parameters(self, call: Call) -> tuple[HeaderParameter, ...]:
        """Return the parameter headers that this call has to mirror (step 12, HDR-13)."""
        if call.method != "tools/call":
            return ()
        return self._tools.header_parameters(call.params.get("name"), call.principal)

    def watchable(self, uri: str, call: Call) -> bool:
        """True when the caller may subscribe to `uri` (SUB-9)."""
        return self._resources.serves(uri, call.principal)

    def handle(self, call: Call, exchange: Exchange, deadline: float) -> Awaitable[Result]:
        """Answer one call, when awaited. `deadline` is on Trio's clock, for the author's information.

        Raises: WireError, or any exception of an author's function.
        Cancellation: whatever runs is stopped as its work class allows.
        """
        return self._handlers[call.method](call, exchange, deadline)

    async def _discover(self, call: Call, _exchange: Exchange, _deadline: float) -> Result:
        result = {
            "supportedVersions": SUPPORTED_STATELESS,
            "capabilities": self.capabilities(call.version),
            "ttlMs": self._offer.ttl_ms,
            "cacheScope": "public",
        }
        if self._instructions:
            result["instructions"] = self._instructions
        return result

    async def _list_tools(self, call: Call, _exchange: Exchange, _deadline: float) -> Result:
        return self._tools.list(_cursor(call), call.principal)

    async def _list_resources(self, call: Call, _exchange: Exchange, _deadline: float) -> Result:
        return await self._resources.list(_cursor(call), call.principal)

    async def _list_templates(self, call: Call, _exchange: Exchange, _deadline: float) -> Result:
        return self._resources.templates(_cursor(call), call.principal)

    async def _list_prompts(self, call: Call, _exchange: Exchange, _deadline: float) -> Result:
        return self._prompts.list(_cursor(call), call.principal)

    def _call_tool(self, call: Call, exchange: Exchange, deadline: float) -> Awaitable[Result]:
        support = self._tools.task_support(call.params.get("name")) if call.task is None else "forbidden"
        if support != "forbidden":
            if self.tasks is not None and declared(call):
                return self._begin_task(self.tasks, call, exchange, deadline)
            if support == "required":
                raise undeclared()
        return self._run_tool(call, exchange, deadline)

    def _run_tool(self, call: Call, exchange: Exchange, deadline: float) -> Awaitable[Result]:
        def run(turn: Turn) -> Awaitable[Result]:
            return self._tools.call(call.params, call.principal, turn.context)

        return self._with_inputs(call, exchange, deadline, run)

    async def _begin_task(self, tasks: Tasks, call: Call, exchange: Exchange, deadline: float) -> Result:
        if not self._tools.asks_first(call.params, call.principal):
            return await tasks.create(call, self._sealing.open(call))
        try:
            return await self._run_tool(structs.replace(call, deferrable=True), exchange, deadline)
        except StartTask as start:
            rounds = start.rounds
        return await tasks.create(call, rounds)

    async def _read_resource(self, call: Call, exchange: Exchange, deadline: float) -> Result:
        async def run(turn: Turn) -> Result:
            asked = any(call.params.get(key) is not None for key in ("inputResponses", "requestState"))
            result = await self._resources.read(call.params.get("uri"), turn.run, call.principal, fresh=asked)
            return {**result, "ttlMs": 0, "cacheScope": "private"} if asked else result

        return await self._with_inputs(call, exchange, deadline, run)

    async def _get_prompt(self, call: Call, exchange: Exchange, deadline: float) -> Result:
        async def run(turn: Turn) -> Result:
            params = call.params
            return await self._prompts.get(params.get("name"), params.get("arguments"), turn.run, call.principal)

        return await self._with_inputs(call, exchange, deadline, run)

    async def _complete(self, call: Call, exchange: Exchange, deadline: float) -> Result:
        turn = Turn(self._reach, call, exchange, Rounds(), deadline)
        try:
            return await self._completions.complete(call.params, turn.run, call.principal)
        except InputRequired:
            raise TypeError("a completion function cannot ask its client for input (MRT-1)") from None

    async def _with_inputs(
        self, call: Call, exchange: Exchange, deadline: float, run: Callable[[Turn], Awaitable[Result]]
    ) -> Result:
        rounds = self._rounds(call)
        try:
            return await run(Turn(self._reach, call, exchange, rounds, deadline))
        except StartTask:
            raise
        except InputRequired as needed:
            return self._sealing.input_required(call, rounds, needed.requests)
        except BaseExceptionGroup as group:
            wanted, rest = group.split(InputRequired)
            if wanted is None or rest is not None:
                raise
            requests = merge(wanted)
            if not requests:
                raise StartTask(rounds) from None
            return self._sealing.input_required(call, rounds, requests)

    def _rounds(self, call: Call) -> Rounds:
        if call.task is None or self.tasks is None:
            return self._sealing.open(call)
        return self.tasks.rounds_of(call.task)

    def _signature_of(self, fn: Callable[..., Any]) -> Signature:
        """Return how a resource, prompt or completion function wants to be run; read once for each function."""
        signature = self._signatures.get(fn)
        if signature is None:
            signature = inspect_function(fn, input_schema={"type": "object"}, validate=False)
            self._signatures[fn] = signature
        return signature

    async def _search_documents(self, body: Result, principal: Principal) -> Result:
        if self._search is None:
            raise StoreUnavailable("This server has no document store")
        return await self._search(body, principal)

    def _changed(self, kind: str, uri: str | None) -> None:
        if kind not in _KINDS or (kind == "resource") != (uri is not None):
            raise ValueError("changed() takes 'tools', 'prompts', 'resources', or 'resource' with its uri")
        self._bus.publish(Changed(kind, uri))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Managers:
    """The managers behind one service, and the search of its documents where there are any."""

    tools: ToolManager
    resources: ResourceManager
    prompts: PromptManager
    completions: Completions
    threads: ThreadPool
    search: Callable[[Result, Principal], Awaitable[Result]] | None = None
    tasks: Tasks | None = None


def _of_call(method: Callable[[Call], Awaitable[Result]]) -> Callable[[Call, Exchange, float], Awaitable[Result]]:
    return lambda call, _exchange, _deadline: method(call)


def _cursor(call: Call) -> str | None:
    cursor = call.params.get("cursor")
    if cursor is None or isinstance(cursor, str):
        return cursor
    raise InvalidParams("params.cursor must be a string")
