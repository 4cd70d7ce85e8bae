"""The contract of `RateLimits`, on memory and on real servers: what two replicas may do together, and when again."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import trio

from mcpd.drivers.redis import Redis
from mcpd.rates import Rate, Taken
from mcpd.storage.memory.rates import MemoryRates
from mcpd.storage.redis import rates as redis_rates
from mcpd.storage.redis.keys import Keys
from mcpd.storage.redis.rates import RedisRates
from mcpd.storage.shared import RateLimits
from tests.redis_servers import KINDS, serving

WAIT_S = 60.0
SLOW = Rate(5, 3600)
Replicas = tuple[RateLimits, RateLimits]


def never() -> None:
    raise AssertionError("Redis was there")


@contextmanager
def server_of(kind: str) -> Iterator[str]:
    if kind == "memory":
        yield ""
    else:
        with serving(kind) as server:
            yield server.url


@pytest.fixture(scope="module", params=["memory", *KINDS])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with server_of(request.param) as address:
        yield address


@pytest.fixture
async def replicas(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replicas]:
    """Two replicas as one store sees them, each test under keys of its own."""
    monkeypatch.setattr(redis_rates, "PATIENCE_S", WAIT_S)
    if not url:
        rates = MemoryRates()
        yield rates, rates
        return
    async with trio.open_nursery() as nursery:
        clients = [Redis(url) for _ in range(2)]
        for client in clients:
            await nursery.start(client.run)
        keys = Keys(f"{request.node.originalname}:")
        one, two = (RedisRates(client, keys, MemoryRates(), alone=never) for client in clients)
        yield one, two
        nursery.cancel_scope.cancel()


async def take(rates: RateLimits, share: str = "s", name: str = "caller", rate: Rate = SLOW) -> Taken:
    with trio.fail_after(WAIT_S):
        return (await rates.take(share, {name: rate}))[name]


async def test_a_whole_rate_may_go_at_once_on_whichever_replica(replicas: Replicas) -> None:
    for left in (4, 3, 2, 1, 0):
        taken = await take(replicas[left % 2])
        assert (taken.allowed, taken.remaining, taken.retry_after_s) == (True, left, 0)
        assert 710 * (5 - left) < taken.reset_s <= 720 * (5 - left)
    for rates in replicas:
        refused = await take(rates)
        assert (refused.allowed, refused.remaining) == (False, 0)
        assert 700 < refused.retry_after_s <= 720
        assert 3590 < refused.reset_s <= 3600


async def test_many_at_once_get_no_more_than_the_rate(replicas: Replicas) -> None:
    """Law 5."""
    outcomes: Counter[bool] = Counter()

    async def attempt(rates: RateLimits) -> None:
        outcomes[(await take(rates)).allowed] += 1

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(attempt, replicas[number % 2])
    assert outcomes == {True: 5, False: 55}


async def test_shares_and_names_do_not_touch_each_other(replicas: Replicas) -> None:
    keys = [("a", "caller"), ("b", "caller"), ("a", "tool:x"), ("a", "tool:y"), ("", "caller"), ("ä\n {x}*", "caller")]
    for share, name in keys:
        assert (await take(replicas[0], share, name, Rate(1, 3600))).allowed
    for share, name in keys:
        assert not (await take(replicas[1], share, name, Rate(1, 3600))).allowed


async def test_an_attempt_counts_under_all_of_its_rates_or_under_none(replicas: Replicas) -> None:
    rates = {"caller": SLOW, "tool:x": Rate(1, 3600)}
    first = await replicas[0].take("s", rates)
    assert {name: (one.allowed, one.remaining) for name, one in first.items()} == {
        "caller": (True, 4),
        "tool:x": (True, 0),
    }
    for _ in range(3):
        again = await replicas[1].take("s", rates)
        assert {name: one.allowed for name, one in again.items()} == {"caller": True, "tool:x": False}
    assert (await take(replicas[0])).remaining == 3


async def test_what_was_refused_is_allowed_when_it_was_told_to_be(replicas: Replicas) -> None:
    rate = Rate(1, 1)
    with trio.fail_after(WAIT_S):
        assert (await take(replicas[0], rate=rate)).allowed
        refused = await take(replicas[1], rate=rate)
        assert not refused.allowed
        await trio.sleep(refused.retry_after_s)
        assert (await take(replicas[1], rate=rate)).allowed


async def test_a_caller_who_was_bound_by_another_rate_does_not_wait_for_that_one(replicas: Replicas) -> None:
    """Nor does anybody wait for a clock that was put back: what lies further ahead than the period is not believed."""
    with trio.fail_after(WAIT_S):
        assert (await take(replicas[0], rate=Rate(1, 86_400))).allowed
        refused = await take(replicas[0], rate=Rate(2, 1))
        assert (refused.allowed, refused.remaining) == (False, 0)
        assert refused.retry_after_s <= 0.5
        await trio.sleep(refused.retry_after_s)
        assert (await take(replicas[1], rate=Rate(2, 1))).allowed
