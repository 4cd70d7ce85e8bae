"""A search that is given up on a real Elasticsearch: its socket is closed, and the server has stopped as well.

The slow search needs no script: 60 regular expressions over 300,000 keywords run for seconds.
"""

from __future__ import annotations

import json
import random

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers import elasticsearch_bulk as bulk
from mcpd.drivers.elasticsearch import Elasticsearch, Missing, OutOfTime, open_elasticsearch
from tests.elasticsearch_server import ElasticsearchServer

WAIT_S = 120.0
INDEX = "slow-keywords"
DOCUMENTS, WORDS = 10_000, 30
PATTERNS = [{"regexp": {"k": f".*a{n:02}.*d.*f.*{n % 10}.*"}} for n in range(60)]
SLOW = {"size": 0, "query": {"bool": {"should": PATTERNS}}}


@pytest.fixture
async def index(client: Elasticsearch) -> str:
    """What the slow search is slow on: filled once for all tests."""
    try:
        answer = await client.perform(api.count([INDEX], b""))
        assert answer.json()["count"] == DOCUMENTS
    except Missing:
        mapping = {"settings": {"number_of_shards": 1}, "mappings": {"properties": {"k": {"type": "keyword"}}}}
        await client.perform(api.create_index(INDEX, mapping))
        draw = random.Random(1)
        words = ([draw.randbytes(32).hex() for _ in range(WORDS)] for _ in range(DOCUMENTS))
        actions = (bulk.put(INDEX, str(n), {"k": some}) for n, some in enumerate(words))
        outcomes = await client.bulk(actions, refresh="wait_for")
        assert all(isinstance(one, bulk.Done) for one in outcomes)
    return INDEX


def searches(server: ElasticsearchServer, opaque_id: str) -> bool:
    """Return whether the server searches for that caller."""
    _, found = server.ask("GET", "/_tasks?actions=*search*&detailed=true")
    return opaque_id in json.dumps(found)


async def wait_searching(server: ElasticsearchServer, opaque_id: str, *, is_there: bool) -> None:
    while searches(server, opaque_id) != is_there:  # noqa: ASYNC110 - it is the server's
        await trio.lowlevel.checkpoint()


REQUESTS = {
    "search": api.search([INDEX], SLOW, request_cache="false"),
    "msearch": api.search_many([({"index": INDEX, "request_cache": False}, SLOW)]),
}


@pytest.mark.parametrize("reason", ["cancelled", "deadline"])
@pytest.mark.parametrize("kind", ["search", "msearch"])
async def test_a_search_that_is_given_up_ends_on_the_server(
    client: Elasticsearch, elasticsearch: ElasticsearchServer, index: str, reason: str, kind: str
) -> None:
    """The server is told of no deadline here: only the closed socket can end the search."""
    request, opaque_id = REQUESTS[kind]._replace(deadline="none"), f"{kind}-{reason}"

    async def search(scope: trio.CancelScope) -> None:
        with scope:
            await client.perform(request, opaque_id=opaque_id)
            raise AssertionError("the search is not slow enough")

    with trio.fail_after(WAIT_S):
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search, scope)
            await wait_searching(elasticsearch, opaque_id, is_there=True)
            given_up_at = trio.current_time()
            if reason == "deadline":
                scope.deadline = given_up_at
            else:
                scope.cancel()
        await wait_searching(elasticsearch, opaque_id, is_there=False)
        print(f"gone from _tasks after {(trio.current_time() - given_up_at) * 1000:.0f} ms")
        assert scope.cancelled_caught
        assert client.statistics().in_flight == 0
        assert (await client.perform(api.count([index], b""))).json()["count"] == DOCUMENTS


async def test_the_server_gives_up_by_itself_before_the_callers_deadline(client: Elasticsearch, index: str) -> None:
    with trio.fail_after(WAIT_S):
        with trio.move_on_after(1.5) as scope:
            with pytest.raises(OutOfTime):
                await client.perform(api.search([index], SLOW, request_cache="false"))
        assert not scope.cancelled_caught
        with trio.move_on_after(1.5) as scope:
            partial = api.search([index], SLOW, request_cache="false", allow_partial_search_results="true")
            assert api.found(await client.perform(partial)).timed_out
        assert not scope.cancelled_caught


async def test_a_stopped_server_holds_no_caller_beyond_its_deadline(elasticsearch: ElasticsearchServer) -> None:
    async with open_elasticsearch([elasticsearch.url]) as client:
        with trio.fail_after(WAIT_S):
            await client.perform(api.cluster_health())
            elasticsearch.pause()
            try:
                with trio.move_on_after(0.2) as scope:
                    await client.perform(api.cluster_health())
            finally:
                elasticsearch.resume()
            assert scope.cancelled_caught
            await client.perform(api.cluster_health())
