"""Clients that call with idempotency keys until they are told: the tool has run once, unless it had to run again.

The witness file counts the runs. An outcome that was told is told again, on whatever replica, for as long as Redis
remembers it. What runs again without need fails the run.
"""

from __future__ import annotations

import time
from typing import Any

import trio

from mcpd.wire.envelope import IDEMPOTENCY_KEY
from tests.chaos import witness
from tests.chaos.asking import NEEDS_STORE, Order, ask_until, calling
from tests.chaos.call_roles import said
from tests.chaos.oracle import runs_too_many
from tests.chaos.world import Actor, Held

REPLAYED = "dev.mcpd/replayed"
JOINED = 0.3
"""The share of keys for which two clients call at once."""


async def keyed(actor: Actor) -> None:
    """Call with a key until there is an outcome, sometimes from two connections at once; then call again."""
    name, since = actor.fresh("key"), time.monotonic()
    what = keyed_call(actor, name, actor.chance.choice([0.0, 0.1, 0.7, 2.0, 6.0]))
    told: list[Any] = []
    async with trio.open_nursery() as both:
        for _ in range(2 if actor.chance.random() < JOINED else 1):
            both.start_soon(_call, actor, Order(what.label, what.body, what.headers, what.owed), told)
    if not told:
        return
    actor.world.ledger.acknowledged["keys"] += 1
    held = Held(name, since, (min(at for _, at in told), what))
    same = {said(result) for result, _ in told}
    actor.expect(len(same) == 1 or actor.world.history.emptied(since), f"two outcomes of one key: {same}")
    actor.world.ledger.keys[name] = Held(name, since, (held.told[0], what, said(told[0][0])))
    judge_runs(actor, name)
    await look_again(actor, actor.world.ledger.keys[name])


def keyed_call(actor: Actor, name: str, seconds: float) -> Order:
    """Return a call with a key."""
    arguments = {"folder": str(actor.world.witnesses), "name": name, "seconds": seconds}
    return calling("keyed call", "tally", arguments, NEEDS_STORE, meta={IDEMPOTENCY_KEY: name})


async def _call(actor: Actor, what: Order, told: list[Any]) -> None:
    result = await ask_until(actor, what)
    if result is not None:
        told.append((result, time.monotonic()))


def judge_runs(actor: Actor, name: str) -> None:
    """Hold the runs of a key against its history."""
    held = actor.world.ledger.keys[name]
    runs = witness.read(actor.world.witnesses, name)
    wrong = runs_too_many(runs, held.told[0], actor.world.history)
    if wrong:
        actor.world.ledger.lost["keys"] += 1
        actor.expect(False, f"a key's tool was {wrong}", f"{name} told at {held.told[0]:.3f} {runs}")
    actor.world.ledger.repeated[name] = max(0, len(runs) - 1)


async def look_again(actor: Actor, held: Held) -> None:
    """Call again with a key: the outcome is the one that was told, unless Redis has lost it."""
    _, what, outcome = held.told
    again = await ask_until(actor, Order("keyed call again", what.body, what.headers, what.owed))
    if again is None:
        return
    if said(again) != outcome:
        actor.world.lose("keys", held, "another outcome is told")
        actor.world.ledger.keys.pop(held.name, None)
        return
    actor.add("replayed")
    judge_runs(actor, held.name)


async def look_back(actor: Actor) -> None:
    """Call again with one of the keys of before."""
    keys = actor.world.ledger.keys
    if keys:
        await look_again(actor, keys[actor.chance.choice(sorted(keys)[-300:])])
