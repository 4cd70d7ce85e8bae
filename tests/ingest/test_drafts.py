"""From files to documents without vectors: batches with bounds, digests, and texts that know what they are about."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mcpd.ingest.drafts import BATCH_BYTES, BATCH_ITEMS, Draft, Fresh, Making, Unread, draft_batch, load_batch
from mcpd.ingest.sources import Selection, entries, source_of

MAKING = Making("model")


def fresh(folder: Path, making: Making = MAKING, name: str | None = None) -> Fresh:
    (found,) = load_batch(entries(source_of(folder, name), Selection(), lambda *_: None), making)
    assert isinstance(found, Fresh)
    return found


def test_a_batch_ends_at_a_number_of_files_or_of_bytes(notes: Path) -> None:
    for number in range(BATCH_ITEMS + 1):
        (notes / f"a{number:03}.txt").touch()
    for number in range(3):
        (notes / f"b{number}.txt").write_text("x" * (BATCH_BYTES // 2))
    found = entries(source_of(notes), Selection(), lambda *_: None)
    assert [len(load_batch(found, MAKING)) for _ in range(4)] == [BATCH_ITEMS, 3, 1, 0]


def test_the_digest_says_all_that_decides_about_a_document(notes: Path, tmp_path: Path) -> None:
    (notes / "a.txt").write_text("words")
    (tmp_path / "copy" / "notes").mkdir(parents=True)
    (tmp_path / "copy" / "notes" / "a.txt").write_text("words")
    digests = {
        fresh(notes).digest,
        fresh(notes, name="other").digest,
        fresh(tmp_path / "copy" / "notes").digest,
        fresh(notes, Making("another")).digest,
        fresh(notes, Making("model", ("tag",))).digest,
    }
    (notes / "a.txt").write_text("other words")
    digests.add(fresh(notes).digest)
    assert len(digests) == 6
    (notes / "a.txt").write_text("words")
    assert fresh(notes).digest in digests


@pytest.mark.parametrize(
    ("name", "text", "above"),
    [
        ("a.md", "# Title\n\nfirst\n\n## Part\n\n" + "second " * 300, "Title > Part"),
        ("a.py", "def f(x):\n    return x\n", "a.py\ndef f(x)"),
        ("a.txt", "words", "a.txt"),
    ],
)
def test_each_piece_is_embedded_below_title_and_heading(notes: Path, name: str, text: str, above: str) -> None:
    (notes / name).write_text(text)
    (draft,) = draft_batch([fresh(notes)], MAKING)
    assert isinstance(draft, Draft)
    span = draft.spans[-1]
    assert draft.texts[-1] == f"{above}\n{text[span.start : span.end]}"
    assert len(draft.texts) == len(draft.spans)


def test_a_file_that_brings_our_own_code_down_fails_alone(notes: Path, caplog: pytest.LogCaptureFixture) -> None:
    (notes / "a.txt").write_text("words")
    good = fresh(notes)
    bad = good._replace(loaded=msgspec.structs.replace(good.loaded, data=None))
    first, second = draft_batch([bad, good], MAKING)
    assert isinstance(first, Unread)
    assert "could not be taken apart" in first.reason
    assert isinstance(second, Draft)
