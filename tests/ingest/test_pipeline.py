"""Files into a real store and out of it: what is added, updated, left alone, removed, refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from mcpd.ingest.pipeline import DEFAULTS, MAX_REFUSALS, Ingestion, Options, ingest
from mcpd.ingest.reports import Report
from mcpd.ingest.sources import Selection, source_of
from mcpd.search.embeddings import EmbeddingError, HashProvider
from mcpd.storage.documents import Change, Matching, Outcome, StorageError, StoreUnreachable
from mcpd.storage.sqlite.documents import SqliteDocuments, migrate, open_database

WAIT_S = 30.0


class Counting(HashProvider):
    """The built-in provider, under a name of its own, counting what it is asked."""

    def __init__(self, model: str = "counting") -> None:
        super().__init__()
        self.model = model
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        self.texts += texts
        return await super().embed(texts)


class Refusing(HashProvider):
    """A provider that does not take texts with a certain word."""

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        if any("poison" in text for text in texts):
            raise EmbeddingError("the endpoint does not take this text")
        return await super().embed(texts)


async def ingested(
    documents: SqliteDocuments, *paths: Path, name: str | None = None, options: Options = DEFAULTS
) -> Report:
    with trio.fail_after(WAIT_S):
        return await ingest([source_of(path, name) for path in paths], documents, HashProvider(), options=options)


def counts(report: Report) -> dict[str, int]:
    """Return what is not zero."""
    numbers = {name: getattr(report, name) for name in ("added", "updated", "unchanged", "removed", "failed")}
    return {name: number for name, number in numbers.items() if number}


async def uris(documents: SqliteDocuments) -> list[str]:
    return [head.uri for head in (await documents.page((), None, 1000)).items]


async def test_a_file_becomes_a_document_that_can_be_found(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: Ingestion."""
    (notes / "sub").mkdir()
    (notes / "sub" / "a.md").write_text("# Nurseries\n\nA cancel scope.\n")
    report = await ingested(documents, notes, options=Options(tags=("trio", "docs")))
    assert counts(report) == {"added": 1}
    document = await documents.get("docs:///notes/sub/a.md")
    assert document is not None
    assert (document.title, document.mime_type, document.tags) == ("Nurseries", "text/markdown", ("trio", "docs"))
    assert document.text == "# Nurseries\n\nA cancel scope.\n"
    assert document.metadata == {"source": "notes", "path": "sub/a.md"}
    assert (document.origin, document.size) == (notes.as_uri(), 29)
    (hit,) = (await documents.match(Matching(text="scope"))).hits
    assert hit.span is not None
    assert (hit.span.start, hit.span.heading) == (0, "Nurseries")
    assert (await documents.statistics()).vectors == 1


async def test_what_has_not_changed_is_neither_embedded_nor_written(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: idempotent."""
    for number in range(100):
        (notes / f"{number}.txt").write_text(f"text {number}")
    provider = Counting()
    first = await ingest([source_of(notes)], documents, provider)
    asked, before = len(provider.texts), await documents.versions(await uris(documents))
    os.utime(notes / "1.txt", (1, 1))
    second = await ingest([source_of(notes)], documents, provider)
    assert (counts(first), counts(second)) == ({"added": 100}, {"unchanged": 100})
    assert asked == len(provider.texts) == 100
    assert await documents.versions(await uris(documents)) == before


async def test_a_changed_file_is_an_update_even_with_size_and_time_as_before(
    notes: Path, documents: SqliteDocuments
) -> None:
    """Issue: idempotent."""
    for name in ("a.txt", "b.txt"):
        (notes / name).write_text("one")
        os.utime(notes / name, (1000, 1000))
    await ingested(documents, notes)
    (notes / "a.txt").write_text("two")
    os.utime(notes / "a.txt", (1000, 1000))
    assert counts(await ingested(documents, notes)) == {"updated": 1, "unchanged": 1}
    document = await documents.get("docs:///notes/a.txt")
    assert document is not None
    assert document.text == "two"


async def test_other_tags_and_another_model_are_changes(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: Ingestion; tags are those of the last ingest."""
    (notes / "a.txt").write_text("one")
    await ingested(documents, notes)
    assert counts(await ingested(documents, notes, options=Options(tags=("new",)))) == {"updated": 1}
    assert counts(await ingested(documents, notes, options=Options(tags=("new",)))) == {"unchanged": 1}
    other = Counting("another")
    assert counts(await ingest([source_of(notes)], documents, other, options=Options(tags=("new",)))) == {"updated": 1}
    assert other.texts == ["a.txt\none"]


async def test_a_document_whose_file_is_gone_is_removed(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: Ingestion."""
    (notes / "sub").mkdir()
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (notes / name).write_text(name)
    await ingested(documents, notes)
    (notes / "b.txt").unlink()
    shutil.rmtree(notes / "sub")
    assert counts(await ingested(documents, notes)) == {"unchanged": 1, "removed": 2}
    assert await uris(documents) == ["docs:///notes/a.txt"]


async def test_nothing_is_removed_for_not_being_asked_for(notes: Path, documents: SqliteDocuments) -> None:
    """Hidden, ignored, unmatched or named under another name: the files are there, or were another ingest's."""
    for name in (".hidden.md", "ignored.md", "a.txt", "b.md", "c.md"):
        (notes / name).write_text(name)
    everything = Options(Selection(include_all=True))
    await ingested(documents, notes, options=everything)
    await ingested(documents, notes, name="other", options=everything)
    (notes / ".gitignore").write_text("ignored.md\n")
    (notes / "c.md").unlink()
    (notes / "a.txt").unlink()
    report = await ingested(documents, notes, options=Options(Selection(globs=("*.md",))))
    assert counts(report) == {"unchanged": 1, "removed": 1}
    assert [uri for uri in await uris(documents) if uri.startswith("docs:///notes/")] == [
        "docs:///notes/.hidden.md", "docs:///notes/a.txt", "docs:///notes/b.md", "docs:///notes/ignored.md",
    ]  # fmt: skip
    assert "docs:///other/c.md" in await uris(documents)


async def test_nothing_is_removed_because_it_cannot_be_looked_at(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: never because of a read error."""
    (notes / "sub").mkdir()
    for name in ("a.txt", "sub/b.txt"):
        (notes / name).write_text(name)
    await ingested(documents, notes)
    shutil.rmtree(notes / "sub")
    (notes / "sub").symlink_to("sub")
    assert counts(await ingested(documents, notes)) == {"unchanged": 1}
    assert "docs:///notes/sub/b.txt" in await uris(documents)


async def test_an_empty_folder_removes_nothing_and_says_so(notes: Path, documents: SqliteDocuments) -> None:
    """It is rather the mount point of a disk that is not there."""
    (notes / "a.txt").write_text("one")
    await ingested(documents, notes)
    (notes / "a.txt").unlink()
    report = await ingested(documents, notes)
    assert counts(report) == {}
    assert "documents remove --origin" in report.notes[0]
    source = source_of(notes)
    shutil.rmtree(notes)
    lost = await ingest([source], documents, HashProvider())
    assert counts(lost) == {"failed": 1}
    assert await uris(documents) == ["docs:///notes/a.txt"]
    assert (await ingested(documents, Path(notes.parent))).notes == ()


async def test_a_uri_of_another_source_root_is_an_error_that_names_it(
    tmp_path: Path, documents: SqliteDocuments
) -> None:
    """Surfaces: a URI owned by another source root is an error."""
    for place in ("a", "b"):
        (tmp_path / place / "docs").mkdir(parents=True)
        (tmp_path / place / "docs" / "same.md").write_text("the same")
    (tmp_path / "b" / "docs" / "own.md").write_text("its own")
    await ingested(documents, tmp_path / "a" / "docs")
    report = await ingested(documents, tmp_path / "b" / "docs")
    assert counts(report) == {"added": 1, "failed": 1}
    (failure,) = report.failures
    assert failure.path == str(tmp_path / "b" / "docs" / "same.md")
    assert (tmp_path / "a" / "docs").as_uri() in failure.reason
    assert "--as NAME" in failure.reason
    owned = await documents.get("docs:///docs/same.md")
    assert owned is not None
    assert owned.origin == (tmp_path / "a" / "docs").as_uri()
    assert counts(await ingested(documents, tmp_path / "b" / "docs", name="b")) == {"added": 2}


async def test_one_file_of_a_folder_is_the_same_document(notes: Path, documents: SqliteDocuments) -> None:
    """Surfaces: a file becomes docs:///NAME/relative/path."""
    for name in ("a.txt", "b.txt"):
        (notes / name).write_text(name)
    await ingested(documents, notes)
    (notes / "a.txt").write_text("new")
    (notes / "b.txt").unlink()
    assert counts(await ingested(documents, notes / "a.txt")) == {"updated": 1}
    assert await uris(documents) == ["docs:///notes/a.txt", "docs:///notes/b.txt"]


async def test_what_has_no_text_is_stored_and_counted(notes: Path, documents: SqliteDocuments) -> None:
    """Surfaces: unknown binary as blob; stored without text (PDF, office files)."""
    (notes / "a.pdf").write_bytes(b"%PDF-1.7 words")
    (notes / "b.bin").write_bytes(b"\x00\x01")
    (notes / "empty.txt").touch()
    for expected in ({"added": 3}, {"unchanged": 3}):
        report = await ingested(documents, notes)
        assert counts(report) == expected
        assert report.without_text == 1
    assert [(await documents.get(uri)).blob for uri in await uris(documents)] == [  # type: ignore[union-attr]
        b"%PDF-1.7 words", b"\x00\x01", None,
    ]  # fmt: skip
    assert [hit.head.uri for hit in (await documents.match(Matching(text="pdf"))).hits] == ["docs:///notes/a.pdf"]


def hostile(folder: Path) -> None:
    (folder / "good.md").write_text("good")
    (folder / "loop").symlink_to(".")
    (folder / "self.md").symlink_to("self.md")
    os.mkfifo(folder / "pipe.md")
    (folder / "broken.txt").write_bytes(b"caf\xc3 \xff\xfe broken words " * 20)
    (folder / "nul.txt").write_bytes(b"a\0b\0\0c")
    (folder / "wide.txt").write_bytes("zero \0 within".encode("utf-16"))
    (folder / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    (folder / "open.json").write_text('{"a":' * 100_000)
    (folder / "surrogates.json").write_text('{"a": "\\ud800", "b": "\\udc00\\ud800"}')
    (folder / "odd.csv").write_text('a,b\n"never closed\n' * 50)
    (folder / "odd.md").write_text("+++\nnumber = " + "9" * 400 + "\n+++\nwords\n")
    (folder / "odd.html").write_text("<p>" * 20_000 + "&#xd800;&#0;" + "<b" * 20_000)
    (folder / "line.txt").write_text("x" * 1_000_000)
    with (folder / "huge.txt").open("wb") as file:
        file.write(b"words " * 20_000)
        file.truncate(1024**3)


async def test_hostile_files_harm_neither_their_neighbours_nor_the_store(
    notes: Path, documents: SqliteDocuments
) -> None:
    """Issue, what it must show 4: NUL bytes, broken UTF-8, nested JSON, a symlink loop, a file of a gigabyte."""
    hostile(notes)
    report = await ingested(documents, notes)
    assert [(Path(failure.path).name, failure.reason[:30]) for failure in report.failures] == [
        ("huge.txt", "the file has 1073741824 bytes,"),
    ]  # fmt: skip
    assert counts(report) == {"added": 11, "failed": 1}
    for uri in await uris(documents):
        assert await documents.get(uri) is not None
    assert [hit.head.uri for hit in (await documents.match(Matching(text="good"))).hits] == ["docs:///notes/good.md"]
    assert counts(await ingested(documents, notes)) == {"unchanged": 11, "failed": 1}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a file that is never the same twice")
async def test_a_file_that_changes_while_it_is_read_fails_alone_and_may_be_tried_again(
    notes: Path, documents: SqliteDocuments
) -> None:
    """Issue, what it must show 4. Files of /proc say that they have no bytes, and then have some."""
    (notes / "a.txt").write_text("one")
    changing = source_of(Path("/proc/self/status"), "proc")
    ingestion = Ingestion(documents, HashProvider(), DEFAULTS)
    for source in (changing, source_of(notes)):
        await ingestion.ingest(source)
    report = ingestion.report()
    assert counts(report) == {"added": 1, "failed": 1}
    assert "changed while it was read" in report.failures[0].reason
    assert ingestion.unsettled == {"docs:///proc/status"}


async def test_a_text_that_the_model_refuses_fails_alone(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: per-file errors reported, nothing else lost."""
    for number in range(20):
        (notes / f"{number:02}.txt").write_text("poison" if number in (3, 4, 12) else f"text {number}")
    report = await ingest([source_of(notes)], documents, Refusing())
    assert counts(report) == {"added": 17, "failed": 3}
    assert {failure.reason for failure in report.failures} == {"the endpoint does not take this text"}
    assert len(await uris(documents)) == 17


async def test_a_model_that_refuses_everything_ends_the_ingest(notes: Path, documents: SqliteDocuments) -> None:
    """Issue: Embedding providers."""
    for number in range(20):
        (notes / f"{number:02}.txt").write_text("poison")
    ingestion = Ingestion(documents, Refusing(), DEFAULTS)
    with trio.fail_after(WAIT_S), pytest.raises(EmbeddingError):
        await ingestion.ingest(source_of(notes))
    assert counts(ingestion.report()) == {"failed": MAX_REFUSALS}


async def test_a_model_that_is_down_ends_the_ingest_and_the_next_one_goes_on(
    notes: Path, documents: SqliteDocuments
) -> None:
    """Issue: nothing else lost."""

    class Down(HashProvider):
        left = 5

        async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
            self.left -= 1
            if self.left < 0:
                raise StoreUnreachable("no answer")
            return await super().embed(texts)

    for number in range(1000):
        (notes / f"{number:03}.txt").write_text(f"text {number}")
    ingestion = Ingestion(documents, Down(), DEFAULTS)
    with trio.fail_after(WAIT_S), pytest.raises(StoreUnreachable):
        await ingestion.ingest(source_of(notes))
    stored = ingestion.report().added
    assert 0 < stored < 1000
    assert len(await uris(documents)) == stored
    assert counts(await ingested(documents, notes)) == {"added": 1000 - stored, "unchanged": stored}


async def test_a_full_disk_ends_the_ingest_with_what_was_acknowledged(notes: Path, tmp_path: Path) -> None:
    """Issue: per-file errors reported, nothing else lost; architecture law 12."""
    for number in range(300):
        (notes / f"{number:03}.bin").write_bytes(os.urandom(20_000))
    async with open_database(tmp_path / "small") as database:
        await migrate(database)
        await database.write(lambda connection: connection.one("PRAGMA max_page_count = 700"))
        documents = SqliteDocuments(database)
        ingestion = Ingestion(documents, HashProvider(), DEFAULTS)
        with trio.fail_after(WAIT_S), pytest.raises(StorageError, match="full"):
            await ingestion.ingest(source_of(notes))
        stored = ingestion.report().added
        assert 0 < stored < 300
        assert (await documents.statistics()).documents == stored
        await database.write(lambda connection: connection.one("PRAGMA max_page_count = 1000000"))
        assert counts(await ingested(documents, notes)) == {"added": 300 - stored, "unchanged": stored}


@pytest.mark.parametrize("texts", [1, 200, 700])
async def test_cancelled_at_any_time_the_report_is_what_the_store_has(
    notes: Path, documents: SqliteDocuments, texts: int
) -> None:
    """Architecture laws 2 and 12: what was told is stored, and what is stored was told."""
    stop = trio.CancelScope()

    class Stopping(Counting):
        async def embed(self, texts_: Sequence[str]) -> list[Sequence[float]]:
            found = await super().embed(texts_)
            if len(self.texts) >= texts:
                stop.cancel()
            return found

    for number in range(1000):
        (notes / f"{number:03}.txt").write_text(f"text {number}")
    ingestion = Ingestion(documents, Stopping(), DEFAULTS)
    with trio.fail_after(WAIT_S), stop:
        await ingestion.ingest(source_of(notes))
    assert stop.cancelled_caught
    assert ingestion.report().added == (await documents.statistics()).documents < 1000


async def test_a_batch_that_is_acknowledged_after_the_cancellation_is_told_all_the_same(
    notes: Path, tmp_path: Path
) -> None:
    """Architecture laws 2 and 12: a store that answers over a network acknowledges later than it stores."""
    stop = trio.CancelScope()

    class Remote(SqliteDocuments):
        async def write(self, changes: Sequence[Change]) -> list[Outcome]:
            outcomes = await super().write(changes)
            stop.cancel()
            await trio.lowlevel.checkpoint()
            return outcomes

    for number in range(100):
        (notes / f"{number:03}.txt").write_text(f"text {number}")
    async with open_database(tmp_path / "remote") as database:
        await migrate(database)
        documents = Remote(database)
        ingestion = Ingestion(documents, HashProvider(), DEFAULTS)
        with trio.fail_after(WAIT_S), stop:
            await ingestion.ingest(source_of(notes))
        assert stop.cancelled_caught
        assert 0 < ingestion.report().added == (await documents.statistics()).documents < 100


async def test_progress_hears_of_each_file_once(notes: Path, documents: SqliteDocuments) -> None:
    """CLI: progress."""
    for number in range(150):
        (notes / f"{number:03}.txt").write_text(f"text {number}")
    (notes / "x.pipe").symlink_to("nowhere")
    heard: list[tuple[str, str]] = []
    await ingest(
        [source_of(notes)],
        documents,
        HashProvider(),
        progress=lambda result: heard.append((result.uri, result.outcome)),
    )
    assert sorted(heard) == [(f"docs:///notes/{number:03}.txt", "added") for number in range(150)]
