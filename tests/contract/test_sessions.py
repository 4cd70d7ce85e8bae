"""What every store of sessions does: records seen by all processes, changes in one order, room, uses, expiry."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from msgspec.structs import replace

from mcpd.storage.documents import StorageError
from mcpd.storage.session_records import (
    MAX_RECORD_BYTES,
    NoSessionRoom,
    Place,
    SessionRecord,
    SessionRoom,
    Use,
    retimed,
)
from mcpd.storage.shared import SessionStore
from tests.contract.session_backends import ROOM, USE, Servers, session

WHOLE = session(
    "whole",
    scopes=("call", "read"),
    capabilities={"elicitation": {}, "x.y/z": None, "é": {"a": {}}},
    client={"name": "cliënt", "version": "1"},
    initialized=True,
    log_level="debug",
    subscriptions={"note:///a": "NOTE:///a"},
    rev=7,
)


async def seen(store: SessionStore, key: str = "one") -> SessionRecord:
    record = await store.get(key)
    assert record is not None
    return record


async def keys(store: SessionStore, *names: str) -> str:
    """Return which of these sessions there are."""
    return "".join([name for name in names if await store.get(name) is not None])


async def test_a_session_is_found_by_another_process_at_once_and_as_it_was(servers: Servers) -> None:
    """SES-7, law 12."""
    assert await servers.second.get("whole") is None
    assert await servers.first.create(WHOLE, USE, ROOM) == []
    found = await seen(servers.second, "whole")
    assert retimed(WHOLE, found) == found
    assert found.created_s == found.used_s > 0
    assert found.expires_s == pytest.approx(found.used_s + USE.keep_s)
    assert found.busy_s == 0
    assert await servers.second.get("another") is None
    assert await servers.first.count() == await servers.second.count() == 1


async def test_a_change_is_seen_by_all_and_a_second_one_of_the_same_state_is_not_taken(servers: Servers) -> None:
    """Law 5: who has changed an older state is told what is stored."""
    one, other = servers.first, servers.second
    await one.create(session(), USE, ROOM)
    before, also = await seen(one), await seen(other)
    louder = replace(before, log_level="debug", rev=2)
    assert await one.replace(louder) == louder
    assert await other.replace(replace(also, initialized=True, rev=2)) == louder
    assert await seen(other) == louder
    both = replace(louder, initialized=True, rev=3)
    assert await other.replace(both) == both
    assert await seen(one) == both
    assert await one.replace(session("unknown", rev=2)) is None


async def test_changes_at_the_same_time_are_one_after_the_other(servers: Servers) -> None:
    """Law 5."""
    await servers.first.create(session(), USE, ROOM)

    async def subscribe(store: SessionStore, uri: str) -> None:
        record = await seen(store)
        while True:
            wanted = replace(record, subscriptions={**record.subscriptions, uri: uri}, rev=record.rev + 1)
            after = await store.replace(wanted)
            assert after is not None
            if retimed(wanted, after) == after:
                return
            record = after

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(subscribe, servers.first, f"note:///{number}")
            nursery.start_soon(subscribe, servers.second, f"docs:///{number}")
    record = await seen(servers.second)
    assert set(record.subscriptions) == {f"{kind}:///{number}" for number in range(8) for kind in ("note", "docs")}
    assert record.rev == 17


async def test_a_removed_session_is_gone_for_all_and_for_good(servers: Servers) -> None:
    """SES-4: no later change or use brings it back."""
    one, other = servers.first, servers.second
    await one.create(session(), USE, ROOM)
    record = await seen(other)
    await one.remove(["one", "unknown"])
    assert await other.get("one") is None
    assert await other.replace(replace(record, rev=2)) is None
    assert await other.renew({"one": USE}) == {"one"}
    assert await one.get("one") is None
    assert await one.count() == 0


async def test_uses_are_taken_down_and_an_older_one_changes_nothing(servers: Servers) -> None:
    """SES-6: whichever process tells it later."""
    one, other = servers.first, servers.second
    await one.create(session(), Use(100.0, 600.0), ROOM)
    before = await seen(other)
    assert before.used_s == pytest.approx(before.created_s - 100, abs=0.01)
    assert await other.renew({"one": Use(40.0, 600.0, 30.0), "unknown": USE}) == {"unknown"}
    after = await seen(one)
    assert after.used_s == pytest.approx(before.used_s + 60, abs=5)
    assert after.expires_s == pytest.approx(after.used_s + 600, abs=0.01)
    assert after.busy_s == pytest.approx(after.used_s + 70, abs=0.01)
    assert await one.renew({"one": Use(80.0, 600.0)}) == set()
    assert await seen(other) == after
    assert after.rev == before.rev


async def test_an_expired_session_is_unknown_and_takes_no_place(servers: Servers) -> None:
    """SES-6, SEC-4."""
    one, other = servers.first, servers.second
    await one.create(session("a"), Use(0.0, 0.2), ROOM)
    await one.create(session("b"), USE, ROOM)
    await one.renew({"b": USE})
    assert await keys(other, "a", "b") == "ab"
    await servers.let_pass(0.3)
    assert await keys(other, "a", "b") == "b"
    assert await other.replace(session("a", rev=2)) is None
    assert await other.renew({"a": USE}) == {"a"}
    assert await one.create(session("c"), USE, SessionRoom(2, 2)) == []
    assert await one.purge() == 0, "creating has forgotten it already"
    assert await one.count() == 2


async def test_expired_sessions_are_forgotten_when_asked_for(servers: Servers) -> None:
    await servers.first.create(session("a"), Use(0.0, 0.2), ROOM)
    await servers.first.create(session("b"), USE, ROOM)
    await servers.let_pass(0.3)
    assert await servers.second.purge() == 1
    assert await servers.second.purge() == 0
    assert await servers.first.count() == 1


async def test_one_caller_makes_room_among_its_own_the_longest_unused_first(servers: Servers) -> None:
    """SES-6, SEC-4: not one that is in use, whichever process says so."""
    one, other = servers.first, servers.second
    room = SessionRoom(9, 3)
    await one.create(session("x", share="bob"), Use(500.0, 600.0), room)
    for key, ago_s in (("a", 50.0), ("b", 40.0), ("c", 30.0)):
        await one.create(session(key), Use(ago_s, 600.0), room)
    await one.renew({"a": Use(45.0, 600.0, 60.0)})
    assert await other.create(session("d"), Use(20.0, 600.0), room) == ["b"]
    assert await keys(one, "x", "a", "b", "c", "d") == "xacd"
    busy = room._replace(busy=frozenset("cd"))
    with pytest.raises(NoSessionRoom):
        await one.create(session("e"), USE, busy)
    assert await keys(other, "x", "a", "c", "d", "e") == "xacd", "nothing has changed"
    assert await one.create(session("e"), USE, busy._replace(idle=frozenset("a"))) == ["a"]


async def test_whoever_has_most_gives_way_when_all_places_are_taken(servers: Servers) -> None:
    """SES-6, SEC-4."""
    one, other = servers.first, servers.second
    room = SessionRoom(4, 4)
    for number, (key, share) in enumerate((("a", "alice"), ("b", "bob"), ("c", "bob"), ("d", "bob"))):
        await one.create(session(key, share=share), Use(100.0 - number, 600.0), room)
    assert await other.create(session("e", share="alice"), USE, room) == ["b"]
    assert await keys(one, "a", "b", "c", "d", "e") == "acde"
    with pytest.raises(NoSessionRoom):
        await one.create(session("f", share="bob"), USE, room._replace(busy=frozenset("acde")))
    assert await one.create(session("f", share="carol"), USE, room._replace(busy=frozenset("acde"))) != []


async def test_places_outside_of_the_store_count_and_give_way_too(servers: Servers) -> None:
    """SES-6: those of connections of the process that asks."""
    here = (Place("ws", "bob", -700.0, busy=True), Place("io", "bob", -5.0, busy=True))
    room = SessionRoom(3, 3, others=here)
    assert await servers.first.create(session("a"), USE, room) == []
    assert await servers.first.create(session("b"), USE, room) == ["a"]
    lone = SessionRoom(2, 2, others=here)
    assert await servers.first.create(session("c", share="carol"), USE, lone) == ["b", "ws"]
    with pytest.raises(NoSessionRoom):
        await servers.first.create(session("d", share="bob"), USE, SessionRoom(9, 2, others=here))
    assert await keys(servers.second, "a", "b", "c", "d") == "c"


async def test_the_limits_hold_for_creations_at_the_same_time(servers: Servers) -> None:
    """SEC-4, law 5."""
    room = SessionRoom(6, 3)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            for share, store in (("alice", servers.first), ("bob", servers.second)):
                record = session(f"{share}{number}", share=share)
                nursery.start_soon(partial(store.create, record, USE, room))
    left = [await keys(servers.first, *(f"{share}{number}" for number in range(10))) for share in ("alice", "bob")]
    assert [len(found) for found in left] == [18, 12], "three of each"


async def test_fewer_places_than_before_are_kept_to(servers: Servers) -> None:
    """SEC-4: a server may come back with other limits."""
    for number, key in enumerate("abcd"):
        await servers.first.create(session(key), Use(50.0 - number, 600.0), ROOM)
    assert sorted(await servers.second.create(session("e"), USE, SessionRoom(9, 2))) == ["a", "b", "c"]
    assert await keys(servers.first, *"abcde") == "de"


async def test_a_record_that_is_too_long_is_refused(servers: Servers) -> None:
    """SEC-4, law 8."""
    with pytest.raises(StorageError):
        await servers.first.create(session(client={"name": "x" * MAX_RECORD_BYTES}), USE, ROOM)
    assert await servers.first.get("one") is None
    long = session("long", client={"name": "x" * (MAX_RECORD_BYTES // 2)})
    await servers.first.create(long, USE, ROOM)
    assert (await seen(servers.second, "long")).client == long.client


async def test_a_cancelled_creation_has_happened_wholly_or_not_at_all(servers: Servers) -> None:
    """Law 12 from the other side."""
    for number in range(12):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(servers.first.create, session(f"s{number}"), USE, ROOM))
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        await servers.first.count()
        record = await servers.second.get(f"s{number}")
        assert record is None or retimed(session(f"s{number}"), record) == record
