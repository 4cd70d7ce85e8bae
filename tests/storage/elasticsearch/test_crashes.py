"""Writers that die, dawdle or lose their cluster: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Elasticsearch, Options, open_elasticsearch
from mcpd.drivers.elasticsearch.bulk import Bulk
from mcpd.drivers.elasticsearch_bulk import Action, Outcome
from mcpd.storage.documents import Change, Matching, Near, Notice, Put, Relation, Remove, StoreUnreachable
from mcpd.storage.elasticsearch import schema
from mcpd.storage.elasticsearch.documents import ElasticsearchDocuments, open_documents
from mcpd.storage.elasticsearch.reconciling import Reconciled, Reconciler
from tests.contract.backends import put
from tests.elasticsearch_server import ElasticsearchServer, fresh_prefix

OPTIONS = {"refresh_interval": "50ms", "number_of_replicas": 0}
OLD = {"vectors": [(1.0, 0.0)], "model": "m"}
NEW = {"vectors": [(0.0, 1.0), (0.6, 0.8)], "model": "m"}
CHANGES: dict[str, Change] = {
    "update": put("a", "after", "later", **NEW),  # type: ignore[arg-type]
    "removal": Remove(uri="a"),
    "creation": put("b", "after", **OLD),  # type: ignore[arg-type]
}
A_LATER_YEAR_S = 1e10


class DiedError(Exception):
    """The process of this writer is no more."""


class Watched:
    """A client whose n-th request is preceded by something."""

    def __init__(self, client: Elasticsearch, n: int, happening: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._left = n
        self._happening = happening

    async def bulk(self, actions: Iterable[Action], *, refresh: api.Refresh = "") -> list[Outcome]:
        return await Bulk(self.perform, Options(), refresh).run(actions)

    async def perform(self, request: api.Request, **more: Any) -> api.Answer:
        if self._left == 0:
            self._left = -1
            await self._happening()
        self._left -= 1
        return await self._client.perform(request, **more)


@pytest.fixture
def prefix(elasticsearch: ElasticsearchServer) -> Iterator[str]:
    chosen = fresh_prefix()
    yield chosen
    elasticsearch.forget(chosen)


@asynccontextmanager
async def opened(
    server: ElasticsearchServer, prefix: str
) -> AsyncIterator[tuple[Elasticsearch, ElasticsearchDocuments]]:
    async with (
        open_elasticsearch([server.url]) as client,
        open_documents(client, prefix, options=OPTIONS, poll_s=0.05) as documents,
    ):
        yield client, documents


async def reconcile(client: Elasticsearch, prefix: str, **ages: float) -> Reconciled:
    names = schema.usable(await schema.current(client, prefix), prefix)
    return await Reconciler(client, names).run(A_LATER_YEAR_S, **{"tombstone_s": 2 * A_LATER_YEAR_S, **ages})


def stored(server: ElasticsearchServer, prefix: str, name: str) -> list[str]:
    """The URIs of an index's records, as they are there, whoever names them."""
    server.ask("POST", f"/{prefix}-{name}/_refresh")
    found = server.ask("POST", f"/{prefix}-{name}/_search", {"size": 10_000, "_source": ["uri"]})
    return sorted(hit["_source"].get("uri", "") for hit in found[1]["hits"]["hits"])


async def seen(documents: ElasticsearchDocuments, uri: str) -> tuple[str | None, list[str], list[str], list[str]]:
    """Its text, and whether it is found by its words before, its words after, and its vectors."""
    await documents.refresh()
    document = await documents.get(uri)
    hits = [(await documents.match(Matching(text=text))).hits for text in ("before", "after")]
    near = await documents.nearest(Near(vector=(1.0, 0.0), model="m"))
    found = [[hit.head.uri for hit in one if hit.head.uri == uri] for one in (*hits, near)]
    return None if document is None else document.text, found[0], found[1], found[2]


async def written_until(documents: ElasticsearchDocuments, client: Elasticsearch, change: Change, n: int) -> bool:
    """Write by a process that dies before its n-th request; return whether it came to its end."""

    async def die() -> None:
        raise DiedError

    documents._client = Watched(client, n, die)  # type: ignore[assignment]
    died = False
    try:
        await documents.write([change])
    except* DiedError:
        died = True
    finally:
        documents._client = client
    return not died


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_wherever_a_writer_dies_its_change_is_whole_or_absent(
    elasticsearch: ElasticsearchServer, prefix: str, change: Change
) -> None:
    uri = change.uri
    async with opened(elasticsearch, prefix) as (client, documents):
        for n in itertools.count():
            await documents.write([put("a", "before", **OLD), Remove(uri="b")])  # type: ignore[arg-type]
            await documents.relate(Relation("a", f"cites{n}", "c"))
            before = await seen(documents, uri)
            ended = await written_until(documents, client, change, n)
            found = await seen(documents, uri)
            text = found[0]
            assert found == before or text != before[0], "nobody is shown what was not committed"
            await reconcile(client, prefix, young_s=0.0)
            now, after = await seen(documents, uri), _after(change)
            assert now[0] == text
            assert now in ([after] if ended else [before, after]), n
            live = [one.uri for one in (await documents.page((), None, 10)).items]
            assert stored(elasticsearch, prefix, "fulltext") == stored(elasticsearch, prefix, "vector") == live
            assert bool(await documents.related("a", 10)) == ("a" in live)
            if ended:
                assert n >= 3
                return


def _after(change: Change) -> tuple[str | None, list[str], list[str], list[str]]:
    if isinstance(change, Put):
        return change.document.text, [], [change.uri], [change.uri]
    return None, [], [], []


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_slow_writer_whose_content_was_taken_for_dead_writes_it_anew(
    elasticsearch: ElasticsearchServer, prefix: str, change: Change
) -> None:
    async with opened(elasticsearch, prefix) as (client, documents):
        for n in range(8):
            await documents.write([put("a", "before", **OLD), Remove(uri="b")])  # type: ignore[arg-type]

            async def clean() -> None:
                await reconcile(client, prefix, young_s=0.0)

            documents._client = Watched(client, n, clean)  # type: ignore[assignment]
            outcomes = await documents.write([change])
            documents._client = client
            assert outcomes[0].status in {"created", "updated", "removed"}
            assert await seen(documents, change.uri) == _after(change), n


async def test_what_a_change_replaces_is_gone_when_it_is_acknowledged(
    elasticsearch: ElasticsearchServer, prefix: str
) -> None:
    async with opened(elasticsearch, prefix) as (_, documents):
        for change, left in ((put("a", "before", **OLD), ["a"]), (CHANGES["update"], ["a"]), (Remove(uri="a"), [])):  # type: ignore[arg-type]
            await documents.write([change])
            assert [stored(elasticsearch, prefix, name) for name in ("fulltext", "vector")] == [left, left]


async def test_tombstones_go_when_no_writer_can_be_left(elasticsearch: ElasticsearchServer, prefix: str) -> None:
    async with opened(elasticsearch, prefix) as (client, documents):
        await documents.write([put("a", "before"), Remove(uri="a")])
        assert stored(elasticsearch, prefix, "metadata") == ["a"]
        assert await reconcile(client, prefix, tombstone_s=0.0) == Reconciled(tombstones=1)
        assert stored(elasticsearch, prefix, "metadata") == []
        assert (await documents.write([put("a", "after")]))[0].status == "created"


async def test_changes_by_another_process_are_told(
    elasticsearch: ElasticsearchServer, prefix: str, nursery: trio.Nursery
) -> None:
    heard, telling = trio.open_memory_channel[Notice](10)
    async with opened(elasticsearch, prefix) as (_, one), opened(elasticsearch, prefix) as (_, other):
        await nursery.start(one.watch, heard.send_nowait)
        for change, expected in (
            (put("a", "one"), Notice("a", listed=True)),
            (put("a", "two"), Notice("a", listed=False)),
            (Remove(uri="a"), Notice("a", listed=True)),
        ):
            await other.write([change])
            with trio.fail_after(30):
                assert await telling.receive() == expected
        nursery.cancel_scope.cancel()


CHILD = """
import sys, trio
from mcpd.drivers.elasticsearch import open_elasticsearch
from mcpd.storage.elasticsearch.documents import open_documents
from tests.contract.backends import put

async def main(url, prefix, run):
    async with open_elasticsearch([url]) as client, open_documents(client, prefix) as documents:
        for n in range(10_000):
            batch = [put(f"{run}/{n}/{m}", "word", vectors=[(1.0, 0.0)], model="m") for m in range(20)]
            for outcome in await documents.write(batch):
                print(outcome.uri, flush=True)

trio.run(main, *sys.argv[1:])
"""


def _killed_after(words: list[str], count: int) -> set[str]:
    """Run a writer, kill it when it has told of so many documents, and return those that it has told of."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(count)]
        os.kill(child.pid, signal.SIGKILL)
        return {line.strip() for line in [*told, *child.stdout] if line.endswith("\n")}


@pytest.mark.slow
async def test_what_was_acknowledged_before_kill_9_is_in_all_indices(
    elasticsearch: ElasticsearchServer, prefix: str
) -> None:
    acknowledged: set[str] = set()
    async with opened(elasticsearch, prefix) as (client, documents):
        for run in range(5):
            words = [sys.executable, "-c", CHILD, elasticsearch.url, prefix, str(run)]
            acknowledged |= await trio.to_thread.run_sync(_killed_after, words, 21 + 13 * run)
        await reconcile(client, prefix, young_s=0.0)
        heads = [head.uri for head in (await documents.page((), None, 9_000)).items]
        assert acknowledged <= set(heads)
        assert stored(elasticsearch, prefix, "fulltext") == stored(elasticsearch, prefix, "vector") == heads
        assert (await documents.match(Matching(text="word", limit=1))).total == len(heads)


@pytest.mark.slow
async def test_documents_outlive_a_cluster_that_is_killed_and_comes_back(
    elasticsearch: ElasticsearchServer, prefix: str
) -> None:
    async with opened(elasticsearch, prefix) as (client, documents):
        outcomes = await documents.write([put(f"{n}", "word", vectors=[(1.0, 0.0)], model="m") for n in range(50)])
        await trio.to_thread.run_sync(elasticsearch.kill)
        with pytest.raises(StoreUnreachable):
            await documents.match(Matching(text="word"))
        elasticsearch.start_again()
        await trio.to_thread.run_sync(elasticsearch.wait_up)
        await documents.refresh()
        assert (await documents.match(Matching(text="word"))).total == len(outcomes)
        await reconcile(client, prefix, young_s=0.0)
        assert (await documents.statistics()).vectors == len(outcomes)
