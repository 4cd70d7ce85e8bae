"""The official Python SDK's clients, as processes of their own, and the judgement of what they write down.

Each process works in one era and prints its journal, which is judged line by line, like what the raw clients meet. A
task that the SDK was promised is entered into the ledger, so that it is looked for after the storm even if the client
was torn down under it. Deliberately not: what the clients do (`tests/e2e/clients/python_sdk_chaos.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.chaos import task_roles
from tests.chaos.oracle import Failure, Owed, excuse
from tests.chaos.world import Actor, Held
from tests.served import environment

PROGRAM = Path(__file__).parents[1] / "e2e" / "clients" / "python_sdk_chaos.py"
REVISIONS = {"stateless": "2026-07-28", "stateful": "2025-11-25"}


async def run(actor: Actor, era: str, seed: str) -> None:
    """Run one process until cancelled; take its lines."""
    order = {"url": f"{actor.url}/mcp", "era": era, "folder": str(actor.world.witnesses), "seed": seed}
    command = [sys.executable, str(PROGRAM), json.dumps(order)]
    async with trio.open_nursery() as nursery:
        with (actor.world.site.folder / f"{actor.name}.log").open("wb") as log:
            start = partial(trio.run_process, command, stdout=subprocess.PIPE, stderr=log, check=False)
            process: trio.Process = await nursery.start(partial(start, env=environment()))
        assert process.stdout is not None
        waiting = b""
        async for chunk in process.stdout:
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                await take(actor, era, json.loads(line))
        actor.expect(False, "an SDK client has ended by itself")


async def take(actor: Actor, era: str, line: dict[str, Any]) -> None:
    """Take one line of the journal."""
    what = line["what"]
    if what == "revision":
        actor.add("scenes")
        actor.expect(line["revision"] == REVISIONS[era], f"the revision is {line['revision']}")
    elif what == "wrong":
        actor.expect(False, f"wrong: {line['text'][:150]}")
    elif what == "task created":
        actor.world.ledger.acknowledged["tasks"] += 1
        actor.world.ledger.tasks[line["id"]] = Held(line["id"], line["since"], line["name"])
    elif what == "task ended":
        held = Held(line["id"], line["since"], line["name"])
        await task_roles.finish(actor, held, line["task"])
        del actor.world.ledger.tasks[line["id"]]
    else:
        judge(actor, era, line)


def judge(actor: Actor, era: str, line: dict[str, Any]) -> None:
    """Count how an operation ended; a failure that nothing excuses is a violation."""
    begin, end, failed = line["begin"], line["end"], line["failure"]
    if failed is None:
        actor.add("answered")
        actor.world.tally.durations_s.setdefault(actor.name, []).append(end - begin)
        return
    failure = Failure(failed["kind"], failed["text"], 0, failed.get("code"), failed.get("data"))
    if failure.kind == "broken":
        begin = line["session_since"] or begin  # the SDK tears a client down for a stream that it lost before
    found = excuse(failure, begin, end, owed(era, line), actor.world.history)
    actor.expect(found, f"{line['what']}: {failure.kind} {failure.code} {failure.text[:120]}", str(line))
    actor.add(found or "not excused")


def owed(era: str, line: dict[str, Any]) -> Owed:
    """Return what is known of an operation: a session, a task, or a call that needs nothing."""
    if era == "stateful":
        return Owed(store=True, session_since=line["session_since"])
    if line["what"] == "task":
        return Owed(store=True, task_since=line["begin"])
    return Owed()
