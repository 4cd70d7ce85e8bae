"""What goes along with requests: compression, warnings, sniffing, what is observed."""

from __future__ import annotations

import gzip
import json
import logging

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Options, OutcomeUnknown, Refused, Unreachable, open_elasticsearch
from tests.drivers.elasticsearch.conftest import PRODUCT
from tests.drivers.elasticsearch.test_client import CUT, OK, PLAIN, READ, always, refusal
from tests.drivers.scripted import HOLD, Answer, Asked, serving

WAIT_S = 60.0


@pytest.mark.parametrize("size", [999, 1_000, 300_000])
async def test_a_long_body_is_sent_compressed(size: int) -> None:
    body = b'"%b"' % (b"x" * (size - 2))
    options = Options(compress_bytes=1_000)
    async with serving(always(OK)) as server, open_elasticsearch([server.url], options) as client:
        await client.perform(api.put_document("i", "1", body))
    (asked,) = server.asked
    if size < 1_000:
        assert "content-encoding" not in asked.headers
        assert asked.body == body
    else:
        assert asked.headers["content-encoding"] == "gzip"
        assert gzip.decompress(asked.body) == body
        assert len(asked.body) < size


async def test_elasticsearch_takes_a_compressed_body(elasticsearch_url: str, prefix: str) -> None:
    with trio.fail_after(WAIT_S):
        async with open_elasticsearch([elasticsearch_url], Options(compress_bytes=1)) as client:
            await client.perform(api.put_document(prefix, "1", {"text": "x" * 500_000}))
            assert len((await client.perform(api.get_document(prefix, "1"))).body) > 500_000


async def test_each_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    first = ("Warning", '299 Elasticsearch-8.19.16-abc "this \\"thing\\" is old"')
    second = ("Warning", '299 Elasticsearch-8.19.16-abc "that is old"')
    answer = Answer(200, b"{}", (*PRODUCT, first, second))
    with caplog.at_level(logging.WARNING):
        async with serving(always(answer)) as server, open_elasticsearch([server.url]) as client:
            await client.perform(READ)
            await client.perform(READ)
    assert [record.getMessage() for record in caplog.records] == [
        'Elasticsearch warns: this "thing" is old',
        "Elasticsearch warns: that is old",
    ]


def nodes_of(*addresses: tuple[str, str]) -> Answer:
    nodes = {
        str(n): {"roles": [role], "http": {"publish_address": address}} for n, (address, role) in enumerate(addresses)
    }
    return Answer(200, json.dumps({"nodes": nodes}).encode(), PRODUCT)


async def test_a_sniffing_client_uses_the_nodes_that_the_cluster_names() -> None:
    async with serving(always(OK)) as other:
        port = other.url.rpartition(":")[2]

        async def script(asked: Asked) -> Answer:
            known = server.url.removeprefix("http://")
            named = (known, "data"), (f"localhost/127.0.0.1:{port}", "data"), ("10.0.0.1:1", "master")
            return nodes_of(*named) if asked.target.startswith("/_nodes") else OK

        with trio.fail_after(WAIT_S):
            async with serving(script) as server, open_elasticsearch([server.url], Options(sniff=True)) as client:
                for _ in range(4):
                    await client.perform(READ)
                assert client.statistics().nodes == 2
    assert len(other.asked) == 2
    assert len(server.asked) == 3
    assert other.asked[0].headers["host"] == f"localhost:{port}"


async def test_a_node_that_the_cluster_no_longer_has_ends_its_exchange_in_peace() -> None:
    release = trio.Event()

    async def old(asked: Asked) -> Answer:
        if asked.target.startswith("/_nodes"):
            return nodes_of((new.url.removeprefix("http://"), "data"))
        await release.wait()
        return OK

    with trio.fail_after(WAIT_S):
        async with serving(always(OK)) as new, serving(old) as gone:
            async with open_elasticsearch([gone.url], Options(sniff=True)) as client:
                await client.perform(READ)
                assert client.statistics().nodes == 1
                await gone.wait_closed(1)
            assert [asked.target for asked in gone.asked] == [
                "/_nodes/http?filter_path=nodes.*.version,nodes.*.roles,nodes.*.http.publish_address"
            ]
            assert len(new.asked) == 1


async def test_a_cluster_that_names_no_nodes_keeps_those_that_are_known() -> None:
    async def script(asked: Asked) -> Answer:
        return refusal(403, "security_exception") if asked.target.startswith("/_nodes") else OK

    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url], Options(sniff=True)) as client:
            await client.perform(READ)
            await client.perform(READ)
        assert len(server.asked) == 3


async def test_a_real_cluster_names_its_node(elasticsearch_url: str) -> None:
    with trio.fail_after(WAIT_S):
        async with open_elasticsearch([elasticsearch_url], Options(sniff=True)) as client:
            await client.perform(api.cluster_health())
            assert (client.statistics().nodes, client.product) == (1, "elasticsearch")


async def test_each_call_is_observed_with_its_name_and_outcome() -> None:
    observed: list[str] = []

    def observe(operation: str, outcome: str, seconds: float) -> None:
        assert seconds > 0
        observed.append(f"{operation} {outcome}")

    script = always(OK, refusal(400, "x"), CUT, refusal(503))
    options = Options(patience_s=0.1)
    with trio.fail_after(WAIT_S):
        async with serving(script) as server, open_elasticsearch([server.url], options, observe) as client:
            await client.perform(READ)
            with pytest.raises(Refused):
                await client.perform(READ)
            with pytest.raises(OutcomeUnknown):
                await client.perform(PLAIN)
            with pytest.raises(Unreachable):
                await client.perform(READ)
        async with (
            serving(always(HOLD)) as silent,
            open_elasticsearch([silent.url], options, observe) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(client.perform, READ)
            await silent.wait_asked(1)
            nursery.cancel_scope.cancel()
    assert observed == ["get ok", "get refused", "index unknown", "get unavailable", "get cancelled"]
