"""What only the SQLite store has: a file with a schema, other processes beside it, vectors in memory that keep up."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.drivers import mounts
from mcpd.drivers.sqlite import Connection, Database
from mcpd.search.embeddings import normalised
from mcpd.storage.documents import Condition, Facet, Matching, Near, Notice, Remove, StorageError, StoreUnreachable
from mcpd.storage.sqlite import codes, schema, writes
from mcpd.storage.sqlite import vectors as nearest
from mcpd.storage.sqlite.documents import (
    FILE_NAME,
    SqliteSchema,
    migrate,
    open_database,
    open_documents,
    schema_version,
)
from mcpd.storage.sqlite.vectors import _Codes
from mcpd.storage.words import phrases
from tests.contract.backends import having, put, uris


async def run(database: Database, sql: str) -> None:
    await database.write(lambda connection: connection.execute(sql))


async def test_documents_outlive_the_process_and_so_do_cursors(tmp_path: Path) -> None:
    changes = [put(f"{n}", "word", vectors=[(1.0, 0.0)], model="m", tags=("t",)) for n in range(6)]
    async with open_documents(tmp_path) as documents:
        await documents.write(changes)
        found = await documents.match(Matching(text="word", limit=2))
        page = await documents.page((), None, 2)
    async with open_documents(tmp_path) as documents:
        rest = await documents.match(Matching(text="word", limit=9, cursor=found.cursor))
        assert len({hit.head.uri for hit in (*found.hits, *rest.hits)}) == 6
        assert [head.uri for head in (await documents.page((), page.cursor, 9)).items] == ["2", "3", "4", "5"]
        assert len(await documents.nearest(Near(vector=(1.0, 0.0), model="m"))) == 6
        assert {o.status for o in await documents.write(changes)} == {"unchanged"}


async def test_versions_go_on_after_a_restart(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents:
        first = (await documents.write([put("a", "one"), put("b", "one")]))[1].version
        await documents.write([Remove(uri="b")])
    async with open_documents(tmp_path) as documents:
        again = (await documents.write([put("b", "one")]))[0].version
    assert int(again) > int(first)


async def test_endings_are_folded_in_the_index_and_in_fragments(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents:
        await documents.write([put("a", "the dogs were running")])
        hit = (await documents.match(Matching(text="run dog", highlight=1))).hits[0]
        assert hit.fragments == ("the \ue000dogs\ue001 were \ue000running\ue001",)


async def test_a_text_with_nul_is_indexed_and_taken_out_whole(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents:
        await documents.write([put("a", "before\x00after \x00 end", title="ti\x00tle")])
        for word in ("before", "after", "end", "tle"):
            assert await uris(documents, word) == ["a"]
        await documents.write([Remove(uri="a")])
        assert await words_left(documents_path(tmp_path)) == []


def documents_path(folder: Path) -> Path:
    return folder / FILE_NAME


async def words_left(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.v USING fts5vocab(main, fts, row)")
        return [row[0] for row in connection.execute("SELECT term FROM temp.v")]
    finally:
        connection.close()


async def test_updates_and_removals_leave_no_row_in_any_table(tmp_path: Path) -> None:
    def rows(connection: Connection) -> dict[str, int]:
        tables = ("documents", "contents", "chunks", "fields", "vectors", "codes", "relations", "fts_docsize")
        return {name: (connection.one(f"SELECT count(*) FROM {name}") or (0,))[0] for name in tables}

    async with open_documents(tmp_path) as documents, open_database(tmp_path) as database:
        text = "word " * 20_000
        for n in range(3):
            await documents.write([put("a", text, f"end{n}", tags=("t",), vectors=[(1.0,), (1.0,)], model="m")])
        once = await database.read(rows)
        assert once == {
            "documents": 1, "contents": 4, "chunks": 2, "fields": 2, "vectors": 2, "codes": 2, "relations": 0,
            "fts_docsize": 2,
        }  # fmt: skip
        await documents.write([Remove(uri="a")])
        assert set((await database.read(rows)).values()) == {0}
        assert await words_left(documents_path(tmp_path)) == []


async def test_a_change_that_only_sqlite_can_refuse_fails_alone(tmp_path: Path) -> None:
    """A trigger stands in for whatever a document may run into within the transaction."""
    async with open_documents(tmp_path) as documents, open_database(tmp_path) as database:
        await run(
            database,
            "CREATE TRIGGER refuse BEFORE INSERT ON documents WHEN new.uri = 'bad'"
            " BEGIN SELECT raise(ABORT, 'refused by the test'); END",
        )
        outcomes = await documents.write([put("a", "one"), put("bad", "two"), put("b", "three")])
        assert [o.status for o in outcomes] == ["created", "failed", "created"]
        assert "refused by the test" in outcomes[1].reason
        assert await uris(documents, "one two three") == ["a", "b"]


async def test_a_full_disk_is_told_as_such_and_nothing_is_half_written(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents:
        await documents.write([put("a", "one")])
        limit = documents._database._writer
        assert limit is not None
        pages = (limit.one("PRAGMA page_count") or (0,))[0]
        limit.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(StorageError, match="full"):
            await documents.write([put(f"{n}", "word " * 30_000) for n in range(3)])
        assert (await documents.statistics()).documents == 1
        limit.execute("PRAGMA max_page_count = 1000000")
        assert (await documents.write([put("b", "word " * 30_000)]))[0].status == "created"


async def test_a_store_held_by_another_process_is_unreachable_for_now(tmp_path: Path) -> None:
    async with open_documents(tmp_path, busy_s=0.05) as documents:
        other = sqlite3.connect(documents_path(tmp_path), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnreachable):
            await documents.write([put("a", "one")])
        assert await documents.get("a") is None
        other.close()
        assert (await documents.write([put("a", "one")]))[0].status == "created"


async def test_the_schema_goes_up_and_down_and_up(tmp_path: Path) -> None:
    vectors: dict[str, Any] = {"vectors": [(1.0, 0.0)], "model": "m"}
    async with open_documents(tmp_path) as documents:
        await documents.write([put("a", "word", **vectors), put("b", "word")])
    async with open_database(tmp_path) as database:
        assert await schema_version(database) == schema.VERSION
        assert await migrate(database, 1) == schema.VERSION
        assert await schema_version(database) == 1
    async with open_documents(tmp_path) as documents:
        assert set(await uris(documents, "word")) == {"a", "b"}
        assert (await documents.statistics()).vectors == 0
        assert await documents.nearest(Near(vector=(1.0, 0.0), model="m")) == []
        await documents.write([put("a", "word", **vectors)])
        assert len(await documents.nearest(Near(vector=(1.0, 0.0), model="m"))) == 1


async def test_a_schema_of_a_newer_mcpd_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        await migrate(database)
        await run(database, f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(StorageError, match="newer mcpd"):
        async with open_documents(tmp_path):
            pass
    async with open_database(tmp_path) as database:
        assert await schema_version(database) == schema.VERSION + 1
        with pytest.raises(StorageError, match="newer mcpd"):
            await migrate(database, 1)


@pytest.mark.parametrize("target", [0, -1, schema.VERSION + 1])
async def test_there_is_no_way_to_a_schema_that_does_not_exist(tmp_path: Path, target: int) -> None:
    async with open_database(tmp_path) as database:
        await migrate(database)
        with pytest.raises(StorageError, match="no schema"):
            await migrate(database, target)


async def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    other = sqlite3.connect(documents_path(tmp_path))
    other.execute("CREATE TABLE theirs (n)")
    other.close()
    with pytest.raises(StorageError, match="--data"):
        async with open_documents(tmp_path):
            pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    documents_path(tmp_path).write_bytes(b"something else altogether" * 100)
    with pytest.raises(StorageError, match="--data"):
        async with open_documents(tmp_path):
            pass


async def test_a_folder_that_cannot_be_made_is_refused_naming_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="--data"):
        async with open_documents(tmp_path / "file" / "data"):
            pass


async def test_a_folder_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("1 0 0:1 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    with pytest.raises(StorageError, match=r"nfs4.*--data"):
        async with open_documents(tmp_path / "data"):
            pass
    assert not (tmp_path / "data").exists()


async def test_an_error_in_the_block_is_not_taken_for_one_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        async with open_documents(tmp_path):
            raise PermissionError("of somebody else")


async def test_several_stores_open_a_new_folder_at_once(tmp_path: Path) -> None:
    async def open_and_write(n: int) -> None:
        async with open_documents(tmp_path / "data") as documents:
            await documents.write([put(f"{n}", "word")])

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for n in range(6):
                nursery.start_soon(open_and_write, n)
    async with open_documents(tmp_path / "data") as documents:
        assert await uris(documents, "word") != []
        assert (await documents.statistics()).documents == 6


async def test_two_stores_on_one_folder_see_and_tell_each_others_changes(tmp_path: Path) -> None:
    heard: list[Notice] = []
    told = trio.Event()

    def notice(one: Notice) -> None:
        heard.append(one)
        if len(heard) == 2:
            told.set()

    near = Near(vector=(1.0, 0.0), model="m")
    async with (
        open_documents(tmp_path) as one,
        open_documents(tmp_path, poll_s=0.05) as two,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(two.watch, notice)
        await one.write([put("a", "word", vectors=[(1.0, 0.0)], model="m")])
        assert await two.get("a") is not None
        assert len(await two.nearest(near)) == 1
        await one.write([put("a", "other", vectors=[(0.0, 1.0)], model="m")])
        assert (await two.nearest(near))[0].score == pytest.approx(0.0)
        with trio.fail_after(2):
            await told.wait()
        nursery.cancel_scope.cancel()
    assert heard == [Notice("a", listed=True), Notice("a", listed=False)]


async def test_own_changes_are_told_at_once_however_rarely_others_are_looked_for(tmp_path: Path) -> None:
    told = trio.Event()
    async with open_documents(tmp_path, poll_s=3_600) as documents, trio.open_nursery() as nursery:
        await nursery.start(documents.watch, lambda _: told.set())
        await documents.write([put("a", "word")])
        with trio.fail_after(2):
            await told.wait()
        nursery.cancel_scope.cancel()


async def test_a_watcher_too_far_behind_is_told_that_anything_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "MAX_JOURNAL", 5)
    heard: list[Notice] = []
    told = trio.Event()

    def notice(one: Notice) -> None:
        heard.append(one)
        told.set()

    async with open_documents(tmp_path) as one, open_documents(tmp_path, poll_s=0.05) as two:
        await two.write([put("before", "x", vectors=[(1.0, 0.0)], model="m")])
        near = Near(vector=(1.0, 0.0), model="m", limit=50)
        assert len(await two.nearest(near)) == 1
        async with trio.open_nursery() as nursery:
            await nursery.start(two.watch, notice)
            await one.write([put(f"{n}", "x", vectors=[(1.0, 0.0)], model="m") for n in range(20)])
            with trio.fail_after(2):
                await told.wait()
            assert len(await two.nearest(near)) == 21
            nursery.cancel_scope.cancel()
    assert heard == [Notice(None, listed=True)]


def unit(draw: random.Random, dims: int) -> tuple[float, ...]:
    return tuple(normalised([draw.gauss(0, 1) for _ in range(dims)]))


@pytest.mark.parametrize("slice_items", [700, nearest.SLICE_ITEMS])
async def test_coded_and_rescored_neighbours_are_nearly_all_true_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_items: int
) -> None:
    monkeypatch.setattr(nearest, "SLICE_ITEMS", slice_items)
    draw = random.Random(4)
    vectors = {f"{n}": unit(draw, 64) for n in range(2_000)}
    async with open_documents(tmp_path) as documents:
        await documents.write([put(uri, "x", vectors=[v], model="m") for uri, v in vectors.items()])
        hit = 0
        for _ in range(20):
            query = unit(draw, 64)
            true = sorted(vectors, key=lambda uri: -sum(a * b for a, b in zip(vectors[uri], query, strict=True)))[:10]
            found = await documents.nearest(Near(vector=query, model="m"))
            hit += len(set(true) & {h.head.uri for h in found})
    assert hit >= 195


async def test_vectors_in_memory_keep_up_with_many_rewrites(tmp_path: Path) -> None:
    """Rewritten codes are dead places in the lists: they never come up, and never crowd out what lives."""
    async with open_documents(tmp_path) as documents:
        far = [put(f"far{n}", "x", vectors=[(0.0, 1.0)], model="m") for n in range(50)]
        await documents.write([*far, put("near", "0", vectors=[(1.0, 0.0)], model="m")])
        for n in range(40):
            crowd = [put(f"c{i}", f"{n}", vectors=[(1.0, 0.0)], model="m") for i in range(40)]
            await documents.write([*crowd, *(Remove(uri=f"c{i}") for i in range(40))])
            await documents.write([put("near", f"{n + 1}", vectors=[(1.0, 0.0)], model="m")])
            hits = await documents.nearest(Near(vector=(1.0, 0.0), model="m", limit=51))
            assert len(hits) == 51
            assert hits[0].head.uri == "near"
            assert (await documents.get("near")).version == hits[0].head.version  # type: ignore[union-attr]


def test_a_dropped_code_ranks_behind_all_others() -> None:
    coder = codes.Coder(256)
    known = _Codes(seq=0)
    draw = random.Random(5)
    for document in range(1, 61):
        known.add(document << schema.CHUNK_BITS, coder.encode(unit(draw, 256)))
    known.drop(7)
    ranked = codes.rank(known.codes, coder.encode(unit(draw, 256)), 60)
    assert known.ids[ranked[-1]] == 7 << schema.CHUNK_BITS
    assert 7 not in known.places


async def test_codes_of_another_method_are_made_anew_from_the_vectors(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents:
        await documents.write(
            [put("a", "x", vectors=[(1.0, 0.0)], model="m"), put("b", "x", vectors=[(0.0, 1.0)], model="m")]
        )
    async with open_database(tmp_path) as database:
        await run(database, "UPDATE codes SET coding = 'old', code = x'00'")
    async with open_documents(tmp_path) as documents:
        hits = await documents.nearest(Near(vector=(0.0, 1.0), model="m", limit=1))
        assert [hit.head.uri for hit in hits] == ["b"]


async def test_a_search_over_much_is_cancelled_within_moments(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents:
        words = " ".join(f"w{n}" for n in range(60))
        await documents.write([put(f"{n}", *[words] * 10, metadata={"n": n}) for n in range(600)])
        calls = [
            lambda: documents.match(Matching(text=words, sort=None)),
            lambda: documents.facets(words, (), [Facet(field="metadata.n")]),
            lambda: documents.match(Matching(text=words, where=(Condition(field="metadata.n", least=0),))),
        ]
        for call in calls:
            with trio.move_on_after(0.002) as scope:
                await call()  # type: ignore[no-untyped-call]
            assert scope.cancelled_caught
        with trio.fail_after(10):
            assert (await documents.match(Matching(text="w1", limit=1))).total == 600


async def test_a_filter_that_fits_little_is_quick_and_right_in_a_large_store(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents:
        await documents.write([put(f"{n:04}", "word", tags=(f"t{n % 100}",)) for n in range(1_000)])
        found = await documents.match(Matching(text="word", where=having("tags", "t7"), limit=3))
        assert (found.total, len(found.hits)) == (10, 3)
        assert len((await documents.page(having("tags", "t7"), None, 100)).items) == 10


def test_a_query_has_at_most_so_many_phrases() -> None:
    assert len(phrases(" ".join(map(str, range(5_000))))) == 256


async def test_a_ping_fails_when_the_tables_are_gone(tmp_path: Path) -> None:
    async with open_documents(tmp_path) as documents, open_database(tmp_path) as database:
        await documents.ping()
        await run(database, "ALTER TABLE documents RENAME TO elsewhere")
        with pytest.raises(StorageError):
            await documents.ping()


async def test_the_state_of_a_schema_is_told_without_making_or_changing_anything(tmp_path: Path) -> None:
    kept = SqliteSchema(tmp_path / "data")
    before = await kept.status()
    assert (before.exists, before.version, before.latest) == (False, 0, schema.VERSION)
    assert not (tmp_path / "data").exists()
    assert (await kept.up()).version == schema.VERSION
    assert (await kept.down(1)).version == 1
    assert (await kept.status()).version == 1
    assert (await kept.up(2)).version == 2
