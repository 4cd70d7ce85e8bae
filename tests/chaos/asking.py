"""One request of a raw client, on a connection of its own, and the judgement of how it ended.

`ask` returns the result, or None for a failure, which is counted if the storm excuses it and a violation if it does
not; `ask_until` asks again for as long as it is told to. `Session` adds the headers of a session. A connection of its
own means the next replica. Deliberately not: what a result has to be.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from mcpd.wire.versions import STATEFUL
from tests.chaos.oracle import Failure, Owed, excuse
from tests.chaos.world import Actor
from tests.served import CLIENT, ReplyReader, opened, stateless
from tests.soak.world import GONE, describe

RETRY_S = 0.1
NEEDS_STORE = Owed(store=True)
WRITES = {"notifications/initialized", "resources/subscribe"}
"""What changes the record of a session; DELETE ends it, and is written out by its role."""
FREE = Owed()


@dataclass
class Order:
    """A request: what it is called in the table, body and headers, what is known of it."""

    label: str
    body: dict[str, Any]
    headers: dict[str, str]
    owed: Owed = FREE
    failure: Failure | None = field(default=None, init=False)
    """How it failed the last time it was asked."""
    excused: str | None = field(default=None, init=False)


def order(label: str, method: str, params: dict[str, Any] | None = None, owed: Owed = FREE, **more: Any) -> Order:
    """Return a stateless request."""
    return Order(label, *stateless(method, params, **more), owed)


def calling(label: str, tool: str, arguments: dict[str, Any], owed: Owed = FREE, **more: Any) -> Order:
    """Return a stateless call of a tool."""
    return order(label, "tools/call", {"name": tool, "arguments": arguments}, owed, **more)


async def ask(actor: Actor, what: Order) -> Any:
    """Return the result; None when there is none, and then `what.failure` and `what.excused` say why."""
    begin = time.monotonic()
    what.failure = what.excused = answer = None
    try:
        async with opened(actor.url, "POST", json.dumps(what.body).encode(), what.headers) as reader:
            answer = await _answer(reader)
    except trio.TooSlowError as error:
        what.failure = Failure("silent", describe(error))
    except GONE as error:
        what.failure = Failure("broken", describe(error))
    else:
        what.failure = refused(reader.status, answer)
    judge(actor, what, begin, time.monotonic())
    return None if what.failure or answer is None else answer.get("result", answer)


async def _answer(reader: ReplyReader) -> dict[str, Any]:
    """Return the response; an empty one for 202 and 204, which have none. Raises: BrokenResourceError."""
    if not reader.streamed:
        text = await reader.whole()
        found: dict[str, Any] = json.loads(text) if text else {}
        return found
    while (message := await reader.message()) is not None:
        if "method" not in message:
            return message  # type: ignore[no-any-return]
    raise trio.BrokenResourceError("the stream has ended without an answer")


def refused(status: int, answer: dict[str, Any]) -> Failure | None:
    """Return what an answer refuses; None for a result."""
    error = answer.get("error")
    if error is None and status < 400:
        return None
    error = error or {}
    return Failure("refused", str(error.get("message", "")), status, error.get("code"), error.get("data"))


def judge(actor: Actor, what: Order, begin: float, end: float) -> None:
    """Count how a request ended; a failure that nothing excuses is a violation."""
    if what.failure is None:
        actor.add("answered")
        actor.world.tally.durations_s.setdefault(actor.name, []).append(end - begin)
        return
    what.excused = excuse(what.failure, begin, end, what.owed, actor.world.history)
    if what.excused is None:
        text = f"{what.label}: {what.failure.kind} {what.failure.status} {what.failure.code} {what.failure.text[:120]}"
        actor.expect(False, text, f"from {begin:.3f} to {end:.3f}, {what}")
    actor.add(what.excused or "not excused")


async def ask_until(actor: Actor, what: Order) -> Any:
    """Ask again while the storm excuses that there is no answer and the same may work later; None for any other end."""
    while (result := await ask(actor, what)) is None:
        if what.excused not in {"cut", "store"}:
            return None
        await trio.sleep(RETRY_S)
    return result


@dataclass
class Session:
    """A session over HTTP; `since` is before it was asked for."""

    key: str
    since: float

    @property
    def headers(self) -> dict[str, str]:
        return {"mcp-session-id": self.key, "mcp-protocol-version": STATEFUL[0]}

    @property
    def owed(self) -> Owed:
        return Owed(store=True, only_entry=True, session_since=self.since)

    def order(self, label: str, method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> Order:
        """Return a request of the session; a notification for None as its id."""
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        if request_id is not None:
            message["id"] = request_id
        writes = method in WRITES
        return Order(label, message, self.headers, self.owed._replace(only_entry=not writes))


async def begin_session(actor: Actor) -> Session | None:
    """Initialize; None when the storm was in the way."""
    since = time.monotonic()
    params = {"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": CLIENT}
    what = Order(
        "initialize", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, {}, Owed(store=True)
    )
    key = ""
    try:
        async with opened(actor.url, "POST", json.dumps(what.body).encode(), what.headers) as reader:
            key = reader.headers.get("mcp-session-id", "")
            what.failure = refused(reader.status, await _answer(reader))
    except (*GONE, trio.TooSlowError) as error:
        what.failure = Failure("silent" if isinstance(error, trio.TooSlowError) else "broken", describe(error))
    judge(actor, what, since, time.monotonic())
    if what.failure:
        return None
    actor.world.ledger.acknowledged["sessions"] += 1
    session = Session(key, since)
    said = await ask_until(actor, session.order("initialized", "notifications/initialized", request_id=None))
    return None if said is None else session


@asynccontextmanager
async def streaming(actor: Actor, method: str, what: Order) -> AsyncIterator[ReplyReader | None]:
    """Open a stream; None when it is refused. Whoever reads meets what breaks it."""
    begin = time.monotonic()
    headers = {
        **what.headers,
        "accept": "text/event-stream" if method == "GET" else "application/json, text/event-stream",
    }
    content = b"" if method == "GET" else json.dumps(what.body).encode()
    what.failure = None
    async with opened(actor.url, method, content, headers) as reader:
        if not reader.streamed:
            what.failure = refused(reader.status, json.loads(await reader.whole() or "{}"))
            judge(actor, what, begin, time.monotonic())
        yield reader if reader.streamed else None
