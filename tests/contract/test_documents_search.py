"""What every store of documents does, part two: words, conditions, sorting, cursors, highlights, facets, vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from mcpd.storage.documents import (
    MARK_END,
    MARK_START,
    BadCursor,
    BadQuery,
    Bucket,
    Condition,
    Documents,
    Facet,
    Matching,
    Near,
    Put,
    Remove,
    Sort,
    Span,
)
from tests.contract.backends import Clock, document, having, put, uris


async def test_words_are_ored_and_quoted_words_are_phrases(documents: Documents) -> None:
    await documents.write([put("a", "red green blue"), put("b", "green red"), put("c", "black")])
    assert set(await uris(documents, "red black")) == {"a", "b", "c"}
    assert await uris(documents, '"red green"') == ["a"]
    assert set(await uris(documents, '"red green" black')) == {"a", "c"}
    assert set(await uris(documents, '"green red" unbalanced" red')) == {"a", "b"}
    assert await uris(documents, "white") == []


async def test_case_and_accents_do_not_matter(documents: Documents) -> None:
    await documents.write([put("a", "Grüße aus CAFÉ")])
    for word in ("café", "CAFE", "cafe\u0301", "GRÜßE", "aus"):
        assert await uris(documents, word) == ["a"], word


async def test_a_word_with_a_star_fits_all_that_begin_so(documents: Documents) -> None:
    await documents.write([put("a", "tabular"), put("b", "tabby"), put("c", "stab"), put("d", "tab")])
    assert set(await uris(documents, "tab*")) == {"a", "b", "d"}
    assert await uris(documents, "tabu*") == ["a"]


async def test_title_and_headings_are_searched_too(documents: Documents) -> None:
    headed = Put(document=document("b", "text", title="plain"), spans=(Span(0, 4, "Chapter"),))
    await documents.write([put("a", "text", title="Giraffe"), headed, put("c", title="Giraffe alone")])
    assert set(await uris(documents, "giraffe")) == {"a", "c"}
    assert await uris(documents, "chapter") == ["b"]
    assert set(await uris(documents, '"giraffe text" "chapter text" giraffe')) == {"a", "c"}


async def test_only_the_spans_of_a_text_are_searched(documents: Documents) -> None:
    await documents.write([Put(document=document("a", "inside outside"), spans=(Span(0, 6),))])
    assert await uris(documents, "inside") == ["a"]
    assert await uris(documents, "outside") == []


async def test_a_document_is_found_once_by_its_best_chunk(documents: Documents) -> None:
    await documents.write([put("a", "one word among some others", "word", "nothing here"), put("b", "filler text")])
    await documents.refresh()
    found = await documents.match(Matching(text="word"))
    assert (found.total, [hit.head.uri for hit in found.hits]) == (1, ["a"])
    assert found.hits[0].span == Span(27, 31)
    assert found.cursor is None


async def test_better_hits_come_first_with_higher_scores(documents: Documents) -> None:
    filler = [put(f"filler{n}", "some other text altogether") for n in range(5)]
    await documents.write([put("weak", "needle in a long haystack of many words"), put("strong", "needle"), *filler])
    await documents.refresh()
    hits = (await documents.match(Matching(text="needle"))).hits
    assert [hit.head.uri for hit in hits] == ["strong", "weak"]
    assert hits[0].score > hits[1].score > 0


async def test_an_empty_text_fits_everything_in_order_of_uri(documents: Documents) -> None:
    await documents.write([put(name, title="t") for name in "cab"])
    await documents.refresh()
    found = await documents.match(Matching(text="  \n"))
    assert [hit.head.uri for hit in found.hits] == ["a", "b", "c"]
    assert (found.total, found.hits[0].span, found.hits[0].fragments) == (3, None, ())


HOSTILE = [
    '"', '""', '"""', "*", "^a", "a AND", "OR", "NOT a", "NEAR(a b, 2)", "text: a", "{title text} : a", "a + b", "(a",
    "a)", "-a", "a*b*", '"a*"*', "'; DROP TABLE documents; --", "\x00", "a\x00b", '"a\x00', "\ud800", "%", "_", "\\",
    "\ufeff", "\U0010ffff", "a" * 100_000, "a " * 10_000, " ".join(map(str, range(5_000))), '" ' * 5_000, "(" * 3_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
async def test_whatever_stands_in_a_query_is_data(documents: Documents, text: str) -> None:
    await documents.write([put("a", "a b and or not near title text")])
    await documents.refresh()
    found = await documents.match(Matching(text=text, highlight=2))
    assert found.total == len(found.hits) <= 1
    await documents.facets(text, (), [Facet(field="tags")])


async def test_words_of_query_syntax_are_words(documents: Documents) -> None:
    await documents.write([put("a", "rhythm and blues"), put("b", "near miss"), put("c", "title fight")])
    assert await uris(documents, "AND") == ["a"]
    assert await uris(documents, "NEAR(x)") == ["b"]
    assert await uris(documents, "title:x") == ["c"]
    assert set(await uris(documents, "blues-miss")) == {"a", "b"}


async def test_a_search_for_signs_alone_finds_nothing(documents: Documents) -> None:
    await documents.write([put("a", "a + b")])
    assert await uris(documents, "+ ()") == []


async def test_a_limit_holds_and_the_total_is_exact(documents: Documents) -> None:
    await documents.write([put(f"{n}", "word", "word again") for n in range(30)])
    await documents.refresh()
    for limit in (0, 1, 7, 30):
        found = await documents.match(Matching(text="word", limit=limit))
        assert (len(found.hits), found.total) == (limit, 30)
        assert (found.cursor is None) == (limit in {0, 30})


async def every_page(documents: Documents, query: Matching, between: Sequence[Sequence[Any]] = ()) -> list[str]:
    """Go through all pages; after each, write what `between` has next."""
    seen, cursor, waiting = [], None, list(between)
    for _ in range(100):
        found = await documents.match(
            Matching(text=query.text, where=query.where, sort=query.sort, limit=query.limit, cursor=cursor)
        )
        seen += [hit.head.uri for hit in found.hits]
        cursor = found.cursor
        if cursor is None:
            return seen
        if waiting:
            await documents.write(waiting.pop(0))
            await documents.refresh()
    pytest.fail("the pages do not end")


@pytest.mark.parametrize("sort", [None, Sort("uri", descending=True), Sort("metadata.n"), Sort("tags")], ids=str)
@pytest.mark.parametrize("text", ["word", ""])
async def test_pages_show_every_hit_once(documents: Documents, text: str, sort: Sort | None) -> None:
    changes = [
        put(f"{n:02}", "word " * (n % 5 + 1), metadata={"n": n % 3} if n % 4 else {}, tags=(str(n % 2),))
        for n in range(20)
    ]
    await documents.write(changes)
    await documents.refresh()
    whole = await documents.match(Matching(text=text, sort=sort, limit=100))
    paged = await every_page(documents, Matching(text=text, sort=sort, limit=3))
    assert paged == [hit.head.uri for hit in whole.hits]
    assert sorted(paged) == [f"{n:02}" for n in range(20)]


@pytest.mark.parametrize("sort", [None, Sort("metadata.n"), Sort("metadata.n", descending=True)], ids=str)
async def test_pages_neither_repeat_nor_skip_what_did_not_change(documents: Documents, sort: Sort | None) -> None:
    """Each change between two pages moves all scores: words get rarer or commoner, texts longer on the average."""
    texts = ["red " * (n % 4) + "green " * (n % 3) + "blue" for n in range(24)]
    await documents.write([put(f"{n:02}", text, metadata={"n": n % 5}) for n, text in enumerate(texts)])
    await documents.refresh()
    between: list[list[Put | Remove]] = [
        [put(f"red{n}", "red " * 9 + "very long indeed " * 30) for n in range(10)],
        [Remove(uri="03"), Remove(uri="20")],
        [put(f"green{n}", "green") for n in range(30)],
        [put("07", "green changed"), put("11", "of no interest")],
    ]
    paged = await every_page(documents, Matching(text="red green blue", sort=sort, limit=4), between)
    unchanged = {f"{n:02}" for n in range(24)} - {"03", "20", "07", "11"}
    assert {uri: paged.count(uri) for uri in unchanged} == dict.fromkeys(unchanged, 1)


async def test_a_cursor_belongs_to_its_query(documents: Documents) -> None:
    await documents.write([put(f"{n}", "word other", tags=("t",)) for n in range(5)])
    await documents.refresh()
    cursor = (await documents.match(Matching(text="word", limit=2))).cursor
    assert cursor is not None
    assert len((await documents.match(Matching(text="word", limit=9, highlight=1, cursor=cursor))).hits) == 3
    for other in (
        Matching(text="other", cursor=cursor),
        Matching(text="word", cursor=cursor, where=having("tags", "t")),
        Matching(text="word", cursor=cursor, sort=Sort("uri")),
    ):
        with pytest.raises(BadCursor):
            await documents.match(other)
    with pytest.raises(BadCursor):
        await documents.page((), cursor, 2)


async def test_the_total_is_that_of_all_pages(documents: Documents) -> None:
    await documents.write([put(f"{n}", "word") for n in range(5)])
    await documents.refresh()
    for sort in (None, Sort("uri")):
        first = await documents.match(Matching(text="word", limit=3, sort=sort))
        for n in range(5):
            await documents.write([Remove(uri=f"{n}")])
        await documents.refresh()
        rest = await documents.match(Matching(text="word", limit=3, sort=sort, cursor=first.cursor))
        assert (first.total, rest.total, rest.hits, rest.cursor) == (5, 0, [], None)
        await documents.write([put(f"{n}", "word") for n in range(5)])
        await documents.refresh()


async def test_sorting_is_by_value_then_uri_with_what_has_none_last(documents: Documents) -> None:
    fields = {
        "a": {"n": 10},
        "b": {"n": 9.5},
        "c": {},
        "d": {"n": "text"},
        "e": {"n": True},
        "f": {"n": [3, 20]},
        "g": {"n": 10},
    }
    await documents.write([put(uri, "word", metadata=metadata) for uri, metadata in fields.items()])
    assert await uris(documents, "word", sort=Sort("metadata.n")) == ["f", "b", "a", "g", "d", "e", "c"]
    assert await uris(documents, "", sort=Sort("metadata.n", descending=True)) == ["e", "d", "f", "a", "g", "b", "c"]


async def test_titles_and_times_sort_too(documents: Documents, clock: Clock) -> None:
    for uri, title in (("a", "Z"), ("b", "A"), ("c", "M")):
        clock.now_s += 1
        await documents.write([put(uri, "word", title=title)])
    assert await uris(documents, "word", sort=Sort("title")) == ["b", "c", "a"]
    assert await uris(documents, "word", sort=Sort("created", descending=True)) == ["c", "b", "a"]
    assert await uris(documents, "word", sort=Sort("updated")) == ["a", "b", "c"]


FIELDS: dict[str, dict[str, Any]] = {
    "a": {"tags": ("x", "y"), "metadata": {"n": 1, "s": "apple", "flag": True, "deep": {"er": {"k": "v"}}}},
    "b": {"tags": ("y",), "metadata": {"n": 2.5, "s": "banana", "flag": False, "list": [1, "two", None]}},
    "c": {"mime_type": "text/html", "metadata": {"n": "1", "s": "apricot", "empty": [], "null": None, "d.o.t": 1}},
    "d": {"origin": "root", "metadata": {"n": [5, 10], "big": 2**70, "deep": {"er": 7}}},
}

CASES: list[tuple[Condition, str]] = [
    (Condition(field="tags", any_of=("y",)), "ab"),
    (Condition(field="tags", any_of=("x", "nothing")), "a"),
    (Condition(field="tags", any_of=()), ""),
    (Condition(field="tags", exists=True), "ab"),
    (Condition(field="tags", exists=False), "cd"),
    (Condition(field="mimeType", any_of=("text/html",)), "c"),
    (Condition(field="mimeType", prefix="text/"), "abcd"),
    (Condition(field="origin", any_of=("root",)), "d"),
    (Condition(field="origin", exists=False), "abc"),
    (Condition(field="uri", any_of=("a", "d")), "ad"),
    (Condition(field="uri", least="b"), "bcd"),
    (Condition(field="uri", exists=False), ""),
    (Condition(field="uri", exists=True, prefix="b"), "b"),
    (Condition(field="metadata.n", any_of=(1,)), "a"),
    (Condition(field="metadata.n", any_of=(1.0,)), "a"),
    (Condition(field="metadata.n", any_of=("1",)), "c"),
    (Condition(field="metadata.n", any_of=(True,)), ""),
    (Condition(field="metadata.n", any_of=(5, 2.5)), "bd"),
    (Condition(field="metadata.n", least=2), "bd"),
    (Condition(field="metadata.n", least=2.5, least_open=True), "d"),
    (Condition(field="metadata.n", most=2.5), "ab"),
    (Condition(field="metadata.n", most=2.5, most_open=True), "a"),
    (Condition(field="metadata.n", least=6, most=9), ""),
    (Condition(field="metadata.n", least=""), "c"),
    (Condition(field="metadata.n", exists=True), "abcd"),
    (Condition(field="metadata.s", prefix="ap"), "ac"),
    (Condition(field="metadata.s", prefix=""), "abc"),
    (Condition(field="metadata.s", prefix="ap", any_of=("banana", "apple")), "a"),
    (Condition(field="metadata.s", least="apricot", most="banana"), "bc"),
    (Condition(field="metadata.s", least="apricot", least_open=True, most="banana", most_open=True), ""),
    (Condition(field="metadata.s", least=0), ""),
    (Condition(field="metadata.flag", any_of=(True,)), "a"),
    (Condition(field="metadata.flag", any_of=(False, True)), "ab"),
    (Condition(field="metadata.flag", any_of=(1,)), ""),
    (Condition(field="metadata.deep.er.k", any_of=("v",)), "a"),
    (Condition(field="metadata.deep.er", exists=True), "d"),
    (Condition(field="metadata.deep", exists=True), ""),
    (Condition(field="metadata.list", any_of=("two",)), "b"),
    (Condition(field="metadata.list", any_of=(1,)), "b"),
    (Condition(field="metadata.empty", exists=True), ""),
    (Condition(field="metadata.null", exists=False), "abcd"),
    (Condition(field="metadata.d.o.t", any_of=(1,)), "c"),
    (Condition(field="metadata.big", any_of=(2**70,)), "d"),
    (Condition(field="metadata.big", least=10**18), "d"),
    (Condition(field="metadata.big", most=10**400), "d"),
    (Condition(field="metadata.nothing", exists=False), "abcd"),
    (Condition(field="metadata.nothing", exists=False, any_of=(1,)), ""),
    (Condition(field="metadata.n"), "abcd"),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "expected"), CASES, ids=lambda case: str(case)[:70])
async def test_conditions_hold_for_what_they_say(documents: Documents, condition: Condition, expected: str) -> None:
    await documents.write([put(uri, "word", **fields) for uri, fields in FIELDS.items()])
    assert "".join(await uris(documents, "", where=(condition,))) == expected
    assert "".join(sorted(await uris(documents, "word", where=(condition,)))) == expected
    assert "".join(head.uri for head in (await documents.page((condition,), None, 9)).items) == expected


async def test_all_conditions_must_hold(documents: Documents) -> None:
    await documents.write([put(uri, "word", **fields) for uri, fields in FIELDS.items()])
    assert await uris(documents, "", where=having("tags", "y") + having("metadata.n", 2.5)) == ["b"]
    assert await uris(documents, "word", where=having("tags", "x") + having("metadata.n", 2.5)) == []


async def test_times_are_asked_for_in_iso_8601(documents: Documents, clock: Clock) -> None:
    clock.now_s = 1_704_067_200.0  # 2024-01-01T00:00:00Z
    await documents.write([put("a", "one")])
    clock.now_s += 86_400
    await documents.write([put("a", "two"), put("b", "one")])
    for condition, expected in (
        (Condition(field="created", least="2024-01-02"), "b"),
        (Condition(field="created", most="2024-01-01T00:00:00Z"), "a"),
        (Condition(field="created", most="2024-01-01T00:00:00Z", most_open=True), ""),
        (Condition(field="updated", least="2024-01-02T01:00:00+01:00"), "ab"),
        (Condition(field="updated", least="2024-01-01T23:59:59.5", most=1_704_153_600), "ab"),
        (Condition(field="created", any_of=("2024-01-01", "1999-01-01")), "a"),
        (Condition(field="created", exists=True), "ab"),
        (Condition(field="created", exists=False), ""),
    ):
        assert "".join(await uris(documents, "", where=(condition,))) == expected, condition


BAD_CONDITIONS = [
    Condition(field="", exists=True),
    Condition(field="size", least=1),
    Condition(field="title", any_of=("x",)),
    Condition(field="metadata.", exists=True),
    Condition(field="metadata.\ud800", exists=True),
    Condition(field="tags", any_of=("\ud800",)),
    Condition(field="tags", prefix="\ud800"),
    Condition(field="metadata.n", least=True),
    Condition(field="metadata.n", least=1, most="2"),
    Condition(field="metadata.n", most=math.nan),
    Condition(field="created", least="yesterday"),
    Condition(field="created", prefix="2024"),
    Condition(field="created", any_of=(True,)),
    Condition(field="tags", any_of=tuple(map(str, range(2_000)))),
]


@pytest.mark.parametrize("condition", BAD_CONDITIONS, ids=lambda condition: str(condition)[:60])
async def test_a_condition_outside_of_the_grammar_is_refused(documents: Documents, condition: Condition) -> None:
    where = (condition,)
    for call in (
        documents.page(where, None, 1),
        documents.match(Matching(text="", where=where)),
        documents.nearest(Near(vector=(1.0,), model="m", where=where)),
        documents.facets("", where, [Facet(field="tags")]),
    ):
        with pytest.raises(BadQuery):
            await call


async def test_too_many_conditions_are_refused(documents: Documents) -> None:
    with pytest.raises(BadQuery):
        await documents.page(having("tags", "x") * 10_000, None, 1)


@pytest.mark.parametrize("field", ["", "size", "metadata.", "score"])
async def test_a_sort_outside_of_the_grammar_is_refused(documents: Documents, field: str) -> None:
    with pytest.raises(BadQuery):
        await documents.match(Matching(text="", sort=Sort(field)))


async def test_fragments_show_matches_between_marks(documents: Documents) -> None:
    await documents.write([put("a", "Once upon a time there was a Needle in the hay, and one more needle")])
    await documents.refresh()
    fragment = (await documents.match(Matching(text="needle", highlight=1))).hits[0].fragments[0]
    assert f"a {MARK_START}Needle{MARK_END} in the hay" in fragment
    assert fragment.count(MARK_START) == fragment.count(MARK_END) == 2


async def test_there_are_as_many_fragments_as_wanted_and_each_is_short(documents: Documents) -> None:
    await documents.write([put("a", ("needle " + "straw " * 100) * 5), put("b", "x", title="needle")])
    await documents.refresh()
    for wanted, given in ((0, 0), (1, 1), (3, 3), (9, 5)):
        hits = {h.head.uri: h for h in (await documents.match(Matching(text="needle", highlight=wanted))).hits}
        assert len(hits["a"].fragments) == given
        assert all(len(fragment) < 200 and "needle" in fragment for fragment in hits["a"].fragments)
        assert hits["b"].fragments == ()


async def test_phrases_are_marked_whole_and_marks_in_the_text_are_not_ours(documents: Documents) -> None:
    await documents.write([put("a", f"green, red {MARK_START}blue{MARK_END} red green red")])
    await documents.refresh()
    fragments = (await documents.match(Matching(text='"red green"', highlight=2))).hits[0].fragments
    assert len(fragments) == 1
    assert fragments[0].endswith(f"red {MARK_START}red green{MARK_END} red") or fragments[0].endswith(
        f"{MARK_START}red green{MARK_END} red"
    )
    assert fragments[0].count(MARK_START) == 1


async def test_fragments_come_from_wherever_a_long_text_matches(documents: Documents) -> None:
    text = "é " * 50_000 + "needle" + " ü" * 50_000
    spans = (Span(0, 60_000), Span(60_000, 140_000), Span(140_000, len(text)))
    await documents.write([Put(document=document("a", text), spans=spans)])
    await documents.refresh()
    hit = (await documents.match(Matching(text="needle", highlight=1))).hits[0]
    assert hit.span == spans[1]
    assert f"{MARK_START}needle{MARK_END}" in hit.fragments[0]


async def test_terms_are_counted_the_most_frequent_first(documents: Documents) -> None:
    values = [{"k": "a"}, {"k": ["a", "b"]}, {"k": ["b", "b", "a"]}, {"k": 1}, {"k": 1.0}, {"k": True}, {}, {"k": 2.5}]
    await documents.write([put(f"{n}", "word", metadata=metadata) for n, metadata in enumerate(values)])
    await documents.refresh()
    facet = Facet(field="metadata.k")
    assert await documents.facets("", (), [facet]) == {
        "metadata.k": [Bucket("a", 3), Bucket("1", 2), Bucket("b", 2), Bucket("2.5", 1), Bucket("true", 1)]
    }
    few = await documents.facets("word", having("metadata.k", "b"), [Facet(field="metadata.k", size=1)])
    assert few == {"metadata.k": [Bucket("a", 2)]}
    assert await documents.facets("nothing", (), [facet]) == {"metadata.k": []}


async def test_ranges_are_counted_in_their_order_empty_ones_too(documents: Documents) -> None:
    numbers: list[Any] = [5, 9.99, 10, [1, 50], "7", True, None]
    await documents.write([put(f"{n}", "word", metadata={"n": number}) for n, number in enumerate(numbers)])
    await documents.refresh()
    edges = ((20.0, None), (None, 10.0), (10.0, 20.0), (100.0, 200.5))
    assert await documents.facets("word", (), [Facet(field="metadata.n", kind="range", edges=edges)]) == {
        "metadata.n": [Bucket("20-*", 1), Bucket("*-10", 3), Bucket("10-20", 1), Bucket("100-200.5", 0)]
    }


async def test_dates_are_counted_by_day_month_and_year(documents: Documents, clock: Clock) -> None:
    for uri, now in (("a", 1_703_980_800.0), ("b", 1_704_067_199.999), ("c", 1_704_067_200.0), ("d", 1_706_745_600.0)):
        clock.now_s = now
        await documents.write([put(uri, "word")])
    await documents.refresh()
    for interval, expected in (
        ("day", [("2023-12-31", 2), ("2024-01-01", 1), ("2024-02-01", 1)]),
        ("month", [("2023-12", 2), ("2024-01", 1), ("2024-02", 1)]),
        ("year", [("2023", 2), ("2024", 2)]),
    ):
        facets = [Facet(field=field, kind="date", interval=interval) for field in ("created", "updated")]  # type: ignore[arg-type]
        buckets = [Bucket(value, count) for value, count in expected]
        assert await documents.facets("word", (), facets) == {"created": buckets, "updated": buckets}


async def test_dates_in_metadata_count_when_they_are_iso_8601(documents: Documents) -> None:
    dates: list[Any] = [
        "2024-05-01",
        "2024-05-31T23:00:00-02:00",
        ["2024-05-02", "2024-05-03", "2025-01-01"],
        "soon",
        5,
    ]
    await documents.write([put(f"{n}", metadata={"when": date}) for n, date in enumerate(dates)])
    await documents.refresh()
    assert await documents.facets("", (), [Facet(field="metadata.when", kind="date")]) == {
        "metadata.when": [Bucket("2024-05", 2), Bucket("2024-06", 1), Bucket("2025-01", 1)]
    }


BAD_FACETS: list[list[Facet]] = [
    [Facet(field="size")],
    [Facet(field="uri")],
    [Facet(field="created")],
    [Facet(field="tags", kind="date")],
    [Facet(field="tags", size=100_000)],
    [Facet(field="metadata.n", kind="range", edges=((None, None),) * 5_000)],
    [Facet(field="tags"), Facet(field="tags", size=3)],
    [Facet(field=f"metadata.f{n}") for n in range(10_000)],
]


@pytest.mark.parametrize("facets", BAD_FACETS, ids=lambda facets: str(facets)[:60])
async def test_facets_outside_of_the_grammar_are_refused(documents: Documents, facets: list[Facet]) -> None:
    with pytest.raises(BadQuery):
        await documents.facets("", (), facets)


async def test_several_facets_are_counted_at_once(documents: Documents) -> None:
    await documents.write([put("a", "word", tags=("x",), origin="o"), put("b", "word", tags=("x", "y"))])
    await documents.refresh()
    fields = ("tags", "mimeType", "origin", "metadata.nothing")
    assert await documents.facets("word", (), [Facet(field=field) for field in fields]) == {
        "tags": [Bucket("x", 2), Bucket("y", 1)],
        "mimeType": [Bucket("text/plain", 2)],
        "origin": [Bucket("o", 1)],
        "metadata.nothing": [],
    }


async def nearest(documents: Documents, *vector: float, **more: Any) -> list[str]:
    await documents.refresh()
    return [hit.head.uri for hit in await documents.nearest(Near(vector=vector, model="m", **more))]


async def test_the_nearest_documents_come_first_by_their_best_chunk(documents: Documents) -> None:
    await documents.write([
        put("east", "x", "y", vectors=[(-1.0, 0.0), (1.0, 0.0)], model="m", tags=("t",)),
        put("north", "x", vectors=[(0.0, 1.0)], model="m"),
        put("between", "x", vectors=[(0.6, 0.8)], model="m", tags=("t",)),
        put("other model", "x", vectors=[(1.0, 0.0)], model="m2"),
        put("no vector", "x"),
    ])  # fmt: skip
    await documents.refresh()
    hits = await documents.nearest(Near(vector=(1.0, 0.0), model="m"))
    assert [hit.head.uri for hit in hits] == ["east", "between", "north"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 0.6, 0.0], abs=1e-6)
    assert hits[0].span == Span(2, 3)
    assert await nearest(documents, 1.0, 0.0, limit=1) == ["east"]
    assert await nearest(documents, 1.0, 0.0, limit=0) == []
    assert await nearest(documents, 0.0, 1.0, where=having("tags", "t")) == ["between", "east"]
    assert await nearest(documents, 0.0, 1.0, where=having("tags", "nothing")) == []


async def test_vectors_follow_updates_and_removals(documents: Documents) -> None:
    await documents.write([put(f"{n}", "x", vectors=[(1.0, 0.0)], model="m") for n in range(5)])
    assert await nearest(documents, 1.0, 0.0) == ["0", "1", "2", "3", "4"]
    await documents.write([put("0", "y", vectors=[(0.0, 1.0)], model="m"), Remove(uri="1"), put("2", "y")])
    assert set(await nearest(documents, 1.0, 0.0)) == {"3", "4", "0"}
    assert (await nearest(documents, 0.0, 1.0))[0] == "0"
    await documents.write([put("1", "back", vectors=[(0.0, 1.0)], model="m")])
    assert set((await nearest(documents, 0.0, 1.0))[:2]) == {"0", "1"}


async def test_a_query_of_other_dimensions_is_refused_and_an_unknown_model_finds_nothing(documents: Documents) -> None:
    await documents.write([put("a", "x", vectors=[(1.0, 0.0)], model="m")])
    await documents.refresh()
    with pytest.raises(BadQuery, match=r"2.*3"):
        await documents.nearest(Near(vector=(1.0, 0.0, 0.0), model="m"))
    assert await documents.nearest(Near(vector=(1.0, 0.0, 0.0), model="unknown")) == []


async def test_documents_with_many_near_chunks_do_not_crowd_out_others(documents: Documents) -> None:
    many = [f"chunk {n}" for n in range(900)]
    await documents.write([
        put("crowd", *many, vectors=[(1.0, 0.0)] * 900, model="m"),
        *(put(f"{n}", "x", vectors=[(0.8, 0.6)], model="m") for n in range(3)),
    ])  # fmt: skip
    await documents.refresh()
    assert set(await nearest(documents, 1.0, 0.0, limit=4)) == {"crowd", "0", "1", "2"}


async def test_without_a_marked_word_a_hit_says_how_its_chunk_begins(documents: Documents) -> None:
    long = "first " * 100 + "last"
    await documents.write(
        [
            put("near", "one\ntwo", long, vectors=[(0.0, 1.0), (1.0, 0.0)], model="m"),
            put("far", " ", "other", vectors=[(0.0, 1.0), (-1.0, 0.0)], model="m"),
            put("titled", "plain text", title="Giraffe"),
        ]
    )
    await documents.refresh()
    near = await documents.nearest(Near(vector=(1.0, 0.0), model="m", highlight=2))
    begun = {hit.head.uri: hit.beginning for hit in near}
    assert begun == {"near": ("first " * 26).strip(), "far": ""}
    assert [hit.beginning for hit in await documents.nearest(Near(vector=(1.0, 0.0), model="m"))] == ["", ""]
    for text, fragments, beginning in (("giraffe", 0, "plain text"), ("plain", 1, "")):
        hit = (await documents.match(Matching(text=text, highlight=1))).hits[0]
        assert (len(hit.fragments), hit.beginning) == (fragments, beginning)
        assert (await documents.match(Matching(text=text))).hits[0].beginning == ""
