"""Clients of the tasks extension: what was created is there until its ttl, and ends as its owner's life allows.

Create, poll and cancel go to different replicas. A task whose owner was killed is `failed` with `owner_lost` within the
lease and its grace; every other one ends as its work did, and what was told as its end stays so.
"""

from __future__ import annotations

import math
import time
from typing import Any

import trio

from tests.chaos import witness
from tests.chaos.asking import NEEDS_STORE, Order, ask, ask_until, calling, order
from tests.chaos.oracle import Owed, lost_owner
from tests.chaos.site import LEASE_S
from tests.chaos.world import Actor, Held
from tests.tasks.memory import KNOWS

ENDED = {"completed", "failed", "cancelled"}
POLL_S = 0.1
LONG_S = 20.0
"""Of a task that is to be cancelled. One whose client left before it knew of it ends by itself, before it is missed."""
LOST_S = 2 * LEASE_S + 3.0
"""After a death: lease, grace, and what polling on a busy machine adds."""
BEGIN_S = 10.0
STOP_S = 5.0
"""A cancelled task's work has ended when Redis has been there for so long."""


async def tasks(actor: Actor) -> None:
    """Create a task and poll it to its end."""
    held = await create(actor, actor.chance.choice([0.05, 0.3, 1.5, 4.0, 9.0]))
    if held is not None:
        await finish(actor, held, await poll(actor, held))


async def create(actor: Actor, seconds: float) -> Held | None:
    """Call a tool that becomes a task; None when the storm was in the way."""
    name, since = actor.fresh("task"), time.monotonic()
    arguments = {"folder": str(actor.world.witnesses), "name": name, "seconds": seconds}
    created = await ask(actor, calling("create a task", "work", arguments, NEEDS_STORE, capabilities=dict(KNOWS)))
    if created is None or not actor.expect(created.get("resultType") == "task", f"no task: {created}"):
        return None
    held = Held(created["taskId"], since, name)
    actor.world.ledger.acknowledged["tasks"] += 1
    actor.world.ledger.tasks[held.name] = held
    return held


def getting(held: Held) -> Order:
    """Return the request for a task."""
    owed = Owed(store=True, task_since=held.since)
    return order("tasks/get", "tasks/get", {"taskId": held.name}, owed, capabilities=dict(KNOWS))


def cancelling(held: Held) -> Order:
    """Return the request that cancels a task."""
    owed = Owed(store=True, task_since=held.since)
    return order("tasks/cancel", "tasks/cancel", {"taskId": held.name}, owed, capabilities=dict(KNOWS))


async def poll(actor: Actor, held: Held) -> Any:
    """Return a task once it has ended; None when it is gone, which is noted."""
    while True:
        task = await ask_until(actor, getting(held))
        if task is None:
            actor.world.ledger.tasks.pop(held.name, None)
            actor.world.lose("tasks", held, "a replica does not know it")
            return None
        if task["status"] in ENDED:
            return task
        await trio.sleep(POLL_S)


async def finish(actor: Actor, held: Held, task: Any, *, cancelled: bool = False) -> None:
    """Judge how a task has ended, and keep that for whoever looks later."""
    if task is None:
        return
    world, now = actor.world, time.monotonic()
    runs = witness.read(world.witnesses, held.told)
    actor.expect(len(runs) <= 1, f"a task ran {len(runs)} times")
    if task["status"] == "completed":
        right = task["result"]["content"][0]["text"] == held.told and runs and runs[0].end == "done"
        actor.expect(right, f"a task has completed without its work: {task} {runs}")
    elif task["status"] == "failed":
        data = task["error"].get("data", {})
        lost = data == {"reason": "owner_lost", "retryable": True} and lost_owner(runs, held.since, now, world.history)
        actor.expect(lost, f"a task has failed whose owner lives: {task['error']}", f"{held} {runs} at {now:.3f}")
        actor.add("lost owner")
        _measure_loss(actor, [run.pid for run in runs], now)
    else:
        actor.expect(cancelled, f"nobody cancelled a task: {task}")
    actor.add(str(task["status"]))
    world.ledger.tasks[held.name] = Held(held.name, held.since, task)


def _measure_loss(actor: Actor, pids: list[int], now: float) -> None:
    history = actor.world.history
    died = history.death_of(pids[-1]) if pids else math.inf
    if died < now and not history.troubled(died - LEASE_S, now):
        actor.world.delay("death to failed", now - died)
        actor.expect(now - died <= LOST_S, f"a dead owner's task took {now - died:.1f} s to fail, at most {LOST_S:g}")


async def cancelled_tasks(actor: Actor) -> None:
    """Create a long task, and cancel it on another replica once it runs."""
    held = await create(actor, LONG_S)
    if held is None:
        return
    name = held.told
    with trio.move_on_after(BEGIN_S):
        while not witness.read(actor.world.witnesses, name):  # noqa: ASYNC110 - a file rings no bell
            await trio.sleep(0.02)
    await actor.think(0.5)
    wished = await ask_until(actor, cancelling(held))
    asked = time.monotonic()
    if wished is None:
        actor.world.ledger.tasks.pop(held.name, None)
        actor.world.lose("tasks", held, "it cannot be cancelled")
        return
    task = await poll(actor, held)
    await finish(actor, held, task, cancelled=True)
    if task is not None and task["status"] == "cancelled":
        await _wait_stopped(actor, name, asked)


async def _wait_stopped(actor: Actor, name: str, asked: float) -> None:
    """See that the work of a cancelled task ends; its owner may die meanwhile, or hear of it late."""
    history, folder = actor.world.history, actor.world.witnesses
    while True:
        run = next(iter(witness.read(folder, name)), None)
        now = time.monotonic()
        if run is None or run.end == "stopped" or history.death_of(run.pid) < now:
            if run and run.end and not history.troubled(asked, now):
                actor.world.delay("cancel to stopped", now - asked)
            return
        if history.calm(asked, now) > STOP_S:
            actor.expect(False, "the work of a cancelled task goes on", f"{name} {run}, asked at {asked:.3f}")
            return
        await trio.sleep(0.02)


async def look_back(actor: Actor) -> None:
    """Look at a task that has ended: it is as it was told, on whatever replica."""
    ledger = actor.world.ledger
    ended = [held for held in ledger.tasks.values() if isinstance(held.told, dict)]
    if ended:
        await look_at(actor, actor.chance.choice(ended[-200:]))


async def look_at(actor: Actor, held: Held) -> None:
    """Compare a task with what was told."""
    task = await ask_until(actor, getting(held))
    if task is None:
        actor.world.ledger.tasks.pop(held.name, None)
        actor.world.lose("tasks", held, "a replica does not know it any more")
    else:
        actor.expect(task == held.told, "a task has changed after its end", f"{held.told} {task}")
