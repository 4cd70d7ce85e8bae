"""What a user names, and how its documents are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcpd.ingest.sources import (
    BadSource,
    Entry,
    Selection,
    Source,
    entries,
    entry_of,
    glob_rules,
    gone,
    identity_of,
    is_gone,
    origin_of,
    source_of,
)

ANY = Selection()


def found(source: Source, selection: Selection = ANY) -> list[Entry]:
    return list(entries(source, selection, lambda path, error: pytest.fail(f"{path}: {error}")))


def uris(source: Source, selection: Selection = ANY) -> list[str]:
    return [entry.uri for entry in found(source, selection)]


def test_a_folder_gives_its_name_and_the_paths_within(notes: Path) -> None:
    (notes / "sub").mkdir()
    (notes / "a.md").touch()
    (notes / "sub" / "b c.md").touch()
    source = source_of(notes)
    assert uris(source) == ["docs:///notes/a.md", "docs:///notes/sub/b%20c.md"]
    assert source.origin == notes.resolve().as_uri()


def test_a_file_is_called_as_if_its_folder_had_been_named(notes: Path) -> None:
    (notes / "a.md").touch()
    (notes / "b.md").touch()
    folder, file = source_of(notes), source_of(notes / "a.md")
    assert uris(file) == ["docs:///notes/a.md"]
    assert (file.origin, file.prefix) == (folder.origin, folder.prefix)


def test_another_name_can_be_given(notes: Path) -> None:
    (notes / "a.md").touch()
    assert uris(source_of(notes, "my notes")) == ["docs:///my%20notes/a.md"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_name_that_could_be_mistaken_for_a_path_is_refused(notes: Path, name: str) -> None:
    with pytest.raises(BadSource, match="--as NAME"):
        source_of(notes, name)


def test_the_root_of_all_files_needs_a_name() -> None:
    with pytest.raises(BadSource, match="--as NAME"):
        source_of(Path("/"))
    assert source_of(Path("/"), "all").prefix == "docs:///all/"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="no such file"):
        source_of(tmp_path / "nothing")


def test_a_folder_is_the_same_source_however_it_is_written(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes / "sub").mkdir()
    monkeypatch.chdir(notes)
    assert source_of(Path()) == source_of(notes) == source_of(Path("sub/..")) == source_of(notes / ".")
    assert origin_of(".") == origin_of(str(notes)) == source_of(notes).origin == origin_of(source_of(notes).origin)


def test_a_link_stays_the_same_source_when_it_is_pointed_elsewhere(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.md").write_text(version)
    current = tmp_path / "current"
    current.symlink_to("v1")
    first, read = source_of(current), found(source_of(current))
    current.unlink()
    current.symlink_to("v2")
    assert source_of(current) == first
    assert [entry.uri for entry in read] == uris(first) == ["docs:///current/a.md"]
    assert found(first)[0].path.read_text() == "v2"


def test_a_linked_file_that_was_named_is_read_and_keeps_its_name(notes: Path) -> None:
    (notes / "real.md").write_text("words")
    (notes / "link.md").symlink_to("real.md")
    source = source_of(notes / "link.md")
    (entry,) = found(source)
    assert entry.uri == "docs:///notes/link.md"
    assert not entry.path.is_symlink()
    assert entry == entry_of(source, "link.md")


@pytest.mark.parametrize("name", ["ä ö.md", "100%.md", "a?b#c.md", "50%20.md", "a;b,c&d.md", "'quoted' \"twice\".md"])
def test_names_are_encoded_and_come_back(notes: Path, name: str) -> None:
    (notes / name).touch()
    source = source_of(notes)
    (uri,) = uris(source)
    assert uri.isascii()
    assert not set(uri.removeprefix("docs:///")) & set(" ?#\"'")
    assert source.relative(uri) == name


def test_a_name_that_is_no_unicode_comes_back_too(notes: Path) -> None:
    (Path(os.fsdecode(os.fsencode(notes) + b"/\xff.md"))).touch()
    source = source_of(notes)
    (uri,) = uris(source)
    assert uri == "docs:///notes/%FF.md"
    assert os.fsencode(source.relative(uri)) == b"\xff.md"


def test_what_is_kept_apart_is_never_an_entry(notes: Path) -> None:
    (notes / "data").mkdir()
    (notes / "data" / "mcpd.db").touch()
    (notes / "keys.toml").touch()
    (notes / "a.md").touch()
    kept = Selection(include_all=True, excluded=(notes / "data", notes / "keys.toml"))
    assert uris(source_of(notes), kept) == ["docs:///notes/a.md"]


def test_a_file_is_gone_only_when_there_is_none(notes: Path) -> None:
    (notes / "a.md").touch()
    (notes / "b.md").mkdir()
    (notes / "loop").symlink_to("loop")
    source, rules = source_of(notes), glob_rules(Selection())
    found = {name: is_gone(source, name, rules) for name in ("a.md", "b.md", "c.md", "a.md/x", "loop/x", "n" * 300)}
    assert found == {"a.md": False, "b.md": True, "c.md": True, "a.md/x": True, "loop/x": False, "n" * 300: False}


def test_nothing_is_gone_from_a_root_that_has_become_another_folder(notes: Path, tmp_path: Path) -> None:
    (notes / "a.md").touch()
    source = source_of(notes)
    root = identity_of(source)
    assert gone(source, ["a.md", "b.md"], (), root) == ["b.md"]
    assert gone(source, ["b.md"], (), None) == []
    notes.rename(tmp_path / "away")
    assert gone(source, ["a.md", "b.md"], (), root) == []
    notes.mkdir()
    assert gone(source, ["a.md", "b.md"], (), root) == []


def test_a_file_that_the_globs_do_not_ask_for_is_not_called_gone(notes: Path) -> None:
    source, rules = source_of(notes), glob_rules(Selection(globs=("*.md",)))
    assert is_gone(source, "sub/a.md", rules)
    assert not is_gone(source, "sub/a.txt", rules)
