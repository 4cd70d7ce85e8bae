"""What the roles of a storm share: the site, chances, the tally, and the ledger of all that was acknowledged.

`play` runs one role, scene after scene with a pause between, until it is cancelled. Deliberately not: what a client
says, or whether an answer is right.

Law: what a client was promised is entered into the ledger as soon as it has been told.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tests.chaos.history import History
from tests.chaos.site import Site
from tests.soak.world import Tally, describe

SCENE_S = 120.0
"""No scene takes longer: Redis may have two troubles in the course of one."""
TRACE_CHARS = 3000
KEPT_SESSIONS = 60
"""Sessions that are left open and looked at until the end."""


@dataclass
class Held:
    """Something that a client was promised: a session, a task or the outcome of a key. `told` is what it was told."""

    name: str
    since: float
    told: Any = None


@dataclass
class Ledger:
    """What was acknowledged, by kind, and what the storm has excused the loss of."""

    sessions: dict[str, Held] = field(default_factory=dict)
    tasks: dict[str, Held] = field(default_factory=dict)
    keys: dict[str, Held] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    """Runs beyond the first, which had to be."""


class Journal(Tally):
    """A tally that keeps several traces of a kind of violation, since each has a story of its own."""

    def violation(self, text: str, trace: str = "") -> None:
        """Note something that must not happen; the same text is one line with a count."""
        before = self.traces.get(text[:300], "")
        super().violation(text)
        self.traces[text[:300]] = before if len(before) > TRACE_CHARS else f"{before}{trace[-TRACE_CHARS:]}\n"


@dataclass
class World:
    """One site and whoever uses it."""

    site: Site
    seed: int
    tally: Journal = field(default_factory=Journal)
    ledger: Ledger = field(default_factory=Ledger)
    delays_s: dict[str, list[float]] = field(default_factory=dict)
    """By name: how long things took that have a bound of their own."""
    limited: list[tuple[float, float]] = field(default_factory=list)
    """When calls of the limited tool that were let through began and ended."""

    @property
    def history(self) -> History:
        return self.site.history

    @property
    def witnesses(self) -> Path:
        """Where tools leave word."""
        return self.site.folder / "witnesses"

    def delay(self, what: str, seconds: float) -> None:
        """Note how long something took."""
        self.delays_s.setdefault(what, []).append(seconds)

    def lose(self, kind: str, held: Held, why: str) -> None:
        """Note that something acknowledged is lost, which fails the run unless Redis had lost everything since."""
        if self.history.emptied(held.since):
            self.ledger.excused[kind] += 1
        else:
            self.ledger.lost[kind] += 1
            self.tally.violation(f"{kind} lost: {why}", f"{held} lost at {time.monotonic():.3f}: {why}")


@dataclass
class Actor:
    """Somebody who plays a role."""

    world: World
    name: str
    chance: random.Random
    url: str = ""

    def add(self, what: str) -> None:
        """Count something that may happen."""
        self.world.tally.add(self.name, what)

    def expect(self, met: object, otherwise: str, trace: str = "") -> bool:
        """Note a violation unless it is met; return whether it is."""
        if not met:
            self.world.tally.violation(f"{self.name}: {otherwise}", trace)
        return bool(met)

    def fresh(self, kind: str) -> str:
        """Return a name that nobody else has."""
        return f"{kind}-{self.chance.getrandbits(64):016x}"

    async def think(self, most_s: float = 0.1) -> None:
        """Pause for a moment, as clients do."""
        await trio.sleep(self.chance.uniform(0, most_s))


Role = Callable[[Actor], Awaitable[None]]


async def play(role: Role, actor: Actor, pause_s: float) -> None:
    """Play one scene after the other, for ever."""
    while True:
        try:
            with trio.fail_after(SCENE_S):
                await role(actor)
            actor.add("scenes")
        except Exception as error:  # noqa: BLE001 - whatever a scene raises is what the run has to report
            text = "".join(traceback.format_exception(error))
            actor.world.tally.violation(f"{actor.name}: {describe(error)}", text)
        await trio.sleep(actor.chance.uniform(0.5, 1.5) * pause_s)
