"""The provider that asks an OpenAI-compatible endpoint, against a real server that behaves well, ill or not at all."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
import trio

from mcpd.config import Embeddings
from mcpd.drivers.http import open_http
from mcpd.drivers.redis import Redis
from mcpd.errors import ConfigurationError
from mcpd.search.embeddings import EmbeddingError
from mcpd.search.endpoint import MAX_ATTEMPTS, MAX_BATCH_BYTES, MAX_BATCHES, HttpProvider, embeddings_url
from mcpd.search.providers import open_provider
from mcpd.secret import Secret
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.redis.bus import RedisBus
from mcpd.storage.redis.cache import RedisCache
from mcpd.storage.redis.keys import Keys
from tests.drivers.scripted import HOLD, Answer, Asked, Raw, Script, Scripted, Silence, serving
from tests.in_process import eventually
from tests.redis_servers import RedisServer
from tests.redis_servers import serving as redis_serving

WAIT_S = 10.0
"""Nothing here takes longer; what does has failed."""

Said = Answer | Raw | Silence


def numbers(text: str, dims: int = 3) -> list[float]:
    """What the test's model makes of a text: not of length one, and different for each."""
    return [float(len(text)), *(float(ord(text[at % len(text)])) for at in range(dims - 1))]


def vectors_of(asked: Asked, dims: int = 3) -> Answer:
    """Answer as an endpoint should, but with the vectors in reverse order."""
    items = [
        {"object": "embedding", "index": at, "embedding": numbers(text, dims)}
        for at, text in enumerate(json.loads(asked.body)["input"])
    ]
    return data(list(reversed(items)))


def data(items: list[dict[str, Any]]) -> Answer:
    return Answer(body=json.dumps({"object": "list", "data": items, "model": "m"}).encode())


def saying(*first: Said) -> Script:
    """Return a script of these answers, and of right ones after them."""
    following = iter(first)

    async def script(asked: Asked) -> Said:
        return next(following, None) or vectors_of(asked)

    return script


@asynccontextmanager
async def provider_of(script: Script, **settings: Any) -> AsyncIterator[tuple[HttpProvider, Scripted]]:
    """Give a provider that asks a server with this script, with pauses too short to be waited for."""
    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_http(reply_s=5.0, max_reply_bytes=1 << 20) as client:
            given = Embeddings(**({"url": f"{server.url}/v1", "model": "m"} | settings))
            yield HttpProvider(client, given, draw=lambda: 1.0, first_pause_s=0.001), server


def unit(values: list[float]) -> list[float]:
    return [value / math.hypot(*values) for value in values]


def inputs(server: Scripted) -> list[list[str]]:
    return [json.loads(asked.body)["input"] for asked in server.asked]


async def test_texts_become_unit_vectors_in_order_whatever_order_they_come_in() -> None:
    texts = ["one", "three", "seven"]
    async with provider_of(saying(), api_key=Secret("sk-1")) as (provider, server):
        found = await provider.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        assert list(vector) == pytest.approx(unit(numbers(text)), rel=1e-6)
    asked = server.asked[0]
    assert (asked.method, asked.target) == ("POST", "/v1/embeddings")
    assert json.loads(asked.body) == {"model": "m", "input": texts}
    assert asked.headers["authorization"] == "Bearer sk-1"
    assert asked.headers["content-type"] == "application/json"
    assert (provider.dims, provider.semantic) == (3, True)


@pytest.mark.parametrize(
    ("url", "posted"),
    [
        ("http://h:1", "http://h:1/v1/embeddings"),
        ("http://h:1/", "http://h:1/v1/embeddings"),
        ("http://h/v1", "http://h/v1/embeddings"),
        ("https://h/api/openai/", "https://h/api/openai/embeddings"),
        ("https://h/v1/embeddings", "https://h/v1/embeddings"),
    ],
)
def test_the_address_may_be_given_with_or_without_its_end(url: str, posted: str) -> None:
    assert embeddings_url(url) == posted


async def test_many_texts_go_out_in_batches_a_few_at_a_time_for_all_callers_together() -> None:
    running = most = 0

    async def script(asked: Asked) -> Said:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.01)
        running -= 1
        return vectors_of(asked)

    texts = [f"text {number}" for number in range(50)]
    async with provider_of(script, max_batch_items=5) as (provider, server), trio.open_nursery() as nursery:
        nursery.start_soon(provider.embed, [text.upper() for text in texts])
        found = await provider.embed(texts)
    assert [list(v) for v in found] == [pytest.approx(unit(numbers(text)), rel=1e-6) for text in texts]
    assert sorted(map(len, inputs(server))) == [5] * 20
    assert most == MAX_BATCHES


async def test_a_batch_is_bounded_in_bytes_too_and_a_longer_text_goes_alone() -> None:
    half, whole = "é" * (MAX_BATCH_BYTES // 4 + 1), "x" * (MAX_BATCH_BYTES + 1)
    async with provider_of(saying()) as (provider, server):
        await provider.embed([half, half[:-1] + "e", whole, "short", "shorter"])
    assert sorted([len(text) for text in batch] for batch in inputs(server)) == sorted(
        [[len(half)], [len(half)], [len(whole)], [5, 7]]
    )


async def test_equal_texts_are_asked_for_once_and_known_ones_not_at_all() -> None:
    async with provider_of(saying()) as (provider, server):
        first = await provider.embed(["a", "b", "a"])
        again = await provider.embed(["b", "c"])
    assert inputs(server) == [["a", "b"], ["c"]]
    assert first[0] == first[2]
    assert first[1] == again[0]


async def test_nothing_to_embed_asks_nobody() -> None:
    async with provider_of(saying()) as (provider, server):
        assert await provider.embed([]) == []
    assert server.asked == []


@pytest.mark.parametrize(
    "setback",
    [
        Answer(429),
        Answer(429, headers=(("retry-after", "0.01"),)),
        Answer(503, headers=(("retry-after", formatdate(0, usegmt=True)),)),
        Answer(503, headers=(("retry-after", "soon"),)),
        Answer(500, b"oops"),
        Raw(b""),
    ],
)  # fmt: skip
async def test_what_may_work_later_is_tried_again(setback: Said) -> None:
    async with provider_of(saying(setback, setback)) as (provider, server):
        assert len(await provider.embed(["a"])) == 1
    assert inputs(server) == [["a"]] * 3


async def test_the_endpoint_is_not_asked_again_before_it_wants_to_be() -> None:
    async with provider_of(saying(Answer(429, headers=(("retry-after", "0.3"),)))) as (provider, server):
        began = trio.current_time()
        await provider.embed(["a"])
        assert trio.current_time() - began >= 0.3
    assert len(server.asked) == 2


async def test_an_endpoint_that_stays_down_is_given_up_after_a_few_attempts() -> None:
    async with provider_of(saying(*[Answer(503)] * 100)) as (provider, server):
        with pytest.raises(StoreUnreachable, match=r"5 times.*status 503"):
            await provider.embed(["a"])
        assert len(server.asked) == MAX_ATTEMPTS


async def test_nobody_listening_is_said_to_be_unreachable(free_port: int) -> None:
    async with provider_of(saying(), url=f"http://127.0.0.1:{free_port}") as (provider, _):
        with pytest.raises(StoreUnreachable):
            await provider.embed(["a"])


@pytest.mark.parametrize(("wait", "left_s"), [("5", 4.0), ("3600", 7200.0)], ids=["the time left", "any patience"])
async def test_a_pause_longer_than_the_time_left_or_any_patience_is_not_begun(wait: str, left_s: float) -> None:
    setback = Answer(429, headers=(("retry-after", wait),))
    async with provider_of(saying(setback)) as (provider, server):
        scope = trio.CancelScope(shield=True, deadline=trio.current_time() + left_s)

        async def end_a_pause_that_has_begun() -> None:
            await trio.sleep(2.0)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_a_pause_that_has_begun)
            with scope, pytest.raises(StoreUnreachable, match="429"):
                await provider.embed(["a"])
            nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert len(server.asked) == 1


async def test_the_deadline_of_the_caller_ends_a_slow_exchange_and_closes_its_socket() -> None:
    async with provider_of(saying(HOLD)) as (provider, server):
        with trio.move_on_after(0.1) as scope:
            await provider.embed(["a"])
        assert scope.cancelled_caught
        await server.wait_closed(1)


async def test_a_cancelled_embedding_closes_the_sockets_of_all_its_batches() -> None:
    async with provider_of(saying(*[HOLD] * MAX_BATCHES), max_batch_items=1) as (provider, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.embed, ["a", "b", "c"])
            await server.wait_asked(MAX_BATCHES)
            nursery.cancel_scope.cancel()
        await server.wait_closed(MAX_BATCHES)
        assert len(await provider.embed(["a", "b", "c"])) == 3, "and what was cancelled holds no place"


async def test_a_single_text_does_not_queue_behind_batches() -> None:
    """A search goes on while an ingestion keeps the endpoint busy."""

    async def script(asked: Asked) -> Said:
        return vectors_of(asked) if b'"query"' in asked.body else HOLD

    async with provider_of(script, max_batch_items=1) as (provider, server), trio.open_nursery() as nursery:
        nursery.start_soon(provider.embed, ["a", "b", "c"])
        await server.wait_asked(MAX_BATCHES)
        assert len(await provider.embed(["query"])) == 1
        nursery.cancel_scope.cancel()


async def test_one_batch_that_fails_ends_the_others() -> None:
    asked_for: set[str] = set()
    all_asked = trio.Event()

    async def script(asked: Asked) -> Said:
        [text] = json.loads(asked.body)["input"]
        asked_for.add(text)
        if len(asked_for) == 2:
            all_asked.set()
        await all_asked.wait()
        return Answer(400, b"bad") if text == "b" else HOLD

    async with provider_of(script, max_batch_items=1) as (provider, server):
        with pytest.raises(EmbeddingError, match="400: bad"):
            await provider.embed(["a", "b"])
        await server.wait_closed(1)


async def test_vectors_of_another_size_than_configured_are_refused() -> None:
    async with provider_of(saying(), dims=4) as (provider, _):
        with pytest.raises(EmbeddingError, match="3 dimensions, not 4"):
            await provider.embed(["a"])


async def test_vectors_of_another_size_than_the_first_are_refused() -> None:
    sizes = itertools.chain([3, 4])

    async def script(asked: Asked) -> Said:
        return vectors_of(asked, next(sizes))

    async with provider_of(script) as (provider, _):
        await provider.embed(["a"])
        with pytest.raises(EmbeddingError, match="4 dimensions, not 3"):
            await provider.embed(["b"])


def item(index: Any = 0, embedding: Any = (1.0, 2.0)) -> dict[str, Any]:
    return {"index": index, "embedding": embedding}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(body=b""), "something else"),
        (Answer(body=b"<html>"), "something else"),
        (Answer(body=b"\xff"), "something else"),
        (Answer(body=b"[" * 10_000), "something else"),
        (Answer(body=b'{"data": null}'), "something else"),
        (Answer(body=b'{"error": {"message": "no"}}'), "something else"),
        (data([item(embedding="AAAA")]), "something else"),
        (data([item(embedding=[None])]), "something else"),
        (Answer(body=b'{"data":[{"index":0,"embedding":[NaN]}]}'), "something else"),
        (Answer(body=b'{"data":[{"index":0,"embedding":[1e999]}]}'), "something else"),
        (data([]), "0 vectors"),
        (data([item(), item(1)]), "2 vectors"),
        (data([item(1)]), "wrong indexes"),
        (data([item(embedding=[])]), "0 dimensions"),
        (data([item(embedding=[1e-320])]), "too small or too large"),
        (Answer(400, b'{"error": "too   long"}'), '400: {"error": "too long"}'),
        (Answer(401), "embeddings.api_key"),
        (Answer(404), "embeddings.model"),
        (Answer(307, headers=(("location", "http://127.0.0.1:1/"),)), "another host"),
        (Answer(204), "204"),
    ],
)
async def test_a_reply_that_makes_no_sense_is_an_error_that_is_not_repeated(answer: Answer, says: str) -> None:
    async with provider_of(saying(answer)) as (provider, server):
        with pytest.raises(EmbeddingError) as caught:
            await provider.embed(["a"])
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 422])
async def test_the_key_is_in_no_message(status: int) -> None:
    async with provider_of(saying(Answer(status, b"your key sk-very-secret")), api_key=Secret("sk-very-secret")) as (
        provider,
        _,
    ):
        with pytest.raises(EmbeddingError) as caught:
            await provider.embed(["a"])
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a\nb", "kéy", " key"])
async def test_a_key_that_no_header_can_carry_is_refused_at_start_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        async with open_provider(Embeddings(url="http://127.0.0.1:9", model="m", api_key=Secret(key))):
            pass
    assert key not in str(caught.value)


async def test_pauses_double_and_are_drawn() -> None:
    """A pause lies between half and the whole of a bound that doubles; what is drawn says where."""
    times: list[float] = []
    draws = iter([0.0, 0.5, 1.0, 0.0, 0.0])

    async def script(asked: Asked) -> Said:
        times.append(trio.current_time())
        return Answer(503)

    async with serving(script) as server, open_http(reply_s=5.0, max_reply_bytes=99) as client:
        settings = Embeddings(url=server.url, model="m")
        provider = HttpProvider(client, settings, draw=lambda: next(draws), first_pause_s=0.04)
        with pytest.raises(StoreUnreachable):
            await provider.embed(["a"])
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(pauses) == MAX_ATTEMPTS - 1
    for pause, least in zip(pauses, [0.02, 0.06, 0.16, 0.16], strict=True):
        assert pause >= least


@asynccontextmanager
async def shared_cache(server: RedisServer) -> AsyncIterator[RedisCache]:
    async with trio.open_nursery() as nursery:
        redis, keys = Redis(server.url), Keys("vectors:")
        cache = RedisCache(redis, keys, RedisBus(redis, keys))
        await nursery.start(redis.run)
        await nursery.start(cache.run)
        yield cache
        nursery.cancel_scope.cancel()


async def test_what_one_replica_has_asked_for_no_other_one_asks_for() -> None:
    """Vectors in Redis: of the same model and text alone, of the right size, the same numbers."""
    told: list[str] = []
    texts = [f"text {number}" for number in range(70)]
    with redis_serving("redis-7") as redis:
        async with (
            trio.open_nursery() as nursery,
            shared_cache(redis) as cache,
            serving(saying()) as server,
            open_http(reply_s=5.0, max_reply_bytes=1 << 20) as client,
        ):
            nursery.cancel_scope.deadline = trio.current_time() + WAIT_S

            def provider(model: str = "m", dims: int | None = None) -> HttpProvider:
                given = Embeddings(url=server.url, model=model, dims=dims, max_cache_bytes=0)
                return HttpProvider(client, given, observe=told.append, second=cache)

            first = await provider().embed(texts)
            asked = len(server.asked)
            await eventually(lambda: not cache._vectors, "they are taken")
            await eventually(
                lambda: redis.ask("EXISTS", cache._keys.vector("1 m text 69")) == b":1\r\n", "they are kept"
            )
            told.clear()
            assert await provider().embed(texts) == first
            assert await provider().embed(texts[:1]) == first[:1]
            assert len(server.asked) == asked
            assert told == ["shared", "evicted"] * 71
            assert await provider(model="another").embed(texts[:1]) == first[:1]
            assert len(server.asked) == asked + 1
            with pytest.raises(EmbeddingError, match="3 dimensions, not 4"):
                await provider(dims=4).embed(texts[:1])
            redis.process.kill()
            await eventually(lambda: not cache._redis.statistics().connected, "it is away")
            assert await provider().embed(texts[:1]) == first[:1]
            assert len(server.asked) == asked + 3
            assert told[-2:] == ["miss", "evicted"]
