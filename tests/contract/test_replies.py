"""What every store of sessions keeps of their replies: found by all processes, the first word stands, all bounded."""

from __future__ import annotations

from functools import partial

import trio

from mcpd.storage.replies import MAX_REPLY_BYTES, MAX_SESSION_BYTES, MAX_SESSION_REPLIES
from mcpd.storage.session_records import SessionRoom, Use
from mcpd.storage.shared import SessionStore
from tests.contract.session_backends import ROOM, USE, Servers, session

TTL_S = 100.0


async def begun(servers: Servers, *keys: str) -> tuple[SessionStore, SessionStore]:
    """Make these sessions."""
    for key in keys:
        await servers.first.create(session(key), USE, ROOM)
    return servers.first, servers.second


async def found(store: SessionStore, *names: str, key: str = "one") -> list[bytes | None]:
    return [await store.replies.get(key, name) for name in names]


async def test_what_one_process_keeps_another_finds(servers: Servers) -> None:
    """RSM-2, RSM-5: only in the same session, and byte for byte."""
    one, other = await begun(servers, "one", "two")
    data = bytes(range(256)) * 9
    assert await other.replies.get("one", "a.1") is None
    assert await one.replies.keep("one", "a.1", data, TTL_S) == data
    assert await other.replies.get("one", "a.1") == data
    assert await found(other, "a.1", key="two") == [None]
    assert await found(other, "a.2", "a") == [None, None]


async def test_the_first_word_on_a_stream_stands(servers: Servers) -> None:
    """Law 5: whoever comes second is told it, also when both come at once."""
    one, other = await begun(servers, "one")
    assert await one.replies.keep("one", "a.1", b"answer", TTL_S) == b"answer"
    assert await other.replies.keep("one", "a.1", b"verdict", TTL_S) == b"answer"
    assert await one.replies.keep("one", "a.1", b"answer", TTL_S) == b"answer"
    told: list[bytes | None] = []

    async def keep(store: SessionStore, data: bytes) -> None:
        told.append(await store.replies.keep("one", "a.2", data, TTL_S))

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(partial(keep, one if number % 2 else other, b"%d" % number))
    assert len(told) == 8
    assert set(told) == {await one.replies.get("one", "a.2")}


async def test_what_is_kept_ends_after_its_time_and_can_be_kept_anew(servers: Servers) -> None:
    """RSM-5."""
    one, other = await begun(servers, "one")
    await one.replies.keep("one", "a.1", b"short", 0.2)
    await one.replies.keep("one", "a.2", b"long", TTL_S)
    assert await found(other, "a.1", "a.2") == [b"short", b"long"]
    await servers.let_pass(0.3)
    assert await found(other, "a.1", "a.2") == [None, b"long"]
    await other.purge()
    assert await one.replies.keep("one", "a.1", b"again", TTL_S) == b"again"
    assert await found(other, "a.1", "a.2") == [b"again", b"long"]


async def test_what_is_kept_is_gone_with_its_session_however_that_ends(servers: Servers) -> None:
    """SES-4, RSM-5: removed, expired, or given way to another; and nothing is kept for one that is gone."""
    one, other = await begun(servers, "removed", "full", "lives")
    await one.create(session("expired"), Use(0.0, 0.2), ROOM)
    await one.renew({"full": Use(0.0, 600.0), "lives": Use(0.0, 600.0, 600.0)})
    for key in ("removed", "full", "expired", "lives"):
        assert await one.replies.keep(key, "a.1", b"x", TTL_S) == b"x"
    await one.remove(["removed"])
    await servers.let_pass(0.3)
    assert await other.create(session("new"), USE, SessionRoom(2, 2)) == ["full"]
    await other.purge()
    for key in ("removed", "full", "expired"):
        assert await other.replies.keep(key, "a.2", b"x", TTL_S) is None
        await one.create(session(key), USE, ROOM)
        assert await found(other, "a.1", "a.2", key=key) == [None, None], key
    assert await found(other, "a.1", key="lives") == [b"x"]
    assert await other.replies.keep("unknown", "a.1", b"x", TTL_S) is None


async def test_the_bytes_of_a_stream_and_of_a_session_are_bounded(servers: Servers) -> None:
    """Law 8, SEC-4: the oldest gives way, and another session's nothing."""
    one, other = await begun(servers, "one", "two")
    assert await one.replies.keep("one", "long", b"x" * (MAX_REPLY_BYTES + 1), TTL_S) is None
    assert await found(other, "long") == [None]
    most = b"x" * MAX_REPLY_BYTES
    names = [f"a.{number}" for number in range(MAX_SESSION_BYTES // MAX_REPLY_BYTES + 1)]
    await one.replies.keep("two", "a.0", b"small", TTL_S)
    for name in names:
        assert await one.replies.keep("one", name, most, TTL_S) == most
    assert [data is not None for data in await found(other, *names)] == [False] + [True] * (len(names) - 1)
    assert await other.replies.keep("one", "small", b"y", TTL_S) == b"y"
    assert await found(other, names[1], "small") == [None, b"y"]
    assert await found(other, "a.0", key="two") == [b"small"]


async def test_how_many_replies_a_session_has_is_bounded_however_short_they_are(servers: Servers) -> None:
    """Law 8, SEC-4: a client that names ever new streams makes no session whose replies take long to look through."""
    one, other = await begun(servers, "one", "two")
    names = [f"a.{number}" for number in range(MAX_SESSION_REPLIES + 2)]
    await one.replies.keep("two", "a.0", b"other", TTL_S)
    for name in names:
        assert await one.replies.keep("one", name, b"x", TTL_S) == b"x"
    assert [data is not None for data in await found(other, *names)] == [False] * 2 + [True] * MAX_SESSION_REPLIES
    assert await other.replies.keep("one", names[-1], b"y", TTL_S) == b"x"
    assert await found(other, "a.0", key="two") == [b"other"]
    assert await other.replies.keep("one", "long", b"x" * MAX_REPLY_BYTES, TTL_S) is not None
    assert [data is not None for data in await found(one, *names[2:4], "long")] == [False, True, True]
