"""`kill -9` of a server in the middle of keyed calls: what was answered is never run again, what was not may be.

The judge is a file to which the tool appends one line a run; it outlives the process.
"""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest
import trio

from mcpd.wire.envelope import IDEMPOTENCY_KEY
from tests.idempotency.memory import Witness, replayed, text
from tests.in_process import eventually
from tests.redis_servers import serving as redis_serving
from tests.served import Reply, Server, client_at, killable, opened, stateless

pytestmark = pytest.mark.slow
FLAGS = ("--data", "data", "--tools", str(Path(__file__).with_name("tools.py")))
WAIT_S = 120.0
LOST_S = 2.0
STEP_S = 0.02
NAMES = 24
CLIENTS = 3
ROUNDS = 5
ROUND_S = 10.0
"""When all names have run a round ends by itself."""


def settings(url: str | None) -> str:
    return "" if url is None else f'[redis]\nurl = "{url}"\n'


@contextmanager
def store(kind: str) -> Iterator[str]:
    """Give the settings of a server whose keys are kept in SQLite, or in Redis that keeps what it has."""
    if kind == "sqlite":
        yield settings(None)
    else:
        with redis_serving(kind) as server:
            yield settings(server.url)


async def ask(server: Server, witness: Witness, key: str, **arguments: Any) -> Reply:
    params = {"name": "run", "arguments": {"witness": str(witness.path), **arguments}}
    async with client_at(server.url) as client:
        return await client.ask("tools/call", params, meta={IDEMPOTENCY_KEY: key})


@pytest.mark.parametrize("kind", ["sqlite", "redis-7"])
async def test_an_outcome_that_was_told_survives_and_an_unfinished_call_runs_again(tmp_path: Path, kind: str) -> None:
    """Law 12; the retry waits for the dead owner's lease at the most."""
    witness = Witness(tmp_path)
    with trio.fail_after(WAIT_S), store(kind) as written:
        with killable(tmp_path, written, *FLAGS) as first:
            told = await ask(first, witness, "told", word="told")
            assert not replayed(told.result)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_lose, first, witness, "lost")
                await eventually(lambda: "lost" in witness.words, "it runs")
                first.process.send_signal(signal.SIGKILL)
                first.process.wait()
        with killable(tmp_path, written, *FLAGS) as second:
            again = await ask(second, witness, "told", word="told")
            assert (text(again.result), replayed(again.result)) == ("told", True)
            rerun = await ask(second, witness, "lost", word="lost", seconds=LOST_S)
            assert (text(rerun.result), replayed(rerun.result)) == ("lost", False)
        assert Counter(witness.words) == {"told": 1, "lost": 2}


async def _lose(server: Server, witness: Witness, key: str) -> None:
    try:
        await ask(server, witness, key, word=key, seconds=LOST_S)
    except httpx.HTTPError:
        return
    raise AssertionError("it was answered by a dead server")


@pytest.mark.parametrize("kind", ["sqlite", "redis-7"])
async def test_whenever_a_server_dies_what_it_answered_has_run_once(tmp_path: Path, kind: str) -> None:
    """Killed after a random number of runs, under clients that ask for the same keys again and again."""
    witness, chance = Witness(tmp_path), random.Random(11)
    runs: dict[str, int] = {}
    with trio.fail_after(WAIT_S), store(kind) as written:
        for _ in range(ROUNDS):
            until = len(witness.words) + chance.randint(1, NAMES // 2)
            with killable(tmp_path, written, *FLAGS) as server:
                async with trio.open_nursery() as nursery:
                    for _ in range(CLIENTS):
                        names = chance.sample(range(NAMES), NAMES)
                        nursery.start_soon(_ask_on, server, witness, names, runs)
                    with trio.move_on_after(ROUND_S):
                        await eventually(partial(_has_run, witness, until), "so many have run")
                    server.process.send_signal(signal.SIGKILL)
                    server.process.wait()
        with killable(tmp_path, written, *FLAGS) as server:
            for name in sorted(runs):
                reply = await ask(server, witness, name, word=name, seconds=STEP_S)
                assert (text(reply.result), replayed(reply.result)) == (name, True)
    counts = Counter(witness.words)
    assert runs, "some were answered before a server died"
    assert {name: counts[name] for name in runs} == runs, "nothing ran after its answer"


def _has_run(witness: Witness, count: int) -> bool:
    return len(witness.words) >= count


async def _ask_on(server: Server, witness: Witness, names: list[int], runs: dict[str, int]) -> None:
    """Ask for one key after the other until the server is dead; note how often each had run when it was answered."""
    for number in names:
        name = f"n{number}"
        params = {"name": "run", "arguments": {"witness": str(witness.path), "word": name, "seconds": STEP_S}}
        body, headers = stateless("tools/call", params, meta={IDEMPOTENCY_KEY: name})
        try:
            async with opened(server.url, "POST", json.dumps(body).encode(), headers) as reader:
                said = json.loads(await reader.whole())
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            return
        assert text(said["result"]) == name
        runs.setdefault(name, Counter(witness.words)[name])
