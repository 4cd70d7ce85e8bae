"""The Resource Cache: kept, shared, forgotten, bounded; and what happens when a loader is stopped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.resources.cache import Key, ResourceCache, weigh

BOUND_S = 100.0
Load = Callable[[], Awaitable[dict[str, Any]]]


def result(text: str) -> dict[str, Any]:
    return {"contents": [{"uri": "t://x", "text": text}]}


class Source:
    """What is behind the cache. `gate` holds up its loads."""

    def __init__(self) -> None:
        self.text = "one"
        self.loads = 0
        self.gate = trio.Event()

    async def load(self) -> dict[str, Any]:
        self.loads += 1
        text = self.text
        await self.gate.wait()
        return result(text)


class Cache(ResourceCache):
    """A cache that counts what it observes."""

    def __init__(self, **bounds: int) -> None:
        self.seen: Counter[str] = Counter()
        self.drawn = 0.0
        super().__init__(
            max_bytes=bounds.get("max_bytes", 1_000_000),
            max_items=bounds.get("max_items", 100),
            observe=lambda what: self.seen.update([what]),
            draw=lambda: self.drawn,
        )


async def plain(text: str) -> dict[str, Any]:
    return result(text)


def loading(text: str) -> Load:
    return lambda: plain(text)


async def test_what_was_read_is_not_read_again_until_its_time_is_up(autojump_clock: MockClock) -> None:
    cache = Cache()
    assert await cache.get(Key("t://x"), loading("one"), ttl_s=10) == result("one")
    assert await cache.get(Key("t://x"), loading("two"), ttl_s=10) == result("one")
    await trio.sleep(11)
    assert await cache.get(Key("t://x"), loading("two"), ttl_s=10) == result("two")
    assert cache.seen == {"miss": 2, "hit": 1}
    assert cache.size == weigh(result("two"))


async def test_what_belongs_to_one_caller_never_reaches_another() -> None:
    """RES-4: the key has an owner."""
    cache = Cache()
    for owner in ("a", "b", None):
        mine = await cache.get(Key("t://x", owner), loading(f"of {owner}"), ttl_s=10)
        assert mine == result(f"of {owner}")
    assert await cache.get(Key("t://x", "a"), loading("other"), ttl_s=10) == result("of a")


async def test_many_who_ask_at_once_load_once(autojump_clock: MockClock) -> None:
    cache, source, got = Cache(), Source(), list[Any]()

    async def ask() -> None:
        got.append(await cache.get(Key("t://x"), source.load, ttl_s=10))

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            source.gate.set()
    assert (source.loads, got) == (1, [result("one")] * 20)
    assert cache.seen == {"miss": 1, "shared": 19}


async def test_a_loader_that_is_cancelled_leaves_the_load_to_one_who_waits(autojump_clock: MockClock) -> None:
    """Law 2: nobody pays for another caller's end."""
    cache, source, got = Cache(), Source(), list[Any]()

    async def ask() -> None:
        got.append(await cache.get(Key("t://x"), source.load, ttl_s=10))

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def ask_and_leave() -> None:
                with first:
                    await ask()

            nursery.start_soon(ask_and_leave)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            source.gate.set()
    assert (source.loads, got) == (2, [result("one")] * 2)


async def test_a_load_that_fails_is_told_to_all_who_wait_and_is_not_kept(autojump_clock: MockClock) -> None:
    """A store that is down is asked once, not by one caller after the other, each up to its deadline."""
    cache, gate, failures, loads = Cache(), trio.Event(), list[str](), list[str]()

    async def fail() -> dict[str, Any]:
        loads.append("asked")
        await gate.wait()
        raise LookupError("not there")

    async def ask() -> None:
        with pytest.raises(LookupError):
            await cache.get(Key("t://x"), fail, ttl_s=10)
        failures.append("told")

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
    assert (len(failures), len(loads)) == (3, 1)
    assert await cache.get(Key("t://x"), loading("now"), ttl_s=10) == result("now")


async def test_near_its_end_one_caller_loads_again_and_the_others_get_what_is_kept(autojump_clock: MockClock) -> None:
    """The nearer the end and the longer a load takes, the more likely; here the one whose number is drawn."""
    cache, source, got = Cache(), Source(), list[Any]()

    async def slow() -> dict[str, Any]:
        await trio.sleep(1)
        return await source.load()

    async def ask() -> None:
        got.append(await cache.get(Key("t://x"), source.load, ttl_s=10))

    source.gate.set()
    await cache.get(Key("t://x"), slow, ttl_s=10)
    cache.drawn = 1 - math.exp(-4)
    await trio.sleep(5.9)
    await ask()
    source.text, source.gate = "two", trio.Event()
    await trio.sleep(0.2)
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await ask()
            source.gate.set()
    assert got == [result("one"), result("one"), result("two")]
    assert cache.seen == {"miss": 1, "early": 1, "hit": 2}


async def test_a_load_before_the_end_that_fails_is_nobodys_failure(autojump_clock: MockClock) -> None:
    cache = Cache()

    async def slow() -> dict[str, Any]:
        await trio.sleep(1)
        return result("one")

    async def fail() -> dict[str, Any]:
        raise LookupError("not there")

    await cache.get(Key("t://x"), slow, ttl_s=10)
    cache.drawn = 1 - 2.0**-53
    assert await cache.get(Key("t://x"), fail, ttl_s=10) == result("one")
    await trio.sleep(10)
    with pytest.raises(LookupError):
        await cache.get(Key("t://x"), fail, ttl_s=10)


@pytest.mark.parametrize("told", ["t://x", None])
async def test_a_change_is_seen_by_the_next_who_asks(told: str | None) -> None:
    """PUB-1, RES-5; None stands for more changes than anybody could name."""
    cache = Cache()
    for owner in ("a", None):
        await cache.get(Key("t://x", owner), loading("old"), ttl_s=10)
    await cache.get(Key("t://y"), loading("other"), ttl_s=10)
    cache.forget(told)
    for owner in ("a", None):
        assert await cache.get(Key("t://x", owner), loading("new"), ttl_s=10) == result("new")
    expected = "gone" if told is None else "other"
    assert await cache.get(Key("t://y"), loading("gone"), ttl_s=10) == result(expected)
    cache.forget(None)
    assert (len(cache), cache.size, cache._keys) == (0, 0, {})


async def test_a_change_while_it_is_being_loaded_keeps_the_old_state_out(autojump_clock: MockClock) -> None:
    """The loader began before the change, so what it brings is old; it must not stay."""
    cache, source = Cache(), Source()
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: cache.get(Key("t://x"), source.load, ttl_s=10))
            await trio.testing.wait_all_tasks_blocked()
            source.text = "two"
            cache.forget("t://x")
            source.gate.set()
        assert await cache.get(Key("t://x"), source.load, ttl_s=10) == result("two")


async def test_a_change_of_something_else_does_not_keep_a_load_out(autojump_clock: MockClock) -> None:
    cache, source = Cache(), Source()
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: cache.get(Key("t://x"), source.load, ttl_s=10))
            await trio.testing.wait_all_tasks_blocked()
            cache.forget("t://y")
            source.gate.set()
        await cache.get(Key("t://x"), source.load, ttl_s=10)
    assert source.loads == 1


async def test_after_a_change_all_who_ask_share_a_load_that_began_after_it(autojump_clock: MockClock) -> None:
    """Also who asked before and waits; and the end of the old load is not the end of the new one."""
    cache, old, new, got = Cache(), Source(), Source(), list[Any]()
    new.text = "two"

    async def ask(source: Source) -> None:
        got.append(await cache.get(Key("t://x"), source.load, ttl_s=10))

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, old)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, new)
            await trio.testing.wait_all_tasks_blocked()
            assert (old.loads, new.loads) == (1, 0)
            cache.forget("t://x")
            nursery.start_soon(ask, new)
            await trio.testing.wait_all_tasks_blocked()
            assert new.loads == 1, "it does not wait for the old load"
            old.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, new)
            await trio.testing.wait_all_tasks_blocked()
            new.gate.set()
    assert (new.loads, got) == (1, [result("one"), *[result("two")] * 3])


def test_a_blob_weighs_as_much_as_a_text() -> None:
    """Law 8."""
    assert weigh({"contents": [{"blob": "x" * 800}]}) == weigh(result("x" * 800)) > 800


async def test_bytes_and_entries_are_bounded_and_the_least_used_goes_first() -> None:
    """Law 8."""
    cache = Cache(max_items=2)
    for uri in ("t://a", "t://b"):
        await cache.get(Key(uri), loading(uri), ttl_s=10)
    await cache.get(Key("t://a"), loading("again"), ttl_s=10)
    await cache.get(Key("t://c"), loading("t://c"), ttl_s=10)
    assert await cache.get(Key("t://a"), loading("again"), ttl_s=10) == result("t://a")
    assert await cache.get(Key("t://c"), loading("again"), ttl_s=10) == result("t://c")
    assert cache.seen["evicted"] == 1
    assert await cache.get(Key("t://b"), loading("again"), ttl_s=10) == result("again")
    small = Cache(max_bytes=4 * weigh(result("x" * 800)))
    for number in range(9):
        await small.get(Key(f"t://{number}"), loading("x" * 800), ttl_s=10)
    assert (len(small), small.size) == (4, 4 * weigh(result("x" * 800)))


async def test_what_would_push_out_everything_else_is_not_kept() -> None:
    cache = Cache(max_bytes=10_000)
    await cache.get(Key("t://x"), loading("x" * 9_000), ttl_s=10)
    assert len(cache) == 0
