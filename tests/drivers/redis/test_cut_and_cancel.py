"""The Redis client when the stream breaks after any byte, and when its caller is cancelled at any moment.

INCR is the witness: a counter tells how often a command ran. ECHO is the other: a reply names who asked for it. After
each fault the same client has to answer in step, with nothing leased and nothing in flight.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from mcpd.drivers.redis import NotExecuted, Options, OutcomeUnknown, Redis, RedisError, Script
from tests.drivers.redis.conftest import client_of
from tests.redis_servers import RedisServer, cutting

WAIT_S = 60.0
IMPATIENT = Options(connect_s=5, stall_s=5, patience_s=0.2, max_leases=4)
COUNT = Script("return redis.call('INCR', KEYS[1])")


async def execute(redis: Redis, key: str) -> Any:
    return await redis.execute("INCR", key)


async def pipeline(redis: Redis, key: str) -> Any:
    replies = await redis.pipeline([("ECHO", "a"), ("INCR", key), ("ECHO", "b")])
    assert (replies[0], replies[2]) == (b"a", b"b")
    return replies[1]


async def transaction(redis: Redis, key: str) -> Any:
    return (await redis.transaction([("INCR", key)]))[0]


async def script(redis: Redis, key: str) -> Any:
    return await redis.run_script(COUNT, keys=[key])


async def leased(redis: Redis, key: str) -> Any:
    async with redis.lease() as connection:
        return await connection.call("INCR", key)


WAYS = [execute, pipeline, transaction, script, leased]
Way = Callable[[Redis, str], Awaitable[Any]]


async def count(redis: Redis, key: str) -> int:
    return int(await redis.execute("GET", key) or 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_cut_after_any_byte_leaves_a_true_answer(way: Way, redis7: RedisServer) -> None:
    """Told done: it ran once. Told not executed: it did not run. Told unknown: once at most. Never twice."""
    with trio.fail_after(WAIT_S):
        async with client_of(redis7.url) as witness:
            await witness.run_script(COUNT, keys=["warm"])
            cut, whole = 0, False
            while not whole:
                key = f"{way.__name__}-{cut}"
                await witness.execute("DEL", key)
                whole = await _cut(way, redis7, key, cut, witness)
                cut += 1
    assert cut >= len(b":1\r\n"), "something was cut"


async def _cut(way: Way, server: RedisServer, key: str, cut: int, witness: Redis) -> bool:
    """Let `cut` bytes of the server through behind its greeting; return whether that was enough."""
    async with cutting(server.port) as proxy, client_of(proxy.url, IMPATIENT) as redis:
        greeting = proxy.passed[-1]
        if way is leased:
            proxy.allowed = greeting + cut
        else:
            proxy.left = cut
        told: Any = None
        try:
            told = await way(redis, key)
        except OutcomeUnknown:
            told = "unknown"
        except NotExecuted:
            told = "not executed"
        ran = await count(witness, key)
        assert ran <= 1
        assert told in ({0: ("not executed", "unknown"), 1: (1, "unknown")}[ran])
        proxy.allowed = proxy.left = None
        await _is_in_step(redis)
        return bool(told == 1)


async def test_a_greeting_cut_after_any_byte_is_tried_again(redis7: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with cutting(redis7.port) as proxy:
            async with client_of(proxy.url, IMPATIENT):
                whole = proxy.passed[-1]
            for cut in range(whole):
                proxy.allowed = cut
                async with client_of(proxy.url, IMPATIENT) as redis:
                    assert not redis.statistics().connected
                    proxy.allowed = None
                    await _is_in_step(redis)
    assert whole > 100


async def _is_in_step(redis: Redis) -> None:
    while True:
        try:
            assert await redis.execute("ECHO", "in step", idempotent=True) == b"in step"
            async with redis.lease() as connection:
                assert await connection.call("ECHO", "leased") == b"leased"
        except RedisError:
            await trio.sleep(0.01)
        else:
            break
    statistics = redis.statistics()
    assert (statistics.queued, statistics.in_flight, statistics.leased) == (0, 0, 0)


class CancelAt(trio.abc.Instrument):
    """Cancels `scope` when `task` is about to run for the n-th time."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope = scope
        self._steps = steps
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._task:
            self._steps -= 1
            if self._steps == 0:
                self._scope.cancel()


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_cancelled_at_any_step_leaves_the_client_in_step(way: Way, redis7: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with client_of(redis7.url, IMPATIENT) as redis:
            await redis.run_script(COUNT, keys=["warm"])
            steps, ended = 1, False
            while not ended:
                key = f"cancel-{way.__name__}-{steps}"
                await redis.execute("DEL", key)
                ended = await _cancelled_at(way, redis, key, steps)
                assert await count(redis, key) <= 1
                await _is_in_step(redis)
                steps += 1
    assert steps > 2, "something was cancelled"


async def _cancelled_at(way: Way, redis: Redis, key: str, steps: int) -> bool:
    """Return whether the call was through before it could be cancelled."""
    through = False

    async def call() -> None:
        nonlocal through
        await way(redis, key)
        through = True

    async with trio.open_nursery() as nursery:
        instrument = CancelAt(nursery.cancel_scope, steps)
        nursery.start_soon(call)
        trio.lowlevel.add_instrument(instrument)
    trio.lowlevel.remove_instrument(instrument)
    return through


@pytest.mark.slow
async def test_ten_thousand_random_cancels_never_hand_a_reply_to_somebody_else(server: RedisServer) -> None:
    """What redis-py's issue 2624 was: the reply of a cancelled command reached the next caller."""
    draw = random.Random(7)
    done = cancelled = 0
    with trio.fail_after(4 * WAIT_S):
        async with client_of(server.url, IMPATIENT) as redis:
            await redis.execute("DEL", "storm")

            async def client(name: int) -> None:
                nonlocal done, cancelled
                for number in range(500):
                    mark = f"{name}-{number}".encode()
                    with trio.CancelScope() as scope:
                        if draw.random() < 0.7:
                            scope.deadline = trio.current_time() + draw.random() * 0.004
                        assert (await redis.pipeline([("INCR", "storm"), ("ECHO", mark)]))[1] == mark
                        done += 1
                    cancelled += scope.cancelled_caught

            async with trio.open_nursery() as nursery:
                for name in range(40):
                    nursery.start_soon(client, name)
            await _is_in_step(redis)
            ran = await count(redis, "storm")
    assert done + cancelled == 20_000
    assert cancelled > 1_000
    assert done <= ran <= 20_000
