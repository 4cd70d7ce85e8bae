"""The client when the stream breaks after any byte, and when its caller is cancelled at any moment.

The document's version is the witness: it tells how often a write was done. After each fault the same client has to
answer in step, with no exchange in flight and no connection in use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers import elasticsearch_bulk as bulk
from mcpd.drivers.elasticsearch import (
    Elasticsearch,
    ElasticsearchError,
    NotExecuted,
    Options,
    OutcomeUnknown,
    Unreachable,
    open_elasticsearch,
)
from tests.drivers.redis.test_cut_and_cancel import CancelAt
from tests.redis_servers import Cutting, cutting

WAIT_S = 120.0
AT_ONCE = 16
"""Calls that are cut in parallel: after each, its client leaves the node alone for a moment."""
IMPATIENT = Options(connect_s=5, silence_s=5, patience_s=0)
Way = Callable[[Elasticsearch, str, str], Awaitable[None]]


async def write(client: Elasticsearch, index: str, key: str) -> None:
    await client.perform(api.put_document(index, key, b'{"n":1}'))


async def bulk_write(client: Elasticsearch, index: str, key: str) -> None:
    (outcome,) = await client.bulk([bulk.put(index, key, b'{"n":1}')])
    if isinstance(outcome, ElasticsearchError):
        raise outcome


async def search(client: Elasticsearch, index: str, key: str) -> None:
    await client.perform(api.put_document(index, key, b'{"n":1}'))
    answer = await client.perform(api.search([index], {"query": {"match_all": {}}, "size": 1}))
    assert api.found(answer).hits.hits[0].id == "warm"


WAYS = [write, bulk_write, search]


async def written(witness: Elasticsearch, index: str, key: str) -> int:
    """Return how often the document has been written."""
    (found,) = api.documents(await witness.perform(api.get_documents(index, [{"_id": key}])))
    return max(found.version, 0)


async def prepared(witness: Elasticsearch, index: str) -> None:
    body = {"settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": -1}}
    await witness.perform(api.create_index(index, body))
    await witness.perform(api.put_document(index, "warm", b'{"n":1}', refresh="true"))


@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_cut_after_any_byte_leaves_a_true_answer(
    way: Way, client: Elasticsearch, elasticsearch_url: str, prefix: str
) -> None:
    """Told done: it was done once. Told not executed: never. Told unknown: once at most. Never twice."""
    port = int(elasticsearch_url.rpartition(":")[2])
    with trio.fail_after(WAIT_S):
        await prepared(client, prefix)
        async with cutting(port) as proxy, open_elasticsearch([_url(proxy)], IMPATIENT) as whole:
            await way(whole, prefix, "whole")
            cuts = iter(range(sum(proxy.passed)))

        async def work() -> None:
            for cut in cuts:
                async with cutting(port) as proxy:
                    assert not await _cut(way, proxy, cut, client, prefix)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)


def _url(proxy: Cutting) -> str:
    return f"http://127.0.0.1:{proxy.port}"


async def _cut(way: Way, proxy: Cutting, cut: int, witness: Elasticsearch, index: str) -> bool:
    """Let `cut` bytes of the server through; return whether the call was done in spite of that."""
    key, told = f"k{cut:03}", "done"
    async with open_elasticsearch([_url(proxy)], IMPATIENT) as client:
        proxy.left = cut
        try:
            await way(client, index, key)
        except OutcomeUnknown:
            told = "unknown"
        except NotExecuted:
            told = "not executed" if way is not search else "not found"
        times = await written(witness, index, key)
        assert times <= 1
        assert told in ({0: ("not executed", "unknown"), 1: ("done", "unknown", "not found")}[times])
        proxy.left = None
        await _is_in_step(client, index)
    return told == "done"


async def _is_in_step(client: Elasticsearch, index: str) -> None:
    while True:
        try:
            assert api.document(await client.perform(api.get_document(index, "warm"))).id == "warm"
        except Unreachable:
            await trio.sleep(0.01)
        else:
            break
    statistics = client.statistics()
    assert (statistics.in_flight, statistics.waiting) == (0, 0)
    assert pooled(client) == ["IDLE"], "the only connection is the one that was used last"


def pooled(client: Elasticsearch) -> list[str]:
    """Return the state of each connection that the HTTP library keeps."""
    (node,) = client._nodes.all
    pool = node.transport._http._pool
    assert not pool._requests
    return [str(connection.info()).split(", ")[2] for connection in pool.connections]


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_cancelled_at_any_step_leaves_the_client_in_step(
    way: Way, client: Elasticsearch, elasticsearch_url: str, prefix: str
) -> None:
    with trio.fail_after(WAIT_S):
        await prepared(client, prefix)
        for warm in (True, False):
            steps, ended = 1, False
            while not ended:
                key = f"{warm}-{steps}"
                async with open_elasticsearch([elasticsearch_url], IMPATIENT) as cancelled:
                    if warm:
                        await _is_in_step(cancelled, prefix)
                    ended = await cancelled_at(partial(way, cancelled, prefix, key), steps)
                    assert await written(client, prefix, key) <= 1
                    await _is_in_step(cancelled, prefix)
                steps += 1
            assert steps > 3, "something was cancelled"


async def cancelled_at(work: Callable[[], Awaitable[object]], steps: int) -> bool:
    """Return whether the call was through before it could be cancelled."""
    through = False

    async def call() -> None:
        nonlocal through
        await work()
        through = True

    async with trio.open_nursery() as nursery:
        instrument = CancelAt(nursery.cancel_scope, steps)
        nursery.start_soon(call)
        trio.lowlevel.add_instrument(instrument)
    trio.lowlevel.remove_instrument(instrument)
    return through
