"""Change events between two real servers over a real Redis: each is heard once, whatever becomes of Redis meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mcpd.storage.redis.shared import AWAY as SAYS_AWAY
from tests.redis_servers import KINDS, RedisServer, free_port, make_certificate, tls_options
from tests.redis_servers import serving as redis_serving
from tests.replicas.replica import SEALS, Ear, Replica, listening, replicas, subscribed
from tests.served import client_of, environment

pytestmark = pytest.mark.slow
WAIT_S = 90.0
NOTES = ("note:///one", "note:///two/copy")
DOCUMENTS = ("docs:///d/1.md", "docs:///d/2.md")
READY = r"^ready\n(.*\n)*redis ok \S+ (redis|valkey) \d"
AWAY = rf"^degraded: redis\n(.*\n)*redis down \S+ {SAYS_AWAY}"


def settings(url: str, more: str = "") -> str:
    return f'[redis]\nurl = "{url}"\n{more}'


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    folder = tmp_path_factory.mktemp("pair")
    with redis_serving(request.param) as redis, replicas(folder, settings(redis.url)) as both:
        yield both


@asynccontextmanager
async def two_ears(replica: Replica, *uris: str) -> AsyncIterator[list[Ear]]:
    async with listening(replica, *uris) as stateless, subscribed(replica, *uris) as stateful:
        yield [stateless, stateful]


async def test_both_eras_hear_what_a_tool_of_another_replica_announces(pair: list[Replica]) -> None:
    """SUB-4, STR-6, PUB-1."""
    one, two = pair
    with trio.fail_after(WAIT_S):
        await one.wait_ready(READY)
        await two.wait_ready(READY)
        async with two_ears(one, *NOTES) as ears, listening(two, *NOTES) as own:
            await two.change(NOTES[0])
            for ear in (*ears, own):
                await ear.wait(NOTES[0])
            await one.change(NOTES[1])
            for ear in (*ears, own):
                await ear.wait(NOTES[1])
                assert ear.heard == list(NOTES)


async def test_both_eras_hear_of_a_document_that_another_replica_stores(pair: list[Replica]) -> None:
    """SUB-4, STR-6, PUB-1: from the store that both watch, and not a second time over Redis."""
    one, two = pair
    with trio.fail_after(WAIT_S):
        async with two_ears(one, *DOCUMENTS, NOTES[0]) as ears:
            for uri in DOCUMENTS:
                await two.put(uri, "text")
                for ear in ears:
                    await ear.wait(uri)
            await two.change(NOTES[0])
            for ear in ears:
                await ear.wait(NOTES[0])
                assert [word for word in ear.heard if word != "resources"] == [*DOCUMENTS, NOTES[0]]


async def test_what_another_replica_stores_is_read_here_and_not_an_older_copy(pair: list[Replica]) -> None:
    """RES-5: the caches of both hear, too."""
    one, two = pair
    uri = "docs:///d/cached.md"
    with trio.fail_after(WAIT_S):
        for text in ("first", "second"):
            async with listening(one, uri) as ear, client_of(one.server) as client:
                await two.put(uri, text)
                await ear.wait(uri)
                reply = await client.ask("resources/read", {"uri": uri})
                assert reply.result["contents"][0]["text"] == text


@asynccontextmanager
async def through_an_outage(
    tmp_path: Path, *options: str, keeps: bool
) -> AsyncIterator[tuple[list[Replica], list[Ear]]]:
    """Kill Redis, let both replicas announce, start Redis again, with its data or without."""
    port = free_port()
    with redis_serving("redis-7", *options, port=port) as redis, replicas(tmp_path, settings(redis.url)) as both:
        for replica in both:
            await replica.wait_ready(READY)
        async with two_ears(both[0], *NOTES, *DOCUMENTS) as ears:
            end(redis)
            for replica in both:
                await replica.wait_ready(AWAY)
            await both[1].change(NOTES[0])
            await both[1].put(DOCUMENTS[0], "text")
            for ear in ears:
                await ear.wait(DOCUMENTS[0])
                assert NOTES[0] not in ear.heard
            with redis_serving("redis-7", *options, port=port, folder=redis.folder if keeps else None):
                for replica in both:
                    await replica.wait_ready(READY)
                yield both, ears


def end(redis: RedisServer) -> None:
    redis.process.kill()
    redis.process.wait()


def counts(ear: Ear) -> dict[str, int]:
    return {word: ear.heard.count(word) for word in (*NOTES, *DOCUMENTS)}


def a_line_for_each_change(both: list[Replica]) -> None:
    for replica in both:
        assert replica.logged("redis: connected") == 2
        assert replica.logged("redis.shared: redis: .* is not there") == 1


async def test_a_restart_of_redis_that_kept_its_data_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with trio.fail_after(WAIT_S):
        outage = through_an_outage(tmp_path, "--appendonly", "yes", "--appendfsync", "always", keeps=True)
        async with outage as (both, ears):
            for ear in ears:
                await ear.wait(NOTES[0])
            await both[1].change(NOTES[1])
            await both[1].put(DOCUMENTS[1], "text")
            for ear in ears:
                await ear.wait(NOTES[1])
                await ear.wait(DOCUMENTS[1])
                assert counts(ear) == dict.fromkeys((*NOTES, *DOCUMENTS), 1)
                assert "prompts" not in ear.heard, "nobody was told that anything may have changed"
            a_line_for_each_change(both)


async def test_after_a_restart_without_its_data_everything_may_have_changed(tmp_path: Path) -> None:
    with trio.fail_after(WAIT_S):
        async with through_an_outage(tmp_path, keeps=False) as (both, ears):
            for ear in ears:
                await ear.wait(NOTES[1])
                await ear.wait("prompts")
            before = [counts(ear) for ear in ears]
            await both[1].put(DOCUMENTS[1], "text")
            await both[1].change(NOTES[1])
            for ear, had in zip(ears, before, strict=True):
                await ear_of_one_more(ear, had)
            a_line_for_each_change(both)


async def ear_of_one_more(ear: Ear, before: dict[str, int]) -> None:
    while not all(counts(ear)[word] > before[word] for word in (NOTES[1], DOCUMENTS[1])):  # noqa: ASYNC110
        await trio.sleep(0.01)
    assert counts(ear)[NOTES[1]] == before[NOTES[1]] + 1
    assert counts(ear)[DOCUMENTS[1]] == before[DOCUMENTS[1]] + 1


def a_line_for_each_change_from_away(both: list[Replica]) -> None:
    for replica in both:
        assert replica.logged("redis: connected") == 1
        assert replica.logged("redis.shared: redis: .* is not there") == 1
        assert "s3cret" not in replica.log()


async def test_a_server_starts_without_redis_says_so_and_needs_no_restart_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    with trio.fail_after(WAIT_S), replicas(tmp_path, settings(f"redis://:s3cret@127.0.0.1:{port}")) as both:
        for replica in both:
            await replica.wait_ready(AWAY)
        async with listening(both[0], *NOTES) as ear:
            await both[0].change(NOTES[0])
            await ear.wait(NOTES[0])
            with redis_serving("redis-7", "--requirepass", "s3cret", port=port):
                for replica in both:
                    await replica.wait_ready(READY)
                ear.heard.clear()
                async with subscribed(both[0], *NOTES) as stateful:
                    await both[1].change(NOTES[1])
                    await ear.wait(NOTES[1])
                    await stateful.wait(NOTES[1])
                a_line_for_each_change_from_away(both)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:s3cret@127.0.0.1:{port}", "WRONGPASS"),
        ("redis://127.0.0.1:{port}", "NOAUTH"),
        ("redis://:s3cret/x@127.0.0.1:{port}", "no URL of a Redis server"),
    ],
)
async def test_a_redis_that_turns_us_down_is_an_error_of_the_configuration(tmp_path: Path, url: str, says: str) -> None:
    """SEC-6."""
    with redis_serving("redis-7", "--requirepass", "other") as redis:
        (tmp_path / "mcpd.toml").write_text(settings(url.format(port=redis.port)))
        words = [sys.executable, "-m", "mcpd", "serve", "--port", "0", "--no-files", "--data", "data"]
        with trio.fail_after(WAIT_S):
            done = await trio.run_process(
                words, cwd=tmp_path, env=environment(), check=False, capture_stdout=True, stderr=subprocess.STDOUT
            )
    said = done.stdout.decode()
    assert done.returncode == 2, said
    assert says in said
    assert "s3cret" not in said


async def test_what_was_announced_last_is_told_before_a_server_ends(tmp_path: Path) -> None:
    with trio.fail_after(WAIT_S):
        with redis_serving("redis-7") as redis, replicas(tmp_path / "one", settings(redis.url, SEALS), 1) as (one,):
            async with listening(one, *NOTES) as ear:
                with replicas(tmp_path / "two", settings(redis.url, SEALS), 1) as (two,):
                    await two.wait_ready(READY)
                    redis.ask("CLIENT", "PAUSE", "1000", "WRITE")
                    await two.change(NOTES[0])
                await ear.wait(NOTES[0])


async def test_tls_passwords_and_unix_sockets_lead_to_redis_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    with trio.fail_after(WAIT_S):
        with redis_serving("redis-7", *tls_options(certificate, port), "--requirepass", "s3cret/") as redis:
            urls = [f"rediss://:s3cret%2F@localhost:{port}", f"unix://:s3cret%2F@{redis.folder}/redis.sock"]
            with (
                replicas(tmp_path / "tls", settings(urls[0], SEALS), 1) as (one,),
                replicas(tmp_path / "unix", settings(urls[1], SEALS), 1) as (two,),
            ):
                await one.wait_ready(READY)
                await two.wait_ready(READY)
                async with listening(one, *NOTES) as ear:
                    await two.change(NOTES[0])
                    await ear.wait(NOTES[0])
                assert "s3cret" not in one.log() + two.log() + await one.ready()
