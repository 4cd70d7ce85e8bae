"""Clients with sessions: each request goes to the next replica; some sessions are ended, some kept to the last.

A session that was acknowledged is there on every replica until it is ended, unless Redis has lost everything. While
Redis is away it is refused as retryable, never as unknown.
"""

from __future__ import annotations

import json
import time

import trio

from tests.chaos.asking import Order, Session, ask, ask_until, begin_session, judge, refused
from tests.chaos.call_roles import said
from tests.chaos.oracle import Failure, Owed
from tests.chaos.world import KEPT_SESSIONS, Actor, Held
from tests.served import opened
from tests.soak.world import GONE, describe

CALLS = 8
GONE_STATUS = 404


async def sessions(actor: Actor) -> None:
    """Initialize, list, call, and end the session, or leave it open."""
    session = await begin_session(actor)
    if session is None:
        return
    for number in range(1, CALLS):
        if not await _use(actor, session, number):
            return
        await actor.think(0.2)
    if actor.chance.random() < 0.5 and len(actor.world.ledger.sessions) < KEPT_SESSIONS:
        actor.world.ledger.sessions[session.key] = Held(session.key, session.since)
    else:
        await end(actor, session)


async def _use(actor: Actor, session: Session, number: int) -> bool:
    """Make one call; False when the session is gone."""
    if number % 3 == 1:
        what = session.order("tools/list in a session", "tools/list", {}, number)
        listed = await ask_until(actor, what)
        actor.expect(listed is None or listed["tools"], "no tools")
    else:
        params = {"name": "rest", "arguments": {"seconds": actor.chance.choice([0.0, 0.1, 1.0])}}
        what = session.order("rest in a session", "tools/call", params, number)
        result = await ask(actor, what)
        actor.expect(result is None or said(result) == "rested", f"wrong: {result}")
    if what.excused == "gone":
        actor.world.lose("sessions", Held(session.key, session.since), "a replica does not know it")
    return what.excused != "gone"


async def end(actor: Actor, session: Session) -> None:
    """End a session by DELETE, and see that it is gone."""
    while (ended := await _delete(actor, session)).excused != "gone":
        if ended.failure is None:
            break
        if ended.excused is None:
            return
        await trio.sleep(0.1)
    after = session.order("call after the end", "tools/list")
    if await ask_gone(actor, after):
        actor.add("sessions ended")


async def ask_gone(actor: Actor, what: Order) -> bool:
    """Ask in a session that has ended; True when it is unknown, as it should be.

    A replica that has had it goes on with it while it cannot ask Redis.
    """
    since = time.monotonic()
    while True:
        headers = {**what.headers}
        try:
            async with opened(actor.url, "POST", json.dumps(what.body).encode(), headers) as reader:
                status = reader.status
                await reader.whole()
        except GONE:
            status = 0
        if status == GONE_STATUS:
            return True
        if status not in {0, 503} and not actor.world.history.troubled(since, time.monotonic()):
            return actor.expect(False, f"an ended session answers {status}", f"{what} since {since:.3f}")
        await trio.sleep(0.1)


async def _delete(actor: Actor, session: Session) -> Order:
    what = session.order("DELETE", "")
    what.owed = Owed(store=True, session_since=session.since)
    begin = time.monotonic()
    try:
        async with opened(actor.url, "DELETE", b"", what.headers) as reader:
            text = await reader.whole()
            what.failure = refused(reader.status, json.loads(text) if text else {})
    except GONE as error:
        what.failure = Failure("broken", describe(error))
    if what.failure and what.failure.status == GONE_STATUS:
        what.excused = "gone"
        return what
    judge(actor, what, begin, time.monotonic())
    return what


async def look_after(actor: Actor) -> None:
    """Look at one of the sessions that are kept: it is there on whatever replica."""
    ledger = actor.world.ledger
    if not ledger.sessions:
        return
    held = ledger.sessions[actor.chance.choice(sorted(ledger.sessions))]
    session = Session(held.name, held.since)
    what = session.order("kept session", "tools/list")
    if await ask(actor, what) is None and what.failure and what.failure.status == GONE_STATUS:
        ledger.sessions.pop(held.name, None)
        actor.world.lose("sessions", held, "a replica does not know it")
