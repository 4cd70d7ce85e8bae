"""`kill -9` in the middle of bulk writes: what was acknowledged is there whole, what was not is whole or absent.

The judge is the log of the process that was killed (`writer.py`), read from its pipe: it outlives the process.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic
from typing import IO

import pytest
import trio

from mcpd.storage.documents import Document
from mcpd.storage.putting import searchable
from mcpd.storage.sqlite.documents import FILE_NAME, open_documents
from mcpd.storage.sqlite.schema import TOKENIZER
from tests.faults.writer import CHUNKS, whole
from tests.source import ROOT

pytestmark = pytest.mark.slow

ROUNDS = 50
LEAST_OPEN = 40
States = dict[str, set[int | None]]
"""URI -> the revisions it may have; None: absent. One, unless a write of it was never answered."""


class Writer:
    """The process that writes, and what its log says has to be in the store."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.writer", str(folder)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.states: States = {}
        self.killed_while_open = 0
        self.batch_s = [0.01]
        self._open: list[tuple[str, int | None]] | None = None

    def close(self) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait(10)
        self._pipe(self._process.stdout).close()

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _line(self) -> str:
        line = self._pipe(self._process.stdout).readline()
        assert line, "the writer has died by itself"
        return line.strip()

    def begin(self, kind: str, number: int) -> int:
        """Start a round; return the process id of the child that writes."""
        print(kind, number, file=self._pipe(self._process.stdin), flush=True)
        return int(self._line())

    def read_until(self, batches: int) -> None:
        """Take in the log until so many batches have been opened."""
        opened = 0
        while opened < batches:
            opened += self._take_in(self._line()) == "open"

    def read_to_the_end(self) -> None:
        """Take in the rest of the log of a child that is no more."""
        while (line := self._line()) != "over":
            self._take_in(line)
        self.killed_while_open += self._open is not None
        for uri, revision in self._open or ():
            self.states[uri].add(revision)
        self._open = None

    def _take_in(self, line: str) -> str:
        word, _, rest = line.partition(" ")
        if word == "open":
            self._open = [(uri, revision) for uri, revision in json.loads(rest)]
            self._since = monotonic()
            for uri, _ in self._open:
                self.states.setdefault(uri, {None})
        else:
            assert word == "done"
            assert self._open is not None
            assert set(json.loads(rest)) <= {"created", "updated", "removed"}
            self.states.update({uri: {revision} for uri, revision in self._open})
            self.batch_s.append(monotonic() - self._since)
            self._open = None
        return word


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    opened = Writer(tmp_path)
    yield opened
    opened.close()


async def test_what_was_acknowledged_survives_kill_9_and_nothing_is_half_written(
    writer: Writer, tmp_path: Path
) -> None:
    draw = random.Random()
    for number in range(ROUNDS):
        child = writer.begin("loop", number)
        writer.read_until(draw.randint(1, 3))
        wait_for_a_random_moment(draw, median(writer.batch_s))
        os.kill(child, signal.SIGKILL)
        writer.read_to_the_end()
        if number % 10 == 0:
            await check_states(tmp_path, writer.states)
    assert writer.killed_while_open >= LEAST_OPEN
    acknowledged = [uri for uri, states in writer.states.items() if len(states) == 1 and None not in states]
    assert len(acknowledged) > ROUNDS
    there = await check_states(tmp_path, writer.states)
    check_tables(tmp_path / FILE_NAME, there)


async def test_a_store_killed_once_is_written_to_as_before(writer: Writer, tmp_path: Path) -> None:
    child = writer.begin("loop", 0)
    writer.read_until(2)
    os.kill(child, signal.SIGKILL)
    writer.read_to_the_end()
    writer.begin("once", 1)
    writer.read_to_the_end()
    await check_states(tmp_path, writer.states)


def wait_for_a_random_moment(draw: random.Random, longest_s: float) -> None:
    """The moment of the kill is what the test draws; nothing is waited for."""
    select.select([], [], [], draw.uniform(0, longest_s))


async def check_states(folder: Path, states: States) -> list[Document]:
    """Every document is wholly one of the revisions that it may have; return those that are there."""
    there = []
    with trio.fail_after(60):
        async with open_documents(folder) as documents:
            for uri, allowed in states.items():
                found = await documents.get(uri)
                revision = None if found is None else int(found.digest.rpartition(" ")[2])
                assert revision in allowed, f"{uri}: revision {revision}, and not one of {allowed}"
                if found is not None and revision is not None:
                    assert described(found) == described(whole(uri, revision).document)
                    there.append(found)
            assert (await documents.statistics()).documents == len(there)
    return there


def described(document: Document) -> tuple[object, ...]:
    return document.uri, document.title, document.text, document.tags, document.metadata, document.size


def check_tables(path: Path, there: list[Document]) -> None:
    """The rows beside the documents are those of these documents, and the index of words as if newly made of them."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for table in ("chunks", "vectors", "codes"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == CHUNKS * len(there), table
    assert connection.execute("SELECT count(*) FROM fields").fetchone()[0] == 5 * len(there)
    connection.execute(f"CREATE VIRTUAL TABLE temp.anew USING fts5(title, heading, text, tokenize='{TOKENIZER}')")
    for document in there:
        rows = searchable(whole(document.uri, int(document.digest.rpartition(" ")[2])))
        first = int(document.version) << 20
        connection.executemany(
            "INSERT INTO temp.anew (rowid, title, heading, text) VALUES (?, ?, ?, ?)",
            [(first | n, *row) for n, row in enumerate(rows)],
        )
    connection.execute("CREATE VIRTUAL TABLE temp.ours USING fts5vocab(main, fts, instance)")
    connection.execute("CREATE VIRTUAL TABLE temp.wanted USING fts5vocab(temp, anew, instance)")
    for one, other in (("ours", "wanted"), ("wanted", "ours")):
        sql = f"SELECT count(*) FROM (SELECT * FROM temp.{one} EXCEPT SELECT * FROM temp.{other})"
        assert connection.execute(sql).fetchone()[0] == 0
    connection.close()
