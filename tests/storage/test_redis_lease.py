"""The lease of a process in a real Redis: pauses of Redis and of a process, loss of all data, an end in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from mcpd.drivers.redis import Options, Redis
from mcpd.storage.redis.idempotency import RedisIdempotency
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.lease import Lease
from mcpd.storage.shared import Begun, Busy, Claim, New, Room
from tests.redis_servers import KINDS, RedisServer, serving

WAIT_S = 30.0
LEASE_S = 0.6
PATIENT = Options(connect_s=5, stall_s=10, patience_s=5)
KEYS = Keys("test:")


class Process:
    """One process, whose lease beats."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.lease = Lease(redis, KEYS, lease_s=LEASE_S)
        self.keys = RedisIdempotency(redis, KEYS, self.lease)

    async def begin(self, token: str = "t") -> Begun:
        return await self.keys.begin(Claim("one", "s", "d", token), Room(9, 9), 60)

    async def holds(self) -> str:
        new = await self.begin()
        assert isinstance(new, New), new
        return new.holder


@asynccontextmanager
async def process_of(server: RedisServer) -> AsyncIterator[Process]:
    async with trio.open_nursery() as nursery:
        redis = Redis(server.url, options=PATIENT)
        await nursery.start(redis.run)
        async with trio.open_nursery() as beating:
            process = Process(redis)
            await beating.start(process.lease.run)
            yield process
            beating.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving(request.param) as running:
        yield running


async def test_a_pause_of_redis_ends_nobody(server: RedisServer) -> None:
    """A question that waited in Redis comes before the owner's beat that waited behind it, and finds it alive."""
    with trio.fail_after(WAIT_S):
        async with process_of(server) as one:
            holder = await one.holds()
            async with process_of(server) as two:
                await two.begin("u")
                server.pause()
                found: list[Begun] = []
                async with trio.open_nursery() as nursery:

                    async def ask() -> None:
                        found.append(await two.begin("u"))

                    nursery.start_soon(ask)
                    await trio.sleep(3 * LEASE_S)
                    server.resume()
                assert found == [Busy(holder)]
                assert await two.begin("u") == Busy(holder)


async def test_a_process_that_ends_in_order_leaves_nothing_held(server: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with process_of(server) as two:
            async with process_of(server) as one:
                holder = await one.holds()
                assert await two.begin("u") == Busy(holder)
            assert isinstance(await two.begin("u"), New)


async def test_a_process_whose_epoch_is_lost_takes_another(server: RedisServer) -> None:
    """FLUSHALL: what it owned is forgotten with it, and it goes on under a new epoch."""
    with trio.fail_after(WAIT_S):
        async with process_of(server) as one:
            holder = await one.holds()
            server.ask("FLUSHALL")
            again = await one.holds()
            assert again.partition(".")[0] != holder.partition(".")[0]
            assert not await one.keys.finish(Claim("one", "s", "d", "t"), holder, b"x", 60)
            assert await one.keys.finish(Claim("one", "s", "d", "t"), again, b"x", 60)


async def test_a_clock_that_was_put_back_holds_no_key_of_a_dead_process(server: RedisServer) -> None:
    """A failover to a server whose clock is behind: all times of leases lie ahead, and end within the usual time."""
    async with trio.open_nursery() as nursery:
        redis = Redis(server.url, options=PATIENT)
        await nursery.start(redis.run)
        epoch = (await Process(redis).holds()).partition(".")[0]
        seconds, _ = await redis.execute("TIME")
        ahead_ms = (int(seconds) + 3_600) * 1000
        await redis.execute("ZADD", KEYS.owners, ahead_ms, epoch)
        await redis.execute("HSET", KEYS.lease, "last", ahead_ms, "grace", ahead_ms)
        with trio.fail_after(WAIT_S):
            async with process_of(server) as two:
                while isinstance(await two.begin("u"), Busy):  # noqa: ASYNC110 - what another process has held is polled
                    await trio.sleep(LEASE_S / 4)
        nursery.cancel_scope.cancel()


async def test_a_process_that_owns_nothing_says_nothing(server: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with process_of(server):
            await trio.sleep(2 * LEASE_S)
            assert server.ask("DBSIZE") == b":0\r\n"


@pytest.mark.parametrize("junk", [b"\xff", b"", b"9" * 5000])
async def test_a_beat_replaces_what_another_program_has_written(server: RedisServer, junk: bytes) -> None:
    async with process_of(server) as one:
        await one.lease.hold()
        await one.redis.execute("HSET", KEYS.lease, "last", junk, "grace", junk)
        await one.holds()
        last = await one.redis.execute("HGET", KEYS.lease, "last")
        assert last != junk
        assert int(last) > 0
