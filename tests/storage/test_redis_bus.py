"""Change events between replicas over a real Redis: each once, also after cuts, restarts, losses and outages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from mcpd.drivers.redis import Options, Redis
from mcpd.events import Changed
from mcpd.storage.redis import bus as redis_bus
from mcpd.storage.redis.bus import EVERYTHING, MAX_WAITING, RedisBus
from mcpd.storage.redis.keys import EVENTS_TTL_MS, Keys
from tests.in_process import eventually
from tests.redis_servers import KINDS, RedisServer, free_port, serving

WAIT_S = 30.0
QUICK = Options(connect_s=1, stall_s=1, patience_s=0.2)


class Replica:
    """A bus, and what its subscribers were told since `begin`."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.bus = RedisBus(redis, Keys("test:"))
        self.told: list[Changed] = []
        self.bus.subscribe(self.told.append)

    async def begun(self) -> None:
        """Wait until it listens; what it was told so far is forgotten."""
        await eventually(lambda: len(self.told) >= len(EVERYTHING), "the bus has begun to listen")
        self.told.clear()


@asynccontextmanager
async def replica_of(url: str) -> AsyncIterator[Replica]:
    async with trio.open_nursery() as nursery:
        redis = Redis(url, options=QUICK)
        await nursery.start(redis.run)
        replica = Replica(redis)
        await nursery.start(replica.bus.run)
        yield replica
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two_replicas(url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    with trio.fail_after(WAIT_S):
        async with replica_of(url) as one, replica_of(url) as two:
            await one.begun()
            await two.begun()
            yield one, two


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving(request.param) as running:
        yield running


def event(number: int) -> Changed:
    return Changed("resource", f"t://{number}")


async def test_an_event_reaches_every_replica_once_and_its_own_at_once(server: RedisServer) -> None:
    async with two_replicas(server.url) as (one, two):
        one.bus.publish(event(1))
        assert one.told == [event(1)], "before anything was sent"
        await eventually(lambda: two.told, "the other has heard")
        two.bus.publish(event(2))
        await eventually(lambda: len(one.told) == 2, "and answers")
        assert (one.told, two.told) == ([event(1), event(2)],) * 2


async def test_every_kind_of_event_is_carried(server: RedisServer) -> None:
    kinds = [*EVERYTHING, Changed("resource", "docs:///ä b")]
    async with two_replicas(server.url) as (one, two):
        for kind in kinds:
            one.bus.publish(kind)
        await eventually(lambda: len(two.told) == len(kinds), "all have come")
        assert two.told == kinds


async def test_what_waits_already_is_not_queued_again(server: RedisServer) -> None:
    async with two_replicas(server.url) as (one, two):
        for _ in range(100):
            one.bus.publish(Changed("tools"))
        one.bus.publish(event(1))
        await eventually(lambda: event(1) in two.told, "the last has come")
        assert two.told == [Changed("tools"), event(1)]


async def test_no_event_is_lost_while_connections_are_cut(server: RedisServer) -> None:
    async with two_replicas(server.url) as (one, two):
        for number in range(500):
            one.bus.publish(event(number))
            if number % 100 == 50:
                server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            if number % 100 == 90:
                server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await trio.sleep(0.001)
        await eventually(lambda: len(two.told) >= 500, "all have come")
        assert two.told == [event(number) for number in range(500)]
        assert two.bus.statistics().resyncs == 0


async def test_a_stream_that_was_lost_is_told_as_anything_may_have_changed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUSHALL cuts no connection: only reading tells."""
    monkeypatch.setattr(redis_bus, "POLL_S", 0.05)
    async with two_replicas(server.url) as (one, two):
        server.ask("FLUSHALL")
        await eventually(lambda: len(two.told) >= len(EVERYTHING), "it has noticed")
        assert set(two.told) == set(EVERYTHING)
        await eventually(lambda: len(one.told) >= len(EVERYTHING), "the other too")
        two.told.clear()
        one.bus.publish(event(1))
        await eventually(lambda: event(1) in two.told, "it goes on")


async def test_a_restart_that_kept_its_data_changes_nothing() -> None:
    port = free_port()
    with trio.fail_after(WAIT_S), serving("redis-7", "--appendonly", "yes", port=port) as server:
        async with two_replicas(server.url) as (one, two):
            one.bus.publish(event(1))
            await eventually(lambda: two.told == [event(1)], "it has come")
            server.process.terminate()
            server.process.wait()
            one.bus.publish(event(2))
            one.bus.publish(event(2))
            with serving("redis-7", "--appendonly", "yes", port=port, folder=server.folder):
                await eventually(lambda: len(two.told) >= 2, "what waited has come")
                one.bus.publish(event(3))
                await eventually(lambda: len(two.told) >= 3, "it goes on")
                assert two.told == [event(1), event(2), event(3)]
                assert two.bus.statistics().resyncs == 0


async def test_a_replica_that_starts_before_redis_hears_once_it_is_there() -> None:
    port = free_port()
    with trio.fail_after(WAIT_S):
        async with replica_of(f"redis://127.0.0.1:{port}") as one, replica_of(f"redis://127.0.0.1:{port}") as two:
            one.bus.publish(event(1))
            assert (one.told, two.told) == ([event(1)], [])
            with serving("redis-7", port=port):
                await eventually(lambda: len(two.told) >= len(EVERYTHING), "it listens")
                one.bus.publish(event(2))
                await eventually(lambda: event(2) in two.told, "it has heard")


async def test_what_waits_is_bounded_and_becomes_anything_may_have_changed() -> None:
    """Law 8."""
    async with trio.open_nursery() as nursery:
        redis = Redis(f"redis://127.0.0.1:{free_port()}", options=QUICK)
        await nursery.start(redis.run)
        bus = RedisBus(redis, Keys("test:"))
        for number in range(MAX_WAITING + 1):
            bus.publish(event(number))
        assert bus.statistics().waiting == len(EVERYTHING)
        nursery.cancel_scope.cancel()


async def test_what_is_no_event_is_passed_over(server: RedisServer) -> None:
    async with two_replicas(server.url) as (one, two):
        key = Keys("test:").events
        for words in ("nonsense", '["x", "y"]', "[]", '["x", 1, "unknown-later-kind", null]'):
            await one.redis.execute("XADD", key, "*", "event", words)
        for words in ("garbage", "1 2", "99999999999999-0 - x"):
            server.ask("PUBLISH", key, words)
        one.bus.publish(event(1))
        await eventually(lambda: event(1) in two.told, "it goes on")
        assert two.told == [event(1)]


@pytest.mark.parametrize("name", ["junk", "18446744073709551615-18446744073709551615", "99999999999999999999-1", "٣-١"])
async def test_no_id_becomes_the_last_one_behind_which_nothing_can_be_read(server: RedisServer, name: str) -> None:
    """Reading on from it would be refused for ever, whatever became of the stream."""
    async with two_replicas(server.url) as (one, two):
        key = Keys("test:").events
        last = (await one.redis.execute("XREVRANGE", key, "+", "-", "COUNT", 1))[0][0].decode()
        server.ask("PUBLISH", key, f'{name} {last} ["somebody", 1, "resource", "t://0"]')
        one.bus.publish(event(1))
        await eventually(lambda: event(1) in two.told, "it goes on")


async def test_a_stream_that_nothing_can_follow_is_left_when_it_is_gone() -> None:
    with serving("redis-7") as server:
        async with two_replicas(server.url) as (one, two):
            key = Keys("test:").events
            await one.redis.execute("XADD", key, "18446744073709551615-18446744073709551615", "event", "x")
            await eventually(lambda: two.bus.trouble, "it cannot be read")
            await one.redis.execute("DEL", key)
            one.bus.publish(event(1))
            await eventually(lambda: two.bus.statistics().resyncs, "it has begun anew")
            await eventually(lambda: not two.bus.trouble, "and hears again")


async def test_no_key_is_without_an_end(server: RedisServer) -> None:
    async with two_replicas(server.url) as (one, two):
        one.bus.publish(event(1))
        await eventually(lambda: two.told, "it has come")
        names = await one.redis.execute("KEYS", "test:*")
        assert names
        for name in names:
            assert 0 < await one.redis.execute("PTTL", name) <= EVENTS_TTL_MS


async def test_an_entry_that_was_written_twice_is_heard_once(server: RedisServer) -> None:
    """A script whose outcome is unknown is sent again."""
    async with two_replicas(server.url) as (one, two):
        key = Keys("test:").events
        for number in (1, 1, 2, 1):
            words = f'["somebody", {number}, "resource", "t://{number}"]'
            await one.redis.execute("XADD", key, "*", "event", words)
        one.bus.publish(event(3))
        await eventually(lambda: event(3) in two.told, "the last has come")
        assert two.told == [event(1), event(2), event(3)]


async def test_a_message_whose_predecessor_was_not_heard_does_not_hide_it(server: RedisServer) -> None:
    async with two_replicas(server.url) as (one, two):
        key, payloads = (
            Keys("test:").events,
            [f'["somebody", {number}, "resource", "t://{number}"]' for number in (1, 2)],
        )
        first, second = [(await one.redis.execute("XADD", key, "*", "event", words)).decode() for words in payloads]
        server.ask("PUBLISH", key, f"{second} {first} {payloads[1]}")
        await eventually(lambda: event(2) in two.told, "the second has come")
        assert two.told == [event(1), event(2)]
