"""What every store of call records does: keeps a record once, finds it newest first, and forgets by age and number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpd.storage.documents import BadCursor
from mcpd.storage.memory.records import MemoryRecords
from mcpd.storage.records import ANY, MAX_PAGE_ITEMS, Keep, Record, Records, Wanted, id_of
from tests.contract.record_backends import BACKENDS, Processes

NOON_S = 1_800_000_000.0
ALL = Keep(0.0, 10**6, 10**6)


def record(number: int, *, node: str = "0000abcd", **more: Any) -> Record:
    """Return the record of a call that ended so many seconds after noon."""
    ended_s = NOON_S + number
    given = {"outcome": "ok", "transport": "http", "method": "tools/call", "seconds": 0.25, **more}
    return Record(id=id_of(ended_s, node, number), ended_s=ended_s, **given)


FULL = record(
    1,
    outcome="cancelled",
    reason="client_gone",
    refused=True,
    target="echo\u0000\u009b31m\U0001f600",
    principal="ab12",
    key="laptop",
    address="2001:db8::1",
    client="agent 7",
    request_id="r-1",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    task="t-1",
    digest=b"\xff" * 32,
    arguments='{"text":"\u2028"}',
    arguments_bytes=4 * 2**20,
    result_bytes=2**40,
)


async def ids(store: Records, wanted: Wanted = ANY) -> list[str]:
    return [one.id for one in (await store.page(wanted)).items]


async def test_a_record_comes_back_as_it_was_in_another_process_too(records: Processes) -> None:
    plain = record(2)
    await records.one.add([FULL, plain])
    assert (await records.other.page(ANY)).items == [plain, FULL]


async def test_a_record_that_is_added_again_is_there_once_and_as_it_was(records: Processes) -> None:
    await records.one.add([FULL])
    await records.other.add([record(2), msgspec.structs.replace(FULL, outcome="ok")])
    assert (await records.one.page(ANY)).items == [record(2), FULL]


async def test_the_newest_come_first_whatever_order_they_were_added_in(records: Processes) -> None:
    await records.one.add([record(3), record(1)])
    await records.other.add([record(2), record(2, node="0000abce")])
    found = [(one.ended_s - NOON_S, one.id[14:22]) for one in (await records.one.page(ANY)).items]
    assert found == [(3, "0000abcd"), (2, "0000abce"), (2, "0000abcd"), (1, "0000abcd")]


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(principal="k1"),
        Wanted(principal="laptop"),
        Wanted(method="prompts/get"),
        Wanted(target="write_file"),
        Wanted(outcome="rejected"),
        Wanted(request_id="r-7"),
        Wanted(since_s=NOON_S + 7, until_s=NOON_S + 8),
        Wanted(principal="k1", method="prompts/get", outcome="rejected", target="write_file", request_id="r-7"),
    ],
)
async def test_every_filter_finds_what_fits_and_nothing_else(records: Processes, wanted: Wanted) -> None:
    fits: dict[str, Any] = {"principal": "k1", "key": "laptop", "method": "prompts/get", "target": "write_file"}
    right = record(7, **fits, outcome="rejected", request_id="r-7")
    unfit: dict[str, Any] = {"principal": "k2", "key": "phone", "target": "'; --"}
    others = [record(number, **unfit, request_id=f"r-{number}") for number in (6, 8)]
    await records.one.add([*others, right])
    assert await ids(records.one, wanted) == [right.id]


async def test_filters_hold_together(records: Processes) -> None:
    await records.one.add([record(1, target="a"), record(2, outcome="rejected")])
    assert await ids(records.one, Wanted(target="a", outcome="rejected")) == []


async def test_pages_show_every_record_once_although_new_ones_come(records: Processes) -> None:
    await records.one.add([record(number) for number in range(10)])
    cursor, seen = None, []
    while True:
        page = await records.other.page(ANY, cursor, 3)
        seen += [one.ended_s - NOON_S for one in page.items]
        assert len(page.items) <= 3
        await records.one.add([record(100 + len(seen))])
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == list(range(9, -1, -1))


async def test_the_last_page_has_no_cursor_when_it_is_full(records: Processes) -> None:
    await records.one.add([record(number) for number in range(6)])
    page = await records.one.page(ANY, None, 3)
    last = await records.one.page(ANY, page.cursor, 3)
    assert len(last.items) == 3
    assert last.cursor is None
    assert await records.one.page(Wanted(target="nothing"), None, 3) == ([], None)


async def test_a_page_is_bounded_whatever_is_asked_for(records: Processes) -> None:
    await records.one.add([record(number) for number in range(MAX_PAGE_ITEMS + 5)])
    assert len((await records.one.page(ANY, None, 10**9)).items) == MAX_PAGE_ITEMS
    assert len((await records.one.page(ANY, None, -1)).items) == 1


@pytest.mark.parametrize("cursor", ["", "x", "0" * 25, "g" * 26, "0" * 26 + "\n", "' OR 1=1 --", "\ud800"])
async def test_what_is_no_cursor_is_refused(records: Processes, cursor: str) -> None:
    with pytest.raises(BadCursor):
        await records.one.page(ANY, cursor)


async def pruned(store: Records, keep: Keep) -> int:
    total = 0
    while found := await store.prune(keep):
        total += found
    return total


async def test_what_is_too_old_is_forgotten(records: Processes) -> None:
    await records.one.add([record(number, refused=number % 2 == 0) for number in range(10)])
    assert await pruned(records.other, ALL._replace(since_s=NOON_S + 4)) == 4
    assert await ids(records.one) == [record(number).id for number in range(9, 3, -1)]
    assert await records.one.prune(ALL._replace(since_s=NOON_S + 4)) == 0


async def test_the_newest_are_kept_of_calls_and_of_refusals_apart(records: Processes) -> None:
    """SEC-3: whoever is refused cannot push out what is known of those who are not."""
    await records.one.add([record(number) for number in range(5)])
    await records.one.add([record(number, refused=True) for number in range(10, 30)])
    assert await pruned(records.one, Keep(0.0, 3, 2)) == 20
    left = (await records.other.page(ANY)).items
    assert [(one.ended_s - NOON_S, one.refused) for one in left] == [
        (29, True), (28, True), (4, False), (3, False), (2, False),
    ]  # fmt: skip


async def test_nothing_is_forgotten_that_is_to_be_kept(records: Processes) -> None:
    await records.one.add([record(number) for number in range(5)])
    assert await records.one.prune(Keep(NOON_S, 5, 0)) == 0


async def test_more_than_one_portion_is_forgotten_in_the_end(records: Processes) -> None:
    await records.one.add([record(number) for number in range(12_000)])
    assert await pruned(records.one, Keep(0.0, 10, 0)) == 11_990
    assert len(await ids(records.other)) == 10


async def test_several_add_at_once_and_nothing_is_lost(records: Processes) -> None:
    async def add(store: Records, node: str) -> None:
        for number in range(20):
            await store.add([record(number, node=node)])

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, records.one, "0000abcd")
            nursery.start_soon(add, records.other, "0000abce")
    assert len(await ids(records.one)) == 40


TEXTS = st.sampled_from(["", "a", "A", "a'b", "%", "_", "\u0000", "é"])
RECORDS = st.lists(
    st.builds(
        record,
        st.integers(0, 6),
        node=st.sampled_from(["0000abcd", "0000abce"]),
        principal=TEXTS,
        key=TEXTS,
        target=TEXTS,
        refused=st.booleans(),
    ),
    max_size=12,
)
WANTED = st.builds(
    Wanted,
    principal=st.none() | TEXTS,
    target=st.none() | TEXTS,
    since_s=st.sampled_from([0.0, NOON_S + 2, -5.0]),
    until_s=st.sampled_from([float("inf"), NOON_S + 5, 1e300]),
)


@dataclass
class Answers:
    pages: list[list[Record]]
    pruned: int
    left: list[Record]


async def answers(store: Records, kept: list[Record], wanted: Wanted, keep: Keep) -> Answers:
    await store.add(kept)
    cursor, pages = None, []
    while True:
        page = await store.page(wanted, cursor, 2)
        pages.append(page.items)
        cursor = page.cursor
        if cursor is None:
            break
    return Answers(pages, await pruned(store, keep), (await store.page(ANY)).items)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECORDS, WANTED, st.builds(Keep, st.sampled_from([0.0, NOON_S + 3]), st.integers(0, 4), st.integers(0, 2)))
@pytest.mark.parametrize("backend", sorted(BACKENDS.keys() - {"memory"}))
def test_every_store_answers_as_the_one_in_memory(backend: str, kept: list[Record], wanted: Wanted, keep: Keep) -> None:
    async def compare() -> None:
        async with BACKENDS[backend]() as (store, _):
            assert await answers(store, kept, wanted, keep) == await answers(MemoryRecords(), kept, wanted, keep)

    trio.run(compare)
