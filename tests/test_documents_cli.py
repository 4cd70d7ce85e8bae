"""The commands on the document store: what they print, their JSON, their exit codes; some as processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd import cli
from mcpd.commands import terminal
from mcpd.commands.searching import page
from mcpd.config import Limits
from mcpd.ingest.reports import FileResult
from mcpd.search.embeddings import HashProvider
from mcpd.search.query import parse
from mcpd.search.searcher import Searcher
from mcpd.storage.sqlite.documents import SqliteDocuments, open_documents
from mcpd.storage.sqlite.schema import VERSION

Output = pytest.CaptureFixture[str]
WAIT_S = 60.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with three notes."""
    for name in [name for name in os.environ if name.startswith("MCPD_") or name in ("PORT", "LOG_LEVEL", "REDIS_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes" / "sub").mkdir(parents=True)
    (tmp_path / "notes" / "a.md").write_text("# Nurseries\n\nA cancel scope bounds a nursery.\n")
    (tmp_path / "notes" / "b.txt").write_text("plain words\n")
    (tmp_path / "notes" / "sub" / "c.py").write_text("def nursery():\n    return 1\n")
    return tmp_path


def told(capsys: Output, *words: str, code: int = 0) -> Any:
    """Run a command and return what it printed as JSON."""
    assert cli.run([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def printed(capsys: Output, *words: str, code: int = 0) -> tuple[str, str]:
    """Run a command and return stdout and stderr."""
    capsys.readouterr()
    assert cli.run(list(words)) == code
    return capsys.readouterr()


def store(work: Callable[[SqliteDocuments], Any]) -> Any:
    """Run `work` on the store in the working folder and return its result."""

    async def run() -> Any:
        async with open_documents(Path(".mcpd")) as documents:
            return await work(documents)

    return trio.run(run)


def test_an_ingest_reports_what_became_of_the_files(capsys: Output) -> None:
    """CLI: ingest."""
    Path("notes/d.pdf").write_bytes(b"%PDF-1.7")
    out, err = printed(capsys, "ingest", "notes", "--tag", "x")
    assert out.startswith("4 added, 0 updated, 0 unchanged (")
    assert "1 stored without text" in out
    assert err == ""
    Path("notes/b.txt").write_text("other words\n")
    Path("notes/d.pdf").unlink()
    out, _ = printed(capsys, "ingest", "notes", "--tag", "x")
    assert out.startswith("0 added, 1 updated, 2 unchanged, 1 removed (")


def test_an_ingest_in_json_has_every_count(capsys: Output) -> None:
    """CLI: ingest --json."""
    report = told(capsys, "ingest", "notes")
    assert report == {
        "added": 3, "updated": 0, "unchanged": 0, "removed": 0, "failed": 0, "withoutText": 0, "failures": [],
        "notes": [], "bytes": 86,
    }  # fmt: skip
    assert told(capsys, "ingest", "notes")["unchanged"] == 3


def test_a_file_that_failed_is_named_and_the_exit_code_is_1(capsys: Output) -> None:
    """CLI: exit codes."""
    with Path("notes/huge.txt").open("wb") as file:
        file.write(b"x")
        file.truncate(1024**3)
    out, err = printed(capsys, "ingest", "notes", code=1)
    assert out.startswith("3 added, 0 updated, 0 unchanged, 1 failed")
    assert "huge.txt: the file has 1073741824 bytes" in err
    (failure,) = told(capsys, "ingest", "notes", code=1)["failures"]
    assert failure["path"].endswith("notes/huge.txt")


def test_the_configuration_says_how_large_a_file_may_be(folder: Path, capsys: Output) -> None:
    (folder / "mcpd.toml").write_text("[limits]\nmax_text_bytes = 20\n")
    report = told(capsys, "ingest", "notes", code=1)
    assert (report["added"], report["failed"]) == (1, 2)
    assert all("limits.max_text_bytes" in failure["reason"] for failure in report["failures"])


def test_names_globs_and_hidden_files_can_be_chosen(capsys: Output) -> None:
    """CLI: ingest --as, --glob, --all."""
    Path("notes/.hidden.md").write_text("hidden")
    told(capsys, "ingest", "notes", "--as", "other", "--glob", "*.md", "--all")
    listed = told(capsys, "documents", "list")["documents"]
    assert [item["uri"] for item in listed] == ["docs:///other/.hidden.md", "docs:///other/a.md"]


def test_the_data_folder_is_never_ingested(capsys: Output) -> None:
    """CLI: ingest; keys and the store itself are not documents."""
    told(capsys, "ingest", ".", "--as", "all", "--all", "--data", "kept")
    told(capsys, "ingest", ".", "--as", "all", "--all", "--data", "kept")
    listed = told(capsys, "documents", "list", "--data", "kept")["documents"]
    assert [item["uri"] for item in listed if "kept" in item["uri"]] == []
    assert len(listed) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["ingest", "nowhere"], ["ingest", "notes", "--as", "a/b"], ["ingest", "notes", "--glob", "["],
        ["ingest", "notes", "--tag", ""], ["ingest", "notes", "--tag", os.fsdecode(b"\xff")],
        ["search", "x", "--filter", "nonsense"], ["search", "x", "--filter", "colour=red"], ["search", "--mode", "odd"],
        ["documents", "remove"], ["documents", "remove", "docs:///x", "--prefix", "docs:///"],
        ["documents", "list", "--filter", "colour=red"], ["migrate", "up", "--to", "-1"], ["migrate", "down"],
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(words: list[str], capsys: Output) -> None:
    """CLI: exit codes."""
    _, err = printed(capsys, *words, code=2)
    assert "Usage:" in err
    assert "Error:" in err


@pytest.mark.parametrize("words", [["ingest", "notes"], ["documents", "list"], ["search", "x"], ["migrate", "up"]])
def test_a_data_folder_that_cannot_be_used_is_one_line_naming_the_flag(words: list[str], capsys: Output) -> None:
    """Issue: an error naming the flag."""
    Path("file").touch()
    _, err = printed(capsys, *words, "--data", "file/data", code=1)
    assert err.startswith("mcpd: ")
    assert "--data" in err
    assert err.count("\n") == 1


def test_documents_are_listed_with_filters(capsys: Output) -> None:
    """CLI: documents list."""
    told(capsys, "ingest", "notes", "--tag", "x")
    told(capsys, "ingest", "notes/sub", "--as", "code", "--tag", "y")
    everything = told(capsys, "documents", "list")["documents"]
    assert [item["uri"] for item in everything] == [
        "docs:///code/c.py", "docs:///notes/a.md", "docs:///notes/b.txt", "docs:///notes/sub/c.py",
    ]  # fmt: skip
    first = everything[1]
    assert first.keys() == {
        "uri", "title", "mimeType", "tags", "metadata", "size", "created", "updated", "version", "digest", "origin",
    }  # fmt: skip
    assert (first["title"], first["tags"], first["metadata"]) == (
        "Nurseries", ["x"], {"source": "notes", "path": "a.md"},
    )  # fmt: skip
    for flags, number in (
        (["--tag", "y"], 1), (["--prefix", "docs:///notes/"], 3), (["--origin", "notes"], 3), (["--limit", "2"], 2),
        (["--filter", "mimeType=text/x-python"], 2), (["--filter", "metadata.source=notes", "--tag", "y"], 0),
    ):  # fmt: skip
        assert len(told(capsys, "documents", "list", *flags)["documents"]) == number, flags
    out, _ = printed(capsys, "documents", "list", "--tag", "y")
    assert "docs:///code/c.py  c.py #y" in out
    _, err = printed(capsys, "documents", "list", "--tag", "z")
    assert "mcpd ingest" in err


def test_a_document_is_shown_as_it_is(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """CLI: documents show."""
    Path("notes/d.bin").write_bytes(b"\x00\x01\xff")
    assert cli.run(["ingest", "notes"]) == 0
    capfdbinary.readouterr()
    for uri, content in (("docs:///notes/b.txt", b"plain words\n"), ("docs:///notes/d.bin", b"\x00\x01\xff")):
        assert cli.run(["documents", "show", uri]) == 0
        assert capfdbinary.readouterr().out == content
    assert cli.run(["documents", "show", "docs:///notes/b.txt", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["text"] == "plain words\n"
    assert cli.run(["documents", "show", "docs:///notes/d.bin", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["blob"] == "AAH/"
    assert cli.run(["documents", "show", "docs:///nothing"]) == 1
    assert b"no document docs:///nothing" in capfdbinary.readouterr().err


def test_documents_are_removed_by_uri_or_by_what_fits(capsys: Output) -> None:
    """CLI: documents remove."""
    told(capsys, "ingest", "notes")
    gone = told(capsys, "documents", "remove", "docs:///notes/a.md", "docs:///none", "--yes", code=1)
    assert gone == {"removed": ["docs:///notes/a.md"], "absent": ["docs:///none"]}
    out, err = printed(capsys, "documents", "remove", "--origin", "notes", code=2)
    assert "This would remove 2 documents: say so with --yes" in err
    out, _ = printed(capsys, "documents", "remove", "--origin", "notes", "--yes")
    assert out == "2 removed\n"
    assert Path("notes/a.md").exists()
    assert told(capsys, "documents", "list") == {"documents": []}


def test_search_in_json_is_what_the_searcher_answers(capsys: Output) -> None:
    """Surfaces: `search --json` prints exactly what `POST /api/v1/search` answers."""
    told(capsys, "ingest", "notes", "--tag", "x")

    async def answer(documents: SqliteDocuments) -> Any:
        searcher = Searcher(documents, HashProvider(), patience_s=1.0)
        body = {"query": "nursery", "filters": {"tags": ["x"]}, "facets": [{"field": "mimeType"}], "size": 1}
        return await searcher.search(parse(body, limits=Limits()))

    expected = json.loads(json.dumps(store(answer)))
    found = told(capsys, "search", "nursery", "--filter", "tags=x", "--facet", "mimeType", "--size", "1")
    assert {**found, "took": 0} == {**expected, "took": 0}
    assert found["total"] == 2
    more = told(
        capsys, "search", "nursery", "--filter", "tags=x", "--facet", "mimeType", "--size", "1",
        "--cursor", found["nextCursor"],
    )  # fmt: skip
    assert {hit["uri"] for hit in found["hits"] + more["hits"]} == {"docs:///notes/a.md", "docs:///notes/sub/c.py"}


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
def test_each_mode_finds_and_says_what_it_was(mode: str, capsys: Output) -> None:
    """CLI: search --mode."""
    told(capsys, "ingest", "notes")
    found = told(capsys, "search", "cancel", "scope", "--mode", mode)
    assert (found["mode"], found["hits"][0]["uri"]) == (mode, "docs:///notes/a.md")
    out, _ = printed(capsys, "search", "cancel", "scope", "--mode", mode)
    assert out.startswith("1. Nurseries\n   docs:///notes/a.md#char=0,")


def test_matches_are_in_colour_on_a_terminal_alone(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI: search; NO_COLOR."""
    answer = {
        "hits": [{"uri": "docs:///a", "title": "A", "highlights": ["a \ue000word\ue001 here"]}],
        "facets": {"tags": [{"value": "x", "count": 2}]}, "total": 1, "took": 3, "mode": "text",
    }  # fmt: skip
    lines = list(page(answer))
    assert "   a \x1b[33m\x1b[1mword\x1b[0m here" in lines
    for line in lines:
        terminal.echo(line)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "   a word here\ntags: x 2\n1 found, 1 shown (text, 3 ms)\n" in out
    assert in_terminal("from mcpd.commands import terminal as t; t.echo(t.style('x', bold=True))") == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert in_terminal("from mcpd.commands import terminal as t; t.echo(t.style('x', bold=True))") == "x"


def in_terminal(program: str) -> str:
    """Run a program whose stdout and stderr are a terminal and return what it wrote there."""
    leader, follower = pty.openpty()
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, stdout=follower, stderr=follower, env=environment(), timeout=WAIT_S, check=False)
    os.close(follower)
    pieces = []
    try:
        while piece := os.read(leader, 65536):
            pieces.append(piece)
    except OSError:
        pass
    os.close(leader)
    assert done.returncode == 0, pieces
    return b"".join(pieces).decode().rstrip("\r\n")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "TERM": "xterm", "COLUMNS": "100"}


def test_on_a_terminal_a_bar_shows_files_and_bytes(folder: Path) -> None:
    """CLI: progress."""
    for number in range(300):
        (folder / "notes" / f"{number}.txt").write_text("words " * 50)
    shown = in_terminal("import sys; from mcpd import cli; sys.exit(cli.run(['ingest', 'notes']))")
    assert "\r\x1b[K" in shown
    assert "/303 files, " in shown
    assert shown.split("\r\x1b[K")[-1].startswith("303 added, 0 updated, 0 unchanged (")


def test_control_characters_in_documents_do_not_reach_a_terminal(capsys: Output) -> None:
    """CLI: what comes out of documents is not trusted."""
    Path("notes/evil.md").write_text("# \x1b]0;owned\x07 nursery \u202e\n\nnursery \x1b[2J\n")
    told(capsys, "ingest", "notes")
    for words in (["search", "nursery"], ["documents", "list"]):
        out, _ = printed(capsys, *words)
        assert "owned" in out
        assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert terminal.clean("a\tb\r\x1b[2J\nc") == "a b \ufffd[2J\nc"


def test_an_operator_is_told_what_a_remote_caller_is_not(capsys: Output) -> None:
    """CLI: errors say what is wrong, with the path."""
    told(capsys, "ingest", "notes")
    with closing(sqlite3.connect(".mcpd/mcpd.db")) as tables:
        tables.execute("DROP TABLE documents")
    _, err = printed(capsys, "search", "nursery", code=1)
    assert err.startswith("mcpd: ")
    assert ".mcpd/mcpd.db: no such table" in err


def test_a_failure_is_shown_on_one_line_whatever_the_name(capsys: Output) -> None:
    """CLI: progress."""
    progress = terminal.Progress(live=False)
    progress.heard(FileResult(path="a\n\x1b[2Jb", uri="u", outcome="failed", reason="no\nway"))
    assert capsys.readouterr().err == "failed a \ufffd[2Jb: no way\n"


def test_the_schema_can_be_seen_and_taken_down_and_up(capsys: Output) -> None:
    """CLI: migrate."""
    state = told(capsys, "migrate", "status")
    assert state == {"store": "sqlite", "path": ".mcpd/mcpd.db", "version": 0, "latest": VERSION, "exists": False}
    assert not Path(".mcpd").exists()
    told(capsys, "ingest", "notes")
    assert told(capsys, "migrate", "status")["version"] == VERSION
    _, err = printed(capsys, "migrate", "down", code=2)
    assert "--yes" in err
    down = told(capsys, "migrate", "down", "--yes")
    assert (down["before"], down["version"]) == (VERSION, VERSION - 1)
    out, _ = printed(capsys, "migrate", "status")
    assert "run mcpd migrate up" in out
    up = told(capsys, "migrate", "up")
    assert (up["before"], up["version"]) == (VERSION - 1, VERSION)
    assert len(told(capsys, "documents", "list")["documents"]) == 3


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command as a process; it is killed if it has not ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mcpd", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def some(count: int, folder: Path) -> None:
    for number in range(count):
        (folder / f"{number:05}.txt").write_text(f"text {number} " * 100)


async def test_the_first_interrupt_stops_in_order_and_keeps_what_was_acknowledged(folder: Path) -> None:
    """CLI: ingest; architecture law 12. The report is of what the store has."""
    some(5000, folder / "notes")
    async with open_documents(folder / ".mcpd", poll_s=0.02) as documents:
        begun = trio.Event()
        with running("ingest", "notes", "--json") as process:
            async with trio.open_nursery() as nursery:
                await nursery.start(documents.watch, lambda _: begun.set())
                with trio.fail_after(WAIT_S):
                    await begun.wait()
                    process.send_signal(signal.SIGINT)
                    out, err = await trio.to_thread.run_sync(process.communicate)
                nursery.cancel_scope.cancel()
        report = json.loads(out)
        assert (process.returncode, report["failed"]) == (130, 0), err
        assert 0 < report["added"] < 5003
        assert (await documents.statistics()).documents == report["added"]


@pytest.mark.slow
def test_watch_tells_of_each_change_and_ends_with_a_report(folder: Path) -> None:
    """CLI: ingest --watch."""
    with running("ingest", "notes", "--watch", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["added"] == 3
        (folder / "notes" / "new.txt").write_text("new")
        assert json.loads(process.stdout.readline())["added"] == 4
        (folder / "notes" / "new.txt").write_text("newer")
        assert json.loads(process.stdout.readline())["updated"] == 1
        (folder / "notes" / "a.md").unlink()
        assert json.loads(process.stdout.readline())["removed"] == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, json.loads(out)["removed"]) == (130, 1)
        for line in ("added docs:///notes/new.txt", "updated docs:///notes/new.txt", "removed docs:///notes/a.md"):
            assert line in err


PEAK = """
import sys
from mcpd import cli
code = cli.run(sys.argv[1:])
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1], code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_memory_is_bounded_whatever_the_size_of_a_file_or_a_folder(folder: Path) -> None:
    """Issue, what it must show 4: a 1 GB line; bounded memory."""

    def peak(place: str) -> tuple[int, int]:
        words = [sys.executable, "-c", PEAK, "ingest", place, "--as", "x"]
        done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=WAIT_S, check=True)
        kib, code = done.stdout.split()[-2:]
        return int(kib) // 1024, int(code)

    few, code = peak("notes")
    assert code == 0
    (folder / "large").mkdir()
    for name, first in (("line.txt", b"x" * 100_000), ("data.bin", b""), ("rows.csv", b"a,b\n" * 30_000)):
        with (folder / "large" / name).open("wb") as file:
            file.write(first)
            file.truncate(1024**3)
    many, code = peak("large")
    assert code == 1
    assert many - few < 16
    (folder / "sum").mkdir()
    for number in range(32):
        (folder / "sum" / f"{number}.bin").write_bytes(bytes([number]) * 8 * 1024**2)
    total, code = peak("sum")
    assert code == 0
    assert total - few < 160
