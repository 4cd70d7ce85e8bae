"""Clients that need no store: stateless calls on kept and on fresh connections, questions, and a tool with a rate.

Whatever becomes of Redis, these go on; only a replica's death may cut them. Deliberately not: sessions.
"""

from __future__ import annotations

import time
from typing import Any

import httpx

from tests.chaos.asking import FREE, ask, calling, judge, order, refused
from tests.chaos.oracle import Failure, Owed
from tests.chaos.world import Actor
from tests.served import client_at
from tests.soak.world import describe

CALLS = 12
ANSWER = {"user_name": {"action": "accept", "content": {"name": "Ada"}}}
RATE_ITEMS, RATE_PER_S = 4, 2.0
"""What `tools.limited` has."""


def said(result: Any) -> str:
    """Return the text of a tool's result."""
    return str(result["content"][0]["text"])


async def fresh_calls(actor: Actor) -> None:
    """Make calls, each on a connection of its own."""
    for _ in range(CALLS):
        seconds = actor.chance.choice([0.0, 0.0, 0.05, 0.5, 2.0])
        if actor.chance.random() < 0.3:
            listed = await ask(actor, order("tools/list", "tools/list"))
            actor.expect(listed is None or any(one["name"] == "tally" for one in listed["tools"]), "no tools")
        else:
            result = await ask(actor, calling("rest", "rest", {"seconds": seconds}))
            actor.expect(result is None or said(result) == "rested", f"wrong: {result}")
        await actor.think()


async def kept_calls(actor: Actor) -> None:
    """Make calls on a connection that is kept for as long as it lives."""
    async with client_at(actor.url) as mcp:
        for number in range(CALLS):
            what = calling("echo", "echo", {"text": f"text {number}"})
            begin = time.monotonic()
            try:
                reply = await mcp.post(what.body, what.headers)
            except httpx.TransportError as error:
                what.failure = Failure("broken", describe(error))
            else:
                what.failure = refused(reply.status, reply.last)
                actor.expect(what.failure or said(reply.result) == f"text {number}", "the answer of another call")
            judge(actor, what, begin, time.monotonic())
            await actor.think(0.3)


async def questions(actor: Actor) -> None:
    """Be asked by one replica, and bring the answer to the next one."""
    params: dict[str, Any] = {"name": "greet", "arguments": {}}
    asked = await ask(actor, order("greet", "tools/call", params, capabilities={"elicitation": {}}))
    if asked is None or not actor.expect("requestState" in asked, f"greet asks nothing: {asked}"):
        return
    params |= {"inputResponses": ANSWER, "requestState": asked["requestState"]}
    told = await ask(actor, order("greet again", "tools/call", params, FREE, capabilities={"elicitation": {}}))
    actor.expect(told is None or said(told) == "Hello, Ada!", f"wrong: {told}")


async def limited(actor: Actor) -> None:
    """Call a tool as fast as it goes, and note when it was let through."""
    for _ in range(RATE_ITEMS + 2):
        begin = time.monotonic()
        if await ask(actor, calling("limited", "limited", {}, Owed(limited=True))):
            actor.world.limited.append((begin, time.monotonic()))


def judge_rates(actor: Actor, until: float) -> None:
    """Hold the rate against every stretch in which Redis was well: over all replicas it is one."""
    history = actor.world.history
    edges = [(one.begin, one.end + 2) for one in history.troubles] + [(until, until)]
    since = 0.0
    for begin, end in edges:
        passed = [one for one in actor.world.limited if since <= one[0] and one[1] < begin]
        if passed:
            most = RATE_ITEMS + 1 + RATE_PER_S * (passed[-1][1] - passed[0][0])
            actor.expect(len(passed) <= most, f"{len(passed)} calls were let through, at most {most:.0f} may be")
            actor.add("stretches judged")
        since = end
