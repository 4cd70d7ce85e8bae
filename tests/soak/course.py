"""The course of a soak: prepare, warm up, the long part, two equal bursts, stop; then the verdict.

`Plan.of` divides the time that was asked for. `run` needs a folder of its own and leaves there the server's log, the
samples (`samples.csv`), what went wrong (`violations.txt`) and the report (`report.txt`). Every wait is bounded.

Called by: `__main__`. Deliberately not: what a role does, what is too much.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from mcpd.gateway.keys import KeyStore
from tests.cancellation.program import serving
from tests.e2e.websocket import STATELESS
from tests.served import client_at
from tests.soak import corpus, hostile_roles, http_roles, line_roles, operator_roles, orders, reader_roles, verdict
from tests.soak.figures import Figures, Sampler, calm, measure
from tests.soak.probes import probe_all
from tests.soak.world import GONE, Actor, Role, World, play

TOOLS = [str(Path(__file__).parent / name) for name in line_roles.TOOLS]
SETTINGS = """
[timeouts]
call_s = 20
input_s = 10
grace_s = 5
write_s = 5
header_s = 6
body_s = 8
keep_alive_s = 10
ping_s = 5
session_idle_s = 20
[limits]
max_connections = 600
max_abandoned_threads = 40
max_cache_bytes = 8388608
"""
"""Short, so that what they end is ended, and would be missed, within the run."""
STOP_S = 15.0
"""`grace_s`, `cleanup_s`, and what a busy machine adds."""
PRINCIPALS = {
    "alice": ("call",),
    "bob": ("write",),
    "mallory": ("call",),
    "rover": ("call",),
    "meter": ("metrics",),
}


class Part(NamedTuple):
    """A role, whose key it has, how many play it, and the mean pause between two scenes."""

    role: Role
    principal: str
    number: int
    pause_s: float


CAST = (
    Part(http_roles.stateless_calls, "alice", 2, 0.1),
    Part(http_roles.stateless_questions, "bob", 1, 0.5),
    Part(http_roles.stateless_listening, "alice", 1, 0.2),
    Part(http_roles.sessions, "bob", 2, 0.1),
    Part(line_roles.websocket_stateless, "alice", 1, 0.1),
    Part(line_roles.websocket_stateful, "bob", 1, 0.1),
    Part(line_roles.websocket_vanishing, "alice", 1, 0.3),
    Part(line_roles.websocket_listening, "bob", 1, 0.2),
    Part(line_roles.stdio_stateless, "alice", 1, 2.0),
    Part(line_roles.stdio_stateful, "alice", 1, 2.0),
    Part(reader_roles.slow, "alice", 1, 1.0),
    Part(reader_roles.deaf, "alice", 1, 2.0),
    Part(reader_roles.deaf_websocket, "bob", 1, 2.0),
    Part(operator_roles.change_documents, "alice", 1, 1.0),
    Part(operator_roles.scrape, "meter", 1, 1.0),
    Part(operator_roles.reload_keys, operator_roles.WALKING, 1, 4.0),
    Part(hostile_roles.post_messages, "mallory", 1, 0.3),
    Part(hostile_roles.post_bytes, "mallory", 1, 0.3),
    Part(hostile_roles.openings, "mallory", 3, 0.2),
    Part(hostile_roles.frames, "mallory", 2, 0.3),
    Part(hostile_roles.websocket_messages, "mallory", 1, 0.3),
    Part(hostile_roles.stdio_messages, "mallory", 1, 3.0),
    Part(hostile_roles.flood, "mallory", 1, 3.0),
    Part(hostile_roles.trickle, "mallory", 1, 1.0),
)


@dataclass(frozen=True)
class Plan:
    """How long each phase takes, in seconds, and how often samples are taken."""

    seed: int
    main_s: float
    burst_s: float
    idle_s: float
    sample_s: float

    @classmethod
    def of(cls, seconds: float, seed: int) -> Plan:
        """Divide `seconds`: three bursts, four idle times, and the long part."""
        burst, idle = min(120.0, seconds / 10), min(60.0, seconds / 20)
        return cls(seed, seconds - 3 * burst - 4 * idle, burst, idle, max(0.5, min(5.0, seconds / 120)))


@dataclass(frozen=True)
class Report:
    """What came of it."""

    text: str
    violations: int


async def run(plan: Plan, folder: Path) -> Report:
    """Run the whole soak in `folder`, which has to be empty."""
    keys = _make_keys(folder)
    corpus.write(folder / "corpus", plan.seed)
    (folder / "files").mkdir()
    (folder / "files" / "note.txt").write_text("a note\n")
    moments: dict[str, Figures] = {}
    async with serving(folder, SETTINGS, TOOLS) as program:
        program.headers = {"authorization": f"Bearer {keys['meter']}"}
        world = World(program, folder, plan.seed, keys)
        sampler = Sampler(world, folder / "samples.csv", plan.sample_s)
        await operator_roles.ingest(world)
        async with operator_roles.watching(world), trio.open_nursery() as nursery:
            nursery.start_soon(sampler.run)
            nursery.start_soon(sampler.watch_own_lag)
            with suppress(*GONE):
                await _phases(plan, world, sampler, moments)
            nursery.cancel_scope.cancel()
        await _stop(world)
    return _report(plan, world, moments, sampler.samples)


def _make_keys(folder: Path) -> dict[str, str]:
    store = KeyStore(folder / "data" / "keys.toml")
    return {name: store.new(name, scopes).reveal() for name, scopes in PRINCIPALS.items()}


async def _phases(plan: Plan, world: World, sampler: Sampler, moments: dict[str, Figures]) -> None:
    await probe_all(world, "before")
    for name, seconds, load in (
        ("warm", plan.burst_s, "burst"),
        ("main", plan.main_s, "main"),
        ("again", plan.burst_s, "burst"),
        ("once more", plan.burst_s, "burst"),
    ):
        sampler.phase = name
        await _let_loose(world, seconds, load)
        sampler.phase = f"calm after {name}"
        await calm(world, _quiet)
        await trio.sleep(plan.idle_s)
        moments[name] = await measure(world, name, sampler.since)
        if name in _PROBED:
            await probe_all(world, f"after {name}")


_PROBED = ("main", "once more")


def _quiet(figures: Figures) -> bool:
    left = sum(getattr(figures, gauge) for gauge in verdict.EMPTY)
    return left == 0 and figures.connections <= 1 and figures.children <= 1


async def _let_loose(world: World, seconds: float, load: str) -> None:
    """Let all roles play; the same load has the same chances."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for role, principal, players, pause_s in CAST:
                for number in range(players):
                    name = role.__name__
                    chance = random.Random(f"{world.seed} {load} {name} {number}")
                    nursery.start_soon(play, role, Actor(world, name, principal, chance), pause_s)


async def _stop(world: World) -> None:
    """SIGTERM with calls in flight: the server lets them go and exits with 0, within its bound."""
    actor = Actor(world, "stop", "alice", random.Random(0))
    async with trio.open_nursery() as nursery:
        for make in (_linger_http, _linger_websocket):
            nursery.start_soon(make, actor)
        await trio.sleep(0.5)
        world.program.process.terminate()
        with trio.move_on_after(STOP_S) as waiting:
            await world.program.process.wait()
        nursery.cancel_scope.cancel()
    actor.expect(not waiting.cancelled_caught, f"the server has not ended {STOP_S} s after SIGTERM")
    code = world.program.process.returncode
    actor.expect(code == 0, f"the server has ended with {code}")


async def _linger_http(actor: Actor) -> None:
    order = orders.nap("async", 60)
    with suppress(Exception):
        async with client_at(actor.url, **actor.headers) as mcp:
            await mcp.ask(order.method, order.params)


async def _linger_websocket(actor: Actor) -> None:
    order = orders.nap("thread", 3)
    with suppress(Exception):
        async with line_roles.open_line(actor, STATELESS) as peer:
            await peer.answer(await peer.start(order.method, order.params))
            await trio.sleep_forever()


def _report(plan: Plan, world: World, moments: dict[str, Figures], samples: list[Figures]) -> Report:
    tally = world.tally
    if len(moments) < 4:
        tally.violation(f"the run has ended after {list(moments)}")
    if "warm" in moments:
        verdict.compare(tally, moments)
    verdict.watch_samples(tally, samples)
    verdict.read_logs(world)
    text = f"seed {plan.seed}, {plan}\n\n{verdict.table(world, moments, samples)}\n"
    (world.folder / "report.txt").write_text(text)
    traces = "\n\n".join(
        f"== {number} x {kind}\n{tally.traces.get(kind, '')}" for kind, number in tally.violations.items()
    )
    (world.folder / "violations.txt").write_text(traces)
    return Report(text, len(tally.violations))
