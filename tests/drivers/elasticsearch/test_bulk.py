"""Many writes in chunks: with a real server, and with a scripted one that has no room, loses answers or says less."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers import elasticsearch_bulk as bulk
from mcpd.drivers.elasticsearch import (
    Conflict,
    Elasticsearch,
    NotExecuted,
    Options,
    OutcomeUnknown,
    Refused,
    Unreachable,
    open_elasticsearch,
)
from tests.drivers.elasticsearch.conftest import PRODUCT, error_body
from tests.drivers.scripted import Answer, Asked, Raw, serving

WAIT_S = 60.0
REJECTED = {"type": "es_rejected_execution_exception", "reason": "rejected execution of coordinating operation"}


async def test_each_item_has_its_own_outcome_in_the_order_given(client: Elasticsearch, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        await client.perform(api.create_index(prefix, {"mappings": {"properties": {"n": {"type": "integer"}}}}))
        actions = [
            bulk.put(prefix, "a", {"n": 1}, condition=api.CREATE),
            bulk.put(prefix, "a", {"n": 2}, condition=api.CREATE),
            bulk.put(prefix, "b", {"n": "a secret"}),
            bulk.put(prefix, "a", {"n": 3}, condition=api.Condition(0, 1)),
            bulk.put(prefix, "v", {"n": 3}, condition=api.Condition(external=7), routing="r"),
            bulk.delete(prefix, "never"),
            bulk.delete(prefix, "v", routing="r", condition=api.Condition(external=8)),
        ]
        one, two, three, four, five, six, seven = await client.bulk(actions, refresh="true")
    assert isinstance(one, bulk.Done)
    assert (one.key, one.status, one.seq_no, one.primary_term, one.version) == ("a", 201, 0, 1, 1)
    assert isinstance(two, Conflict)
    assert isinstance(three, Refused)
    assert (three.status, three.kind) == (400, "document_parsing_exception")
    assert "secret" not in str(three)
    assert isinstance(four, bulk.Done)
    assert isinstance(five, bulk.Done)
    assert five.version == 7
    assert isinstance(six, bulk.Done)
    assert six.status == 404
    assert isinstance(seven, bulk.Done)


@pytest.mark.parametrize(("max_bytes", "max_items"), [(1 << 20, 7), (300, 1_000), (1, 1_000)])
async def test_chunks_are_bounded_by_bytes_and_items(
    elasticsearch_url: str, prefix: str, max_bytes: int, max_items: int
) -> None:
    observed: list[str] = []
    options = Options(bulk_bytes=max_bytes, bulk_items=max_items, bulk_parallel=3)

    def observe(operation: str, outcome: str, _seconds: float) -> None:
        observed.append(f"{operation} {outcome}")

    actions = [bulk.put(prefix, str(n), {"n": n}) for n in range(100)]
    chunk_count = {7: 15, 1_000: -1}[max_items]
    with trio.fail_after(WAIT_S):
        async with open_elasticsearch([elasticsearch_url], options, observe) as client:
            done = await client.bulk(actions)
            await client.perform(api.refresh(prefix))
            assert (await client.perform(api.count([prefix], b""))).json()["count"] == 100
    assert [one.key for one in done if isinstance(one, bulk.Done)] == [str(n) for n in range(100)]
    chunks = observed.count("bulk ok")
    per_chunk = max(1, max_bytes // len(actions[-1].lines))
    assert chunks == chunk_count if chunk_count > 0 else 100 / per_chunk <= chunks <= 100
    assert chunks == len(observed) - 2


def items(*statuses: int, keys: list[str]) -> Answer:
    found = [
        {"index": {"_id": key, "status": status, **({"error": REJECTED} if status >= 400 else {})}}
        for key, status in zip(keys, statuses, strict=True)
    ]
    return Answer(200, json.dumps({"errors": True, "items": found}).encode(), PRODUCT)


def keys_of(asked: Asked) -> list[str]:
    return [json.loads(line)["index"]["_id"] for line in asked.body.splitlines()[::2]]


def actions_of(keys: str, *, repeatable: bool = False) -> list[bulk.Action]:
    return [bulk.put("i", key, b"{}", repeatable=repeatable) for key in keys]


async def test_only_items_without_room_are_sent_again() -> None:
    """429 and 503 pass, 400 is final."""
    rounds = [(200, 429, 400, 503), (503, 200), (200,)]

    async def script(asked: Asked) -> Answer:
        return items(*rounds[len(server.asked) - 1], keys=keys_of(asked))

    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url]) as client:
            a, b, c, d = await client.bulk(actions_of("abcd", repeatable=True))
    assert [keys_of(asked) for asked in server.asked] == [["a", "b", "c", "d"], ["b", "d"], ["b"]]
    assert [isinstance(one, bulk.Done) for one in (a, b, c, d)] == [True, True, False, True]
    assert isinstance(c, Refused)


async def test_a_cluster_without_room_is_given_up_after_a_while() -> None:
    async def script(asked: Asked) -> Answer:
        return items(*[429] * len(keys_of(asked)), keys=keys_of(asked))

    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url], Options(bulk_patience_s=0.2)) as client:
            a, b = await client.bulk(actions_of("ab"))
    assert isinstance(a, NotExecuted)
    assert isinstance(b, NotExecuted)
    assert len(server.asked) == 3


async def test_of_a_lost_answer_only_repeatable_items_are_sent_again() -> None:
    async def script(asked: Asked) -> Answer | Raw:
        if len(server.asked) == 1:
            return Raw(b"HTTP/1.1 200 OK\r\ncontent-le")
        return items(*[409] * len(keys_of(asked)), keys=keys_of(asked))

    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url]) as client:
            a, b = await client.bulk([*actions_of("a"), *actions_of("b", repeatable=True)])
    assert [keys_of(asked) for asked in server.asked] == [["a", "b"], ["b"]]
    assert isinstance(a, OutcomeUnknown)
    assert isinstance(b, OutcomeUnknown), "the conflict may be with itself"


async def test_a_chunk_that_is_too_large_is_halved() -> None:
    async def script(asked: Asked) -> Answer:
        keys = keys_of(asked)
        return items(*[200] * len(keys), keys=keys) if len(keys) < 3 and "x" not in keys else Answer(413)

    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url]) as client:
            found = await client.bulk(actions_of("abcdx"))
    assert [isinstance(one, bulk.Done) for one in found] == [True, True, True, True, False]
    assert isinstance(found[-1], Refused)
    assert found[-1].status == 413


async def test_an_answer_of_other_items_is_told_as_garbled() -> None:
    async def script(_asked: Asked) -> Answer:
        return items(200, 200, keys=["a", "z"])

    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url]) as client:
            a, b = await client.bulk(actions_of("ab"))
    assert type(a).__name__ == type(b).__name__ == "Garbled"


async def test_actions_are_drawn_only_as_fast_as_they_are_sent() -> None:
    """Back-pressure: two chunks in flight, one that waits for its place, and the action that did not fit into it."""
    drawn = 0
    answered = trio.Event()

    async def script(asked: Asked) -> Answer:
        await answered.wait()
        return items(*[200] * len(keys_of(asked)), keys=keys_of(asked))

    async def source() -> AsyncIterator[bulk.Action]:
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield bulk.put("i", str(number), b"{}")

    options = Options(bulk_items=10, bulk_parallel=2)
    with trio.fail_after(WAIT_S):
        async with (
            serving(script) as server,
            open_elasticsearch([server.url], options) as client,
            trio.open_nursery() as nursery,
        ):

            async def send() -> None:
                assert len(await client.bulk(source())) == 100

            nursery.start_soon(send)
            await server.wait_asked(2)
            assert drawn == 31
            answered.set()
    assert drawn == 100


async def test_a_refusal_of_the_whole_is_the_outcome_of_each() -> None:
    async def script(_asked: Asked) -> Answer:
        return Answer(401, error_body("security_exception", "unable to authenticate"), PRODUCT)

    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url]) as client:
            found = await client.bulk(actions_of("ab"))
            assert await client.bulk([]) == []
    assert [type(one) for one in found] == [Refused, Refused]
    assert len(server.asked) == 1


async def test_a_cluster_that_is_not_there_is_told_of_each_item(free_port: int) -> None:
    with trio.fail_after(WAIT_S):
        async with open_elasticsearch([f"http://127.0.0.1:{free_port}"], Options(patience_s=0.1)) as client:
            found = await client.bulk(actions_of("ab"))
    assert [type(one) for one in found] == [Unreachable, Unreachable]
