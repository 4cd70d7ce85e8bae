"""`--watch`: what is due after a look, decided without a clock, and a real folder followed into a real store."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mcpd.ingest.pipeline import DEFAULTS, Ingestion
from mcpd.ingest.reports import FileResult
from mcpd.ingest.sources import Selection, Source, source_of
from mcpd.ingest.watch import GRAIN_S, PATIENCE_S, Due, Look, Stamp, Watch, Watched, look_at
from mcpd.search.embeddings import HashProvider
from mcpd.storage.documents import Documents, StoreUnreachable
from mcpd.storage.sqlite.documents import SqliteDocuments

WAIT_S = 20.0
POLL_S = 0.05
NOW_NS = 1_000_000_000_000
OLD = Stamp(1, 1, 1, 1)
NEW = Stamp(2, 2, 2, 2)
NOTHING = Due([], [])
SOURCE = Source(Path("/notes"), "notes")


def look(**files: Stamp) -> Look:
    return Look((1, 1), files, {}, NOW_NS)


def watched(*, unsettled: set[str] | None = None, **files: Stamp) -> Watched:
    found = Watched(SOURCE)
    found.begin(look(**files), unsettled or set())
    return found


def test_what_has_not_changed_is_not_due() -> None:
    assert watched(a=OLD).due(look(a=OLD), 0.0) == NOTHING


def test_a_change_is_due_when_it_has_been_seen_twice_alike() -> None:
    known = watched(a=OLD)
    assert known.due(look(a=NEW, b=NEW), 0.0) == NOTHING
    due = known.due(look(a=NEW, b=NEW), 1.0)
    assert due == Due(["a", "b"], [])
    known.done(due, look(a=NEW, b=NEW), set())
    assert known.due(look(a=NEW, b=NEW), 2.0) == NOTHING


def test_a_file_that_goes_on_changing_is_due_after_some_patience() -> None:
    known = watched(a=OLD)
    for second in range(int(PATIENCE_S)):
        assert known.due(look(a=Stamp(second, second, second, 2)), float(second)) == NOTHING
    assert known.due(look(a=NEW), PATIENCE_S) == Due(["a"], [])


def test_a_file_that_changes_back_is_left_alone() -> None:
    known = watched(a=OLD)
    known.due(look(a=NEW), 0.0)
    assert known.due(look(a=OLD), 1.0) == NOTHING
    assert known.due(look(a=NEW), 2.0) == NOTHING


def test_a_file_is_missing_when_two_looks_have_not_seen_it() -> None:
    """An editor that writes a new file and renames it leaves a gap."""
    known = watched(a=OLD, b=OLD)
    assert known.due(look(b=OLD), 0.0) == NOTHING
    assert known.due(look(a=OLD, b=OLD), 1.0) == NOTHING
    assert known.due(look(b=OLD), 2.0) == NOTHING
    due = known.due(look(b=OLD), 3.0)
    assert due == Due([], ["a"])
    known.done(due, look(b=OLD), set())
    assert known.due(look(b=OLD), 4.0) == NOTHING


def test_a_file_modified_just_before_it_was_read_is_read_once_more() -> None:
    """On a coarse clock a second change of the same size would show in neither size nor time."""
    just = Stamp(1, NOW_NS - int(GRAIN_S * 1e9) + 1, 1, 1)
    known = watched(a=just)
    assert known.due(look(a=just), 0.0) == NOTHING
    due = known.due(look(a=just), 1.0)
    assert due == Due(["a"], [])
    known.done(due, Look((1, 1), {"a": just}, {}, NOW_NS + int(GRAIN_S * 1e9)), set())
    assert known.due(look(a=just), 2.0) == NOTHING


def test_a_file_that_could_not_be_read_yet_stays_due() -> None:
    known = watched(a=OLD, unsettled={"docs:///notes/a"})
    known.due(look(a=OLD), 0.0)
    due = known.due(look(a=OLD), 1.0)
    assert due == Due(["a"], [])
    known.done(due, look(a=OLD), {"docs:///notes/a"})
    known.due(look(a=OLD), 2.0)
    assert known.due(look(a=OLD), 3.0) == due


def test_a_look_at_a_root_that_is_not_there_is_an_error(notes: Path) -> None:
    source = source_of(notes)
    notes.rmdir()
    with pytest.raises(FileNotFoundError):
        look_at(source, Selection())


def test_a_look_opens_no_file_and_sees_what_ingestion_would_read(notes: Path) -> None:
    (notes / "a.md").write_text("words")
    (notes / ".b.md").write_text("hidden")
    (notes / "c.md").symlink_to("a.md")
    found = look_at(source_of(notes), Selection())
    assert list(found.files) == ["a.md"]
    assert found.files["a.md"].size == 5


def put(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def swap(root: Path, beside: Path) -> None:
    """Put an empty folder in the place of `root`."""
    (beside / "empty").mkdir()
    root.rename(beside / "away")
    (beside / "empty").rename(root)


class Heard:
    """Results as they come, and a wait for one of them."""

    def __init__(self, documents: Documents, provider: HashProvider | None = None) -> None:
        self.ingestion = Ingestion(documents, provider or HashProvider(), DEFAULTS, self._heard)
        self.results: list[FileResult] = []
        self.rounds = 0
        self._news = trio.Event()

    def _heard(self, result: FileResult) -> None:
        self.results.append(result)
        self._stir()

    def settled(self) -> None:
        self.rounds += 1
        self._stir()

    def _stir(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(WAIT_S):
            while not holds():
                await self._news.wait()

    def last(self, name: str) -> str:
        """Return the last outcome of a file that was not `unchanged`; nothing when there was none."""
        uri = f"docs:///notes/{name}"
        told = [result.outcome for result in self.results if result.uri == uri and result.outcome != "unchanged"]
        return told[-1] if told else ""


@asynccontextmanager
async def watching(documents: Documents, path: Path) -> AsyncIterator[Heard]:
    """Watch until the block ends, begun when everything has been ingested once."""
    heard = Heard(documents)
    watch = Watch(heard.ingestion, [source_of(path)], settled=heard.settled, poll_s=POLL_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await heard.wait(lambda: heard.rounds > 0)
        yield heard
        nursery.cancel_scope.cancel()


async def test_adds_changes_and_deletions_are_followed(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: --watch keeps a folder in step."""
    (notes / "a.txt").write_text("one")
    (notes / "b.txt").write_text("stays")
    async with watching(documents, notes) as heard:
        assert (heard.last("a.txt"), heard.last("b.txt")) == ("added", "added")
        put(notes / "sub" / "c.txt", "new")
        await heard.wait(lambda: heard.last("sub/c.txt") == "added")
        (notes / "a.txt").write_text("two")
        await heard.wait(lambda: heard.last("a.txt") == "updated")
        (notes / "a.txt").unlink()
        shutil.rmtree(notes / "sub")
        await heard.wait(lambda: heard.last("a.txt") == heard.last("sub/c.txt") == "removed")
        (notes / "a.txt").write_text("back")
        await heard.wait(lambda: heard.last("a.txt") == "added")
    assert [head.uri for head in (await documents.page((), None, 10)).items] == [
        "docs:///notes/a.txt", "docs:///notes/b.txt",
    ]  # fmt: skip


async def test_a_single_file_is_followed_until_it_is_gone(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: --watch."""
    (notes / "a.txt").write_text("one")
    (notes / "b.txt").write_text("not asked for")
    async with watching(documents, notes / "a.txt") as heard:
        (notes / "a.txt").write_text("two")
        await heard.wait(lambda: heard.last("a.txt") == "updated")
        (notes / "a.txt").unlink()
        await heard.wait(lambda: heard.last("a.txt") == "removed")
        assert heard.last("b.txt") == ""


async def test_a_root_that_goes_away_removes_nothing_and_is_taken_up_when_it_is_back(
    notes: Path, tmp_path: Path, documents: SqliteDocuments
) -> None:
    """A file system that is unmounted must not empty the store."""
    (notes / "a.txt").write_text("one")
    async with watching(documents, notes) as heard:
        shutil.move(notes, tmp_path / "away")
        await heard.wait(lambda: heard.results[-1].outcome == "failed")
        put(notes / "new.txt", "new")
        await heard.wait(lambda: heard.last("new.txt") == "added")
        await heard.wait(lambda: heard.last("a.txt") == "removed")
        failed = [result for result in heard.results if result.outcome == "failed"]
        assert [(result.path, result.uri) for result in failed] == [(str(notes), "")]


async def test_a_root_that_has_become_an_empty_folder_removes_nothing(
    notes: Path, tmp_path: Path, documents: SqliteDocuments
) -> None:
    """A file system that is unmounted leaves the empty folder that it was mounted on."""
    (notes / "a.txt").write_text("one")
    async with watching(documents, notes) as heard:
        swap(notes, tmp_path)
        await heard.wait(lambda: heard.ingestion.report().notes != ())
    assert await documents.get("docs:///notes/a.txt") is not None


async def test_a_link_that_is_pointed_elsewhere_is_ingested_anew(tmp_path: Path, documents: SqliteDocuments) -> None:
    """Issue: --watch."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.txt").write_text(version)
    (tmp_path / "v1" / "old.txt").write_text("old")
    (tmp_path / "notes").symlink_to("v1")
    async with watching(documents, tmp_path / "notes") as heard:
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").rename(tmp_path / "notes")
        await heard.wait(lambda: (heard.last("a.txt"), heard.last("old.txt")) == ("updated", "removed"))


async def test_a_store_that_cannot_be_reached_is_tried_again(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: --watch; what was not acknowledged is still due."""

    class Model(HashProvider):
        left = 3

        async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
            self.left -= 1
            if self.left >= 0:
                raise StoreUnreachable("no answer")
            return await super().embed(texts)

    (notes / "a.txt").write_text("one")
    heard, trouble = Heard(documents, Model()), list[str]()
    watch = Watch(heard.ingestion, [source_of(notes)], trouble=lambda error: trouble.append(str(error)), poll_s=POLL_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await heard.wait(lambda: heard.last("a.txt") == "added")
        nursery.cancel_scope.cancel()
    assert trouble == ["no answer"] * 3
