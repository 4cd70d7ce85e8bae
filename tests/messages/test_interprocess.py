"""What sessions of several servers tell each other: cancels, ends, changes, answers; and what is lost with the link."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mcpd.assembly import Parts
from mcpd.errors import StoreUnavailable
from mcpd.events import Changed
from mcpd.messages import interprocess, recent
from mcpd.messages.early_cancels import KEEP_S, MAX_ITEMS
from mcpd.messages.flight import Flight
from mcpd.messages.peer import asker_of
from mcpd.messages.session import Session
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.memory.inbox import InboxShelf, MemoryInbox
from mcpd.storage.memory.sessions import MemorySessions, SessionShelf
from mcpd.wire.call import Principal
from mcpd.wire.jsonrpc import Response
from mcpd.wire.session import SessionState
from tests.messages.memory import Collector, Wire, session_call
from tests.messages.test_shared_sessions import ADA, BOB, PARAMS, Away, apply, clock, found, made, server


class Link(MemoryInbox):
    """One that can be away; counts what is sent."""

    away = False
    sent = 0

    async def send(self, to: str, topic: str, body: bytes) -> bool:
        self._check()
        return await super().send(to, topic, body)

    async def send_all(self, topic: str, body: bytes) -> int:
        self._check()
        return await super().send_all(topic, body)

    def _check(self) -> None:
        if self.away:
            raise StoreUnreachable("away")
        self.sent += 1


@pytest.fixture
def shelf() -> SessionShelf:
    return SessionShelf(clock=clock)


@pytest.fixture
def three(tmp_path: Path, shelf: SessionShelf, autojump_clock: MockClock) -> Sequence[Parts]:
    inboxes = InboxShelf()
    return [server(tmp_path, Away(shelf), inbox=Link(inboxes)) for _ in range(3)]


def link(parts: Parts) -> Link:
    assert isinstance(parts.inbox, Link)
    return parts.inbox


def store(parts: Parts) -> Away:
    found_store = parts.sessions._store
    assert isinstance(found_store, Away)
    return found_store


def flying(session: Session, request_id: Any) -> Flight:
    """A call of this session that is in flight here."""
    flight = Flight(session_call(session, "tools/call", request_id=request_id), Wire())
    session.calls.enter(flight)
    return flight


async def begun(parts: Parts, others: Sequence[Parts], principal: Principal = ADA) -> list[Session]:
    """Begin a session on one server and load it on the others."""
    session = await made(parts, principal)
    return [session, *[await found(other, session) for other in others]]


async def test_a_cancel_reaches_the_call_on_whatever_server_it_runs(three: Sequence[Parts]) -> None:
    """CAN-3: that one and no other, and its id's type counts."""
    here, there, elsewhere = await begun(three[0], three[1:])
    flights = [flying(session, name) for session in (there, elsewhere) for name in ("1", 2)]
    stranger = (await begun(three[1], [], BOB))[0]
    foreign = flying(stranger, 1)
    await three[0].sessions.cancel(here, 1)
    await three[0].sessions.cancel(here, 1.5)
    await three[0].sessions.cancel(here, None)
    assert [flight.reason for flight in (*flights, foreign)] == [None] * 5
    await three[0].sessions.cancel(here, 2)
    assert [flight.reason for flight in (*flights, foreign)] == [None, "explicit", None, "explicit", None]


async def test_a_cancel_that_overtakes_its_call_cancels_it_when_it_comes(three: Sequence[Parts]) -> None:
    """CAN-3: on the server that has heard it and on any other, whether the session is loaded there or not; once."""
    here, there = await begun(three[0], three[1:2])
    for request_id in (1, 2, 3, "4"):
        await three[0].sessions.cancel(here, request_id)
    elsewhere = await found(three[2], here)
    flights = [flying(here, 1), flying(there, 2), flying(elsewhere, 3), flying(elsewhere, 4)]
    assert [flight.reason for flight in flights] == ["explicit", "explicit", "explicit", None]
    here.calls.leave(flights[0])
    assert flying(here, 1).reason is None


async def test_a_cancel_that_no_call_follows_is_soon_forgotten(three: Sequence[Parts]) -> None:
    here, there = await begun(three[0], three[1:2])
    await three[0].sessions.cancel(here, 1)
    await trio.sleep(KEEP_S)
    assert [flying(session, 1).reason for session in (here, there)] == [None, None]


async def test_cancels_that_no_call_follows_are_bounded_in_number(three: Sequence[Parts]) -> None:
    here = (await begun(three[0], []))[0]
    for request_id in range(MAX_ITEMS + 1):
        await three[0].sessions.cancel(here, request_id)
    assert [flying(here, request_id).reason for request_id in (0, 1)] == [None, "explicit"]


async def test_a_cancel_of_a_call_that_is_here_tells_nobody(three: Sequence[Parts]) -> None:
    here, _ = await begun(three[0], three[1:2])
    flight, sent = flying(here, 1), link(three[0]).sent
    await three[0].sessions.cancel(here, 1)
    assert (flight.reason, link(three[0]).sent) == ("explicit", sent)


async def test_a_session_that_its_client_ends_ends_on_all_servers_at_once(three: Sequence[Parts]) -> None:
    """SES-4: nobody has to look first."""
    here, there, _ = await begun(three[0], three[1:])
    flight = flying(there, 1)
    await three[0].sessions.end(here)
    assert (there.ended, flight.reason) == (True, "explicit")
    assert not any(parts.sessions._by_key for parts in three)


async def test_a_session_that_the_server_ends_ends_on_all_servers_soon(three: Sequence[Parts]) -> None:
    """AUT-11: that of a revoked key, for one."""
    _, there = await begun(three[0], three[1:2])
    flight = flying(there, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(three[0].sessions.expire)
        three[0].sessions.close_of(lambda principal: principal.id == "ada")
        await trio.testing.wait_all_tasks_blocked()
        assert (there.ended, flight.reason) == (True, "admin")
        nursery.cancel_scope.cancel()


async def test_a_session_that_gives_way_on_one_server_ends_on_all(tmp_path: Path, shelf: SessionShelf) -> None:
    inboxes = InboxShelf()
    one, two = (
        server(tmp_path, MemorySessions(shelf), {"max_sessions_per_principal": 1}, MemoryInbox(inboxes))
        for _ in range(2)
    )
    first = await made(one)
    await made(two)
    assert first.ended


def waiting(session: Session) -> list[str | None]:
    """The resources of which its client has still to be told, each once."""
    return [uri for kind, uri in session.notices._pending.take() if kind == "resource"]


async def test_an_event_that_came_before_the_subscription_was_heard_of_is_told(three: Sequence[Parts]) -> None:
    """STR-6: the client has its answer from another server, and its stream is open here."""
    _, there, _ = await begun(three[0], three[1:])
    waiting(there)
    three[1].bus.publish(Changed("resource", "note:///old/copy"))
    await trio.sleep(recent.KEEP_S + 1)
    three[1].bus.publish(Changed("resource", "note:///one"))
    three[1].bus.publish(Changed("tools"))
    for uri in ("note:///one", "note:///two/copy", "note:///old/copy"):
        await apply(three[0], there, "resources/subscribe", uri=uri)
    assert waiting(there) == ["note:///one"]
    await apply(three[0], there, "logging/setLevel", level="error")
    assert waiting(there) == []


async def test_more_events_than_are_kept_are_told_as_all(three: Sequence[Parts]) -> None:
    """Law 8."""
    _, there, _ = await begun(three[0], three[1:])
    waiting(there)
    for number in range(recent.MAX_EVENTS):
        three[1].bus.publish(Changed("resource", f"note:///{number}/x"))
    await apply(three[0], there, "resources/subscribe", uri="note:///one")
    assert waiting(there) == ["note:///one"]


async def test_a_subscription_that_nobody_told_of_may_have_missed_a_change(three: Sequence[Parts]) -> None:
    """STR-6: the message was lost; the next request of the session finds it."""
    session, there = await begun(three[0], three[1:2])
    await apply(three[0], session, "resources/subscribe", uri="note:///two/copy")
    waiting(there)
    link(three[0]).away = True
    await apply(three[0], session, "resources/subscribe", uri="note:///one")
    assert waiting(there) == []
    await found(three[1], session)
    assert waiting(there) == ["note:///one"]


async def test_a_change_is_taken_where_the_session_is_loaded(three: Sequence[Parts]) -> None:
    """STR-6, INI-4: an open stream there hears of it with no request of its own."""
    session = three[0].sessions.begin(SessionState(PARAMS), ADA)
    await three[0].sessions.keep(session)
    there = await found(three[1], session)
    assert not there.peer.ready.is_set()
    await three[0].sessions.initialized(session)
    assert there.peer.ready.is_set()
    assert there.state.initialized
    await apply(three[2], session, "resources/subscribe", uri="note:///one")
    await apply(three[0], session, "logging/setLevel", level="error")
    for loaded in (session, there):
        assert (list(loaded.state.subscriptions), loaded.state.log_level) == (["note:///one"], "error")
    assert there.record is not None
    assert there.record.rev == 4


async def asking(session: Session, send: Collector, answers: list[Any]) -> None:
    answers.append(await session.peer.ask({"q": {"method": "elicitation/create"}}, send))


async def test_an_answer_goes_to_the_server_that_asked_and_counts_once(three: Sequence[Parts]) -> None:
    """S2C-1, S2C-2: 40 duplicates over 3 servers."""
    loaded = await begun(three[0], three[1:])
    send, answers = Collector(), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asking, loaded[0], send, answers)
        await trio.testing.wait_all_tasks_blocked()
        name = send.sent[0]["id"]
        assert asker_of(name) == three[0].inbox.address
        await three[1].sessions.answer(loaded[1], Response(name, {"n": 0}, None))
        for number in range(1, 40):
            parts, session = three[number % 3], loaded[number % 3]
            nursery.start_soon(parts.sessions.answer, session, Response(name, {"n": number}, None))
    assert answers == [{"q": {"n": 0}}]
    assert len(send.sent) == 1, "the question was not withdrawn"


async def test_an_error_for_an_answer_is_passed_on_as_one(three: Sequence[Parts]) -> None:
    here, there = await begun(three[0], three[1:2])
    send = Collector()

    async def refused() -> None:
        with pytest.raises(Exception, match="No thanks"):
            await asking(here, send, [])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        error = {"code": -1, "message": "No thanks"}
        await three[1].sessions.answer(there, Response(send.sent[0]["id"], None, error))


async def test_an_answer_of_another_session_is_nobodys(three: Sequence[Parts]) -> None:
    """S2C-2, SEC-5: a stranger who guesses the id."""
    here, _ = await begun(three[0], three[1:2])
    stranger, _ = await begun(three[1], three[:1], BOB)
    send, answers = Collector(), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asking, here, send, answers)
        await trio.testing.wait_all_tasks_blocked()
        await three[1].sessions.answer(stranger, Response(send.sent[0]["id"], {"evil": True}, None))
        assert not answers
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["mcpd-000000000000-1", "mcpd-1", "mcpd-../x-1", "", 1, "mcpd-00000000000G-1"])
async def test_an_answer_to_nobody_who_lives_is_ignored(three: Sequence[Parts], name: str | int) -> None:
    here, _ = await begun(three[0], three[1:2])
    await three[0].sessions.answer(here, Response(name, {}, None))


async def test_while_the_link_is_away_clients_are_told_to_try_again(three: Sequence[Parts]) -> None:
    """Law 7: a cancel or an answer that went nowhere is not acknowledged."""
    here, there = await begun(three[0], three[1:2])
    link(three[0]).away = True
    with pytest.raises(StoreUnavailable):
        await three[0].sessions.cancel(here, 1)
    with pytest.raises(StoreUnavailable):
        await three[0].sessions.answer(here, Response(f"mcpd-{three[1].inbox.address}-1", {}, None))
    await apply(three[0], here, "logging/setLevel", level="error")
    assert there.state.log_level == "info"
    assert (await found(three[1], here)).state.log_level == "error", "found out with the next request"
    await three[0].sessions.end(here)
    assert await three[1].sessions.find(here.key, ADA) is None


async def test_a_session_of_a_connection_is_nobody_elses(three: Sequence[Parts]) -> None:
    session = three[0].sessions.open(SessionState(PARAMS), ADA)
    await three[0].sessions.cancel(session, 1)
    await three[0].sessions.answer(session, Response(f"mcpd-{three[1].inbox.address}-1", {}, None))
    await three[0].sessions.initialized(session)
    assert link(three[0]).sent == 0


async def overtaken(parts: Parts, session: Session, act: Any) -> Session | None:
    """Look a session up, and let `act` happen after it was read and before it is taken."""
    results: list[Session | None] = []

    async def look() -> None:
        results.append(await parts.sessions.find(session.key, ADA))

    gate = store(parts).gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        await act()
        gate.set()
    return results[0]


async def test_a_change_that_overtakes_a_look_up_is_not_lost(three: Sequence[Parts]) -> None:
    """Law 5: the record that was read is older than what was told."""
    session = await made(three[0])
    change = partial(apply, three[0], session, "resources/subscribe", uri="note:///one")
    there = await overtaken(three[1], session, change)
    assert there is not None
    assert list(there.state.subscriptions) == ["note:///one"]


async def test_an_end_that_overtakes_a_look_up_is_not_lost(three: Sequence[Parts]) -> None:
    """SES-4, law 5."""
    session = await made(three[0])
    assert await overtaken(three[1], session, partial(three[0].sessions.end, session)) is None
    assert not three[1].sessions._by_key


async def test_what_is_remembered_of_sessions_elsewhere_is_bounded(
    three: Sequence[Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 8."""
    monkeypatch.setattr(interprocess, "MAX_REMEMBERED", 10)
    for _ in range(30):
        await made(three[0])
    assert len(three[1].sessions._others._heard) == 10


async def test_what_another_version_says_is_passed_over(three: Sequence[Parts]) -> None:
    here, there = await begun(three[0], three[1:2])
    for topic in ("cancel", "ended", "changed", "answer"):
        for body in (b"", b"[]", b'{"x": 1}', b'["explicit", 1]', b'["x", {}]'):
            await three[0].inbox.send_all(topic, body)
    flight = flying(there, 1)
    await three[0].sessions.cancel(here, 1)
    assert flight.reason == "explicit"
