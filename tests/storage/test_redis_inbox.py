"""The inbox over a Redis that cuts and garbles: each message once, and what is wrong is shown until it is mended."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from mcpd.drivers.redis import Options, Redis
from mcpd.storage.redis.inbox import RedisInbox
from mcpd.storage.redis.keys import Keys
from tests.contract.inbox_backends import LEASE_S, TOPIC, Process
from tests.in_process import eventually
from tests.redis_servers import KINDS, RedisServer, cutting, serving

WAIT_S = 30.0
PATIENT = Options(connect_s=2, stall_s=2, patience_s=10)
REPLY_BYTES = len(b":1\r\n")


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving(request.param) as running:
        yield running


@asynccontextmanager
async def inbox_of(url: str, keys: Keys, *, heard: bool = True) -> AsyncIterator[tuple[Process, Redis]]:
    """Give a process, which can be found if it is `heard`."""
    async with trio.open_nursery() as nursery:
        redis = Redis(url, options=PATIENT)
        await nursery.start(redis.run)
        process = Process(RedisInbox(redis, keys, lease_s=LEASE_S))
        if heard:
            await nursery.start(process.inbox.run)
        yield process, redis
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("passing", range(REPLY_BYTES))
async def test_a_message_whose_outcome_is_unknown_is_sent_again_and_heard_once(
    server: RedisServer, passing: int
) -> None:
    """The reply is cut at each of its bytes: the message is in the stream twice."""
    keys = Keys(f"{secrets.token_hex(4)}:")
    with trio.fail_after(WAIT_S):
        async with (
            inbox_of(server.url, keys) as (two, _),
            cutting(server.port) as proxy,
            inbox_of(proxy.url, keys, heard=False) as (one, redis),
        ):
            assert await one.tell(two, b"0")
            proxy.left = passing
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.tell, two, b"1")
                while redis.statistics().connected:
                    await redis.wait_change()
                proxy.left = None
            assert await one.tell(two, b"2")
            await two.hears(b"0", b"1", b"2")


async def test_what_is_no_message_is_passed_over(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(f"{secrets.token_hex(4)}:")
    garbage: list[list[bytes | str]] = [
        ["a", "b"],
        ["sender", "x", "topic", TOPIC, "number", "none", "at", "0", "body", ""],
        ["sender", b"\xff", "topic", TOPIC, "number", "1", "at", "0", "body", ""],
    ]
    with trio.fail_after(WAIT_S):
        async with inbox_of(server.url, keys) as (one, _), inbox_of(server.url, keys) as (two, redis):
            stream = keys.inbox(two.inbox.address)
            for fields in garbage:
                await redis.execute("XADD", stream, "*", *fields)
            await redis.execute("PUBLISH", stream, "")
            await eventually(lambda: len([line for line in caplog.messages if "cannot be read" in line]) == 3, "read")
            assert await one.tell(two, b"one that is")
            await two.hears(b"one that is")


async def test_a_stream_that_is_none_is_shown_as_trouble_until_it_is_one(server: RedisServer) -> None:
    keys = Keys(f"{secrets.token_hex(4)}:")
    with trio.fail_after(WAIT_S):
        async with inbox_of(server.url, keys) as (one, _), inbox_of(server.url, keys) as (two, redis):
            inbox = two.inbox
            assert isinstance(inbox, RedisInbox)
            await redis.execute("SET", keys.inbox(inbox.address), "no stream", "PX", 60_000)
            await eventually(lambda: "WRONGTYPE" in inbox.trouble, "the trouble is shown")
            await redis.execute("DEL", keys.inbox(inbox.address))
            await eventually(lambda: not inbox.trouble, "the trouble is over")
            assert await one.tell(two, b"well")
            await two.hears(b"well")


async def test_an_inbox_leaves_nothing_behind(server: RedisServer) -> None:
    keys = Keys(f"{secrets.token_hex(4)}:")
    with trio.fail_after(WAIT_S):
        async with inbox_of(server.url, keys) as (one, redis), inbox_of(server.url, keys) as (two, _):
            assert await one.tell(two, b"x")
            await two.hears(b"x")
            await two.inbox.leave()
            assert await redis.execute("EXISTS", keys.inbox(two.inbox.address)) == 0
            assert await redis.execute("ZRANGE", keys.inboxes, 0, -1) == [one.inbox.address.encode()]
