"""Two processes on one data folder: each hears of the other's changes, and their writes queue."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from mcpd.storage.documents import Notice
from mcpd.storage.sqlite.documents import open_documents
from tests.contract.backends import put
from tests.faults.writer import BATCH
from tests.source import ROOT

pytestmark = pytest.mark.slow


def start_writer(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.writer", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def one_batch(writer: subprocess.Popen[str], number: int) -> list[str]:
    """Have the process write a batch; return the statuses."""
    assert writer.stdin is not None
    assert writer.stdout is not None
    print("once", number, file=writer.stdin, flush=True)
    lines = [writer.stdout.readline().strip() for _ in range(4)]
    assert lines[3] == "over"
    statuses: list[str] = json.loads(lines[2].removeprefix("done "))
    return statuses


async def test_changes_of_another_process_are_heard_within_about_a_second(tmp_path: Path) -> None:
    heard: list[Notice] = []
    told = trio.Event()

    def notice(one: Notice) -> None:
        heard.append(one)
        if len(heard) == BATCH:
            told.set()

    with start_writer(tmp_path) as writer:
        async with open_documents(tmp_path) as documents:
            async with trio.open_nursery() as nursery:
                await nursery.start(documents.watch, notice)
                statuses = await trio.to_thread.run_sync(one_batch, writer, 1)
                with trio.fail_after(2):
                    await told.wait()
                nursery.cancel_scope.cancel()
            assert statuses == ["created"] * BATCH
            assert heard == [Notice(f"1-0/{n}", listed=True) for n in range(BATCH)]
            assert await documents.get("1-0/0") is not None


async def test_writers_of_two_processes_queue_and_lose_nothing(tmp_path: Path) -> None:
    with start_writer(tmp_path) as writer:
        async with open_documents(tmp_path) as documents:
            ours: list[str] = []

            async def write_here() -> None:
                for n in range(40):
                    ours.extend(o.status for o in await documents.write([put(f"here/{n}", "word " * 200)]))

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write_here)
                    theirs = [
                        status
                        for number in range(8)
                        for status in await trio.to_thread.run_sync(one_batch, writer, number)
                    ]
            assert set(ours) == set(theirs) == {"created"}
            assert (await documents.statistics()).documents == 40 + 8 * BATCH
