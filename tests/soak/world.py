"""What the roles of a soak share: the server, keys, chances, and the tally of all that happened.

`play` runs one role until it is cancelled: scene after scene with a pause between. A scene that fails is a violation,
bounded in time like everything here. Deliberately not: what a client says.

Law: whatever a role decides by chance comes from `Actor.chance`, so that the same phase of the same seed is the same
load.
"""

from __future__ import annotations

import contextlib
import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h11
import httpx
import trio
import trio_websocket

from tests.cancellation.program import Program

CANCELLED_SHARE = 0.3
LATEST_CANCEL_S = 0.08
"""A call is cancelled within this time from its sending, be it before the server knows of it."""
SCENE_S = 60.0
"""No scene takes longer; one that does has met something that hangs."""
MAX_TRACES = 25
GONE = (
    h11.RemoteProtocolError,
    httpx.TransportError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
    trio_websocket.ConnectionClosed,
    trio_websocket.HandshakeError,
    OSError,
)
"""How a client learns that the other end has hung up."""


class Tally:
    """Counts by (who, what), durations of answered calls, and violations."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.violations: Counter[str] = Counter()
        self.traces: dict[str, str] = {}
        self.durations_s: dict[str, list[float]] = {}

    def add(self, who: str, what: str) -> None:
        """Count something that may happen."""
        self.counts[who, what] += 1

    def violation(self, text: str, trace: str = "") -> None:
        """Note something that must not happen; the same text is one line with a count."""
        self.violations[text[:300]] += 1
        if len(self.traces) < MAX_TRACES:
            self.traces.setdefault(text[:300], trace[-3000:])

    def total(self, what: str) -> int:
        """Return how often something happened to anybody."""
        return sum(count for (_, kind), count in self.counts.items() if kind == what)


@dataclass
class World:
    """One server and whoever uses it. `keys` is principal -> key; those who watch it see the newest."""

    program: Program
    folder: Path
    seed: int
    keys: dict[str, str]
    tally: Tally = field(default_factory=Tally)

    @property
    def corpus(self) -> Path:
        """Where the documents come from."""
        return self.folder / "corpus"

    def headers(self, principal: str) -> dict[str, str]:
        """Return the credentials of a principal."""
        return {"authorization": f"Bearer {self.keys[principal]}"}


@dataclass
class Actor:
    """Somebody who plays a role in one phase."""

    world: World
    name: str
    principal: str
    chance: random.Random

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self.world.program.url

    @property
    def headers(self) -> dict[str, str]:
        """The credentials of the actor's principal."""
        return self.world.headers(self.principal)

    def cancels(self) -> bool:
        """Decide whether the next call is cancelled."""
        return self.chance.random() < CANCELLED_SHARE

    def moment(self) -> float:
        """Return when that is, in seconds from its sending."""
        return self.chance.uniform(0, LATEST_CANCEL_S)

    async def think(self, most_s: float = 0.1) -> None:
        """Pause for a moment, as clients do."""
        await trio.sleep(self.chance.uniform(0, most_s))

    def add(self, what: str) -> None:
        """Count something that may happen."""
        self.world.tally.add(self.name, what)

    def expect(self, met: object, otherwise: str) -> None:
        """Note a violation unless it is met."""
        if not met:
            self.world.tally.violation(f"{self.name}: {otherwise}")

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Note how long the block took, if it comes to its end."""
        start = time.perf_counter()
        yield
        self.world.tally.durations_s.setdefault(self.name, []).append(time.perf_counter() - start)


@contextlib.contextmanager
def gone_on_purpose() -> Iterator[None]:
    """Swallow what a client meets whose connection has been ended by somebody who meant it."""
    try:
        yield
    except* GONE:
        pass


Role = Callable[[Actor], Awaitable[None]]


async def play(role: Role, actor: Actor, pause_s: float) -> None:
    """Play one scene after the other, for ever."""
    while True:
        try:
            with trio.fail_after(SCENE_S):
                await role(actor)
            actor.add("scenes")
        except trio.Cancelled:  # noqa: ASYNC103 - trio-websocket may raise that of a scope of its own, alone
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC102 - raises that of the phase
            actor.add("ended by the WebSocket client")
        except Exception as error:  # noqa: BLE001 - whatever a scene raises is what the soak has to report
            actor.world.tally.violation(f"{actor.name}: {describe(error)}", "".join(traceback.format_exception(error)))
        await trio.sleep(actor.chance.uniform(0, 2 * pause_s) + 0.001)


def describe(error: BaseException) -> str:
    """Return type and text of an error, of the first one of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:200]}"
