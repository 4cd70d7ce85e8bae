"""Walking a folder: which files, in which order, and that links and loops lead nowhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from mcpd.ingest.walking import walk


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(root: Path, found: Iterable[Path]) -> list[str]:
    return [path.relative_to(root.resolve()).as_posix() for path in found]


def test_files_come_sorted_folder_by_folder(tmp_path: Path) -> None:
    make(tmp_path, "b/2.txt", "b/10.txt", "a.txt", "c.txt", "b/a/x.txt", "B.txt")
    assert names(tmp_path, walk(tmp_path)) == ["B.txt", "a.txt", "b/10.txt", "b/2.txt", "b/a/x.txt", "c.txt"]


def test_dotfiles_and_ignored_files_are_passed_over_unless_all_is_wanted(tmp_path: Path) -> None:
    make(
        tmp_path, ".hidden", ".git/config", "a.txt", "a.log", "keep.log", "build/x.txt", "src/build/y.txt", "src/a.txt"
    )
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/build\n")
    assert names(tmp_path, walk(tmp_path)) == ["a.txt", "keep.log", "src/a.txt", "src/build/y.txt"]
    everything = names(tmp_path, walk(tmp_path, include_all=True))
    assert {".hidden", ".gitignore", "a.log", "build/x.txt"} <= set(everything)


def test_what_programs_make_is_passed_over_unless_all_is_wanted(tmp_path: Path) -> None:
    """Also where no `.gitignore` says so."""
    for name in ("a.py", "__pycache__/a.cpython-311.pyc", "web/node_modules/left/pad.js", "web/b.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.name for path in walk(tmp_path)] == ["a.py", "b.js"]
    assert len(list(walk(tmp_path, include_all=True))) == 4


def test_the_innermost_gitignore_counts(tmp_path: Path) -> None:
    make(tmp_path, "a.log", "in/a.log", "in/b.log", "in/deep/a.log", "other/a.log")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "in/.gitignore").write_text("!a.log\n/deep\n")
    assert names(tmp_path, walk(tmp_path)) == ["in/a.log"]


def test_nothing_is_taken_back_out_of_an_ignored_folder(tmp_path: Path) -> None:
    make(tmp_path, "out/keep.txt", "a.txt")
    (tmp_path / ".gitignore").write_text("out/\n!out/keep.txt\n")
    (tmp_path / "out/.gitignore").write_text("!*\n")
    assert names(tmp_path, walk(tmp_path)) == ["a.txt"]


def test_the_rules_of_the_repository_above_count_as_well(tmp_path: Path) -> None:
    make(
        tmp_path,
        "repo/.git/HEAD",
        "repo/src/pkg/a.py",
        "repo/src/pkg/a.pyc",
        "repo/src/pkg/gen/b.py",
        "repo/src/x/pkg/c.py",
    )
    (tmp_path / ".gitignore").write_text("*.py\n")
    (tmp_path / "repo/.gitignore").write_text("*.pyc\n/src/pkg/gen\n")
    (tmp_path / "repo/src/.gitignore").write_text("/x\n")
    assert names(tmp_path / "repo/src", walk(tmp_path / "repo/src")) == ["pkg/a.py"]
    assert names(tmp_path / "repo/src/pkg", walk(tmp_path / "repo/src/pkg")) == ["a.py"]


def test_globs_choose_among_the_files(tmp_path: Path) -> None:
    make(tmp_path, "a.md", "a.txt", "docs/b.md", "docs/deep/c.rst", "src/docs/d.md")
    assert names(tmp_path, walk(tmp_path, globs=["*.md"])) == ["a.md", "docs/b.md", "src/docs/d.md"]
    assert names(tmp_path, walk(tmp_path, globs=["docs/**", "*.txt"])) == ["a.txt", "docs/b.md", "docs/deep/c.rst"]
    with pytest.raises(ValueError, match="no pattern"):
        list(walk(tmp_path, globs=["[a"]))


def test_links_are_not_followed_so_no_loop_is_walked_and_nothing_is_found_outside(tmp_path: Path) -> None:
    make(tmp_path, "root/a.txt", "root/sub/b.txt", "outside/secret.txt")
    root = tmp_path / "root"
    (root / "loop").symlink_to(root)
    (root / "sub/up").symlink_to("..")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside/secret.txt")
    (root / "self").symlink_to("self")
    (root / "broken").symlink_to("nowhere")
    assert names(root, walk(root, include_all=True)) == ["a.txt", "sub/b.txt"]


def test_a_gitignore_that_is_a_link_or_a_folder_is_none(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "sub/b.txt", "rules")
    (tmp_path / "rules").write_text("*.txt\n")
    (tmp_path / ".gitignore").symlink_to("rules")
    (tmp_path / "sub/.gitignore").mkdir()
    assert names(tmp_path, walk(tmp_path, globs=["*.txt"])) == ["a.txt", "sub/b.txt"]


def test_the_root_is_followed_whatever_it_is(tmp_path: Path) -> None:
    make(tmp_path, ".real/a.txt")
    (tmp_path / "link").symlink_to(".real")
    assert names(tmp_path / ".real", walk(tmp_path / "link")) == ["a.txt"]
    assert names(tmp_path / ".real", walk(tmp_path / ".real/a.txt")) == ["a.txt"]


def test_pipes_and_sockets_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path, walk(tmp_path)) == ["a.txt"]


def test_a_folder_that_is_gone_is_reported_and_the_others_are_walked(tmp_path: Path) -> None:
    make(tmp_path, "a/1.txt", "b/2.txt", "c/3.txt")
    failed: list[tuple[str, type[OSError]]] = []
    found = []
    for path in walk(tmp_path, on_error=lambda where, error: failed.append((where.name, type(error)))):
        found.append(path.name)
        if path.name == "1.txt":
            (tmp_path / "b/2.txt").unlink()
            (tmp_path / "b").rmdir()
    assert found == ["1.txt", "3.txt"]
    assert failed == [("b", FileNotFoundError)]


def test_without_a_listener_the_error_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "absent"))


def test_a_deep_tree_needs_no_recursion(tmp_path: Path) -> None:
    """Deeper than Python's stack; taken away again at once, because others that clean up do recurse."""
    folders = [tmp_path / "d"]
    try:
        while len(folders) < 1200 and len(str(folders[-1])) < 3900:
            folders[-1].mkdir()
            folders.append(folders[-1] / "d")
        make(folders[-2], "leaf.txt")
        assert [found.name for found in walk(tmp_path)] == ["leaf.txt"]
    finally:
        (folders[-2] / "leaf.txt").unlink(missing_ok=True)
        for folder in reversed(folders[:-1]):
            folder.rmdir()


def test_files_are_found_one_after_the_other(tmp_path: Path) -> None:
    """Nothing is collected first: a folder is listed when it is reached."""
    make(tmp_path, "a/1.txt", "b/2.txt")
    walking = walk(tmp_path)
    assert next(walking).name == "1.txt"
    make(tmp_path, "b/0.txt")
    assert [path.name for path in walking] == ["0.txt", "2.txt"]
