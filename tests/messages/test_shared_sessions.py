"""Sessions of several servers on one store: found, changed and ended by any, and what happens while it is away."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from mcpd.assembly import Parts, Stores, build
from mcpd.errors import InvalidRequest, Overloaded, StoreUnavailable
from mcpd.messages.flight import Flight
from mcpd.messages.session import Session
from mcpd.messages.sessions import LOOK_S
from mcpd.monitoring.logs import Logs
from mcpd.monitoring.metrics import Metrics
from mcpd.search.embeddings import HashProvider
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.inbox import Inbox
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.memory.idempotency import KeyShelf, MemoryIdempotency
from mcpd.storage.memory.inbox import MemoryInbox
from mcpd.storage.memory.sessions import MemorySessions, SessionShelf
from mcpd.storage.memory.shared import LocalShared
from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.session_records import SessionRecord, Use
from mcpd.wire.call import ANONYMOUS, Principal
from mcpd.wire.session import SessionState
from tests.in_process import server_config
from tests.messages.memory import Wire, session_call
from tests.served import CLIENT, TOOLS

ADA, BOB = Principal("ada", frozenset({"call"})), Principal("bob", frozenset())
PARAMS: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}, "clientInfo": CLIENT}


def clock() -> float:
    return 1_700_000_000.0 + trio.current_time()


class Away(MemorySessions):
    """A store that can be away, and counts what it is asked."""

    def __init__(self, shelf: SessionShelf) -> None:
        super().__init__(shelf)
        self.away = False
        self.renewals = 0
        self.gate = trio.Event()
        self.gate.set()

    def _check(self) -> None:
        if self.away:
            raise StoreUnreachable("away")

    async def create(self, *given: Any) -> list[str]:
        self._check()
        return await super().create(*given)

    async def get(self, key: str) -> SessionRecord | None:
        self._check()
        found = await super().get(key)
        await self.gate.wait()
        return found

    async def replace(self, record: SessionRecord) -> SessionRecord | None:
        self._check()
        return await super().replace(record)

    async def renew(self, uses: Mapping[str, Use]) -> set[str]:
        self._check()
        self.renewals += 1
        return await super().renew(uses)

    async def remove(self, keys: Any) -> None:
        self._check()
        await super().remove(keys)


def server(
    folder: Path, store: MemorySessions, limits: dict[str, Any] | None = None, inbox: Inbox | None = None
) -> Parts:
    tasks, keys = MemoryTasks(TaskShelf(clock=clock)), MemoryIdempotency(KeyShelf(clock=clock))
    stores = Stores(
        MemoryDocuments(), HashProvider(), tasks, keys, store, inbox or MemoryInbox(), LocalShared(), Metrics()
    )
    logs = Logs(lambda _: None, requests=False)
    parts = build(server_config(folder, TOOLS, limits=limits), logs, stores)
    logs.close()
    return parts


async def made(parts: Parts, principal: Principal = ADA) -> Session:
    session = parts.sessions.begin(SessionState(PARAMS), principal)
    await parts.sessions.keep(session)
    await parts.sessions.initialized(session)
    return session


async def found(parts: Parts, session: Session) -> Session:
    there = await parts.sessions.find(session.key, session.principal)
    assert there is not None
    return there


@pytest.fixture
def shelf() -> SessionShelf:
    return SessionShelf(clock=clock)


@pytest.fixture
def pair(tmp_path: Path, shelf: SessionShelf) -> tuple[Parts, Parts]:
    return server(tmp_path, MemorySessions(shelf)), server(tmp_path, MemorySessions(shelf))


async def apply(parts: Parts, session: Session, method: str, **params: Any) -> None:
    assert await parts.sessions.apply(session_call(await found(parts, session), method, params)) == {}


async def test_a_session_of_another_server_is_its_principals_with_the_same_scopes(
    autojump_clock: MockClock, pair: tuple[Parts, Parts]
) -> None:
    """SES-5, SES-7, SEC-5, AUT-11."""
    one, two = pair
    session = await made(one)
    for stranger in (BOB, replace(ADA, scopes=frozenset({"call", "admin"})), ANONYMOUS):
        assert await two.sessions.find(session.key, stranger) is None
    there = await found(two, session)
    assert there is not session
    assert (there.state.version, there.state.capabilities, there.state.initialized) == (
        "2025-11-25",
        {"roots": {}},
        True,
    )
    assert there.peer.ready.is_set()
    assert there.state.client == CLIENT
    assert await two.sessions.find(session.key, BOB) is None


async def test_a_session_without_keys_keeps_the_share_of_the_address_it_was_begun_from(
    autojump_clock: MockClock, pair: tuple[Parts, Parts]
) -> None:
    """SEC-4."""
    session = await made(pair[0], replace(ANONYMOUS, address="192.0.2.1"))
    there = await pair[1].sessions.find(session.key, replace(ANONYMOUS, address="192.0.2.2"))
    assert there is not None
    assert there.principal.share == "192.0.2.1"


async def test_changes_on_both_servers_are_seen_on_both_and_none_is_lost(
    autojump_clock: MockClock, pair: tuple[Parts, Parts]
) -> None:
    """INI-7, law 5."""
    one, two = pair
    session = await made(one)
    await found(two, session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(apply, one, session, "resources/subscribe", uri="note:///one"))
        nursery.start_soon(partial(apply, two, session, "logging/setLevel", level="error"))
    for parts in pair:
        state = (await found(parts, session)).state
        assert (list(state.subscriptions), state.log_level) == (["note:///one"], "error")
    await apply(one, session, "resources/unsubscribe", uri="note:///one")
    assert (await found(two, session)).state.subscriptions == {}


async def test_a_session_that_ends_on_one_server_ends_on_all(
    autojump_clock: MockClock, pair: tuple[Parts, Parts]
) -> None:
    """SES-3, SES-4: what it has under way elsewhere, too, at the next look."""
    one, two = pair
    session = await made(one)
    there = await found(two, session)
    flight = Flight(session_call(there, "ping"), Wire())
    there.calls.enter(flight)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.sessions.expire)
        await one.sessions.end(await found(one, session))
        await trio.sleep(LOOK_S + 1)
        assert (flight.reason, there.ended) == ("admin", True)
        nursery.cancel_scope.cancel()
    for parts in pair:
        assert await parts.sessions.find(session.key, ADA) is None


async def test_a_request_that_overlaps_the_end_of_its_session_does_not_bring_it_back(
    tmp_path: Path, shelf: SessionShelf, autojump_clock: MockClock
) -> None:
    """SES-4, law 5."""
    store = Away(shelf)
    parts = server(tmp_path, store)
    session = await made(parts)
    results: list[Session | None] = []

    async def look() -> None:
        results.append(await parts.sessions.find(session.key, ADA))

    store.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        await parts.sessions.end(session)
        store.gate.set()
    assert results == [None]
    assert not parts.sessions._by_key


async def test_uses_cost_no_write_until_the_next_look(
    tmp_path: Path, shelf: SessionShelf, autojump_clock: MockClock
) -> None:
    """SES-6: and none at all for a session that nobody used."""
    store = Away(shelf)
    parts = server(tmp_path, store)
    session = await made(parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.sessions.expire)
        await trio.sleep(5)
        for _ in range(100):
            await found(parts, session)
        assert store.renewals == 0
        await trio.sleep(LOOK_S)
        assert store.renewals == 1
        assert shelf.records[session.key].used_s == pytest.approx(clock() - LOOK_S)
        await trio.sleep(5 * LOOK_S)
        assert store.renewals == 1
        nursery.cancel_scope.cancel()


async def test_idle_time_goes_on_over_a_restart_and_a_session_in_use_does_not_age(
    autojump_clock: MockClock, pair: tuple[Parts, Parts], shelf: SessionShelf
) -> None:
    """SES-6."""
    one, two = pair
    idle, used, busy = [await made(one) for _ in range(3)]
    half_s = one.config.timeouts.session_idle_s / 2
    one.sessions.open_stream(busy, "s").take_over(object())
    async with trio.open_nursery() as nursery:
        for parts in pair:
            nursery.start_soon(parts.sessions.expire)
        await trio.sleep(half_s + 1)
        await found(two, used)
        await trio.sleep(half_s + 1)
        assert await two.sessions.find(idle.key, ADA) is None
        assert await one.sessions.find(used.key, ADA) is not None, "used on the other server"
        await trio.sleep(3 * half_s)
        assert await two.sessions.find(busy.key, ADA) is not None
        assert set(shelf.records) == {busy.key}
        nursery.cancel_scope.cancel()


async def test_one_caller_has_so_many_sessions_on_all_servers_together(
    tmp_path: Path, shelf: SessionShelf, autojump_clock: MockClock
) -> None:
    """SES-6, SEC-4: one in use on another server does not give way."""
    one, two = (server(tmp_path, MemorySessions(shelf), {"max_sessions_per_principal": 2}) for _ in range(2))
    busy, idle = await made(one), await made(one)
    one.sessions.open_stream(busy, "s").take_over(object())
    await one.sessions.flush()
    third = await made(two)
    assert await one.sessions.find(idle.key, ADA) is None
    assert idle.ended
    two.sessions.open_stream(third, "s").take_over(object())
    with pytest.raises(Overloaded):
        await made(two)
    await made(two, BOB)


async def test_while_the_store_is_away_known_sessions_go_on_and_no_other_is_called_unknown(
    tmp_path: Path, shelf: SessionShelf, autojump_clock: MockClock
) -> None:
    """SES-3: replicas' table of failures."""
    store = Away(shelf)
    one, two = server(tmp_path, MemorySessions(shelf)), server(tmp_path, store)
    known, unknown = await made(two), await made(one)
    store.away = True
    assert await two.sessions.find(known.key, ADA) is known
    assert await two.sessions.find(known.key, BOB) is None
    with pytest.raises(StoreUnavailable):
        await two.sessions.find(unknown.key, ADA)
    with pytest.raises(StoreUnavailable):
        await made(two)
    with pytest.raises(StoreUnavailable):
        await apply(two, known, "logging/setLevel", level="error")
    assert known.state.log_level == "info"
    with pytest.raises(StoreUnavailable):
        await two.sessions.end(known)
    assert await two.sessions.find(known.key, ADA) is known
    store.away = False
    assert await two.sessions.find(unknown.key, ADA) is not None


async def test_a_session_that_ended_while_the_store_was_away_does_not_come_back(
    tmp_path: Path, shelf: SessionShelf, autojump_clock: MockClock
) -> None:
    """AUT-11: that of a revoked key, for one."""
    store = Away(shelf)
    parts = server(tmp_path, store)
    session = await made(parts)
    store.away = True
    parts.sessions.close_of(lambda principal: principal.id == "ada")
    assert session.ended
    assert await parts.sessions.find(session.key, ADA) is None
    store.away = False
    assert await parts.sessions.find(session.key, ADA) is None, "the store has not been told yet"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.sessions.expire)
        await trio.sleep(LOOK_S + 1)
        nursery.cancel_scope.cancel()
    assert not shelf.records
    assert await parts.sessions.find(session.key, ADA) is None


async def test_a_session_whose_initialize_was_refused_leaves_no_record(
    tmp_path: Path, shelf: SessionShelf, autojump_clock: MockClock
) -> None:
    parts = server(tmp_path, MemorySessions(shelf))
    session = parts.sessions.begin(SessionState(PARAMS), ADA)
    parts.sessions.discard(session)
    await parts.sessions.flush()
    assert not shelf.records
    late = parts.sessions.begin(SessionState(PARAMS), ADA)
    parts.sessions.close(late, "admin")
    with pytest.raises(InvalidRequest):
        await parts.sessions.keep(late)
    await parts.sessions.flush()
    assert not shelf.records


async def test_a_session_of_a_connection_is_in_no_store(
    autojump_clock: MockClock, pair: tuple[Parts, Parts], shelf: SessionShelf
) -> None:
    """IO-3, WS-4."""
    session = pair[0].sessions.open(SessionState(PARAMS), ADA, hang_up=lambda: None)
    await pair[0].sessions.initialized(session)
    await pair[0].sessions.flush()
    assert not shelf.records
    assert await pair[1].sessions.find(session.key, ADA) is None
