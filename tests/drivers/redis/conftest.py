"""A real server of each kind, started once for all tests of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from mcpd.drivers.redis import Options, Redis
from tests.redis_servers import KINDS, RedisServer, serving

QUICK = Options(connect_s=2, stall_s=2, patience_s=1)


@pytest.fixture(scope="session", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving(request.param) as running:
        yield running


@pytest.fixture(scope="session")
def redis7() -> Iterator[RedisServer]:
    with serving("redis-7") as running:
        yield running


@asynccontextmanager
async def client_of(url: str, options: Options = QUICK, **settings: Any) -> AsyncIterator[Redis]:
    """A client that runs while the body does."""
    async with trio.open_nursery() as nursery:
        redis = Redis(url, options=options, **settings)
        await nursery.start(redis.run)
        yield redis
        nursery.cancel_scope.cancel()
