"""The contract of `CacheStore`, on real servers: one loads, the others wait; changes, ends, deaths, bounds.

Two replicas share a server; a cache comes with the bus that its changes are told on, and each test has keys of its own.
Memory and SQLite have no such store: the first level is enough there.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from mcpd.drivers.redis import Options, Redis
from mcpd.events import Changed
from mcpd.storage.redis import bus as redis_bus
from mcpd.storage.redis import cache as redis_cache
from mcpd.storage.redis.bus import RedisBus
from mcpd.storage.redis.cache import RedisCache
from mcpd.storage.redis.keys import CLAIM_MS, Keys
from mcpd.storage.shared import MAX_VALUE_BYTES, Answer, Apart, Found, Place, Turn
from tests.in_process import eventually
from tests.redis_servers import KINDS, RedisServer, serving

WAIT_S = 30.0
QUICK = Options(connect_s=2, stall_s=2, patience_s=1)
URI = "t://x"
HERE = Place("x", URI)


@dataclass
class Replica:
    """One process on the server. `kill` ends all that it does, without a word."""

    cache: RedisCache
    bus: RedisBus
    redis: Redis
    kill: Callable[[], None]
    seen: list[str]

    async def ask(self, place: Place = HERE, early: float = 0.0) -> Answer:
        return await self.cache.ask(place, early)

    async def turn(self, place: Place = HERE, early: float = 0.0) -> Turn:
        answer = await self.ask(place, early)
        assert isinstance(answer, Turn), answer
        return answer

    async def load(
        self, value: bytes | None = b"one", *, place: Place = HERE, load_s: float = 0.0, ttl_s: float = 60.0
    ) -> None:
        """Load what nobody has, and keep it."""
        self.cache.keep(await self.turn(place), value, load_s=load_s, ttl_s=ttl_s)


@dataclass
class Site:
    server: RedisServer
    keys: Keys
    nursery: trio.Nursery

    async def open(self) -> Replica:
        redis = Redis(self.server.url, options=QUICK)
        await self.nursery.start(redis.run)
        bus = RedisBus(redis, self.keys, str.lower)
        scope = trio.CancelScope()
        seen: list[str] = []
        replica = Replica(RedisCache(redis, self.keys, bus, observe=seen.append), bus, redis, scope.cancel, seen)

        async def live() -> None:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bus.run)
                    nursery.start_soon(replica.cache.run)

        self.nursery.start_soon(live)
        await eventually(lambda: bus.hearing is not None, "it hears changes")
        return replica

    def names(self, kind: str) -> list[str]:
        """Return the keys of one kind."""
        found = self.server.ask("KEYS", f"{self.keys.prefix}{{run}}:{kind}:*").split(b"\r\n")
        return [line.decode() for line in found if line.startswith(self.keys.prefix.encode())]


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving(request.param) as running:
        yield running


@asynccontextmanager
async def site_of(server: RedisServer) -> AsyncIterator[Site]:
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + WAIT_S
        yield Site(server, Keys(f"{secrets.token_hex(4)}:"), nursery)
        assert not nursery.cancel_scope.cancel_called, f"the test took longer than {WAIT_S:g} s"
        nursery.cancel_scope.cancel()


@pytest.fixture
async def site(server: RedisServer) -> AsyncIterator[Site]:
    async with site_of(server) as found:
        yield found


def value_of(answer: Answer) -> bytes:
    assert isinstance(answer, Found), answer
    return answer.value


async def test_what_one_has_loaded_is_there_for_all_until_its_end(site: Site) -> None:
    one, two = await site.open(), await site.open()
    await one.load(b"\x00value\r\n", load_s=0.25, ttl_s=0.5)
    for replica in (one, two):
        found = await replica.ask()
        assert isinstance(found, Found)
        assert (found.value, found.load_s) == (b"\x00value\r\n", 0.25)
        assert 0 < found.left_s <= 0.5
    await trio.sleep(0.5)
    assert (await two.turn()).found is None


async def test_places_have_nothing_in_common(site: Site) -> None:
    """RES-4: what belongs to one caller is in a place of its own."""
    one, two = await site.open(), await site.open()
    places = [Place("x", URI), Place("x ", URI), Place("x a", URI), Place("ä\ud800", "t://ä"), Place("x", "t://y")]
    for number, place in enumerate(places):
        await one.load(b"%d" % number, place=place)
    for number, place in enumerate(places):
        assert value_of(await two.ask(place)) == b"%d" % number


async def test_of_many_at_once_one_loads_and_the_others_wait_for_it(site: Site) -> None:
    replicas = [await site.open() for _ in range(3)]
    got: list[Answer] = []
    loading = trio.Event()

    async def read(replica: Replica) -> None:
        answer = await replica.ask()
        got.append(answer)
        if isinstance(answer, Turn):
            await loading.wait()
            replica.cache.keep(answer, b"one", load_s=0.1, ttl_s=60)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(read, replicas[number % 3])
        await eventually(lambda: got, "one has the turn")
        await trio.sleep(3 * redis_cache.LONGEST_PAUSE_S)
        assert len(got) == 1, "nobody else has an answer"
        loading.set()
    assert sum(isinstance(answer, Turn) for answer in got) == 1
    assert [value_of(answer) for answer in got[1:]] == [b"one"] * 29


async def test_a_load_that_takes_longer_than_a_claim_lives_is_not_begun_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_cache, "CLAIM_MS", 200)
    one, two = await site.open(), await site.open()
    turn = await one.turn()
    answers: list[Answer] = []

    async def wait() -> None:
        answers.append(await two.ask())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1.0)
        assert not answers
        one.cache.keep(turn, b"one", load_s=1, ttl_s=60)
    assert [value_of(answer) for answer in answers] == [b"one"]


async def test_who_is_released_or_cancelled_leaves_the_turn_to_one_who_waits_at_once(site: Site) -> None:
    one, two = await site.open(), await site.open()
    for ttl_s in (None, 0.0):
        turn = await one.turn()
        if ttl_s is not None:
            one.cache.keep(turn, b"x", load_s=0, ttl_s=ttl_s)
        one.cache.release(turn)
        with trio.fail_after(CLAIM_MS / 2000):
            two.cache.release(await two.turn())
    one.cache.release(turn := await one.turn())
    one.cache.keep(turn, b"late", load_s=0, ttl_s=60)
    assert isinstance(await two.ask(), Turn), "a turn ends once"


async def test_a_question_that_is_cancelled_at_any_moment_claims_nothing(site: Site) -> None:
    one, two = await site.open(), await site.open()

    async def load(place: Place) -> None:
        one.cache.release(await one.turn(place))

    for step in range(40):
        place = Place(str(step), URI)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load, place)
            await trio.sleep(step * 0.00005)
            nursery.cancel_scope.cancel()
        with trio.fail_after(CLAIM_MS / 2000):
            two.cache.release(await two.turn(place))


async def test_the_turn_of_a_replica_that_died_is_another_ones_when_its_claim_has_ended(site: Site) -> None:
    one, two = await site.open(), await site.open()
    turn = await one.turn()
    one.kill()
    began = trio.current_time()
    taken = await two.turn()
    assert trio.current_time() - began < CLAIM_MS / 1000 + 0.5
    two.cache.keep(taken, b"two", load_s=0, ttl_s=60)
    assert value_of(await two.ask()) == b"two"
    late = await site.open()
    late.cache._turns[turn.token] = turn.place
    late.cache.keep(turn, b"late", load_s=0, ttl_s=60)
    await eventually(lambda: not late.cache._endings, "it is sent")
    assert value_of(await two.ask()) == b"two", "who came too late is refused"


@pytest.mark.parametrize("told", ["T://X", None])
async def test_a_change_ends_what_was_loaded_before_it_and_what_is_being_loaded(site: Site, told: str | None) -> None:
    """RES-5, PUB-1. In any spelling; None stands for more changes than anybody could name."""
    one, two = await site.open(), await site.open()
    heard: list[Changed] = []
    two.bus.subscribe(heard.append)
    places = (Place("x", URI), Place("x alice", URI))
    for place in places:
        await one.load(b"old", place=place)
        assert value_of(await two.ask(place)) == b"old"
    await one.load(b"other", place=Place("y", "t://y"))
    loading = await two.turn(Place("x bob", URI))
    one.bus.publish(Changed("resource", told))
    for place in places:
        one.cache.release(await one.turn(place))
    taken = await one.turn(Place("x bob", URI))
    await eventually(lambda: heard, "the other has heard of it")
    two.cache.keep(loading, b"old", load_s=0, ttl_s=60)
    await eventually(lambda: two.seen == ["stale_dropped"], "what was loaded before is refused")
    one.cache.keep(taken, b"new", load_s=0, ttl_s=60)
    assert value_of(await two.ask(Place("x bob", URI))) == b"new"
    others = await two.ask(Place("y", "t://y"))
    assert isinstance(others, Found if told else Turn)


async def test_a_change_is_seen_by_its_own_replica_at_once_and_by_the_others_once_they_have_heard(site: Site) -> None:
    """Whoever announced it, or was told, reads what is new."""
    one, two = await site.open(), await site.open()
    found: list[Answer] = []
    for number in range(30):
        await one.load(b"old", place=Place(str(number), URI))
        assert value_of(await two.ask(Place(str(number), URI))) == b"old"

    async def hear() -> None:
        await told.wait()
        found.append(await two.ask(Place("0", URI)))
        assert isinstance(found[0], Turn)
        two.cache.release(found[0])

    told = trio.Event()
    two.bus.subscribe(lambda event: told.set() if event.uri == URI else None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        for number in range(20):
            one.bus.publish(Changed("resource", f"t://another/{number}"))
        one.bus.publish(Changed("resource", URI))
        for number in range(30):
            one.cache.release(await one.turn(Place(str(number), URI)))
    assert found


async def test_near_its_end_one_loads_again_and_the_others_get_what_is_there(site: Site) -> None:
    one, two = await site.open(), await site.open()
    await one.load(b"old", load_s=2, ttl_s=60)
    assert value_of(await two.ask(early=29)) == b"old"
    turn = await two.turn(early=30)
    assert turn.found is not None
    assert (turn.found.value, turn.found.load_s) == (b"old", 2)
    for replica in (one, two):
        assert value_of(await replica.ask(early=1000)) == b"old"
    two.cache.keep(turn, b"new", load_s=0, ttl_s=60)
    await eventually(lambda: not two.cache._endings, "it is sent")
    assert value_of(await one.ask(early=1000)) == b"new"


@pytest.mark.parametrize("size", [0, 100_000, MAX_VALUE_BYTES])
async def test_a_value_of_any_size_up_to_the_bound_is_shared(site: Site, size: int) -> None:
    one, two = await site.open(), await site.open()
    await one.load(b"v" * size)
    assert value_of(await two.ask()) == b"v" * size


@pytest.mark.parametrize("value", [b"v" * (MAX_VALUE_BYTES + 1), None])
async def test_what_cannot_be_shared_is_loaded_by_each_without_waiting_for_others(
    site: Site, value: bytes | None
) -> None:
    """Law 8."""
    one, two = await site.open(), await site.open()
    await one.load(value, ttl_s=60)
    for replica in (one, two, two):
        assert await replica.ask() == Apart(away=False)
    one.bus.publish(Changed("resource", URI))
    assert isinstance(await one.ask(), Turn), "it may be a shorter one after a change"


async def test_bytes_are_bounded_and_what_would_end_soonest_goes_first(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 8."""
    monkeypatch.setattr(redis_cache, "MAX_KEPT_BYTES", 10_000)
    one = await site.open()
    for number in range(6):
        await one.load(b"v" * 3_000, place=Place(str(number), f"t://{number}"), ttl_s=600 - number)
    await eventually(lambda: not one.cache._endings, "all is sent")
    kept = [number for number in range(6) if isinstance(await one.ask(Place(str(number), f"t://{number}")), Found)]
    assert kept == [0, 1, 5]
    one.cache.put({f"v{number}": b"v" * 3_000 for number in range(6)})
    await eventually(lambda: len(site.names("vector")) == 3, "vectors have a bound of their own")
    assert len(site.names("cache")) == 3


async def test_vectors_are_found_by_their_names(site: Site) -> None:
    one, two = await site.open(), await site.open()
    values = {f"text {number}": bytes([number, 0, 255]) * 500 for number in range(150)}
    one.cache.put(values)
    await eventually(lambda: len(site.names("vector")) == 150, "all are kept")
    assert await two.cache.find([*values, "another"]) == values
    assert await two.cache.find(["text 7"]) == {"text 7": values["text 7"]}
    assert await two.cache.find(["another"]) == {}


async def test_all_that_is_left_behind_is_documented_and_ends(site: Site) -> None:
    one = await site.open()
    await one.load(ttl_s=1e9)
    await one.turn(Place("y", URI))
    one.cache.put({"v": b"v"})
    await eventually(lambda: site.names("vector"), "all is kept")
    names = [name for kind in ("cache*", "vector*", "cached*") for name in site.names(kind)]
    assert {name.split(":")[2] for name in [*names, site.keys.cache_state]} == {
        *("cache", "cache-claim", "cache-state", "cached", "cached-bytes", "vector")
    }
    for name in [*names, site.keys.cache_state]:
        assert 0 < await one.redis.execute("PTTL", name) <= (site.keys.longest_ms(name) or 0), name


async def test_after_everything_was_lost_nothing_of_before_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_bus, "POLL_S", 0.05)
    one, two = await site.open(), await site.open()
    await one.load(b"old")
    turn = await two.turn(Place("y", URI))
    hearing = two.cache.hearing
    site.server.ask("FLUSHALL")
    two.cache.keep(turn, b"old", load_s=0, ttl_s=60)
    await eventually(lambda: two.bus.statistics().resyncs, "it is noticed")
    assert two.cache.hearing == hearing, "changes were heard all the time"
    for replica, place in ((two, HERE), (one, Place("y", URI))):
        await replica.load(b"new", place=place)
        assert value_of(await one.ask(place)) == b"new"


async def test_a_change_that_a_failover_has_lost_ends_everything(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of events has a gap, so the state of any resource may be an old one."""
    monkeypatch.setattr(redis_bus, "POLL_S", 0.05)
    one = await site.open()
    await one.load(b"old")
    assert value_of(await one.ask()) == b"old"
    site.server.ask("DEL", site.keys.events)
    await eventually(lambda: one.bus.statistics().resyncs, "it is noticed")
    assert isinstance(await one.ask(), Turn)


async def test_whoever_has_lost_its_subscription_hears_since_another_time(site: Site) -> None:
    """Trap of local copies: changes may have been missed."""
    one = await site.open()
    before = one.cache.hearing
    assert before is not None
    site.server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: one.cache.hearing != before, "it is noticed")
    await eventually(lambda: one.cache.hearing is not None, "it hears again")
    assert one.cache.hearing != before


async def test_a_server_that_stops_costs_each_question_little_of_its_callers_time() -> None:
    with serving("redis-7") as server:
        async with site_of(server) as site:
            one = await site.open()
            await one.load()
            assert value_of(await one.ask()) == b"one"
            server.pause()
            for patience_s in (0.4, 60.0):
                began = trio.current_time()
                with trio.fail_after(patience_s):
                    assert await one.ask() == Apart(away=True)
                    assert await one.ask() == Apart(away=True) or patience_s < 60
                assert trio.current_time() - began < min(patience_s, 4 * redis_cache.PATIENCE_S)
            assert await one.cache.find(["v", "w"]) == {}
            server.resume()
            await eventually(lambda: one.redis.statistics().connected, "it is back")
            await trio.sleep(redis_cache.REST_S)
            assert value_of(await one.ask()) == b"one"


async def test_a_waiting_question_ends_when_the_server_goes() -> None:
    with serving("redis-7") as server:
        async with site_of(server) as site:
            one, two = await site.open(), await site.open()
            await one.turn()
            got: list[Answer] = []

            async def ask() -> None:
                got.append(await two.ask())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(0.1)
                assert not got
                server.process.kill()
            assert got == [Apart(away=True)]
            await eventually(lambda: one.cache.hearing is None, "changes are not heard")
