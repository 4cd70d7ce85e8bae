"""Embedding providers without a network, the cache of vectors, and jobs that fail together."""

from __future__ import annotations

import math
from array import array
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mcpd.config import Embeddings
from mcpd.errors import ConfigurationError
from mcpd.search.embeddings import (
    ENTRY_BYTES,
    SLICE_CHARS,
    EmbeddingProvider,
    HashProvider,
    VectorCache,
    from_bytes,
    to_bytes,
)
from mcpd.search.endpoint import HttpProvider
from mcpd.search.providers import open_provider
from mcpd.search.together import run_together
from mcpd.settings import load
from mcpd.storage.documents import StoreUnreachable


async def test_the_built_in_provider_gives_unit_vectors_in_order() -> None:
    provider: EmbeddingProvider = HashProvider()
    texts = ["nursery", "cancel scope", "nursery"]
    vectors = await provider.embed(texts)
    assert [len(vector) for vector in vectors] == [provider.dims] * 3
    assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-6) for vector in vectors)
    assert list(vectors[0]) == list(vectors[2]) != list(vectors[1])
    assert provider.model.startswith("hash-")
    assert not provider.semantic


async def test_a_long_batch_lets_others_run_and_can_be_cancelled() -> None:
    """With the texts of many slices, a neighbour gets a turn for each; a cancelled batch ends at the next one."""
    provider = HashProvider()
    texts = ["word " * (SLICE_CHARS // 5)] * 20
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await provider.embed(texts)
        nursery.cancel_scope.cancel()
    assert turns >= 10
    with trio.move_on_after(0) as scope:
        await provider.embed(texts)
    assert scope.cancelled_caught


def vector(size: int, value: float = 0.0) -> array[float]:
    return array("f", [value] * size)


def test_the_cache_gives_back_what_it_was_given_by_model_and_text() -> None:
    told: list[str] = []
    cache = VectorCache(10_000, observe=told.append)
    cache.put("m", "a", vector(3, 1.0))
    assert cache.get("m", "a") == vector(3, 1.0)
    assert cache.get("m", "b") is None
    assert cache.get("n", "a") is None
    assert told == ["hit"]


@pytest.mark.parametrize(
    "value", [b"", b"abc", to_bytes(vector(3, 1.0)), to_bytes(vector(1, math.nan)), to_bytes(array("f", [0.6, 0.8]))]
)
def test_a_vector_that_is_none_is_not_taken_from_a_replica(value: bytes) -> None:
    """Of another size, not of length one, no numbers."""
    assert from_bytes(value, 3) is None


def test_a_vector_comes_back_from_a_replica_as_it_was() -> None:
    assert to_bytes(array("f", [1.0])) == b"\0\0\x80\x3f"
    for one in (array("f", [0.6, 0.8]), vector(2)):
        assert from_bytes(to_bytes(one), 2) == from_bytes(to_bytes(one), None) == one


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    told: list[str] = []
    cache = VectorCache(2 * (ENTRY_BYTES + 40), observe=told.append)
    for text in ("a", "b"):
        cache.put("m", text, vector(10))
    assert cache.get("m", "a") is not None
    cache.put("m", "c", vector(10))
    assert cache.get("m", "b") is None
    assert cache.get("m", "a") is not None
    assert told.count("evicted") == 1


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40)), max_size=40), st.integers(0, 4 * ENTRY_BYTES))
def test_the_cache_never_takes_more_than_it_may(puts: list[tuple[str, int]], max_bytes: int) -> None:
    cache = VectorCache(max_bytes)
    for text, size in puts:
        cache.put("m", text, vector(size))
        held = cache.statistics()
        assert held.bytes <= max_bytes
        assert held.bytes >= held.items * ENTRY_BYTES
    assert (cache.statistics().items == 0) == (cache.statistics().bytes == 0)


async def test_without_an_address_the_provider_is_the_built_in_one_and_with_one_it_is_not() -> None:
    async with open_provider(Embeddings()) as built_in:
        assert isinstance(built_in, HashProvider)
    async with open_provider(Embeddings(url="http://127.0.0.1:9/v1", model="m", dims=3)) as remote:
        assert isinstance(remote, HttpProvider)
        assert (remote.model, remote.dims, remote.semantic) == ("m", 3, True)


async def test_the_first_failure_ends_its_neighbours_and_comes_alone(autojump_clock: trio.testing.MockClock) -> None:
    ended = []

    async def fail() -> None:
        raise StoreUnreachable("gone")

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    with trio.fail_after(1), pytest.raises(StoreUnreachable, match="gone"):
        await run_together([wait, fail, wait])
    assert len(ended) == 2


async def test_a_bug_in_a_job_is_not_mistaken_for_a_refusal() -> None:
    async def stumble() -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await run_together([stumble, partial(trio.sleep, 0)])


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"URL": "http://h"}, "given together"),
        ({"MODEL": "m"}, "given together"),
        ({"URL": "h:1", "MODEL": "m"}, "must begin with http"),
        ({"URL": "http://h", "MODEL": "m", "DIMS": "0"}, "at least 1"),
    ],
)
def test_settings_of_an_endpoint_that_cannot_work_are_refused_at_start(env: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load(None, {f"MCPD_EMBEDDINGS__{name}": value for name, value in env.items()}, {})
