"""The Resource Cache on two levels over a real Redis: what several replicas load, keep, share and forget together."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from mcpd.catalog import Paging
from mcpd.drivers.redis import Options, Redis
from mcpd.events import Changed
from mcpd.resources.cache import Key, ResourceCache, _place
from mcpd.resources.documents import DocumentResources
from mcpd.resources.manager import ResourceManager
from mcpd.storage.documents import Document, Put
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.redis import bus as redis_bus
from mcpd.storage.redis.bus import RedisBus
from mcpd.storage.redis.cache import RedisCache
from mcpd.storage.redis.keys import CLAIM_MS, Keys
from mcpd.storage.shared import MAX_VALUE_BYTES
from mcpd.wire.cursors import KeyRing
from mcpd.wire.uris import normalise
from tests.in_process import eventually
from tests.redis_servers import RedisServer, serving

WAIT_S = 30.0
QUICK = Options(connect_s=2, stall_s=2, patience_s=1)
KEY = Key("t://x", "alice")


class Source:
    """What all replicas read. `gate` holds up loads."""

    def __init__(self) -> None:
        self.text = "one"
        self.loads = 0
        self.gate = trio.Event()
        self.gate.set()

    async def load(self) -> dict[str, Any]:
        self.loads += 1
        text = self.text
        await self.gate.wait()
        return {"contents": [{"uri": "t://x", "text": text}]}


class Replica:
    """One server's cache. `draw` decides about loads before the end: 0.0 never."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.seen: Counter[str] = Counter()
        self.draw = 0.0
        self.redis = redis
        self.bus = RedisBus(redis, keys, normalise)
        self.shared = RedisCache(redis, keys, self.bus, observe=self.observe)
        self.cache = ResourceCache(max_bytes=64 << 20, observe=self.observe, second=self.shared, draw=lambda: self.draw)
        self.bus.subscribe(lambda event: self.cache.forget(event.uri) if event.kind == "resource" else None)

    def observe(self, what: str) -> None:
        self.seen[what] += 1

    async def read(self, load: Callable[[], Awaitable[Any]], key: Key = KEY, ttl_s: float = 60.0) -> Any:
        return (await self.cache.get(key, load, ttl_s=ttl_s))["contents"][0]["text"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with serving("redis-7") as running:
        yield running


@asynccontextmanager
async def replicas_on(server: RedisServer, count: int) -> AsyncIterator[list[Replica]]:
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            keys = Keys(f"{secrets.token_hex(4)}:")
            found = []
            for _ in range(count):
                redis = Redis(server.url, options=QUICK)
                await nursery.start(redis.run)
                found.append(Replica(redis, keys))
                nursery.start_soon(found[-1].bus.run)
                nursery.start_soon(found[-1].shared.run)
            for replica in found:
                await eventually(lambda: replica.bus.hearing is not None, "changes are heard")  # noqa: B023
            yield found
            nursery.cancel_scope.cancel()


@pytest.fixture
async def three(server: RedisServer) -> AsyncIterator[list[Replica]]:
    async with replicas_on(server, 3) as found:
        yield found


async def sent(replica: Replica) -> None:
    await eventually(lambda: not replica.shared._endings, "what was loaded is sent")


async def test_thirty_readers_of_three_replicas_load_once(three: list[Replica]) -> None:
    """Also those who come when it is there: they are told by the first level."""
    source, got = Source(), list[str]()
    source.gate = trio.Event()

    async def read(replica: Replica) -> None:
        got.append(await replica.read(source.load))

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(read, three[number % 3])
        await eventually(lambda: source.loads, "it is loaded")
        await trio.sleep(0.2)
        source.gate.set()
    assert (source.loads, got) == (1, ["one"] * 30)
    assert sum((replica.seen for replica in three), Counter()) == {"miss": 1, "shared": 29}
    for replica in three:
        assert await replica.read(source.load) == "one"
        assert replica.seen["hit"] == 1


async def test_what_belongs_to_one_caller_never_reaches_another_on_any_replica(three: list[Replica]) -> None:
    """RES-4."""
    for owner in ("a", "b", "", None):
        mine = Source()
        mine.text = f"of {owner!r}"
        for replica in three:
            assert await replica.read(mine.load, Key("t://x", owner)) == f"of {owner!r}"
        assert mine.loads == 1


async def test_what_is_local_is_loaded_by_each(three: list[Replica]) -> None:
    """Documents: each server has a store of its own, or is told of changes by it."""
    source = Source()
    for replica in three:
        for _ in range(2):
            await replica.read(source.load, Key("docs:///x", local=True))
    assert source.loads == 3


async def test_documents_of_one_data_folder_are_not_anothers(three: list[Replica]) -> None:
    """Servers with data folders of their own share a Redis, and each has documents of its own."""
    for number, replica in enumerate(three):
        store = MemoryDocuments(clock=lambda: 86_400.0)
        text = f"of folder {number}"
        found = Document(uri="docs:///a/1.md", title="", mime_type="text/plain", digest=text, text=text)
        await store.write([Put(document=found)])
        paging = Paging(KeyRing([("k1", b"s" * 32)]), 10)
        resources = ResourceManager([], paging, cache=replica.cache, documents=DocumentResources(store))
        assert (await resources.read("docs:///a/1.md", no_run))["contents"][0]["text"] == text
        await sent(replica)


async def no_run(*_: Any) -> Any:
    raise AssertionError("no function is behind a document")


async def test_a_reader_who_is_cancelled_leaves_the_load_to_another_replica(three: list[Replica]) -> None:
    """Law 2."""
    source, got = Source(), list[str]()
    source.gate = trio.Event()

    async def read(replica: Replica) -> None:
        got.append(await replica.read(source.load))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as leaving:
            for _ in range(5):
                leaving.start_soon(read, three[0])
            await eventually(lambda: source.loads == 1, "it is loaded")
            for number in range(10):
                nursery.start_soon(read, three[1 + number % 2])
            await trio.sleep(0.1)
            leaving.cancel_scope.cancel()
        with trio.fail_after(CLAIM_MS / 2000):
            await eventually(lambda: source.loads == 2, "somebody else loads")
        source.gate.set()
    assert (source.loads, got) == (2, ["one"] * 10)


async def test_a_load_that_fails_is_tried_by_the_next(three: list[Replica]) -> None:
    source = Source()

    async def fail() -> dict[str, Any]:
        raise LookupError("not there")

    with pytest.raises(LookupError):
        await three[0].read(fail)
    with trio.fail_after(CLAIM_MS / 2000):
        assert await three[1].read(source.load) == "one"


@pytest.mark.parametrize("uri", ["t://x", "T://X"])
async def test_a_change_told_on_one_replica_is_seen_by_all(three: list[Replica], uri: str) -> None:
    """RES-5, PUB-1: at once by whoever told it, within the bus's delay by the others; and loaded once again."""
    one, two, _ = three
    source = Source()
    for replica in three:
        assert await replica.read(source.load) == "one"
    source.text = "two"
    told = trio.Event()
    two.bus.subscribe(lambda _: told.set())
    one.bus.publish(Changed("resource", uri))
    began = trio.current_time()
    assert await one.read(source.load) == "two"
    await told.wait()
    assert await two.read(source.load) == "two"
    assert trio.current_time() - began < 1
    assert source.loads == 2


async def test_what_was_loaded_before_a_change_is_kept_nowhere(three: list[Replica]) -> None:
    """The one who loads hears of the change in the middle of it; whoever asks then is given what is new."""
    one, two, _ = three
    source, got = Source(), list[str]()
    source.gate = trio.Event()

    async def read(replica: Replica) -> None:
        got.append(await replica.read(source.load))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, one)
        await eventually(lambda: source.loads == 1, "it is loaded")
        source.text = "two"
        told = trio.Event()
        one.bus.subscribe(lambda _: told.set())
        two.bus.publish(Changed("resource", "t://x"))
        nursery.start_soon(read, two)
        await eventually(lambda: source.loads == 2, "who comes after the change does not wait for what is old")
        await told.wait()
        source.gate.set()
    assert sorted(got) == ["one", "two"]
    assert [await replica.read(source.load) for replica in three] == ["two"] * 3
    assert (source.loads, one.seen["stale_dropped"]) == (2, 1)


async def test_what_is_kept_here_ends_with_a_lost_subscription(three: list[Replica], server: RedisServer) -> None:
    """A change could have been missed, so the second level is asked."""
    one, source = three[0], Source()
    for _ in range(2):
        await one.read(source.load)
    before = one.bus.hearing
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: one.bus.hearing not in (None, before), "it hears again")
    await one.read(source.load)
    assert one.seen == {"miss": 1, "hit": 1, "shared": 1}
    await one.read(source.load)
    assert one.seen["hit"] == 2


async def test_a_result_ends_on_every_replica_when_it_ends_on_the_first(three: list[Replica]) -> None:
    source = Source()
    assert await three[0].read(source.load, ttl_s=0.4) == "one"
    await sent(three[0])
    await trio.sleep(0.2)
    assert await three[1].read(source.load, ttl_s=60) == "one"
    source.text = "two"
    await trio.sleep(0.2)
    assert await three[1].read(source.load, ttl_s=60) == "two"


async def test_near_its_end_one_reader_loads_and_nobody_else_is_kept_waiting(three: list[Replica]) -> None:
    one, two, other = three
    source, got = Source(), list[str]()

    async def slow() -> dict[str, Any]:
        await trio.sleep(0.1)
        return await source.load()

    async def refresh() -> None:
        got.append(await two.read(source.load))

    for replica in three:
        assert await replica.read(slow, ttl_s=3) == "one"
    source.text, source.gate = "two", trio.Event()
    two.draw = other.draw = 1.0 - 2.0**-53
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refresh)
        await eventually(lambda: source.loads == 2, "it is loaded before its end")
        for replica in three:
            assert await replica.read(source.load) == "one"
        source.gate.set()
    assert (source.loads, got) == (2, ["two"])
    assert (one.seen["hit"], two.seen["hit"], two.seen["early"], other.seen["shared"]) == (1, 1, 1, 2)


@pytest.mark.parametrize("text", ["x" * (MAX_VALUE_BYTES + 1), "\ud800"])
async def test_what_cannot_be_shared_is_served_all_the_same(three: list[Replica], text: str) -> None:
    source = Source()
    source.text = text
    for replica in three:
        for _ in range(2):
            assert await replica.read(source.load) == text
        await sent(replica)
    assert source.loads == 3
    assert [dict(replica.seen) for replica in three[1:]] == [{"apart": 1, "hit": 1}] * 2


async def test_a_value_that_nobody_can_have_written_is_loaded_again(three: list[Replica]) -> None:
    source = Source()
    key, *_ = three[0].shared._places(_place(KEY))
    assert await three[0].read(source.load) == "one"
    await sent(three[0])
    values = ("{}", '{"contents":[]}', '{"contents":[1]}', '{"contents":[{"text":1}]}', "\\xff", "[" * 10_000, b"\xff")
    for value in values:
        assert await three[0].redis.execute("HSET", key, "value", value) == 0
        assert await three[1].read(source.load) == "one"
        three[1].cache.forget(None)
    assert three[1].seen == {"alone": len(values)}


async def test_without_redis_each_loads_for_itself_once_at_a_time() -> None:
    """The table of failures: direct, single-flight in a process; and nobody hears of it."""
    with serving("redis-7") as server:
        async with replicas_on(server, 2) as (one, two):
            source = Source()
            await one.read(source.load)
            server.process.kill()
            await eventually(lambda: one.bus.hearing is None and two.bus.hearing is None, "it is away")
            source.text = "two"
            for replica in (one, two):
                for _ in range(2):
                    assert await replica.read(source.load) == "two"
            assert source.loads == 5
            source.gate = trio.Event()
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(one.read, source.load)
                await eventually(lambda: source.loads == 6, "it is loaded")
                source.gate.set()
            assert source.loads == 6
            assert (one.seen["alone"], two.seen["alone"]) == (3, 2)


async def test_a_paused_redis_leaves_a_reader_most_of_its_time() -> None:
    with serving("redis-7") as server:
        async with replicas_on(server, 2) as (one, two):
            source = Source()
            await one.read(source.load)
            await sent(one)
            server.pause()
            with trio.fail_after(0.8):
                assert await two.read(source.load) == "one"
            assert (source.loads, two.seen) == (2, {"alone": 1})
            server.resume()


async def test_after_a_flush_it_is_filled_again(three: list[Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_bus, "POLL_S", 0.05)
    source = Source()
    await three[0].read(source.load)
    await sent(three[0])
    await three[0].redis.execute("FLUSHALL")
    source.text = "two"
    for replica in three[1:]:
        assert await replica.read(source.load) == "two"
    assert source.loads == 2
    await eventually(lambda: not len(three[0].cache), "it is noticed")
    assert await three[0].read(source.load) == "two"
