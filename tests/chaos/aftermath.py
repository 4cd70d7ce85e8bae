"""After the storm: every replica is ready, and whatever was acknowledged and not lost by the table is there on each.

Sessions answer on every replica and are then ended; tasks have ended, and as they were told; outcomes of keys are told
again without a run; what Redis holds has an end. Called by: `course`, once, while nobody else calls.
"""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import trio

from tests.cancellation.program import get
from tests.chaos import keyed_roles, session_roles, task_roles
from tests.chaos.asking import Session, ask
from tests.chaos.call_roles import judge_rates
from tests.chaos.site import Site
from tests.chaos.world import Actor, Held, World

READY_S = 20.0
"""After the last trouble, all replicas are ready: reconnecting takes 2 s at the most, starting as long as it takes."""
SAMPLE = 400
"""Of tasks and keys, the latest ones are asked for: one each takes some milliseconds."""
_RECORD = re.compile(r"^(?=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", re.MULTILINE)


async def wait_ready(site: Site) -> float:
    """Return how long it took until `/readyz` of all was fine. Raises: TooSlowError."""
    begin = time.monotonic()
    with trio.fail_after(READY_S):
        for replica in site.replicas:
            while replica.server is None or not await _is_ready(replica.server.port):  # noqa: ASYNC110 - polled
                await trio.sleep(0.05)
    return time.monotonic() - begin


async def _is_ready(port: int) -> bool:
    status, text = await get(port, "/readyz")
    return status == 200 and text.startswith("ready\n")


async def look(world: World) -> None:
    """Look at all that is in the ledger."""
    actor = Actor(world, "aftermath", random.Random(world.seed), world.site.url)
    judge_rates(actor, time.monotonic())
    for held in list(world.ledger.sessions.values()):
        await _look_at_session(actor, Session(held.name, held.since))
    for held in _there(world, "tasks", world.ledger.tasks):
        if isinstance(held.told, dict):
            await task_roles.look_at(actor, held)
        else:
            await _let_end(actor, held)
    for held in _there(world, "keys", world.ledger.keys):
        await keyed_roles.look_again(actor, held)
    _read_logs(world)


def _there(world: World, kind: str, all_held: dict[str, Held]) -> list[Held]:
    """Return the latest of those that Redis has to know; what it has lost since is excused unasked."""
    there = [held for held in all_held.values() if not world.history.emptied(held.since)]
    world.ledger.excused[kind] += len(all_held) - len(there)
    return there[-SAMPLE:]


async def _look_at_session(actor: Actor, session: Session) -> None:
    held = actor.world.ledger.sessions[session.key]
    for replica in actor.world.site.replicas:
        assert replica.server is not None
        direct = Actor(actor.world, actor.name, actor.chance, replica.server.url)
        what = session.order("kept session after the storm", "tools/list")
        if await ask(direct, what) is None:
            actor.world.lose("sessions", held, "a replica does not know it after the storm")
            return
    actor.add("sessions found")
    await session_roles.end(actor, session)


async def _let_end(actor: Actor, held: Held) -> None:
    """See a task to its end whose client was cut off; one that still runs is cancelled."""
    if (await ask(actor, task_roles.getting(held)) or {}).get("status") == "working":
        await ask(actor, task_roles.cancelling(held))
    task = await task_roles.poll(actor, held)
    await task_roles.finish(actor, held, task, cancelled=True)


def _read_logs(world: World) -> None:
    """Note every traceback and every internal error that is none of a store."""
    for path in sorted(world.site.folder.glob("replica-*/log")):
        for record in _RECORD.split(Path(path).read_text(errors="replace")):
            if "Traceback" in record:
                last = [line.strip() for line in record.splitlines() if line.strip()][-1]
                world.tally.violation(f"traceback in a log: {last[:150]}", record)
