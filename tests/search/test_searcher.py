"""Search as transports offer it, over the memory store: modes, ranks, facets, highlights, pages, and what fails how.

Meaning comes from an endpoint that knows a few synonyms, on a real socket, through the real provider; spelling from the
built-in one.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpd.config import Embeddings, Limits
from mcpd.drivers.http import open_http
from mcpd.errors import InvalidParams, StoreUnavailable, WireError
from mcpd.monitoring.metrics import Metrics
from mcpd.search import cursors
from mcpd.search.answers import PRIVATE
from mcpd.search.chunking import chunk
from mcpd.search.embeddings import EmbeddingError, EmbeddingProvider, HashProvider
from mcpd.search.endpoint import HttpProvider
from mcpd.search.query import Search, parse
from mcpd.search.searcher import PLACES, REST_S, Blend, Searcher
from mcpd.storage.documents import (
    BadCursor,
    BadQuery,
    Document,
    Documents,
    Facet,
    Found,
    Matching,
    Put,
    Span,
    StorageError,
    StoreUnreachable,
    TooLong,
)
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.refusals import DOCUMENTS, refusal
from mcpd.storage.sqlite.documents import open_documents
from tests.drivers.scripted import HOLD, Answer, Asked, Raw, Scripted, Silence, serving

WAIT_S = 20.0
LIMITS = Limits()
CONCEPTS = (("car", "automobile", "vehicle"), ("dog", "hound"), ("ship", "vessel"), ("tea", "brew"))
TEXTS = {
    "docs:///a.md": "The car stood in the yard. Nobody drove it.",
    "docs:///b.md": "An automobile needs oil.",
    "docs:///c.md": "A dog barked at the ship, and the ship left.",
    "docs:///d.md": "A hound is patient.",
    "docs:///e.md": "Nothing of the kind.",
}


def concept_vector(text: str) -> list[float]:
    words = [word.strip(".,?") for word in text.lower().split()]
    counts = [float(sum(word in concept for word in words)) for concept in CONCEPTS]
    return [*counts, 0.05]


class Model:
    """What the endpoint does: answers by concepts, or whatever `says` says instead."""

    def __init__(self) -> None:
        self.says: Answer | Raw | Silence | None = None

    async def __call__(self, asked: Asked) -> Answer | Raw | Silence:
        if self.says is not None:
            return self.says
        items = [
            {"index": at, "embedding": concept_vector(text)} for at, text in enumerate(json.loads(asked.body)["input"])
        ]
        return Answer(body=json.dumps({"data": items}).encode())


async def fill(provider: EmbeddingProvider, texts: dict[str, str] = TEXTS) -> MemoryDocuments:
    """Return a store of these texts, cut and embedded."""
    store = MemoryDocuments(clock=iter(range(10**9)).__next__)
    await put(store, provider, texts)
    return store


async def put(store: Documents, provider: EmbeddingProvider, texts: dict[str, str]) -> None:
    for number, (uri, text) in enumerate(texts.items()):
        spans = tuple(Span(piece.start, piece.end, piece.heading) for piece in chunk(text, "text/markdown"))
        vectors = await provider.embed([text[span.start : span.end] for span in spans])
        document = Document(
            uri=uri,
            title=uri[-4:],
            mime_type="text/markdown",
            text=text,
            tags=("even" if number % 2 == 0 else "odd",),
            metadata={"n": number},
            digest=uri,
        )
        await store.write([Put(document=document, spans=spans, vectors=tuple(vectors), model=provider.model)])


class Meaning:
    """A searcher with a model behind an endpoint, and all that a test may want to reach."""

    def __init__(self, searcher: Searcher, model: Model, server: Scripted, metrics: Metrics) -> None:
        self.searcher = searcher
        self.model = model
        self.server = server
        self.metrics = metrics

    async def search(self, **body: Any) -> dict[str, Any]:
        return await self.searcher.search(parse(body, limits=LIMITS))


@asynccontextmanager
async def meaning_of(
    texts: dict[str, str] = TEXTS, *, patience_s: float = 5.0, candidates: int = 100
) -> AsyncIterator[Meaning]:
    """Give a searcher over these texts; a query is asked for each time, nothing is remembered."""
    model, metrics = Model(), Metrics()
    with trio.fail_after(WAIT_S):
        async with serving(model) as server, open_http(reply_s=10.0, max_reply_bytes=1 << 20) as client:
            provider = HttpProvider(
                client, Embeddings(url=server.url, model="concepts", max_cache_bytes=0), first_pause_s=0.001
            )
            store = await fill(provider, texts)
            blend = Blend(candidates=candidates)
            searcher = Searcher(store, provider, patience_s=patience_s, observe=metrics.search_finished, blend=blend)
            yield Meaning(searcher, model, server, metrics)


async def spelling(texts: dict[str, str] = TEXTS) -> Searcher:
    provider = HashProvider()
    return Searcher(await fill(provider, texts), provider, patience_s=5.0)


async def ask(searcher: Searcher, **body: Any) -> dict[str, Any]:
    return await searcher.search(parse(body, limits=LIMITS))


def uris(answer: dict[str, Any]) -> list[str]:
    return [hit["uri"] for hit in answer["hits"]]


async def test_a_text_search_answers_with_all_that_is_promised() -> None:
    searcher = await spelling()
    answer = await ask(searcher, query="ship", mode="text", facets=[{"field": "tags"}])
    [hit] = answer["hits"]
    assert hit | {"score": 0} == {
        "uri": "docs:///c.md",
        "title": "c.md",
        "mimeType": "text/markdown",
        "tags": ["even"],
        "metadata": {"n": 2},
        "score": 0,
        "ranks": {"text": 1},
        "span": {"start": 0, "end": len(TEXTS["docs:///c.md"]), "heading": ""},
        "highlights": ["A dog barked at the **ship**, and the **ship** left."],
    }
    assert hit["score"] > 0
    assert answer["total"] == 1
    assert answer["mode"] == "text"
    assert answer["facets"] == {"tags": [{"value": "even", "count": 1}]}
    assert isinstance(answer["took"], int)
    assert "nextCursor" not in answer
    assert "degraded" not in answer
    json.dumps(answer, allow_nan=False)


async def test_semantic_search_finds_what_means_the_same_in_other_words() -> None:
    async with meaning_of() as m:
        answer = await m.search(query="vehicle", mode="semantic", size=2)
    assert set(uris(answer)) == {"docs:///a.md", "docs:///b.md"}
    assert [hit["ranks"] for hit in answer["hits"]] == [{"semantic": 1}, {"semantic": 2}]
    assert answer["hits"][0]["score"] == pytest.approx(1.0, abs=0.01)
    assert "total" not in answer


async def test_hybrid_search_merges_both_and_gives_each_hit_its_ranks() -> None:
    async with meaning_of() as m:
        answer = await m.search(query="automobile", size=3)
    assert answer["mode"] == "hybrid"
    assert uris(answer)[:2] == ["docs:///b.md", "docs:///a.md"]
    first, second = answer["hits"][:2]
    assert first["ranks"].keys() == {"text", "semantic"}
    assert first["ranks"]["text"] == 1
    assert second["ranks"].keys() == {"semantic"}
    assert first["score"] > second["score"]
    assert "total" not in answer


async def test_a_hit_without_a_marked_word_shows_how_its_chunk_begins() -> None:
    async with meaning_of() as m:
        answer = await m.search(query="automobile", size=2)
        silent = await m.search(query="automobile", size=2, highlight=False)
    assert [hit["highlights"] for hit in answer["hits"]] == [
        ["An **automobile** needs oil."],
        ["The car stood in the yard. Nobody drove it."],
    ]
    assert all("highlights" not in hit for hit in silent["hits"])


async def test_the_caller_may_choose_its_own_marks() -> None:
    searcher = await spelling()
    answer = await searcher.search(Search(query="oil", mode="text"), marks=PRIVATE)
    assert answer["hits"][0]["highlights"] == ["An automobile needs \ue000oil\ue001."]


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        ({"query": "car"}, "hybrid"),
        ({"query": "car", "sort": "title"}, "text"),
        ({"query": "car", "sort": "score"}, "hybrid"),
        ({}, "text"),
        ({"query": "car", "mode": "semantic"}, "semantic"),
        ({"query": "car", "mode": "text"}, "text"),
    ],
)
async def test_with_a_model_the_mode_is_hybrid_where_that_makes_sense(body: dict[str, Any], mode: str) -> None:
    async with meaning_of() as m:
        assert (await m.search(**body))["mode"] == mode


async def test_with_spelling_alone_the_mode_is_text_unless_asked_for() -> None:
    searcher = await spelling()
    assert (await ask(searcher, query="car"))["mode"] == "text"
    answer = await ask(searcher, query="automobil", mode="hybrid")
    assert uris(answer)[0] == "docs:///b.md"
    assert answer["hits"][0]["ranks"] == {"semantic": 1}


async def test_a_query_without_any_letter_finds_nothing_by_vector() -> None:
    searcher = await spelling()
    assert (await ask(searcher, query="?!", mode="semantic"))["hits"] == []
    assert (await ask(searcher, query="?!", mode="hybrid"))["hits"] == []


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
async def test_the_kept_store_answers_as_the_one_in_memory_does(mode: str, tmp_path: Path) -> None:
    provider = HashProvider()
    with trio.fail_after(WAIT_S):
        async with open_documents(tmp_path) as kept:
            await put(kept, provider, TEXTS)
            await kept.refresh()
            on_disk = Searcher(kept, provider, patience_s=5.0)
            body = {
                "query": "ship automobile",
                "mode": mode,
                "facets": [{"field": "tags"}],
                "filters": {"tags": "even"},
            }
            answer = await ask(on_disk, **body)
            expected = await ask(await spelling(), **body)
    assert [comparable(hit) for hit in answer["hits"]] == [comparable(hit) for hit in expected["hits"]]
    assert answer["facets"] == expected["facets"]
    assert answer.get("total") == expected.get("total")


def comparable(hit: dict[str, Any]) -> dict[str, Any]:
    """Leave out the score, which each store has its own of."""
    return {name: value for name, value in hit.items() if name != "score"}


async def test_filters_hold_for_both_retrievers() -> None:
    async with meaning_of() as m:
        for mode in ("text", "semantic", "hybrid"):
            answer = await m.search(query="car automobile", mode=mode, filters={"tags": "odd"})
            assert set(uris(answer)) <= {"docs:///b.md", "docs:///d.md"}, mode
            assert uris(answer)[0] == "docs:///b.md"


async def test_facets_count_what_fits_the_words_and_in_semantic_mode_what_fits_the_filters() -> None:
    facets = [{"field": "tags"}, {"field": "metadata.n", "ranges": [{"to": 2}, {"from": 2}]}]
    async with meaning_of() as m:
        hybrid = await m.search(query="car ship", facets=facets)
        semantic = await m.search(query="car ship", mode="semantic", facets=facets)
    assert hybrid["facets"] == {
        "tags": [{"value": "even", "count": 2}],
        "metadata.n": [{"value": "*-2", "count": 1}, {"value": "2-*", "count": 1}],
    }
    assert sum(bucket["count"] for bucket in semantic["facets"]["tags"]) == len(TEXTS)


async def test_ranges_of_time_are_named_in_iso_8601() -> None:
    searcher = await spelling()
    ranges = [{"to": "1970-01-01T00:00:02"}, {"from": "1970-01-01T00:00:02", "to": "1971-01-01"}]
    answer = await ask(searcher, facets=[{"field": "created", "ranges": ranges}])
    assert answer["facets"]["created"] == [
        {"value": "../1970-01-01T00:00:02Z", "count": 2},
        {"value": "1970-01-01T00:00:02Z/1971-01-01", "count": 3},
    ]


async def test_size_zero_gives_total_and_facets_alone() -> None:
    searcher = await spelling()
    answer = await ask(searcher, size=0, facets=[{"field": "mimeType"}])
    assert answer["hits"] == []
    assert answer["total"] == len(TEXTS)
    assert answer["facets"] == {"mimeType": [{"value": "text/markdown", "count": len(TEXTS)}]}
    assert "nextCursor" not in answer


async def pages(searcher: Searcher, **body: Any) -> list[dict[str, Any]]:
    """Return all pages of a search."""
    found = [await ask(searcher, **body)]
    while "nextCursor" in found[-1]:
        found.append(await ask(searcher, cursor=found[-1]["nextCursor"], **body))
    return found


MANY = {f"docs:///{number:02}.md": f"car number {number}" + " and more" * (number % 7) for number in range(23)}


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
async def test_pages_show_each_hit_once_in_the_order_of_one_large_page(mode: str) -> None:
    async with meaning_of(MANY) as m:
        whole = await m.search(query="car number", mode=mode, size=100)
        paged = await pages(m.searcher, query="car number", mode=mode, size=4)
    assert [len(page["hits"]) for page in paged] == [4, 4, 4, 4, 4, 3]
    shown = [hit for page in paged for hit in page["hits"]]
    assert [(hit["uri"], hit["ranks"]) for hit in shown] == [(hit["uri"], hit["ranks"]) for hit in whole["hits"]]


async def test_pages_of_a_sorted_listing_follow_the_field() -> None:
    searcher = await spelling(MANY)
    paged = await pages(searcher, sort="-metadata.n", size=10)
    assert [hit["metadata"]["n"] for page in paged for hit in page["hits"]] == list(reversed(range(23)))
    assert paged[0]["hits"][0]["ranks"] == {}


async def test_a_hybrid_search_ends_with_its_window() -> None:
    async with meaning_of(MANY, candidates=6) as m:
        paged = await pages(m.searcher, query="car", mode="semantic", size=4)
    assert [len(page["hits"]) for page in paged] == [4, 2]


async def test_what_comes_between_two_pages_is_not_a_reason_to_show_anything_twice() -> None:
    provider = HashProvider()
    store = await fill(provider, MANY)
    searcher = Searcher(store, provider, patience_s=5.0)
    body = {"query": "car number 7", "mode": "hybrid", "size": 5}
    first = await ask(searcher, **body)
    [vector] = await provider.embed(["car number 7"])
    document = Document(uri="docs:///new.md", title="t", mime_type="text/plain", text="car number 7", digest="new")
    await store.write([Put(document=document, spans=(Span(0, 12),), vectors=(vector,), model=provider.model)])
    second = await ask(searcher, cursor=first["nextCursor"], **body)
    assert not set(uris(first)) & set(uris(second))
    assert "docs:///new.md" in uris(second)


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
async def test_a_cursor_of_another_search_is_refused(mode: str) -> None:
    searcher = await spelling(MANY)
    cursor = (await ask(searcher, query="car", mode=mode, size=2))["nextCursor"]
    for other in ({"query": "car number"}, {"query": "car", "filters": {"tags": "odd"}}):
        with pytest.raises(InvalidParams, match="another search"):
            await ask(searcher, mode=mode, size=2, cursor=cursor, **other)
    same = await ask(searcher, query="car", mode=mode, size=7, highlight=False, cursor=cursor)
    assert len(same["hits"]) == 7


@settings(deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_other_text_is_no_cursor(text: str) -> None:
    first = cursors.first_position(Search(query="car"), "text", "m")
    with pytest.raises(BadCursor):
        cursors.decode(text, first)


@given(st.integers(0, 10**6), st.none() | st.text(max_size=20), st.lists(st.text(max_size=8), unique=True, max_size=20))
def test_a_cursor_brings_back_the_place_it_was_made_of(before: int, inner: str | None, seen: list[str]) -> None:
    first = cursors.first_position(Search(query="car"), "hybrid", "m")
    position = (
        cursors.Position(first.search, before, inner).after(seen)
        if inner is None
        else cursors.Position(first.search, before, inner)
    )
    again = cursors.decode(cursors.encode(position), first)
    assert again == position
    assert inner is not None or all(map(again.has_shown, seen))
    assert not again.has_shown("never shown")


@pytest.mark.parametrize(
    "failure", [Answer(503), Answer(401), Answer(body=b"<html>"), Raw(b"")], ids=["down", "refusing", "garbage", "cut"]
)
async def test_hybrid_search_goes_on_by_words_when_the_endpoint_fails_and_says_so(
    failure: Answer | Raw, caplog: pytest.LogCaptureFixture
) -> None:
    async with meaning_of() as m:
        m.model.says = failure
        with caplog.at_level(logging.WARNING, "mcpd.search"):
            answer = await m.search(query="automobile")
    assert answer["degraded"] == "semantic"
    assert answer["mode"] == "hybrid"
    assert uris(answer) == ["docs:///b.md"]
    assert answer["hits"][0]["ranks"] == {"text": 1}
    assert "without its semantic part" in caplog.text


async def test_hybrid_search_does_not_wait_longer_than_its_patience_and_the_socket_is_closed() -> None:
    async with meaning_of(patience_s=0.1) as m:
        closed = m.server.closed
        m.model.says = HOLD
        answer = await m.search(query="automobile")
        assert answer["degraded"] == "semantic"
        await m.server.wait_closed(closed + 1)


async def test_an_endpoint_that_failed_is_left_alone_for_a_while() -> None:
    async with meaning_of() as m:
        m.model.says = Answer(401)
        await m.search(query="automobile")
        m.model.says = None
        asked = len(m.server.asked)
        assert (await m.search(query="automobile"))["degraded"] == "semantic"
        assert len(m.server.asked) == asked, "not asked again"
        assert uris(await m.search(query="vehicle", mode="semantic", size=1)), "an explicit wish is tried at once"


async def test_after_that_while_it_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    provider = Failing()
    searcher = Searcher(await fill(HashProvider()), provider, patience_s=1.0)
    request = Search(query="car", mode="hybrid")
    for _ in range(3):
        assert (await searcher.search(request))["degraded"] == "semantic"
    assert provider.asked == 1
    await trio.sleep(REST_S)
    await searcher.search(request)
    assert provider.asked == 2


class Failing:
    """A provider whose model is never there."""

    model, dims, semantic = "none", None, True

    def __init__(self) -> None:
        self.asked = 0

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        self.asked += 1
        await trio.sleep(0.5)
        raise StoreUnreachable("no model")


async def test_semantic_search_fails_when_the_endpoint_does() -> None:
    async with meaning_of() as m:
        m.model.says = Answer(503)
        with pytest.raises(StoreUnavailable, match="embedding service"):
            await m.search(query="automobile", mode="semantic")


async def test_a_cancelled_search_closes_the_socket_of_its_embedding() -> None:
    async with meaning_of() as m:
        asked, closed = len(m.server.asked), m.server.closed
        m.model.says = HOLD
        async with trio.open_nursery() as nursery:
            nursery.start_soon(m.searcher.search, Search(query="car", mode="hybrid"))
            await m.server.wait_asked(asked + 1)
            cancelled_at = trio.current_time()
            nursery.cancel_scope.cancel()
        await m.server.wait_closed(closed + 1)
        assert trio.current_time() - cancelled_at < 2, "long before its time is up"


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
async def test_what_the_store_does_not_take_is_the_callers_mistake(mode: str) -> None:
    searcher = await spelling()
    with pytest.raises(InvalidParams, match="created"):
        await ask(searcher, query="car", mode=mode, filters={"created": "soon"})


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BadQuery("q"), InvalidParams("q")),
        (BadCursor("c"), InvalidParams("c")),
        (TooLong("l"), InvalidParams("l")),
        (StoreUnreachable("u"), StoreUnavailable("The document store is unavailable; try again shortly")),
        (StorageError("s"), StoreUnavailable("The document store is unavailable; try again shortly")),
        (EmbeddingError("e"), StoreUnavailable("The embedding service is unavailable; try again shortly")),
    ],
)
def test_only_what_is_written_for_callers_is_told_to_them(error: StorageError, told: WireError) -> None:
    said = refusal(error, DOCUMENTS)
    assert (type(said), said.message) == (type(told), told.message)
    assert said.detail == ("" if isinstance(told, InvalidParams) else str(error))


async def test_answered_searches_are_measured_by_the_mode_they_ran_in() -> None:
    async with meaning_of() as m:
        await m.search(query="car")
        await m.search(query="car", mode="text")
        await m.search()
        m.model.says = Answer(503)
        with pytest.raises(StoreUnavailable):
            await m.search(query="car", mode="semantic")
        text = m.metrics.exposition(None)[0].decode()
    assert 'mcpd_search_duration_seconds_count{mode="hybrid"} 1.0' in text
    assert 'mcpd_search_duration_seconds_count{mode="text"} 2.0' in text
    assert 'mode="semantic"' not in text


class Held(MemoryDocuments):
    """A store in which to look for "heavy" takes until it is let go, and no document is ever loaded whole."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.let_go = trio.Event()

    async def match(self, query: Matching) -> Found:
        if query.text == "heavy":
            self.held += 1
            await self.let_go.wait()
        return await super().match(query)

    async def get(self, uri: str) -> Document | None:
        raise AssertionError(f"{uri} was loaded")


async def test_many_heavy_searches_of_one_caller_do_not_make_anothers_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = Held()
    await put(store, HashProvider(), TEXTS)
    searcher = Searcher(store, HashProvider(), patience_s=1.0)
    heavy = Search(query="heavy", mode="text", facets=(Facet(field="tags"),))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(partial(searcher.search, heavy, owner="busy"))
        await trio.testing.wait_all_tasks_blocked()
        assert 1 < store.held < PLACES
        with trio.fail_after(1):
            for owner in ("one", "other"):
                answer = await searcher.search(Search(query="oil", facets=heavy.facets), owner=owner)
                assert uris(answer) == ["docs:///b.md"]
        store.let_go.set()
    assert store.held == 20


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
async def test_no_document_is_loaded_whole_for_what_a_hit_shows(mode: str) -> None:
    store = Held()
    await put(store, HashProvider(), TEXTS)
    answer = await ask(Searcher(store, HashProvider(), patience_s=1.0), query="hound", mode=mode, size=5)
    assert any("hound" in fragment for hit in answer["hits"] for fragment in hit["highlights"])
