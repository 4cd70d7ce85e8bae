"""What a tool, resource or prompt function may do besides returning a value: its `Context`.

One API for both eras. On a stateful connection `ask` sends live requests and waits; on 2026-07-28 it raises
`InputRequired`, the call ends with `input_required`, and the function runs again from its start when the answers come
back: so do costly or lasting steps through `once`. In a `def` function the same methods block (`BlockingContext`).

Called by: authors' functions; built by `turns`. It knows its call only through the `Exchange` and `Services`
Protocols, and must not import trio: a worker process loads this package and msgspec, nothing else.

Laws: progress is spaced by `authoring.spacing` (PRG-1); a log line goes out only at or above the level the client asked
for (LOG-1); an answer counts only if it fits the form that was sent (MRT-8).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mcpd.authoring.content import Elicit, Roots, Sample
from mcpd.authoring.spacing import Spacing
from mcpd.errors import MissingCapability, ToolError
from mcpd.wire.call import Call, Principal
from mcpd.wire.envelope import LOG_LEVELS, MAX_TIMEOUT_MS
from mcpd.wire.rounds import Rounds
from mcpd.wire.versions import can

Input = Elicit | Sample | Roots
_RANK = {level: rank for rank, level in enumerate(LOG_LEVELS)}


class Exchange(Protocol):
    """One call's way back to its client while it runs."""

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification that belongs to this call; waits while the client is slow."""

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Send live requests `{key: {"method", "params"}}`, return the raw results by key (stateful only).

        Raises: ToolError when the client refuses or does not answer in time.
        """

    def release(self, retry_ms: int) -> None:
        """End the current HTTP stream; the client comes back for the rest after `retry_ms` (RSM-4)."""


class Services(Protocol):
    """What the rest of the server does for a running function."""

    async def read(self, uri: str) -> list[dict[str, Any]]:
        """Return the contents of a resource as its wire blocks. Raises: ResourceNotFound."""

    async def search(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a search, both as JSON. Raises: InvalidParams, StoreUnavailable."""

    def changed(self, kind: str, uri: str | None) -> None:
        """Publish a change event."""


class InputRequired(BaseException):
    """The call needs answers that this round does not have.

    Not an `Exception`, so that a function's own `except Exception` cannot swallow it. `requests` maps input keys to
    `{"method", "params"}`.
    """

    def __init__(self, requests: dict[str, dict[str, Any]]) -> None:
        super().__init__("input required")
        self.requests = requests


class StartTask(InputRequired):
    """The call shall be answered with a task now, which begins with the answers in `rounds`."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__({})
        self.rounds = rounds


class Context:
    """Handed to a function that has a parameter annotated `Context`."""

    __slots__ = ("_call", "_exchange", "_rounds", "_services", "_spacing", "deadline")

    def __init__(self, call: Call, exchange: Exchange, services: Services, rounds: Rounds, deadline: float) -> None:
        self._call = call
        self._exchange = exchange
        self._services = services
        self._rounds = rounds
        self._spacing = Spacing()
        self.deadline = deadline
        """When the call is stopped, in seconds on the clock of `time.monotonic()`."""

    @property
    def request_id(self) -> str:
        """Names this call in the server's log."""
        return self._call.request_id

    @property
    def principal(self) -> Principal:
        """Who is calling."""
        return self._call.principal

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress. Values that do not increase are dropped, and so are values that come too close together.

        Cancellation: a checkpoint only when something is sent.
        """
        token = self._call.progress_token
        if token is None or not self._spacing.admits(done, total):
            return
        params: dict[str, Any] = {"progressToken": token, "progress": done}
        if total is not None:
            params["total"] = total
        if message is not None and can(self._call.version, "progress_message"):
            params["message"] = message
        await self._exchange.notify("notifications/progress", params)

    async def log(self, level: str, data: Any, logger: str | None = None) -> None:
        """Send a log message to the client, if it asked for this level. `data` is any JSON value without secrets.

        Raises: ValueError for an unknown level.
        """
        if level not in _RANK:
            raise ValueError(f"unknown log level {level!r}; use one of {', '.join(LOG_LEVELS)}")
        wanted = self._call.log_level
        if wanted is None or _RANK[level] < _RANK[wanted]:
            return
        params = {"level": level, "data": data}
        if logger is not None:
            params["logger"] = logger
        await self._exchange.notify("notifications/message", params)

    async def read(self, uri: str) -> list[dict[str, Any]]:
        """Read a resource of this server: `[{"uri", "mimeType", "text" | "blob"}, ...]`. Raises: ResourceNotFound."""
        return await self._services.read(uri)

    async def search(self, query: str = "", **options: Any) -> dict[str, Any]:
        """Search this server's documents; the answer is that of `search_documents`: `{"hits": [...], "mode", ...}`.

        `options` are the other members of its grammar: mode, filters, facets, sort, size, cursor, highlight.
        Raises: InvalidParams; StoreUnavailable, also when this server has no document store.
        """
        return await self._services.search({"query": query, **options})

    def changed(self, kind: str, uri: str | None = None) -> None:
        """Tell clients that something changed: `tools`, `prompts`, `resources`, or `resource` with its URI.

        Raises: ValueError for another kind, or a missing URI.
        """
        self._services.changed(kind, uri)

    def require(self, capability: str) -> None:
        """Refuse the call unless the client declared `capability`. Raises: MissingCapability (-32021)."""
        if capability not in self._call.capabilities:
            raise MissingCapability({capability: {}})

    def release_stream(self, retry_ms: int = 1000) -> None:
        """Close the client's HTTP stream while this call goes on; the result waits for its return. Else no effect.

        Raises: ValueError, TypeError, OverflowError when `retry_ms` is no number of milliseconds.
        """
        self._exchange.release(min(max(0, int(retry_ms)), MAX_TIMEOUT_MS))

    async def ask(self, **inputs: Input) -> dict[str, Any]:
        """Ask the client for everything at once; each keyword is an input key, the result maps keys to answers.

        Answers are `ElicitAnswer`, `SampleAnswer` or a list of `Root`, after the kind of question.
        Raises: MissingCapability when the client cannot be asked; ToolError when it fails to answer (stateful).
        """
        for question in inputs.values():
            if not question.supported(self._call.capabilities):
                raise MissingCapability(question.capability())
        answers = self._answered(inputs) if self._call.stateless else {}
        missing = {key: question.request() for key, question in inputs.items() if key not in answers}
        if missing and self._call.stateless and self._call.task is None:
            raise InputRequired(missing)
        if missing:
            answers |= await self._asked_live(inputs, missing)
        return {key: answers[key] for key in inputs}

    async def _asked_live(self, inputs: dict[str, Input], missing: dict[str, dict[str, Any]]) -> dict[str, Any]:
        raw = await self._exchange.ask(missing)
        answers = {key: inputs[key].answer(raw[key]) for key in missing}
        for key, answer in answers.items():
            if answer is None:
                raise ToolError(f"The client's answer to {key!r} does not fit what was asked")
        return answers

    def _answered(self, inputs: dict[str, Input]) -> dict[str, Any]:
        """Return what earlier rounds of this call have answered."""
        answers = {key: self._rounds.answer(key, question.answer) for key, question in inputs.items()}
        return {key: answer for key, answer in answers.items() if answer is not None}

    async def start_task(self) -> None:
        """Answer the client with a task; the rest of the work goes on in it. Only with `@tool(asks_first=True)`.

        Questions before this are asked in rounds of the call, those after it are the task's. The function runs again
        from its start, with the answers and `once` results at hand, and this returns. It also returns, and nothing
        happens, where there are no tasks: on session-based revisions, and for clients that do not know them.
        """
        if self._call.deferrable:
            raise StartTask(self._rounds)

    async def elicit(self, **question: Elicit) -> Any:
        """Ask the user one thing: `await ctx.elicit(name=Elicit(...))` gives its `ElicitAnswer`."""
        return await self._ask_one(question)

    async def sample(self, **question: Sample) -> Any:
        """Ask the client's model one thing: `await ctx.sample(reply=Sample(...))` gives its `SampleAnswer`."""
        return await self._ask_one(question)

    async def roots(self, key: str = "roots") -> Any:
        """Ask for the client's roots: a list of `Root`."""
        return (await self.ask(**{key: Roots()}))[key]

    async def _ask_one(self, question: dict[str, Any]) -> Any:
        if len(question) != 1:
            raise TypeError("ask exactly one question, as a keyword: key=Elicit(...)")
        return next(iter((await self.ask(**question)).values()))

    async def once(self, key: str, fn: Callable[[], Any | Awaitable[Any]]) -> Any:
        """Run a side effect once, however often the call is repeated to collect answers.

        `fn` may be `async`; its result must be a JSON value. It travels signed but readable in the client's hands:
        return no secrets.
        """
        if self._rounds.has_result(key):
            return self._rounds.result(key)
        value = fn()
        if inspect.isawaitable(value):
            value = await value
        self._rounds.keep(key, value)
        return value


class BlockingContext:
    """The same Context for a `def` function: every method blocks its thread until the event loop has done it.

    `run` is `trio.from_thread.run`, handed in so that this package stays free of trio. Raises whatever the method
    raises, and `trio.Cancelled` when the call is over.
    """

    def __init__(self, context: Context, run: Callable[..., Any]) -> None:
        self._context = context
        self._run = run
        self.deadline = context.deadline
        self.request_id = context.request_id
        self.principal = context.principal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._context, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            value = method(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value

        def blocking(*args: Any, **kwargs: Any) -> Any:
            return self._run(lambda: call(*args, **kwargs))

        return blocking

    def once(self, key: str, fn: Callable[[], Any]) -> Any:
        """Like `Context.once`; `fn` runs in this thread."""
        rounds = self._context._rounds  # noqa: SLF001 - the two classes are one, blocking and not
        if not rounds.has_result(key):
            rounds.keep(key, fn())
        return rounds.result(key)
