"""One round of one call, as the functions of authors meet it, and how its state is sealed for the next round.

A `Turn` makes the `Context` of a running function and runs it: `async def` on the event loop, `def` in a thread.
`Sealing` opens what a client sent back from earlier rounds, and turns the questions of this round into the result that
asks them.

Called by: `service`, which hands in what a function may ask of the server as callables (`Reach`). Calls:
`authoring.context`, `tools.threads`, `wire.rounds`. Deliberately not: which method wants which function.

Sources: MCP 2026-07-28 (MRT-1..12).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from mcpd.authoring.context import BlockingContext, Context, Exchange, InputRequired
from mcpd.authoring.functions import Run
from mcpd.authoring.signatures import Signature
from mcpd.tools.threads import call_back
from mcpd.wire.call import Call, Principal
from mcpd.wire.rounds import MAX_ROUNDS_ITEMS, RETURNED, Rounds
from mcpd.wire.sealed import KeyRing

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reach:
    """What the rest of the server does for a running function."""

    signature_of: Callable[[Callable[..., Any]], Signature]
    run_blocking: Callable[..., Awaitable[Any]]
    read: Callable[[str, Run, Principal], Awaitable[Result]]
    search: Callable[[Result, Principal], Awaitable[Result]]
    changed: Callable[[str, str | None], None]


class Turn(msgspec.Struct, eq=False):
    """One round of one call: makes the Context of author functions and runs them."""

    _reach: Reach
    call: Call
    _exchange: Exchange
    rounds: Rounds
    _deadline: float

    def context(self) -> Context:
        """Return a new Context for this call."""
        deadline = time.monotonic() + self._deadline - trio.current_time()
        return Context(self.call, self._exchange, self, self.rounds, deadline)

    async def run(self, fn: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Run an author's function, `async def` or `def`, with its Context if it wants one."""
        signature = self._reach.signature_of(fn)
        wanted = signature.context
        if signature.is_async:
            return await fn(**(kwargs if wanted is None else {**kwargs, wanted: self.context()}))
        if wanted is not None:
            kwargs = {**kwargs, wanted: BlockingContext(self.context(), call_back)}
        return await self._reach.run_blocking(lambda: fn(**kwargs), name=fn.__name__, owner=self.call.principal.share)

    async def read(self, uri: str) -> list[dict[str, Any]]:
        """Read a resource of this server."""
        contents: list[dict[str, Any]] = (await self._reach.read(uri, self.run, self.call.principal))["contents"]
        return contents

    async def search(self, body: Result) -> Result:
        """Search the documents of this server. Raises: InvalidParams, StoreUnavailable."""
        return await self._reach.search(body, self.call.principal)

    def changed(self, kind: str, uri: str | None) -> None:
        """Publish a change. Raises: ValueError for a kind that does not exist."""
        self._reach.changed(kind, uri)


class Sealing:
    """How multi-round-trip state is sealed: the key ring, how long a state lives, how many rounds a call may take."""

    def __init__(
        self, ring: KeyRing, *, ttl_s: float, max_rounds: int = MAX_ROUNDS_ITEMS, clock: Callable[[], float] = time.time
    ) -> None:
        self._ring = ring
        self._ttl_s = ttl_s
        self._max_rounds = max_rounds
        self._clock = clock

    def open(self, call: Call) -> Rounds:
        """Return what the earlier rounds of `call` left. Raises: InvalidParams for a state that does not hold."""
        if call.params.keys().isdisjoint(RETURNED):
            return Rounds()
        return Rounds.open(call, self._ring, now=self._clock(), max_rounds=self._max_rounds)

    def input_required(self, call: Call, rounds: Rounds, requests: dict[str, Any]) -> Result:
        """Return the result that asks `requests`, with the state of this round."""
        state = rounds.seal(call, self._ring, now=self._clock(), ttl_s=self._ttl_s)
        return {"resultType": "input_required", "inputRequests": requests, "requestState": state}


def merge(group: BaseExceptionGroup[InputRequired]) -> dict[str, Any]:
    """Return the questions of all tasks of one function that ran side by side."""
    requests: dict[str, Any] = {}
    for error in group.exceptions:
        requests |= merge(error) if isinstance(error, BaseExceptionGroup) else error.requests
    return requests
