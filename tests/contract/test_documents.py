"""What every store of documents does, part one: writing, reading, listings, relations, notices, cancellation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from mcpd.storage.documents import (
    BadCursor,
    BadQuery,
    Documents,
    Matching,
    Near,
    Notice,
    Put,
    Relation,
    Remove,
    Span,
    Statistics,
)
from tests.contract.backends import Clock, document, having, put, uris


async def statuses(documents: Documents, *changes: Put | Remove) -> list[str]:
    return [outcome.status for outcome in await documents.write(changes)]


async def test_a_document_comes_back_as_it_was_given(documents: Documents, clock: Clock) -> None:
    given = document(
        "docs:///a/ü.md",
        "Ein Text\x00 mit NUL, \U0001f600 und\r\nZeilen",
        title="Titel",
        tags=("a", "b"),
        metadata={"n": 1, "f": 1.5, "deep": {"list": [1, "x", None, {"y": True}]}, "big": 2**64},
        origin="folder",
        size=12,
    )
    await documents.write([Put(document=given)])
    stored = await documents.get(given.uri)
    assert stored is not None
    assert (stored.created_s, stored.updated_s) == (clock.now_s, clock.now_s)
    assert stored.version
    for name in ("uri", "text", "blob", "title", "mime_type", "tags", "metadata", "origin", "digest", "size"):
        assert getattr(stored, name) == getattr(given, name), name


@pytest.mark.parametrize(
    "body", [{"text": None, "blob": b"\x00\xff" * 300_000}, {"text": None}, {"text": "x" * 99_999}]
)
async def test_blobs_long_texts_and_documents_without_content_come_back(
    documents: Documents, body: dict[str, Any]
) -> None:
    await documents.write([Put(document=document("a", **body))])
    stored = await documents.get("a")
    assert stored is not None
    assert (stored.text, stored.blob) == (body.get("text"), body.get("blob"))


async def test_a_changed_answer_changes_nothing_in_the_store(documents: Documents) -> None:
    await documents.write([put("a", metadata={"k": 1})])
    stored = await documents.get("a")
    assert stored is not None
    stored.metadata["k"] = 2
    again = await documents.get("a")
    assert again is not None
    assert again.metadata == {"k": 1}


async def test_what_is_not_there_is_none(documents: Documents) -> None:
    assert await documents.get("nowhere") is None
    assert await documents.get("half a pair \ud800") is None
    assert await documents.versions(["nowhere", "\ud800"]) == {}
    assert await statuses(documents, Remove(uri="nowhere"), Remove(uri="\ud800")) == ["absent", "absent"]


async def test_writing_again_updates_and_keeps_the_time_of_creation(documents: Documents, clock: Clock) -> None:
    assert await statuses(documents, put("a", "one")) == ["created"]
    created = clock.now_s
    clock.now_s += 60
    assert await statuses(documents, put("a", "two")) == ["updated"]
    stored = await documents.get("a")
    assert stored is not None
    assert (stored.text, stored.created_s, stored.updated_s) == ("two", created, created + 60)


async def test_an_equal_digest_needs_no_write(documents: Documents, clock: Clock) -> None:
    first = (await documents.write([put("a", "one")]))[0]
    clock.now_s += 60
    again = (await documents.write([put("a", "one")]))[0]
    assert (again.status, again.version) == ("unchanged", first.version)
    stored = await documents.get("a")
    assert stored is not None
    assert stored.updated_s < clock.now_s


async def test_vectors_of_another_model_are_written_although_the_digest_is_equal(documents: Documents) -> None:
    one = put("a", "one", vectors=[(1.0, 0.0)], model="m1")
    two = put("a", "one", vectors=[(0.0, 1.0)], model="m2")
    assert await statuses(documents, put("a", "one"), one, one, two, two) == [
        "created",
        "updated",
        "unchanged",
        "updated",
        "unchanged",
    ]


async def test_a_write_without_vectors_leaves_those_of_an_equal_document(documents: Documents) -> None:
    await documents.write([put("a", "one", vectors=[(1.0, 0.0)], model="m")])
    assert await statuses(documents, put("a", "one")) == ["unchanged"]
    assert (await documents.statistics()).vectors == 1


async def test_no_version_comes_twice_for_one_uri_not_even_after_a_removal(documents: Documents) -> None:
    seen = []
    for text in ("one", "two"):
        seen.append((await documents.write([put("a", text)]))[0].version)
    await documents.write([Remove(uri="a")])
    for text in ("one", "two"):
        seen.append((await documents.write([put("a", text)]))[0].version)
    assert len(set(seen)) == 4
    assert "" not in seen


async def test_versions_are_told_in_outcomes_heads_and_documents_alike(documents: Documents) -> None:
    outcome = (await documents.write([put("a", "word")]))[0]
    stored = await documents.get("a")
    assert stored is not None
    await documents.refresh()
    head = (await documents.page((), None, 10)).items[0]
    hit = (await documents.match(Matching(text="word"))).hits[0].head
    told = await documents.versions(["a", "b"])
    assert {stored.version, head.version, hit.version, told["a"][0]} == {outcome.version}
    assert told == {"a": (outcome.version, stored.digest)}


async def test_a_change_that_expects_another_version_conflicts_and_changes_nothing(documents: Documents) -> None:
    first = (await documents.write([put("a", "one")]))[0]
    second = (await documents.write([put("a", "two", expected=first.version)]))[0]
    assert second.status == "updated"
    stale = await documents.write(
        [put("a", "three", expected=first.version), Remove(uri="a", expected=first.version), put("a", "x", expected="")]
    )
    assert [(o.status, o.version) for o in stale] == [("conflict", second.version)] * 3
    stored = await documents.get("a")
    assert stored is not None
    assert stored.text == "two"


async def test_a_conflict_is_told_even_when_the_digest_is_equal(documents: Documents) -> None:
    await documents.write([put("a", "one")])
    assert await statuses(documents, put("a", "one", expected="")) == ["conflict"]


async def test_expecting_nothing_creates_and_expecting_something_that_has_gone_conflicts(documents: Documents) -> None:
    created = (await documents.write([put("a", "one", expected="")]))[0]
    assert created.status == "created"
    gone: list[Put | Remove] = [Remove(uri="a", expected=created.version), Remove(uri="a", expected=created.version)]
    assert await statuses(documents, *gone, put("a", "two", expected=created.version)) == [
        "removed",
        "conflict",
        "conflict",
    ]


@pytest.mark.parametrize(("owner", "other"), [("one", "two"), ("one", None), (None, "two")])
async def test_a_uri_of_another_origin_is_foreign(documents: Documents, owner: str | None, other: str | None) -> None:
    await documents.write([put("a", "theirs", origin=owner)])
    outcome = (await documents.write([put("a", "ours", origin=other)]))[0]
    assert outcome.status == "foreign"
    assert outcome.reason
    stored = await documents.get("a")
    assert stored is not None
    assert stored.text == "theirs"
    assert await statuses(documents, put("a", "theirs, newer", origin=owner)) == ["updated"]


BROKEN = {
    "no uri": put("", "x"),
    "half a pair": put("broken", "x\ud800"),
    "half a pair in a tag": put("broken", "x", tags=("\udfff",)),
    "text and blob": Put(document=document("broken", "x", blob=b"x")),
    "a span beyond the text": Put(document=document("broken", "abc"), spans=(Span(0, 4),)),
    "a span of nothing": Put(document=document("broken", None), spans=(Span(0, 0),)),
    "a span that runs backwards": Put(document=document("broken", "abc"), spans=(Span(2, 1),)),
    "vectors without a model": put("broken", "x", vectors=[(1.0,)]),
    "fewer vectors than spans": put("broken", "x", "y", vectors=[(1.0,)], model="m"),
    "vectors of two sizes": put("broken", "x", "y", vectors=[(1.0,), (1.0, 0.0)], model="m"),
    "metadata that is not JSON": put("broken", "x", metadata={"k": object()}),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_one_broken_change_fails_alone_and_says_why(documents: Documents, broken: Put) -> None:
    outcomes = await documents.write([put("before", "one"), broken, put("after", "two")])
    assert [o.status for o in outcomes] == ["created", "failed", "created"]
    assert [o.uri for o in outcomes] == ["before", broken.uri, "after"]
    assert outcomes[1].reason
    assert await documents.versions(["before", "after", "broken"]) == {
        o.uri: (o.version, d.digest)
        for o in outcomes
        if o.status == "created" and (d := await documents.get(o.uri)) is not None
    }


async def test_vectors_must_have_as_many_dimensions_as_those_of_the_same_model(documents: Documents) -> None:
    await documents.write([put("a", "x", vectors=[(1.0, 0.0)], model="m")])
    outcome = (await documents.write([put("b", "x", vectors=[(1.0, 0.0, 0.0)], model="m")]))[0]
    assert outcome.status == "failed"
    assert "2" in outcome.reason
    assert "3" in outcome.reason
    assert await statuses(documents, put("a", "y", vectors=[(1.0, 0.0, 0.0)], model="m")) == ["updated"]


async def test_metadata_is_kept_as_json_keeps_it(documents: Documents) -> None:
    await documents.write([put("a", metadata={"nan": math.nan, "tuple": (1, 2)})])
    stored = await documents.get("a")
    assert stored is not None
    assert stored.metadata == {"nan": None, "tuple": [1, 2]}


async def test_changes_of_one_write_take_effect_in_order(documents: Documents) -> None:
    changes: list[Put | Remove] = [
        put("a", "one"),
        put("a", "two"),
        Remove(uri="a"),
        put("a", "three"),
        Remove(uri="b"),
    ]
    assert await statuses(documents, *changes) == ["created", "updated", "removed", "created", "absent"]
    stored = await documents.get("a")
    assert stored is not None
    assert stored.text == "three"


async def test_an_empty_write_has_no_outcomes(documents: Documents) -> None:
    assert await documents.write([]) == []


async def test_a_large_write_has_an_outcome_for_each_change(documents: Documents) -> None:
    outcomes = await documents.write([put(f"docs/{n:04}", f"word{n} all") for n in range(700)])
    assert [o.uri for o in outcomes] == [f"docs/{n:04}" for n in range(700)]
    assert {o.status for o in outcomes} == {"created"}
    assert await uris(documents, "word699") == ["docs/0699"]


async def test_a_removed_document_leaves_nothing_behind(documents: Documents) -> None:
    await documents.write([put("a", "needle", tags=("t",), metadata={"k": 1}, vectors=[(1.0,)], model="m", size=6)])
    assert await statuses(documents, Remove(uri="a")) == ["removed"]
    await documents.refresh()
    assert await documents.get("a") is None
    assert await uris(documents, "needle") == []
    assert await uris(documents, "", where=having("tags", "t")) == []
    assert (await documents.page((), None, 10)).items == []
    assert await documents.statistics() == Statistics(documents=0, chunks=0, vectors=0, bytes=0)


async def test_statistics_count_documents_chunks_vectors_and_bytes(documents: Documents) -> None:
    await documents.write([put("a", "x", "y", vectors=[(1.0,), (-1.0,)], model="m", size=3), put("b", "z", size=1)])
    await documents.write([put("c", "z", size=10), Remove(uri="c")])
    assert await documents.statistics() == Statistics(documents=2, chunks=3, vectors=2, bytes=4)


async def test_a_listing_goes_through_everything_in_order_of_uri(documents: Documents) -> None:
    names = [f"docs/{n}" for n in range(7)] + ["Docs", "docs/é", "zebra"]
    await documents.write([put(name) for name in reversed(names)])
    await documents.refresh()
    seen, cursor, pages = [], None, 0
    for _ in range(20):
        page = await documents.page((), cursor, 3)
        assert 1 <= len(page.items) <= 3
        seen += [head.uri for head in page.items]
        pages, cursor = pages + 1, page.cursor
        if cursor is None:
            break
    assert seen == sorted(names)
    assert pages == 4


async def test_a_page_that_is_exactly_full_is_the_last(documents: Documents) -> None:
    await documents.write([put("a"), put("b")])
    await documents.refresh()
    assert (await documents.page((), None, 2)).cursor is None
    assert (await documents.page((), None, 0)).items == []


async def test_a_listing_neither_repeats_nor_skips_what_did_not_change(documents: Documents) -> None:
    await documents.write([put(f"{n}") for n in range(1, 8)])
    await documents.refresh()
    first = await documents.page((), None, 3)
    await documents.write([put("0"), put("25"), Remove(uri="2"), Remove(uri="5"), put("9")])
    await documents.refresh()
    rest = await documents.page((), first.cursor, 100)
    assert [head.uri for head in first.items] == ["1", "2", "3"]
    assert [head.uri for head in rest.items] == ["4", "6", "7", "9"]


async def test_a_listing_can_be_narrowed_and_its_cursor_belongs_to_it(documents: Documents) -> None:
    await documents.write([put(f"{n}", tags=("odd",) if n % 2 else ()) for n in range(9)])
    await documents.refresh()
    odd = having("tags", "odd")
    first = await documents.page(odd, None, 2)
    assert [head.uri for head in first.items] == ["1", "3"]
    assert [head.uri for head in (await documents.page(odd, first.cursor, 9)).items] == ["5", "7"]
    with pytest.raises(BadCursor):
        await documents.page((), first.cursor, 2)


@pytest.mark.parametrize("cursor", ["", "x", "é", "AAAA", "k" * 1000, "lMQIQit_hYO24nrAwMQBAQ", "_____w"])
async def test_a_cursor_that_is_none_of_ours_is_refused(documents: Documents, cursor: str) -> None:
    with pytest.raises(BadCursor):
        await documents.page((), cursor, 2)
    with pytest.raises(BadCursor):
        await documents.match(Matching(text="x", cursor=cursor))


async def test_relations_are_stored_once_and_found_from_both_ends(documents: Documents) -> None:
    await documents.write([put("a"), put("b")])
    cites, quotes, self_made = Relation("a", "cites", "b"), Relation("c", "quotes", "a"), Relation("a", "is", "a")
    for relation in (cites, quotes, self_made):
        assert await documents.relate(relation)
        assert not await documents.relate(relation)
    assert await documents.related("a", 10) == [cites, self_made, quotes]
    assert await documents.related("b", 10) == [cites]
    assert await documents.related("a", 2) == [cites, self_made]
    assert await documents.related("a", 0) == await documents.related("\ud800", 9) == []
    assert await documents.unrelate(cites)
    assert not await documents.unrelate(cites)
    assert await documents.related("b", 10) == []


async def test_a_relation_that_is_no_unicode_is_refused(documents: Documents) -> None:
    with pytest.raises(BadQuery):
        await documents.relate(Relation("a", "\ud800", "b"))


async def test_relations_survive_an_update_and_go_with_their_source(documents: Documents) -> None:
    await documents.write([put("a", "one"), put("b", "one")])
    ours, theirs = Relation("a", "cites", "b"), Relation("b", "cites", "a")
    await documents.relate(ours)
    await documents.relate(theirs)
    await documents.write([put("a", "two")])
    assert await documents.related("a", 10) == [ours, theirs]
    await documents.write([Remove(uri="a")])
    assert await documents.related("a", 10) == [theirs]


class Heard:
    """What `watch` has told, and a way to wait for it."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._told = trio.Event()

    def __call__(self, notice: Notice) -> None:
        self.notices.append(notice)
        self._told.set()

    async def wait_for(self, count: int) -> list[Notice]:
        with trio.fail_after(5):
            while len(self.notices) < count:
                self._told = trio.Event()
                await self._told.wait()
        return self.notices


async def test_watchers_hear_of_every_change_and_only_of_changes(documents: Documents, nursery: trio.Nursery) -> None:
    one, two = Heard(), Heard()
    await documents.write([put("before")])
    await nursery.start(documents.watch, one)
    await nursery.start(documents.watch, two)
    await documents.write([put("a", "one"), put("a", "one"), put("a", "two"), put("a", "x", origin="y")])
    await documents.write([Remove(uri="nowhere"), Remove(uri="a")])
    expected = [Notice("a", listed=True), Notice("a", listed=False), Notice("a", listed=True)]
    assert await one.wait_for(3) == expected
    assert await two.wait_for(3) == expected


async def test_a_watcher_that_was_cancelled_hears_nothing_more(documents: Documents) -> None:
    heard, later = Heard(), Heard()
    async with trio.open_nursery() as nursery:
        await nursery.start(documents.watch, heard)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        await nursery.start(documents.watch, later)
        await documents.write([put("a")])
        await later.wait_for(1)
        nursery.cancel_scope.cancel()
    assert heard.notices == []


async def test_a_cancelled_call_does_nothing(documents: Documents) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await documents.write([put("a")])
    assert scope.cancelled_caught
    for call in (
        partial(documents.get, "a"),
        partial(documents.page, (), None, 1),
        partial(documents.match, Matching(text="")),
        partial(documents.nearest, Near(vector=(1.0,), model="m")),
        partial(documents.facets, "", (), ()),
        documents.statistics,
        documents.refresh,
    ):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught
    assert await documents.get("a") is None


async def test_a_cancelled_write_has_applied_each_change_wholly_or_not(
    documents: Documents, nursery: trio.Nursery
) -> None:
    changes = [put(f"{n:04}", f"word{n:04} and more", f"second{n:04}", tags=("t",)) for n in range(1_000)]
    scope = trio.CancelScope()
    await nursery.start(documents.watch, lambda _: scope.cancel())
    with scope:
        await documents.write(changes)
    assert scope.cancelled_caught
    await documents.refresh()
    there = (await documents.page((), None, 2_000)).items
    assert 0 < len(there) < 1_000
    assert [head.uri for head in there] == [change.uri for change in changes[: len(there)]]
    assert (await documents.match(Matching(text="more"))).total == len(there)
    assert (await documents.match(Matching(text="", where=having("tags", "t")))).total == len(there)
    assert (await documents.statistics()).chunks == 2 * len(there)
    assert await uris(documents, f"word{len(there) - 1:04}") == [there[-1].uri]
    assert await uris(documents, f"word{len(there):04}") == []
    assert {o.status for o in await documents.write(changes)} == {"unchanged", "created"}


async def test_cancelled_at_any_moment_a_store_works_on(documents: Documents) -> None:
    """Wherever cancellation strikes, nothing is held, and all answers stay right."""
    await documents.write([put(f"{n}", "word " * 50) for n in range(50)])
    await documents.refresh()
    for moment in range(12):
        async with trio.open_nursery() as nursery:
            for n in range(6):
                nursery.start_soon(documents.match, Matching(text="word", highlight=3))
                nursery.start_soon(documents.write, [put(f"new{moment}/{n}", "other")])
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        assert (await documents.match(Matching(text="word"))).total == 50
        assert await statuses(documents, put("last")) == ["created"]


async def test_a_store_that_answers_is_pinged_without_an_error(documents: Documents) -> None:
    await documents.ping()
    await documents.write([put("a", "word")])
    await documents.ping()
