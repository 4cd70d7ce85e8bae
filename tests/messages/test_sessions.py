"""The session registry: binding, caps, expiry, session methods, and who hears of changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from trio.testing import MockClock

from mcpd.errors import InvalidParams, InvalidRequest, Overloaded, ResourceNotFound
from mcpd.events import Changed
from mcpd.messages.flight import Flight
from mcpd.messages.kept_replies import KEEP_REPLIES_S
from mcpd.messages.replays import MAX_BYTES, MAX_SESSION_BYTES
from mcpd.wire.call import ANONYMOUS, Principal
from tests.messages.memory import Wire, make_server, open_session, session_call

ADA, BOB = Principal("ada", frozenset()), Principal("bob", frozenset())


async def test_a_session_is_found_by_its_own_principal_only(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-1, SES-5, SEC-5."""
    server = make_server(tmp_path)
    session = open_session(server, principal=ADA)
    assert await server.sessions.find(session.key, ADA) is session
    assert await server.sessions.find(session.key, BOB) is None
    assert await server.sessions.find("unknown", ADA) is None
    assert len({open_session(server).key for _ in range(20)}) == 20


async def test_the_least_recently_used_idle_session_gives_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-6, SEC-4."""
    server = make_server(tmp_path, limits={"max_sessions": 3})
    sessions = []
    for _ in range(3):
        sessions.append(open_session(server))
        await trio.sleep(1)
    await server.sessions.find(sessions[0].key, sessions[0].principal)
    open_session(server)
    assert [session.ended for session in sessions] == [False, True, False]


async def test_sessions_in_use_never_give_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-6."""
    server = make_server(tmp_path, limits={"max_sessions": 2})
    busy, watched = open_session(server), open_session(server)
    busy.calls.enter(Flight(session_call(busy, "ping"), Wire()))
    server.sessions.open_stream(watched, "s").take_over(trio.CancelScope())
    with pytest.raises(Overloaded):
        open_session(server)


async def test_one_principal_makes_room_among_its_own(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-6, SEC-4."""
    server = make_server(tmp_path, limits={"max_sessions_per_principal": 1})
    bobs, first = open_session(server, principal=BOB), open_session(server, principal=ADA)
    open_session(server, principal=ADA)
    assert (bobs.ended, first.ended) == (False, True)


async def test_an_idle_session_expires_and_one_in_use_does_not(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-6."""
    server = make_server(tmp_path, session_idle_s=100.0)
    idle, used, watched = (open_session(server) for _ in range(3))
    server.sessions.open_stream(watched, "s").take_over(trio.CancelScope())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.sessions.expire)
        for _ in range(4):
            await trio.sleep(60)
            await server.sessions.find(used.key, used.principal)
        assert (idle.ended, used.ended, watched.ended) == (True, False, False)
        nursery.cancel_scope.cancel()


async def test_a_client_of_a_session_has_a_number_of_calls_in_flight(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4, RPC-5."""
    session = open_session(make_server(tmp_path, limits={"max_calls_per_connection": 1}))
    session.calls.check(1)
    session.calls.enter(Flight(session_call(session, "ping"), Wire()))
    with pytest.raises(Overloaded):
        session.calls.check(2)


async def test_whoever_has_most_sessions_gives_way_to_whoever_has_less(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SES-6, SEC-4: by address where there are no keys, idle sessions before those in use."""
    server = make_server(tmp_path, limits={"max_sessions": 4})
    here, there = (replace(ANONYMOUS, address=address) for address in ("192.0.2.1", "192.0.2.2"))
    first = open_session(server, principal=there)
    many = [open_session(server, principal=here) for _ in range(3)]
    for session in (many[0], many[1], first):
        server.sessions.open_stream(session, "s").take_over(trio.CancelScope())
    second = open_session(server, principal=there)
    assert [session.ended for session in (first, *many)] == [False, False, False, True]
    server.sessions.open_stream(second, "s").take_over(trio.CancelScope())
    with pytest.raises(Overloaded):
        open_session(server, principal=there)
    open_session(server, principal=ADA)
    assert sum(session.ended for session in (first, second, *many[:2])) == 1, "as many as each other, one in use"


async def test_replies_that_nobody_fetches_are_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-5, STR-3."""
    server = make_server(tmp_path)
    session = open_session(server)
    finished, open_one = (server.sessions.open_stream(session, name) for name in "ab")
    finished.finish()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.sessions.expire)
        await trio.sleep(KEEP_REPLIES_S - 61)
        assert finished.name in session.streams
        await trio.sleep(130)
        assert list(session.streams.values()) == [open_one]
        nursery.cancel_scope.cancel()


async def test_finished_replies_make_room_for_new_ones(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-5, SEC-4."""
    server = make_server(tmp_path, limits={"max_streams_per_session": 2})
    session = open_session(server)
    server.sessions.open_stream(session, "a").finish()
    server.sessions.open_stream(session, "b")
    server.sessions.open_stream(session, "c")
    assert list(session.streams) == ["b", "c"]
    with pytest.raises(Overloaded):
        server.sessions.open_stream(session, "d")


async def test_an_id_is_in_flight_once_and_its_type_counts(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RPC-3, RPC-5, IO-7."""
    session = open_session(make_server(tmp_path))
    calls = session.calls
    number, text = (Flight(session_call(session, "ping", request_id=name), Wire()) for name in (1, "1"))
    calls.enter(number)
    calls.check("1")
    calls.enter(text)
    with pytest.raises(InvalidRequest):
        calls.check(1)
    for nothing in (True, 1.0, None, [1], "2"):
        calls.cancel(nothing)
    assert [flight.reason for flight in (number, text)] == [None, None]
    calls.cancel("1")
    assert [flight.reason for flight in (number, text)] == [None, "explicit"]
    calls.leave(number)
    calls.check(1)


async def test_initialize_cannot_be_cancelled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """INI-3."""
    session = open_session(make_server(tmp_path))
    flight = Flight(session_call(session, "initialize"), Wire())
    session.calls.enter(flight)
    session.calls.cancel(1)
    assert flight.reason is None


async def test_ending_a_session_cancels_and_releases_everything_in_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SES-4, S2C-3."""
    server = make_server(tmp_path)
    session = open_session(server)
    flight = Flight(session_call(session, "ping"), Wire())
    session.calls.enter(flight)
    stream = server.sessions.open_stream(session, "a")
    server.sessions.close(session, "explicit")
    server.sessions.close(session, "admin")
    assert (flight.reason, stream.finished, session.peer.ready.is_set()) == ("explicit", True, True)
    assert await server.sessions.find(session.key, session.principal) is None
    with pytest.raises(InvalidRequest):
        await server.sessions.apply(session_call(session, "logging/setLevel", {"level": "info"}))


async def test_session_methods_answer_nothing_but_an_empty_object(tmp_path: Path, autojump_clock: MockClock) -> None:
    """LOG-1, RSC-2."""
    server = make_server(tmp_path)
    session = open_session(server)

    async def apply(method: str, **params: Any) -> dict[str, Any]:
        return await server.sessions.apply(session_call(session, method, params))

    assert await apply("ping") == await apply("logging/setLevel", level="error") == {}
    assert session.state.log_level == "error"
    assert await apply("resources/subscribe", uri="note:///one") == {}
    assert await apply("resources/unsubscribe", uri="note:///one") == {}
    for uri in ("note:///none", "file:///etc/passwd"):
        with pytest.raises(ResourceNotFound):
            await apply("resources/subscribe", uri=uri)
    with pytest.raises(InvalidParams):
        await apply("resources/subscribe")


async def test_a_change_is_told_to_sessions_that_it_concerns(tmp_path: Path, autojump_clock: MockClock) -> None:
    """PUB-1, INI-4, STR-6."""
    server = make_server(tmp_path)
    told: dict[str, list[str]] = {"early": [], "plain": [], "watching": []}
    async with trio.open_nursery() as nursery:
        for name, heard in told.items():
            session = open_session(server)
            nursery.start_soon(session.notices.tell, _into(heard))
            if name != "early":
                session.initialized()
            if name == "watching":
                session.state.subscribe({"uri": "note:///one"}, max_uris=9)
        server.bus.publish(Changed("tools"))
        server.bus.publish(Changed("resource", "note:///one"))
        server.bus.publish(Changed("resource", "note:///two"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert told == {
        "early": [],
        "plain": ["notifications/tools/list_changed"],
        "watching": ["notifications/tools/list_changed", "notifications/resources/updated"],
    }


async def test_a_storm_of_changes_is_told_a_few_times_and_nothing_in_it_is_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """PUB-1, STR-6, SUB-8."""
    server = make_server(tmp_path)
    session = open_session(server)
    session.initialized()
    session.state.subscribe({"uri": "note:///one"}, max_uris=9)
    told: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.notices.tell, _into(told))
        for number in range(2000):
            server.bus.publish(Changed("resource", "note:///one"))
            if number == 1000:
                server.bus.publish(Changed("tools"))
            await trio.sleep(0.003)
        await trio.sleep(5)
        assert told.count("notifications/tools/list_changed") == 1
        assert 2 <= told.count("notifications/resources/updated") <= 9
        told.clear()
        began = trio.current_time()
        server.bus.publish(Changed("prompts"))
        await trio.testing.wait_all_tasks_blocked()
        assert (told, trio.current_time()) == (["notifications/prompts/list_changed"], began), "a single one: at once"
        nursery.cancel_scope.cancel()


def _into(told: list[str]) -> Callable[[str, dict[str, Any]], Awaitable[None]]:
    async def tell(method: str, _params: dict[str, Any]) -> None:
        told.append(method)

    return tell


async def test_a_session_whose_initialize_is_refused_is_not_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-1, SEC-4: and what its client asked beside goes on."""
    server = make_server(tmp_path)
    session = open_session(server)
    flight = Flight(session_call(session, "ping"), Wire())
    session.calls.enter(flight)
    server.sessions.discard(session)
    assert await server.sessions.find(session.key, session.principal) is None
    assert flight.reason is None


async def test_answers_that_nobody_fetched_are_bounded_in_bytes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-5, STR-3, SEC-4: of a session, and of all; whoever holds most loses first, its oldest."""
    server = make_server(tmp_path)
    answer = b"x" * (MAX_SESSION_BYTES // 8)
    poor = open_session(server, principal=BOB)
    modest = server.sessions.open_stream(poor, "b")
    modest.append(answer, final=True)
    sessions = [open_session(server, principal=ADA) for _ in range(20)]
    for session in sessions:
        for number in range(31):
            stream = server.sessions.open_stream(session, str(number))
            stream.append(answer, final=True)
            stream.finish()
    replays = server.sessions._replays
    held = [[stream.held_bytes for stream in session.streams.values()] for session in sessions]
    assert replays.total_bytes <= MAX_BYTES
    assert sum(map(sum, held)) == replays.total_bytes - len(answer)
    assert all(sum(some) <= MAX_SESSION_BYTES for some in held)
    assert (held[0][0], held[-1][-1]) == (0, len(answer))
    assert modest.since(0) == [(1, answer)], "who has little is left alone"
    assert not sessions[0].streams["0"].holds(0), "and whoever comes for it is told"
    for session in [poor, *sessions]:
        server.sessions.close(session, "explicit")
    assert replays.total_bytes == 0


async def test_what_a_reader_is_being_sent_is_not_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RSM-5."""
    server = make_server(tmp_path)
    session = open_session(server)
    stream = server.sessions.open_stream(session, "a")
    reader = object()
    stream.take_over(reader)
    stream.append(b"x" * (MAX_SESSION_BYTES + 1), final=True)
    assert stream.since(0)
    stream.leave(reader)
    assert not stream.since(0)
    assert server.sessions._replays.total_bytes == 0
