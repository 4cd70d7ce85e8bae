"""The client with scripted nodes: which are asked, what is tried again, and what is refused or told as unknown."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import (
    Blocked,
    Conflict,
    ElasticsearchError,
    Garbled,
    Missing,
    NotExecuted,
    Options,
    OutcomeUnknown,
    OutOfTime,
    Refused,
    Unreachable,
    open_elasticsearch,
)
from mcpd.drivers.elasticsearch_api import Request
from tests.drivers.elasticsearch.conftest import PRODUCT, error_body
from tests.drivers.scripted import Answer, Asked, Raw, Silence, serving

WAIT_S = 60.0
Said = Answer | Raw | Silence
READ = api.get_document("i", "1")
PLAIN = api.put_document("i", "1", b"{}")
GUARDED = api.put_document("i", "1", b"{}", condition=api.Condition(3, 1))
OK = Answer(200, b"{}", PRODUCT)
CUT = Raw(b"HTTP/1.1 200 OK\r\ncont")
IMPATIENT = Options(patience_s=0.3)


def always(*said: Said) -> Callable[[Asked], Awaitable[Said]]:
    """Say these one after the other, the last again and again."""
    left = list(said)

    async def script(_asked: Asked) -> Said:
        return left.pop(0) if len(left) > 1 else left[0]

    return script


def refusal(status: int, kind: str = "") -> Answer:
    return Answer(status, error_body(kind, "because") if kind else b"<html>", PRODUCT if kind else ())


REFUSALS: list[tuple[Answer, Request, type[ElasticsearchError]]] = [
    (refusal(400, "parsing_exception"), READ, Refused),
    (refusal(401, "security_exception"), READ, Refused),
    (refusal(403, "security_exception"), PLAIN, Refused),
    (refusal(403, "cluster_block_exception"), PLAIN, Blocked),
    (refusal(404, "index_not_found_exception"), READ, Missing),
    (refusal(409, "version_conflict_engine_exception"), GUARDED, Conflict),
    (refusal(413), PLAIN, Refused),
    (refusal(500, "null_pointer_exception"), READ, Refused),
    (refusal(500, "null_pointer_exception"), PLAIN, OutcomeUnknown),
    (refusal(500, "null_pointer_exception"), GUARDED, OutcomeUnknown),
    (refusal(502), PLAIN, OutcomeUnknown),
    (refusal(503), PLAIN, OutcomeUnknown),
    (refusal(503, "process_cluster_event_timeout_exception"), PLAIN, OutcomeUnknown),
    (refusal(504, "search_timeout_exception"), READ, OutOfTime),
    (Answer(301, b"", (("location", "http://elsewhere/"),)), READ, Refused),
    (Answer(200, b"{}", (*PRODUCT, ("content-encoding", "gzip"))), READ, Garbled),
    (Answer(200, b"x" * 2_001, PRODUCT), READ, Garbled),
    (Answer(200, b"", PRODUCT, pieces=[b"x" * 1_500] * 2), READ, Garbled),
]


@pytest.mark.parametrize(("said", "request_", "means"), REFUSALS)
async def test_an_answer_that_settles_it_is_asked_for_once(
    said: Answer, request_: Request, means: type[ElasticsearchError]
) -> None:
    with trio.fail_after(WAIT_S):
        async with (
            serving(always(said)) as server,
            open_elasticsearch([server.url], Options(max_answer_bytes=2_000)) as client,
        ):
            with pytest.raises(ElasticsearchError) as told:
                await client.perform(request_)
            assert type(told.value) is means
            assert len(server.asked) == 1
            assert client.statistics().in_flight == 0


PASSING: list[tuple[Said, Request]] = [
    (refusal(429, "es_rejected_execution_exception"), PLAIN),
    (refusal(429), PLAIN),
    (refusal(503, "unavailable_shards_exception"), PLAIN),
    (refusal(503, "cluster_block_exception"), PLAIN),
    (refusal(502), READ),
    (refusal(503), READ),
    (refusal(504), READ),
    (refusal(503), GUARDED),
    (CUT, READ),
    (CUT, GUARDED),
    (Raw(b""), READ),
    (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), READ),
]


@pytest.mark.parametrize(("said", "request_"), PASSING)
async def test_what_was_not_done_or_does_no_harm_twice_is_tried_again(said: Said, request_: Request) -> None:
    with trio.fail_after(WAIT_S):
        async with serving(always(said, said, OK)) as server, open_elasticsearch([server.url]) as client:
            assert (await client.perform(request_)).status == 200
            assert len(server.asked) == 3
            assert client.statistics() == (1, 1, 0, 0, 2)


@pytest.mark.parametrize(
    ("said", "request_", "means"),
    [
        (refusal(429), PLAIN, NotExecuted),
        (refusal(503, "no_shard_available_action_exception"), READ, NotExecuted),
        (refusal(503), READ, Unreachable),
        (CUT, READ, Unreachable),
        (refusal(503), GUARDED, OutcomeUnknown),
        (CUT, GUARDED, OutcomeUnknown),
    ],
)
async def test_what_does_not_pass_is_given_up_after_a_while(
    said: Said, request_: Request, means: type[ElasticsearchError]
) -> None:
    with trio.fail_after(WAIT_S):
        async with serving(always(said)) as server, open_elasticsearch([server.url], IMPATIENT) as client:
            with pytest.raises(ElasticsearchError) as told:
                await client.perform(request_)
            assert type(told.value) is means
            assert len(server.asked) > 1


async def test_a_cut_write_without_a_condition_is_sent_once_and_unknown() -> None:
    with trio.fail_after(WAIT_S):
        async with serving(always(CUT)) as server, open_elasticsearch([server.url]) as client:
            with pytest.raises(OutcomeUnknown):
                await client.perform(PLAIN)
            assert len(server.asked) == 1


@pytest.mark.parametrize(
    "then",
    [refusal(409, "version_conflict_engine_exception"), refusal(429), refusal(403, "cluster_block_exception")],
)
async def test_a_refusal_of_a_write_that_was_sent_twice_is_no_refusal(then: Answer) -> None:
    """The conflict may be with the first of the two."""
    with trio.fail_after(WAIT_S):
        async with serving(always(CUT, then)) as server, open_elasticsearch([server.url], IMPATIENT) as client:
            with pytest.raises(OutcomeUnknown, match="sent twice"):
                await client.perform(GUARDED)


async def test_nodes_take_turns() -> None:
    with trio.fail_after(WAIT_S):
        async with serving(always(OK)) as a, serving(always(OK)) as b, serving(always(OK)) as c:
            async with open_elasticsearch([a.url, b.url, c.url]) as client:
                for _ in range(6):
                    await client.perform(READ)
            assert [len(node.asked) for node in (a, b, c)] == [2, 2, 2]


async def test_a_dead_node_is_left_out_and_the_others_answer(free_port: int) -> None:
    with trio.fail_after(WAIT_S):
        async with serving(always(OK)) as alive:
            async with open_elasticsearch([f"http://127.0.0.1:{free_port}", alive.url]) as client:
                for _ in range(4):
                    await client.perform(PLAIN)
                assert client.statistics().living == 1
                assert client.statistics().retries == 1
                assert client.failure == ""
            assert len(alive.asked) == 4


async def test_a_proxy_without_a_node_behind_it_is_left_out_and_one_that_refuses_is_not() -> None:
    with trio.fail_after(WAIT_S):
        async with (
            serving(always(refusal(502))) as proxy,
            serving(always(OK)) as alive,
            open_elasticsearch([proxy.url, alive.url]) as client,
        ):
            for _ in range(4):
                await client.perform(READ)
            assert client.statistics().living == 1
        refusing = always(refusal(503, "unavailable_shards_exception"))
        async with serving(refusing) as node, open_elasticsearch([node.url], IMPATIENT) as client:
            with pytest.raises(NotExecuted):
                await client.perform(READ)
            assert client.statistics().living == 1


async def test_without_any_node_a_call_waits_a_while_and_later_ones_are_told_at_once(free_port: int) -> None:
    with trio.fail_after(WAIT_S):
        async with open_elasticsearch([f"http://127.0.0.1:{free_port}"], IMPATIENT) as client:
            with pytest.raises(Unreachable):
                await client.perform(PLAIN)
            assert f"http://127.0.0.1:{free_port}" in client.failure
            before = client.statistics().retries
            for _ in range(200):
                with pytest.raises(Unreachable):
                    await client.perform(PLAIN)
            assert client.statistics().retries - before < 20, "but for a trial now and then nobody is asked"


async def test_a_node_that_comes_back_is_found(free_port: int) -> None:
    with trio.fail_after(WAIT_S):
        async with open_elasticsearch([f"http://127.0.0.1:{free_port}"], IMPATIENT) as client:
            with pytest.raises(Unreachable):
                await client.perform(READ)
            async with serving(always(OK), port=free_port):
                while client.failure:
                    try:
                        await client.perform(READ)
                    except Unreachable:
                        await trio.lowlevel.checkpoint()
                assert client.statistics().living == 1


async def test_the_callers_deadline_is_sent_along() -> None:
    searches = [({"index": "i"}, b'{"size":1}'), ({}, b"{ }"), ({}, b"{}")]
    with trio.fail_after(WAIT_S):
        async with serving(always(OK)) as server, open_elasticsearch([server.url]) as client:
            with trio.CancelScope() as scope:
                scope.deadline = trio.current_time() + 10
                await client.perform(api.search(["i"], b"{}"))
                await client.perform(PLAIN)
                await client.perform(api.search_many(searches))
                await client.perform(READ)
    search, write, many, read = server.asked
    for asked in (search, write):
        assert 9_000 < int(asked.target.partition("timeout=")[2].removesuffix("ms")) < 10_000
    lines = [json.loads(line) for line in many.body.splitlines()]
    assert [sorted(line) for line in lines[1::2]] == [["size", "timeout"], ["timeout"], ["timeout"]]
    assert "timeout" not in read.target


async def test_a_caller_without_a_deadline_sends_none_and_names_itself() -> None:
    async with serving(always(OK)) as server, open_elasticsearch([server.url]) as client:
        await client.perform(api.search(["a,b*", "ü/x"], b"{}", routing="x&y"), opaque_id="request 7 \n")
    (asked,) = server.asked
    assert asked.target == "/a,b*,%C3%BC%2Fx/_search?allow_partial_search_results=false&routing=x%26y"
    assert asked.headers["x-opaque-id"] == "request 7 ?"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["content-type"] == "application/json"
