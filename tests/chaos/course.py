"""The course of a run: all clients in calm weather, the storm, calm again; then what is there, and the verdict.

`Plan.of` divides the time that was asked for. `run` needs an empty folder and leaves there the logs, the tables
(`report.txt`) and what went wrong (`violations.txt`). Called by: `__main__`.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from tests.chaos import aftermath, call_roles, event_roles, keyed_roles, sdk_roles, session_roles, task_roles
from tests.chaos.figures import Figures, compare, measure, report
from tests.chaos.site import kill_replicas, open_site, trouble_redis
from tests.chaos.world import Actor, Role, World, play

CALM_S = 30.0
"""After its last client, a replica has nothing in flight within this: calls of clients that left end in 20 s."""
LONGEST_TURN_S = 10.0
GRACE_S = 60.0
"""For a run to end beyond its plan, on a busy machine."""


class Part(NamedTuple):
    """A role, how many play it, and the mean pause between two scenes."""

    role: Role
    number: int
    pause_s: float


CAST = (
    Part(call_roles.fresh_calls, 1, 0.3),
    Part(call_roles.kept_calls, 1, 0.3),
    Part(call_roles.questions, 1, 0.5),
    Part(call_roles.limited, 1, 0.5),
    Part(session_roles.sessions, 2, 0.3),
    Part(session_roles.look_after, 1, 0.5),
    Part(task_roles.tasks, 5, 0.2),
    Part(task_roles.cancelled_tasks, 1, 0.5),
    Part(task_roles.look_back, 1, 0.5),
    Part(keyed_roles.keyed, 4, 0.2),
    Part(keyed_roles.look_back, 1, 0.5),
    Part(event_roles.listening, 2, 0.3),
    Part(event_roles.subscribed, 1, 0.3),
)
SDK = ("stateless", "stateful")


@dataclass(frozen=True)
class Plan:
    """How long each phase takes, and of how many seconds a turn of Redis is."""

    seed: int
    calm_s: float
    storm_s: float
    turn_s: float

    @classmethod
    def of(cls, seconds: float, seed: int) -> Plan:
        """Divide `seconds`: calm, storm, calm. A short run has short turns, so that there is one of each."""
        calm = min(30.0, seconds / 8)
        storm = seconds - 2 * calm
        return cls(seed, calm, storm, min(LONGEST_TURN_S, storm / 6))


class Report(NamedTuple):
    """What came of it."""

    text: str
    violations: int


async def run(plan: Plan, folder: Path) -> Report:
    """Run it all in `folder`, which has to be empty."""
    (folder / "witnesses").mkdir()
    async with open_site(folder, plan.seed) as site:
        world = World(site, plan.seed)
        before, after = list[Figures](), list[Figures]()
        await aftermath.wait_ready(site)
        try:
            before, after = await _phases(plan, world)
        except Exception as error:  # noqa: BLE001 - the table is wanted whatever happened
            trace = "".join(traceback.format_exception(error))
            world.tally.violation(f"the run has ended early: {type(error).__name__}: {error}", trace)
        else:
            compare(world, before, after)
        return _publish(plan, world, before, after)


async def _phases(plan: Plan, world: World) -> tuple[list[Figures], list[Figures]]:
    site = world.site
    await _play(world, "before", plan.calm_s)
    before = await _calm(world)
    await _play(world, "storm", plan.storm_s, plan.turn_s)
    world.delay("storm to ready", await aftermath.wait_ready(site))
    await _play(world, "after", plan.calm_s)
    await aftermath.look(world)
    return before, await _calm(world)


async def _play(world: World, phase: str, seconds: float, turn_s: float = 0.0) -> None:
    """Let all roles play for so long; a storm, which has turns, comes to the end of what it is at."""
    chance = random.Random(f"{world.seed} storm")
    async with trio.open_nursery() as clients:
        _let_loose(world, clients, phase)
        until = trio.current_time() + seconds
        async with trio.open_nursery() as powers:
            if turn_s:
                powers.start_soon(kill_replicas, world.site, until, random.Random(chance.random()))
                powers.start_soon(trouble_redis, world.site, until, turn_s, random.Random(chance.random()))
            powers.start_soon(trio.sleep_until, until)
        clients.cancel_scope.cancel()


def _let_loose(world: World, nursery: trio.Nursery, phase: str) -> None:
    for role, players, pause_s in CAST:
        for number in range(players):
            name = f"{role.__module__.rpartition('.')[2].removesuffix('_roles')} {role.__name__}"
            chance = random.Random(f"{world.seed} {phase} {name} {number}")
            nursery.start_soon(play, role, Actor(world, name, chance, world.site.url), pause_s)
    for era in SDK:
        actor = Actor(world, f"python sdk {era}", random.Random(0), world.site.url)
        nursery.start_soon(sdk_roles.run, actor, era, f"{world.seed} {phase} {era}")


async def _calm(world: World) -> list[Figures]:
    """Wait until nothing is going on anywhere, within a bound; return the figures of each replica."""
    found = list[Figures]()
    with trio.move_on_after(CALM_S):
        while not found or any(sum(one.left.values()) for one in found):
            await trio.sleep(0.5)
            found = [await measure(replica) for replica in world.site.replicas]
    return found


def _publish(plan: Plan, world: World, before: list[Figures], after: list[Figures]) -> Report:
    tally = world.tally
    text = f"seed {plan.seed}, {plan}\n\n{report(world, before, after)}\n"
    (world.site.folder / "report.txt").write_text(text)
    traces = [f"== {number} x {kind}\n{tally.traces.get(kind, '')}" for kind, number in tally.violations.items()]
    deaths = [f"{one.at:.3f} replica {one.replica} ({one.pid}) killed" for one in world.history.deaths]
    troubles = [f"{one.begin:.3f} to {one.end:.3f} Redis {one.kind}" for one in world.history.troubles]
    (world.site.folder / "violations.txt").write_text("\n\n".join([*traces, "\n".join(sorted(deaths + troubles))]))
    return Report(text, len(tally.violations))
