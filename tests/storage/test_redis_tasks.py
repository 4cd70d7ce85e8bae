"""Tasks over a real Redis, where only Redis can go wrong: lost replies, lost messages, lost data, owners given up."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import pytest
import trio

from mcpd.drivers.redis import Options, Redis
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.redis import task_notices
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.lease import Lease
from mcpd.storage.redis.task_scripts import MAX_INLINE_BYTES, MAX_TOLD_BYTES
from mcpd.storage.redis.tasks import RedisTasks
from mcpd.storage.task_states import Answer, Ask, End, Refused, Report, Task, step
from tests.contract.task_backends import made, question
from tests.in_process import eventually
from tests.redis_servers import KINDS, Cutting, RedisServer, cutting, serving

WAIT_S = 60.0
NEVER_S = 1_000.0
LEASE_S = 60.0
QUICK = Options(connect_s=2, stall_s=2, patience_s=1)


class Owner:
    """One process: its store, and what it was told."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.keys = keys
        self.redis = redis
        self.lease = Lease(redis, keys, lease_s=LEASE_S)
        self.store = RedisTasks(redis, keys, self.lease)
        self.told: list[Task] = []

    def has_been_told(self, message: str) -> bool:
        return any(task.message == message for task in self.told)


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving(request.param) as running:
        yield running


@pytest.fixture
def keys() -> Keys:
    return Keys(f"{secrets.token_hex(4)}:")


@asynccontextmanager
async def owner_at(url: str, keys: Keys, *, watches: bool = True) -> AsyncIterator[Owner]:
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            redis = Redis(url, options=QUICK)
            await nursery.start(redis.run)
            owner = Owner(redis, keys)
            await owner.lease.hold()
            if watches:
                await nursery.start(owner.store.watch, owner.told.append)
            yield owner
            nursery.cancel_scope.cancel()


async def cut_after(proxy: Cutting, allowed: int) -> None:
    """Cut the connection behind so many bytes, and let the next one live."""
    connections = len(proxy.passed)
    proxy.left = allowed
    await eventually(lambda: len(proxy.passed) > connections, "the connection was cut")
    proxy.left = None


async def test_an_end_whose_reply_was_lost_is_an_end(server: RedisServer, keys: Keys) -> None:
    """One execution, whatever becomes of its reply: cut at each byte around it."""
    async with cutting(server.port) as proxy:
        for offset in range(-8, 8):
            async with owner_at(proxy.url, keys, watches=False) as owner:
                await made(owner.store, name := f"t{offset}")
                before = proxy.passed[-1]
                await owner.store.get(name)
                read_bytes = proxy.passed[-1] - before
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cut_after, proxy, read_bytes + offset)
                    after = await owner.store.apply(name, End(owner.store.owner, "completed", b"{}"))
                    await owner.redis.execute("ECHO", "more than is left", idempotent=True)
                assert isinstance(after, Task), after
                assert (after.state, after.rev) == ("completed", 2)


async def test_a_creation_whose_outcome_stayed_unknown_is_ended(server: RedisServer, keys: Keys) -> None:
    """Nobody knows its id, and it would take its place until it expires."""
    async with (
        cutting(server.port) as proxy,
        owner_at(proxy.url, keys, watches=False) as owner,
        owner_at(server.url, keys) as other,
    ):
        known = await made(owner.store, "known")
        proxy.left = 40
        with pytest.raises(StoreUnreachable):
            await made(owner.store, "unknown")
        proxy.left = None
        task = await other.store.get("unknown")
        assert task is not None
        assert task.state == "working"
        await eventually(lambda: owner.redis.statistics().connected, "it is back")
        assert await owner.store.recover() == 1
        task = await other.store.get("unknown")
        assert task is not None
        assert task.state == "failed"
        assert await other.store.get("known") == known


async def test_what_changed_while_nobody_listened_is_told_at_once_when_somebody_does(
    server: RedisServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for the next look."""
    monkeypatch.setattr(task_notices, "POLL_S", NEVER_S)
    async with owner_at(server.url, keys) as owner, owner_at(server.url, keys) as other:
        await made(owner.store)
        for number in range(5):
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await owner.store.apply("one", Report(owner.store.owner, f"number {number}"))
            await eventually(lambda number=number: other.has_been_told(f"number {number}"), "it is told")  # type: ignore[misc]
        assert [task.rev for task in owner.told] == sorted(task.rev for task in owner.told)


async def test_a_message_that_was_lost_in_silence_is_noticed_by_the_next(
    server: RedisServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names a predecessor that was not heard."""
    monkeypatch.setattr(task_notices, "POLL_S", NEVER_S)
    async with owner_at(server.url, keys) as owner, owner_at(server.url, keys) as other:
        for name in ("lost", "next"):
            await made(owner.store, name)
        await eventually(lambda: len(other.told) == 2, "both are told")
        lost = await owner.store.get("lost")
        assert lost is not None
        changed = step(lost, Report(lost.owner, "in silence"), now_s=lost.updated_s)
        assert isinstance(changed, Task)
        await owner.redis.execute("HSET", keys.task("lost"), "record", msgspec.json.encode(changed))
        await owner.redis.execute("ZADD", keys.task_changes, 1 + int(await top_of(owner)), "lost")
        await owner.store.apply("next", Report(owner.store.owner, "aloud"))
        await eventually(lambda: other.has_been_told("in silence") and other.has_been_told("aloud"), "both are told")


async def top_of(owner: Owner) -> str:
    found = await owner.redis.execute("ZREVRANGE", owner.keys.task_changes, 0, 0, "WITHSCORES")
    return f"{found[0][1]:.0f}"


async def test_numbers_that_went_back_with_a_failover_keep_nothing_from_being_told(
    server: RedisServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_notices, "POLL_S", 0.05)
    async with owner_at(server.url, keys) as owner, owner_at(server.url, keys) as other:
        for name in ("one", "two"):
            await made(owner.store, name)
        await owner.redis.execute("ZADD", keys.task_changes, "XX", "INCR", 3_600_000_000, "one")
        await owner.store.apply("two", Report(owner.store.owner, "before"))
        await eventually(lambda: other.has_been_told("before"), "it is told")
        for name in ("one", "two"):
            await owner.redis.execute("ZADD", keys.task_changes, "XX", "INCR", -3_600_000_000, name)
        await owner.store.apply("one", Report(owner.store.owner, "after"))
        await eventually(lambda: other.has_been_told("after"), "it is told")


async def test_large_records_and_outcomes_reach_the_other_side(server: RedisServer, keys: Keys) -> None:
    async with owner_at(server.url, keys) as owner, owner_at(server.url, keys) as other:
        await made(owner.store)
        await owner.store.apply("one", Ask(owner.store.owner, {"a": question()}))
        await other.store.apply("one", Answer({"a": "x" * 2 * MAX_TOLD_BYTES}))
        await eventually(lambda: any(task.answers for task in owner.told), "the answer is heard")
        outcome = b'"%b"' % (b"y" * 4 * MAX_INLINE_BYTES)
        await owner.store.apply("one", End(owner.store.owner, "completed", outcome))
        await eventually(lambda: any(task.ended for task in other.told), "the end is heard")
        task = await other.store.get("one")
        assert task is not None
        assert task.outcome == outcome


async def test_after_a_loss_of_all_data_tasks_are_let_go_and_new_ones_are_heard(
    server: RedisServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection is cut by FLUSHALL."""
    monkeypatch.setattr(task_notices, "POLL_S", 0.05)
    async with owner_at(server.url, keys) as owner, owner_at(server.url, keys) as other:
        await made(owner.store)
        server.ask("FLUSHALL")
        await owner.lease._beat()
        await eventually(lambda: any(task.state == "failed" for task in owner.told), "the work is told to stop")
        assert await other.store.get("one") is None
        again = await made(owner.store, "again")
        await eventually(lambda: any(task.id == "again" for task in other.told), "it is heard")
        assert await other.store.get("again") == again


async def test_an_owner_that_was_given_up_changes_nothing_and_goes_on_under_another_name(
    server: RedisServer, keys: Keys
) -> None:
    """TSK-13: fencing, also between reading and writing."""
    async with owner_at(server.url, keys) as owner, owner_at(server.url, keys) as other:
        before, epoch = await made(owner.store), owner.store.owner
        server.ask("ZREM", keys.owners, epoch)
        done = step(before, End(epoch, "completed", b"{}"), now_s=before.created_s)
        assert isinstance(done, Task)
        assert not await owner.store._write(before, done, fence=epoch)
        after = await owner.store.apply("one", End(epoch, "completed", b"{}"))
        assert isinstance(after, Refused)
        assert (after.why, after.task and after.task.state) == ("ended", "failed")
        assert owner.told[-1].state == "failed"
        again = await made(owner.store, "again")
        assert again.owner not in ("", epoch)
        assert await other.store.get("again") == again


JUNK: Final = b"\xff not what we write"


@pytest.mark.parametrize("score", [b"1e300", b"inf", b"-inf", b"1"])
async def test_what_another_program_has_written_among_tasks_hides_no_other_task(
    server: RedisServer, keys: Keys, score: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_notices, "POLL_S", 0.02)
    async with owner_at(server.url, keys) as owner:
        await made(owner.store, "junk")
        for name in (JUNK, "junk"):
            await owner.redis.execute("ZADD", keys.task_changes, score, name)
            await owner.redis.execute("HSET", keys.task_states, name, "working gone" if name == "junk" else JUNK)
        await owner.redis.execute("HSET", keys.task("junk"), "record", JUNK, "owner", JUNK)
        await owner.redis.execute("PUBLISH", keys.task_changes, b"1 0 x " + JUNK)
        await owner.redis.execute("ZREM", keys.task_changes, JUNK)
        assert await owner.store.get("junk") is None
        await made(owner.store, "sound")
        await eventually(lambda: any(task.id == "sound" for task in owner.told), "the next one is told")
        assert await owner.store.recover() == 0
        assert (await owner.store.count())["working"] == 2
