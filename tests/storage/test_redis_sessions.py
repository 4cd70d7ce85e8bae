"""Sessions in a real Redis, where only Redis can hold what no process of ours has written."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from mcpd.drivers.redis import Redis
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.sessions import RedisSessions
from mcpd.storage.session_records import SessionRoom, Use
from tests.contract.session_backends import session
from tests.redis_servers import serving

KEYS = Keys("test:")
USE = Use(0.0, 60.0)


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    with serving("redis-7") as server:
        async with trio.open_nursery() as nursery:
            client = Redis(server.url)
            await nursery.start(client.run)
            with trio.fail_after(20):
                yield client
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("junk", [b"\xff", b"", b"9" * 400, b"9" * 5000, b"1e9"])
async def test_times_that_are_none_end_no_request_and_keep_nobody_from_coming(redis: Redis, junk: bytes) -> None:
    sessions = RedisSessions(redis, KEYS)
    await sessions.create(session("old"), USE, SessionRoom(1, 1))
    await redis.execute("HSET", KEYS.session("old"), "used", junk, "busy", junk, "created", junk)
    found = await sessions.get("old")
    assert found is not None
    assert found.created_s == 0
    assert await sessions.create(session("new"), USE, SessionRoom(1, 1)) == ["old"]
    assert await sessions.get("old") is None
