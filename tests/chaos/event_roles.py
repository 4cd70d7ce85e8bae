"""Clients that listen: what one replica announces is heard on the others, through whatever befalls Redis.

An announcement that was answered reaches every listener whose stream stands, once Redis is there, unless the replica
that announced it died with the event in its hands. What a session misses while it has no stream is counted, and no
violation yet: a replica that has had the session before may not know what was subscribed to since.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import trio

from tests.chaos.asking import Session, ask_until, begin_session, calling, order, streaming
from tests.chaos.call_roles import said
from tests.chaos.oracle import Failure, Owed, excuse
from tests.chaos.world import Actor, Held
from tests.served import ReplyReader
from tests.soak.world import GONE, describe

URIS = 3
HEAR_S = 5.0
"""An event is heard when Redis has been there for so long: some milliseconds, or reconnecting and a poll besides."""
HANDS_S = 1.0
"""After its answer an event may be in its replica's hands for so long."""
UPDATED = "notifications/resources/updated"


class Ear:
    """What one client has heard of, and when."""

    def __init__(self) -> None:
        self.heard: dict[str, list[float]] = {}
        self.since = math.inf
        """Since when a stream has been open without a break."""
        self.cut: BaseException | None = None
        self.ended = trio.Event()

    async def listen(self, reader: ReplyReader) -> None:
        """Read until the stream breaks or ends."""
        self.since = min(self.since, time.monotonic())
        try:
            while (message := await reader.message()) is not None:
                if message.get("method") == UPDATED:
                    self.heard.setdefault(message["params"]["uri"], []).append(time.monotonic())
        except (*GONE, trio.TooSlowError) as error:
            self.cut = error
        self.since = math.inf


async def listening(actor: Actor) -> None:
    """Listen without a session; the scene ends when the stream is cut, for such a client begins anew."""
    uris = [f"note:///{actor.fresh('n')}/copy" for _ in range(URIS)]
    what = order("listen", "subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}})
    ear, begin = Ear(), time.monotonic()
    try:
        async with streaming(actor, "POST", what) as reader:
            if reader is not None and await reader.message() is not None:
                await _hear_all(actor, ear, reader, uris)
    except* GONE as error:
        ear.cut = error
    _judge_cut(actor, ear, begin)


async def _hear_all(actor: Actor, ear: Ear, reader: ReplyReader, uris: list[str]) -> None:
    ear.since = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ear.listen, reader)
        for uri in uris:
            if not await _announce_and_hear(actor, ear, uri):
                break
        nursery.cancel_scope.cancel()


def _judge_cut(actor: Actor, ear: Ear, begin: float) -> None:
    if ear.cut is not None:
        failure, now = Failure("broken", describe(ear.cut)), time.monotonic()
        found = excuse(failure, begin, now, Owed(), actor.world.history)
        actor.expect(found, f"a stream of notices was cut: {failure.text}", f"from {begin:.3f} to {now:.3f}")
        actor.add("streams cut")


class Announced(NamedTuple):
    """An announcement that was answered: from when to when it was made, and by which process."""

    uri: str
    begin: float
    at: float
    pid: int


async def _announce(actor: Actor, uri: str) -> Announced | None:
    begin = time.monotonic()
    result = await ask_until(actor, calling("announce", "announce", {"uri": uri}))
    if result is None:
        return None
    actor.world.ledger.acknowledged["events"] += 1
    return Announced(uri, begin, time.monotonic(), int(said(result)))


async def _announce_and_hear(actor: Actor, ear: Ear, uri: str) -> bool:
    """Announce, and wait until it is heard; False when nothing more is to be heard here."""
    told = await _announce(actor, uri)
    if told is None:
        return True
    return await _hear(actor, ear, told, once=True)


async def _hear(actor: Actor, ear: Ear, told: Announced, *, once: bool = False) -> bool:
    history, (uri, _, at, _) = actor.world.history, told
    while uri not in ear.heard:
        now = time.monotonic()
        if ear.ended.is_set() or (once and ear.cut):
            return False
        if history.calm(at, now) > HEAR_S:
            _unheard(actor, ear, told)
            return True
        await trio.sleep(0.01)
    if not history.troubled(at, ear.heard[uri][0]):
        actor.world.delay("announced to heard", max(0.0, ear.heard[uri][0] - at))
    actor.add("heard")
    return True


def _unheard(actor: Actor, ear: Ear, told: Announced) -> None:
    """Judge an event that was not heard: its replica may have died with it, or a session had no stream at the time."""
    history = actor.world.history
    if history.death_of(told.pid) <= max(told.at + HANDS_S, history.recovered(told.at)):
        actor.world.ledger.excused["events"] += 1
    elif ear.since > told.begin:
        actor.add("missed without a stream")
    else:
        actor.world.ledger.lost["events"] += 1
        actor.expect(False, "an event was not heard", f"{told}, listening since {ear.since:.3f}")


async def subscribed(actor: Actor) -> None:
    """Subscribe in a session, read its GET, open it again wherever it is cut, and hear of everything."""
    session = await begin_session(actor)
    if session is None:
        return
    uris = [f"note:///{actor.fresh('s')}/copy" for _ in range(URIS)]
    for number, uri in enumerate(uris, 1):
        subscribe = session.order("subscribe", "resources/subscribe", {"uri": uri}, number)
        if await ask_until(actor, subscribe) is None:
            if subscribe.excused == "gone":
                _gone(actor, session)
            return
    ear, told = Ear(), list[Announced | None]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keep_reading, actor, session, ear)
        for uri in uris:
            told.append(await _announce(actor, uri))
            await actor.think(1.0)
        for announced in told:
            if announced is not None and not await _hear(actor, ear, announced):
                break
        nursery.cancel_scope.cancel()


def _gone(actor: Actor, session: Session) -> None:
    actor.world.lose("sessions", Held(session.key, session.since), "a replica does not know it")


async def _keep_reading(actor: Actor, session: Session, ear: Ear) -> None:
    """Read the session's GET until the session is gone."""
    while True:
        begin, what, ear.cut = time.monotonic(), session.order("GET", ""), None
        try:
            async with streaming(actor, "GET", what) as reader:
                if reader is not None:
                    await ear.listen(reader)
        except* GONE as error:
            ear.cut = error
        _judge_cut(actor, ear, begin)
        if what.failure is not None and what.excused != "store":
            if what.excused == "gone":
                _gone(actor, session)
            ear.ended.set()
            return
        await trio.sleep(0.1)
