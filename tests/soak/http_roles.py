"""Honest clients of Streamable HTTP: stateless ones, and sessions with streams, resumption and DELETE.

Cancelled in the way of the transport: a stateless call by closing its connection, a stateful one by
`notifications/cancelled` or with its session. Deliberately not: hostile or slow ones.

Sources: MCP 2026-07-28 and 2025-11-25 transports.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import trio

from mcpd.wire.versions import STATEFUL
from tests.e2e.websocket import ANSWER
from tests.served import Mcp, Reply, ReplyReader, client_at, opened, stateless
from tests.soak import corpus, orders
from tests.soak.orders import Order
from tests.soak.world import GONE, Actor

CALLS = 12
"""Of one connection or session."""
GONE_SESSION = 404


async def stateless_calls(actor: Actor) -> None:
    """Make calls on a kept connection, and on connections of their own those that are cut off."""
    async with client_at(actor.url, **actor.headers) as mcp:
        for _ in range(CALLS):
            order = orders.draw(actor.chance)
            if actor.cancels():
                await _cut_off(actor, order)
            else:
                with actor.timed():
                    reply = await mcp.ask(order.method, order.params, meta=_progress(actor))
                judge(actor, order, reply)
            await actor.think()


def _progress(actor: Actor) -> dict[str, Any]:
    return {"progressToken": actor.name} if actor.chance.random() < 0.5 else {}


def judge(actor: Actor, order: Order, reply: Reply) -> None:
    """Count an answer, or note that it is wrong."""
    if not reply.messages or not order.right(reply.last):
        actor.expect(False, f"{order.label} is answered wrongly: {reply.status} {reply.text[:200]}")
    actor.add("answered")


async def _cut_off(actor: Actor, order: Order) -> None:
    body, headers = stateless(order.method, order.params, meta=_progress(actor))
    with trio.move_on_after(actor.moment()) as patience, suppress(*GONE):
        async with opened(actor.url, "POST", json.dumps(body).encode(), {**headers, **actor.headers}) as reader:
            await reader.whole()
    actor.add("cancelled" if patience.cancelled_caught else "answered before the cut")


async def stateless_questions(actor: Actor) -> None:
    """Be asked, and retry with the answer; sometimes never answer."""
    async with client_at(actor.url, **actor.headers) as mcp:
        params: dict[str, Any] = {"name": "greet", "arguments": {}}
        reply = await mcp.ask("tools/call", params, capabilities={"elicitation": {}})
        asked = reply.last.get("result", {})
        actor.expect("requestState" in asked, f"greet asks nothing: {reply.text[:200]}")
        if actor.chance.random() < 0.3 or "requestState" not in asked:
            return
        answers = {"inputResponses": {"who": ANSWER}, "requestState": asked["requestState"]}
        reply = await mcp.ask("tools/call", {**params, **answers}, capabilities={"elicitation": {}})
        judge(actor, orders.tool_call("greet", {}, orders.says("Hello, Ada!")), reply)


async def stateless_listening(actor: Actor) -> None:
    """Listen to the hot document until it has changed twice, then hang up."""
    params = {"notifications": {"resourceSubscriptions": [corpus.HOT], "toolsListChanged": True}}
    body, headers = stateless("subscriptions/listen", params)
    async with opened(actor.url, "POST", json.dumps(body).encode(), {**headers, **actor.headers}) as reader:
        await hear_updates(actor, reader, 2)


async def hear_updates(actor: Actor, reader: ReplyReader, number: int) -> None:
    """Read a stream until it has told of so many updates of the hot document."""
    heard = 0
    while heard < number:
        message = await reader.message()
        if message is None:
            raise AssertionError("a stream of updates has ended")
        if message.get("method") == "notifications/resources/updated":
            actor.expect(message["params"]["uri"] == corpus.HOT, "an update of something else")
            actor.add("updates heard")
            heard += 1


async def sessions(actor: Actor) -> None:
    """Open a session, do all that one can do there, and end it, or forget it."""
    async with client_at(actor.url, **actor.headers) as mcp:
        await mcp.initialize(actor.chance.choice(STATEFUL[:3]))
        for number in range(1, CALLS):
            await actor.chance.choice(_IN_SESSION)(actor, mcp, number)
            await actor.think()
        if actor.chance.random() < 0.8:
            await _end_session(actor, mcp)


async def _plain(actor: Actor, mcp: Mcp, number: int) -> None:
    order = orders.draw(actor.chance)
    with actor.timed():
        reply = await mcp.call(order.method, order.params, number)
    judge(actor, order, reply)


async def _cancelled(actor: Actor, mcp: Mcp, number: int) -> None:
    """The POST of a cancelled call ends, too."""
    order = orders.nap(actor.chance.choice(["async", "async", "thread", "process"]), 0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mcp.call, order.method, order.params, number)
        await trio.sleep(actor.moment())
        reply = await mcp.say("notifications/cancelled", {"requestId": number})
        actor.expect(reply.status == 202, f"notifications/cancelled is answered with {reply.status}")
    actor.add("cancelled")


async def _resumed(actor: Actor, mcp: Mcp, number: int) -> None:
    """Lose the stream of a call after its first event, and take it up again."""
    order = orders.counting(6, 0.02)
    params = {**order.params, "_meta": {"progressToken": number}}
    body = {"jsonrpc": "2.0", "id": number, "method": order.method, "params": params}
    headers = {**actor.headers, **mcp.session}
    async with opened(actor.url, "POST", json.dumps(body).encode(), headers) as reader:
        last = await _first_event(reader)
    accept = {"accept": "text/event-stream", "last-event-id": last}
    async with opened(actor.url, "GET", b"", {**headers, **accept}) as reader:
        while (message := await reader.message()) is not None and message.get("id") != number:
            pass
    actor.expect(message is not None and order.right(message), f"a resumed call is answered wrongly: {message}")
    actor.add("resumed")


async def _first_event(reader: ReplyReader) -> str:
    while (event := await reader.event()) is not None:
        if "id" in event:
            return event["id"]
    raise AssertionError(f"a stream without events: {reader.status}")


async def _subscribed(actor: Actor, mcp: Mcp, number: int) -> None:
    """Hear of a change on the session's GET stream."""
    reply = await mcp.call("resources/subscribe", {"uri": corpus.HOT}, number)
    actor.expect(reply.messages and "result" in reply.last, f"resources/subscribe: {reply.status} {reply.text[:200]}")
    headers = {**mcp.session, **actor.headers, "accept": "text/event-stream"}
    async with opened(actor.url, "GET", b"", headers) as reader:
        actor.expect(reader.streamed, f"GET is answered with {reader.status}")
        await hear_updates(actor, reader, 1)


_IN_SESSION = (_plain, _plain, _plain, _plain, _cancelled, _cancelled, _resumed, _subscribed)
"""A quarter of these is cancelled; DELETE cancels besides."""


async def _end_session(actor: Actor, mcp: Mcp) -> None:
    """DELETE, sometimes with calls in flight, whose POSTs then end."""
    async with trio.open_nursery() as nursery:
        if actor.cancels():
            for number in range(100, 103):
                nursery.start_soon(_doomed, actor, mcp, number)
            await trio.sleep(actor.moment())
        reply = await mcp.http.delete("/mcp", headers=mcp.session)
        actor.expect(reply.status_code in {200, 204}, f"DELETE is answered with {reply.status_code}")
    status = (await mcp.call("tools/list")).status
    actor.expect(status == GONE_SESSION, f"an ended session answers {status}")
    actor.add("sessions ended")


async def _doomed(actor: Actor, mcp: Mcp, number: int) -> None:
    order = orders.nap("async", 5)
    with suppress(*GONE):
        await mcp.call(order.method, order.params, number)
    actor.add("cancelled")
