"""`.gitignore` patterns, as git reads them; the whole table is also put to git itself where git is installed."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.ingest.ignore import glob_rule, ignored, parse_rules

IGNORED = [
    ("*.pyc", "a.pyc"),
    ("*.pyc", "deep/er/a.pyc"),
    ("build", "build"),
    ("build", "src/build"),
    ("build/", "src/build/"),
    ("/build", "build"),
    ("doc/*.txt", "doc/a.txt"),
    ("/doc/*.txt", "doc/a.txt"),
    ("doc/", "a/doc/"),
    ("a/b", "a/b"),
    ("**/foo", "foo"),
    ("**/foo", "a/b/foo"),
    ("**/foo/bar", "a/foo/bar"),
    ("abc/**", "abc/a"),
    ("abc/**", "abc/a/b/c"),
    ("a/**/b", "a/b"),
    ("a/**/b", "a/x/b"),
    ("a/**/b", "a/x/y/b"),
    ("a/**/b/**/c", "a/b/x/y/c"),
    ("a/**/b/**/c", "a/b/b/c"),
    ("a/**/b*/**/c", "a/bx/b/c"),
    ("a/**/**/b", "a/x/b"),
    ("**", "anything/at/all"),
    ("foo**bar", "fooxbar"),
    ("x/foo**bar", "x/fooxbar"),
    ("?.c", "x.c"),
    ("[abc].c", "b.c"),
    ("[a-c]x", "bx"),
    ("[!a-c]x", "dx"),
    ("[^a-c]x", "dx"),
    ("[]]x", "]x"),
    ("[!]]x", "ax"),
    ("[a-]x", "-x"),
    ("[[:digit:]]x", "7x"),
    ("[![:alpha:]_]x", "7x"),
    ("[\\]]x", "]x"),
    ("[a\\-z]x", "-x"),
    ("\\#file", "#file"),
    ("\\!file", "!file"),
    ("\\*", "*"),
    ("a\\ ", "a "),
    ("a ", "a"),
    ("a b", "a b"),
    ("a+(b)|c$", "a+(b)|c$"),
    ("a*b*c*d", "aXbXcXd"),
    ("*a*b", "bab"),
    ("*", "x"),
    ("x\r", "x"),
    ("ф*", "файл"),
    ("*.txt\n!keep.txt\n", "a.txt"),
    ("!a\na", "a"),
    ("*~", "x~"),
    (".*.sw?", ".a.swp"),
    ("a/", "a/"),
    ("/*", "a"),
    ("/*/b", "a/b"),
]

KEPT = [
    ("*.pyc", "a.py"),
    ("", "a"),
    ("#a", "#a"),
    ("/build", "src/build"),
    ("build/", "build"),
    ("doc/*.txt", "doc/sub/a.txt"),
    ("doc/*.txt", "src/doc/a.txt"),
    ("a/b", "x/a/b"),
    ("abc/**", "abc"),
    ("a/**/b", "ab"),
    ("a/**/b", "a/xb"),
    ("**/foo/bar", "foo/x/bar"),
    ("x/foo**bar", "x/foo/bar"),
    ("?.c", "ab.c"),
    ("a?b", "a/b"),
    ("a[/]b", "a/b"),
    ("a[!x]b", "a/b"),
    ("a*b", "a/b"),
    ("[abc", "[abc"),
    ("[abc", "a"),
    ("[z-a]x", "bx"),
    ("[[:nothing:]]x", "ax"),
    ("a\\", "a"),
    ("A", "a"),
    ("*.txt\n!keep.txt\n", "keep.txt"),
    ("a\n!a", "a"),
    ("!a", "a"),
    ("/", "a"),
    (" a", "a"),
    ("a.c", "abc"),
]

ROWS = [(rules, path, True) for rules, path in IGNORED] + [(rules, path, False) for rules, path in KEPT]


@pytest.mark.parametrize(("rules", "path", "expected"), ROWS)
def test_a_path_is_ignored_as_git_would(rules: str, path: str, expected: bool) -> None:
    found = ignored(parse_rules(rules), path.rstrip("/"), folder=path.endswith("/"))
    assert bool(found) is expected


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git to compare with")
def test_git_itself_agrees_with_the_table(tmp_path: Path) -> None:
    """The rows are not our opinion: `git check-ignore` is asked about each."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    wrong = []
    for rules, path, expected in ROWS:
        (tmp_path / ".gitignore").write_text(rules, newline="")
        told = subprocess.run(
            ["git", "check-ignore", "-q", "--no-index", "--stdin", "-z"], cwd=tmp_path, input=path.encode(), check=False
        )
        wrong += [(rules, path)] if (told.returncode == 0) is not expected else []
    assert not wrong


def test_a_rule_that_takes_back_is_told_apart_from_no_rule() -> None:
    rules = parse_rules("*.log\n!keep.log")
    assert [ignored(rules, name, folder=False) for name in ("a.log", "keep.log", "a.txt")] == [True, False, None]


def test_comments_and_blank_lines_are_no_rules() -> None:
    assert len(parse_rules("\ufeff# comment\n\n   \na\r\n")) == 1


def test_a_line_longer_than_any_path_is_no_rule() -> None:
    assert parse_rules("a" * 5000) == ()


@pytest.mark.parametrize(
    "pattern", ["*a" * 50 + "b", "**/a" * 50 + "/b", "a*/**/" * 50 + "b", "[a-z]*" * 50 + "!", "?*" * 100 + "b"]
)
def test_no_pattern_makes_matching_slow(pattern: str) -> None:
    """A backtracking translation would take longer than the universe for each of these."""
    rules = parse_rules(pattern)
    began = time.perf_counter()
    assert not ignored(rules, "a" * 250, folder=False)
    assert not ignored(rules, "/".join(["a"] * 120), folder=False)
    assert time.perf_counter() - began < 2


def test_stars_match_what_trying_every_way_matches() -> None:
    """Taking the first place that fits loses nothing, which is the law that matching rests on."""

    def naive(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(naive(pattern[1:], text[at:]) for at in range(len(text) + 1))
        return bool(text) and pattern[0] in ("?", text[0]) and naive(pattern[1:], text[1:])

    @given(st.text("ab?*", min_size=1, max_size=8).filter(lambda p: "**" not in p), st.text("ab", max_size=8))
    def agree(pattern: str, text: str) -> None:
        assert bool(ignored(parse_rules(pattern), text, folder=False)) is naive(pattern, text)

    agree()


@given(st.text(), st.text())
def test_any_text_is_a_set_of_rules(text: str, path: str) -> None:
    assert ignored(parse_rules(text), path, folder=True) in (True, False, None)


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("*.md", "a/b.md", True),
        ("docs/*.md", "docs/a.md", True),
        ("docs/*.md", "x/docs/a.md", False),
        ("docs/**/*.md", "docs/a/b/c.md", True),
        ("!x", "!x", True),
        ("#x", "#x", True),
    ],
)
def test_a_glob_is_one_pattern_of_the_same_language(glob: str, path: str, expected: bool) -> None:
    assert bool(ignored([glob_rule(glob)], path, folder=False)) is expected


@pytest.mark.parametrize("glob", ["", "/", "[a", "a\\", " "])
def test_a_glob_that_matches_nothing_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match="no pattern"):
        glob_rule(glob)
