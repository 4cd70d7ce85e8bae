"""What three real servers read of one slow resource over a real Redis: once, whatever becomes of the one who loads."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from mcpd import cli
from mcpd.storage.redis.keys import CLAIM_MS
from mcpd.storage.shared import MAX_VALUE_BYTES
from mcpd.wire.envelope import TIMEOUT_KEY
from tests.in_process import eventually
from tests.redis_servers import RedisServer
from tests.redis_servers import serving as redis_serving
from tests.replicas.replica import Replica, replicas
from tests.served import Reply, client_of, killable

pytestmark = pytest.mark.slow
WAIT_S = 90.0
READY = r"^ready\n(.*\n)*redis ok \S+ (redis|valkey) \d"
READERS = 30


class Source:
    """The folder that the resources of `tools` are in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def hold(self, name: str) -> None:
        (self.folder / name).with_suffix(".hold").touch()

    def let_go(self, name: str) -> None:
        (self.folder / name).with_suffix(".hold").unlink()

    def loads(self, name: str) -> list[int]:
        """Return the process of each time it was loaded."""
        path = (self.folder / name).with_suffix(".loads")
        return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """Each test has names of its own in it."""
    folder = tmp_path_factory.mktemp("source") / "slow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOW_FOLDER", str(folder))
        yield Source(folder)


def settings(redis: RedisServer) -> str:
    return f'[redis]\nurl = "{redis.url}"\n'


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_serving("redis-7") as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer, source: Source) -> Iterator[list[Replica]]:
    with replicas(tmp_path_factory.mktemp("site"), settings(redis), 3) as found:
        yield found


@pytest.fixture
async def three(running: list[Replica]) -> AsyncIterator[list[Replica]]:
    """Three servers that no test harms."""
    with trio.fail_after(WAIT_S):
        for replica in running:
            await replica.wait_ready(READY)
        yield running


@asynccontextmanager
async def others(folder: Path, **more: Any) -> AsyncIterator[tuple[RedisServer, list[Replica]]]:
    """Three servers of one test, and their Redis."""
    with (
        trio.fail_after(WAIT_S),
        redis_serving("redis-7") as redis,
        replicas(folder / "site", settings(redis), 3, **more) as found,
    ):
        for replica in found:
            await replica.wait_ready(READY)
        yield redis, found


async def read(replica: Replica, uri: str, *, timeout_s: float | None = None, key: str = "") -> Reply:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    meta = {} if timeout_s is None else {TIMEOUT_KEY: round(timeout_s * 1000)}
    async with client_of(replica.server, **headers) as client:
        return await client.ask("resources/read", {"uri": uri}, meta=meta)


def text_of(reply: Reply) -> str:
    assert reply.status == 200, reply.text
    return str(reply.result["contents"][0]["text"])


async def read_into(texts: list[str], replica: Replica, uri: str) -> None:
    """Read, and leave out what was lost with its server."""
    try:
        texts.append(text_of(await read(replica, uri)))
    except httpx.TransportError:
        await eventually(lambda: replica.server.process.poll() is not None, "its server was killed")


async def asked(found: list[Replica]) -> Counter[str]:
    """Return what has come of questions to the cache, on all replicas."""
    seen: Counter[str] = Counter()
    for replica in found:
        async with client_of(replica.server) as client:
            said = (await client.http.get("/metrics")).text
        for result, number in re.findall(r'cache_requests_total\{cache="resources",result="(\w+)"\} (\d+)', said):
            seen[result] += int(number)
    return seen


async def test_thirty_readers_of_three_servers_load_once(three: list[Replica], source: Source) -> None:
    source.write("thirty", "text")
    source.hold("thirty")
    texts: list[str] = []
    before = await asked(three)
    async with trio.open_nursery() as nursery:
        for number in range(READERS):
            nursery.start_soon(read_into, texts, three[number % 3], "slow:///thirty")
        await eventually(lambda: source.loads("thirty"), "it is loaded")
        await trio.sleep(0.3)
        source.let_go("thirty")
    assert texts == ["text"] * READERS
    assert len(source.loads("thirty")) == 1
    assert await asked(three) - before == {"miss": 1, "shared": READERS - 1}


async def test_when_the_server_that_loads_is_killed_another_loads_soon(tmp_path: Path, source: Source) -> None:
    """Its claim ends by itself: nobody waits for a dead replica longer than that."""
    source.write("killed", "text")
    source.hold("killed")
    texts: list[str] = []
    async with others(tmp_path, start=killable) as (_, found):
        async with trio.open_nursery() as nursery:
            for number in range(READERS):
                nursery.start_soon(read_into, texts, found[number % 3], "slow:///killed")
            await eventually(lambda: source.loads("killed"), "it is loaded")
            (first,) = source.loads("killed")
            dead = next(replica for replica in found if replica.server.process.pid == first)
            dead.server.process.send_signal(signal.SIGKILL)
            with trio.fail_after(CLAIM_MS / 1000 + 1):
                await eventually(lambda: len(source.loads("killed")) == 2, "another loads")
            source.let_go("killed")
        assert texts == ["text"] * (READERS * 2 // 3)
        assert len(set(source.loads("killed"))) == len(source.loads("killed")) == 2


async def test_when_readers_leave_the_server_that_loads_another_loads_at_once(
    three: list[Replica], source: Source
) -> None:
    """Law 2: a reader's end is the load's end, and nobody else's."""
    source.write("left", "text")
    source.hold("left")
    texts: list[str] = []
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as leaving:
            for _ in range(5):
                leaving.start_soon(read_into, texts, three[0], "slow:///left")
            await eventually(lambda: source.loads("left"), "it is loaded")
            for replica in three[1:]:
                nursery.start_soon(read_into, texts, replica, "slow:///left")
            await trio.sleep(0.2)
            leaving.cancel_scope.cancel()
        with trio.fail_after(CLAIM_MS / 2000):
            await eventually(lambda: len(source.loads("left")) == 2, "another loads")
        source.let_go("left")
    assert texts == ["text"] * 2


async def test_a_change_on_one_server_is_read_on_the_others_as_soon_as_they_are_told(
    three: list[Replica], source: Source
) -> None:
    """RES-5: on the one that tells it at once; a document too, which its store tells."""
    document = "docs:///d/1.md"
    one, two, other = three
    source.write("changed", "old")
    await one.put(document, "old")
    for replica in three:
        assert text_of(await read(replica, "slow:///changed")) == text_of(await read(replica, document)) == "old"
    for number in range(5):
        new = f"new {number}"
        source.write("changed", new)
        await two.put(document, new)
        await one.change("SLOW:///changed")
        assert text_of(await read(one, "slow:///changed")) == new
        with trio.fail_after(2):
            for replica in (two, other):
                for uri in ("slow:///changed", document):
                    await until_read(replica, uri, new)
    assert len(source.loads("changed")) == 6, "once for each change"


async def until_read(replica: Replica, uri: str, text: str) -> None:
    while text_of(await read(replica, uri)) != text:  # noqa: ASYNC110 - it is told to the server
        await trio.sleep(0.01)


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Make two keys for the servers to be started."""
    data = tmp_path / "site" / "shared"
    data.mkdir(parents=True)
    found = []
    for name in ("alice", "bob"):
        assert cli.run(["keys", "new", name, "--scope", "read", "--scope", "metrics", "--data", str(data)]) == 0
        found += re.findall(r"mcpd_\S+", capsys.readouterr().out)
    return found


async def test_what_is_one_callers_is_no_other_ones_on_any_server(
    tmp_path: Path, redis: RedisServer, source: Source, keys: list[str]
) -> None:
    """RES-4."""
    source.write("own", "of the first")
    site = f'{settings(redis)}prefix = "own:"\n'
    with trio.fail_after(WAIT_S), replicas(tmp_path / "site", site) as found:
        for replica in found:
            assert text_of(await read(replica, "own:///own", key=keys[0])) == "of the first"
        source.write("own", "of the second")
        for replica in found:
            assert text_of(await read(replica, "own:///own", key=keys[1])) == "of the second"
            assert text_of(await read(replica, "own:///own", key=keys[0])) == "of the first"
        assert len(source.loads("own")) == 2


async def test_a_redis_that_stops_or_goes_is_no_readers_error(tmp_path: Path, source: Source) -> None:
    """The table of failures: direct; one line in the log; all comes back by itself."""
    source.write("before", "text")
    async with others(tmp_path) as (redis, found):
        assert text_of(await read(found[0], "slow:///before")) == "text"
        redis.pause()
        source.write("before", "new")
        source.write("during", "text")
        for replica in found[1:]:
            assert text_of(await read(replica, "slow:///before", timeout_s=2)) == "new"
        async with trio.open_nursery() as nursery:
            for number in range(READERS):
                nursery.start_soon(read_in_time, found[number % 3], "slow:///during")
        for replica in found:
            await replica.wait_ready(r"^degraded: redis\n")
            await read_in_time(replica, "slow:///during")
        redis.resume()
        for replica in found:
            await replica.wait_ready(READY)
        source.write("after", "text")
        for replica in found:
            assert text_of(await read(replica, "slow:///after")) == "text"
        assert len(source.loads("after")) == 1
        assert (await asked(found))["alone"] >= 2
        for replica in found:
            assert replica.logged(r"\b(info|warning|error) mcpd\.(storage|resources)") <= 3, replica.log()
            assert replica.logged("Traceback") == 0


async def read_in_time(replica: Replica, uri: str) -> None:
    assert text_of(await read(replica, uri, timeout_s=5)) == "text"


async def test_a_redis_that_was_emptied_is_filled_again(
    three: list[Replica], redis: RedisServer, source: Source
) -> None:
    source.write("flushed", "text")
    assert text_of(await read(three[0], "slow:///flushed")) == "text"
    redis.ask("FLUSHALL")
    for replica in three[1:]:
        assert text_of(await read(replica, "slow:///flushed")) == "text"
    assert len(source.loads("flushed")) == 2
    for replica in three:
        await eventually(lambda: replica.logged("has a gap"), "it is noticed")  # noqa: B023


async def test_what_is_too_long_is_read_by_each_server(three: list[Replica], source: Source) -> None:
    """Law 8."""
    source.write("long", "x" * (MAX_VALUE_BYTES + 1))
    for replica in [*three, *three]:
        assert len(text_of(await read(replica, "slow:///long"))) == MAX_VALUE_BYTES + 1
    assert len(source.loads("long")) == 3
