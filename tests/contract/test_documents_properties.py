"""Whatever is written and asked: both backends answer what a naive oracle answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpd.storage.documents import (
    MARK_END,
    MARK_START,
    Condition,
    Documents,
    Facet,
    Matching,
    Near,
    Put,
    Remove,
    Scalar,
    Sort,
)
from tests.contract import oracle
from tests.contract.backends import BACKENDS, Clock, put

pytestmark = pytest.mark.slow

WORDS = ("red", "green", "blue", "black")
URIS = ("a", "b", "c", "d/e", "é", "\U0001f600")
FIELDS = ("tags", "mimeType", "uri", "metadata.n", "metadata.o.k", "metadata.none")
VECTORS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.6, 0.8, 0.0), (0.0, 0.6, 0.8), (-1.0, 0.0, 0.0))

scalars: st.SearchStrategy[Scalar] = st.one_of(
    st.sampled_from([0, 1, 1.0, 2, 2.5, -3, True, False, "", "1", "red", "reddish", "é", "\ue000", "\U0010ffff"]),
    st.integers(-5, 5),
)
chunks = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), max_size=3)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "n": st.one_of(scalars, st.lists(scalars, max_size=3), st.none()),
        "o": st.one_of(st.fixed_dictionaries({"k": scalars}), scalars),
    },
)


@st.composite
def puts(draw: st.DrawFn) -> Put:
    texts = draw(chunks)
    vectors = draw(st.lists(st.sampled_from(VECTORS), min_size=len(texts), max_size=len(texts)))
    return put(
        draw(st.sampled_from(URIS)),
        *texts,
        title=draw(st.sampled_from(["", *WORDS])),
        tags=tuple(draw(st.lists(st.sampled_from(["x", "y", "z"]), max_size=3))),
        metadata=draw(metadata),
        mime_type=draw(st.sampled_from(["text/plain", "text/html"])),
        digest=str(draw(st.uuids())),
        vectors=vectors or None,
        model="m" if vectors else None,
    )


changes = st.lists(st.one_of(puts(), st.sampled_from(URIS).map(lambda uri: Remove(uri=uri))), max_size=12)
loose = st.lists(st.sampled_from([*WORDS, "white"]), max_size=3).map(" ".join)
phrase = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(lambda words: f'"{" ".join(words)}"')
texts = st.one_of(loose, phrase, st.tuples(phrase, loose).map(" ".join))


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    bounds: list[Any] = [None, *draw(st.sampled_from([(0, 1, 2.5), ("", "red", "é")]))]
    return Condition(
        field=draw(st.sampled_from(FIELDS)),
        any_of=draw(st.none() | st.lists(scalars, max_size=3).map(tuple)),
        least=draw(st.sampled_from(bounds)),
        least_open=draw(st.booleans()),
        most=draw(st.sampled_from(bounds)),
        most_open=draw(st.booleans()),
        exists=draw(st.sampled_from([None, None, True, False])),
        prefix=draw(st.sampled_from([None, None, "", "r", "red", "\U0010ffff", "é"])),
    )


wheres = st.lists(conditions(), max_size=2).map(tuple)
sorts = st.builds(Sort, st.sampled_from([*FIELDS, "title"]), st.booleans())
facets = st.lists(
    st.one_of(
        st.builds(Facet, field=st.sampled_from(FIELDS[3:]), size=st.integers(0, 4)),
        st.builds(
            Facet,
            field=st.sampled_from(FIELDS[3:]),
            kind=st.just("range"),
            edges=st.lists(
                st.tuples(st.sampled_from([None, 0.0, 1.0]), st.sampled_from([None, 1.0, 2.5])), unique=True, max_size=3
            ).map(tuple),
        ),
    ),
    unique_by=lambda facet: facet.field,
    max_size=3,
)

on_each_backend = pytest.mark.parametrize("backend", BACKENDS)
examples = settings(max_examples=60, deadline=None)


async def paged(documents: Documents, query: Matching) -> list[str]:
    seen, cursor = [], None
    for _ in range(20):
        page = Matching(text=query.text, where=query.where, sort=query.sort, limit=2, cursor=cursor)
        found = await documents.match(page)
        seen += [hit.head.uri for hit in found.hits]
        cursor = found.cursor
        if cursor is None:
            return seen
    pytest.fail("the pages do not end")


async def write_apart(documents: Documents, written: Sequence[Put | Remove]) -> None:
    """In two writes, so that updates happen within one and across two."""
    await documents.write(written[: len(written) // 2])
    await documents.write(written[len(written) // 2 :])
    await documents.refresh()


@on_each_backend
@given(written=changes, text=texts, where=wheres, sort=sorts, wanted=facets)
@examples
async def test_searches_filters_sorts_and_facets_answer_like_the_oracle(
    backend: str,
    *,
    written: list[Put | Remove],
    text: str,
    where: tuple[Condition, ...],
    sort: Sort,
    wanted: list[Facet],
) -> None:
    expected = oracle.found(oracle.stored(written), text, where)
    async with BACKENDS[backend](Clock()) as documents:
        await write_apart(documents, written)
        found = await documents.match(Matching(text=text, where=where, limit=100, highlight=2))
        assert sorted(hit.head.uri for hit in found.hits) == sorted(expected)
        assert found.total == len(expected)
        assert sorted(await paged(documents, Matching(text=text, where=where))) == sorted(expected)
        in_order = await documents.match(Matching(text=text, where=where, sort=sort, limit=100))
        assert [hit.head.uri for hit in in_order.hits] == oracle.in_order(expected, sort)
        assert await paged(documents, Matching(text=text, where=where, sort=sort)) == oracle.in_order(expected, sort)
        counts = await documents.facets(text, where, wanted)
        assert counts == {facet.field: oracle.counted(expected, facet) for facet in wanted}
        listed = (await documents.page(where, None, 100)).items
        assert [head.uri for head in listed] == sorted(oracle.found(oracle.stored(written), "", where))


@on_each_backend
@given(written=changes, where=wheres, vector=st.sampled_from(VECTORS), limit=st.integers(1, 6))
@examples
async def test_the_nearest_are_those_of_the_oracle(
    backend: str, written: list[Put | Remove], where: tuple[Condition, ...], vector: tuple[float, ...], limit: int
) -> None:
    there = oracle.found(oracle.stored(written), "", where)
    expected = sorted(oracle.distance(change, vector) for change in there.values() if change.vectors)[:limit]
    async with BACKENDS[backend](Clock()) as documents:
        for change in written:
            await documents.write([change])
            await documents.nearest(Near(vector=vector, model="m"))
        await documents.refresh()
        hits = await documents.nearest(Near(vector=vector, model="m", where=where, limit=limit))
        distances = [oracle.distance(there[hit.head.uri], vector) for hit in hits]
        assert distances == pytest.approx(expected)
        assert [hit.score for hit in hits] == pytest.approx([1 - d * d / 2 for d in expected], abs=1e-5)


@on_each_backend
@given(queries=st.lists(st.text(max_size=60), min_size=1, max_size=30))
@examples
async def test_any_text_is_a_query(backend: str, queries: list[str]) -> None:
    async with BACKENDS[backend](Clock()) as documents:
        await documents.write([put("a", "a b c and or not near é ß 1 2 3"), put("b", *queries[0].split()[:1])])
        await documents.refresh()
        for query in queries:
            found = await documents.match(Matching(text=query, highlight=1))
            assert found.total == len(found.hits)
            await documents.facets(query, (), [Facet(field="tags")])


@on_each_backend
@given(text=st.text(max_size=400), word=st.sampled_from(["a", "needle", "é"]), count=st.integers(0, 3))
@examples
async def test_fragments_are_pieces_of_the_text_with_whole_marks(
    backend: str, text: str, word: str, count: int
) -> None:
    whole = f"{text} needle a é {text}"
    async with BACKENDS[backend](Clock()) as documents:
        await documents.write([put("a", whole)])
        await documents.refresh()
        found = await documents.match(Matching(text=word, highlight=count))
        plain = " ".join(whole.translate(dict.fromkeys(map(ord, f"\0{MARK_START}{MARK_END}"), "\ufffd")).split())
        for hit in found.hits:
            assert len(hit.fragments) <= count
            for fragment in hit.fragments:
                assert fragment.count(MARK_START) == fragment.count(MARK_END) >= 1
                assert fragment.replace(MARK_START, "").replace(MARK_END, "").strip() in plain
