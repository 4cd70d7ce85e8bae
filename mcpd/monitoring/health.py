"""Is this process alive, and should it be sent work?

Alive needs no question: whoever answers, lives. Ready is asked of every dependency at once, each within a bound: a
required one that is down makes the server unready; an optional one, or one that limps, makes it degraded, which still
serves. While draining the answer is always no, and no dependency is asked.

Called by: `gateway.operations` (readiness), the composition root (which adds the checks and starts draining). Calls the
checks it was given. Deliberately not: a monitor; nothing is asked between two requests.

Laws: a check that fails is an answer, not an error; a check that does not answer is down. The page is for everybody,
so why something is down stands in the log: one line when it begins, one when it is over.

Sources: surfaces "HTTP" (`/healthz`, `/readyz`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

import trio

State = Literal["ok", "degraded", "down"]
CHECK_S = 2.0
_log = logging.getLogger(__name__)


class Finding(NamedTuple):
    """What a check says of its dependency.

    `detail` is one short line for anybody who asks: no secrets, addresses, paths or names of tools. `cause` is for the
    log, which is told once for as long as it stays the same.
    """

    state: State
    detail: str = ""
    cause: str = ""


Check = Callable[[], Awaitable[Finding]]


class Dependency(NamedTuple):
    """One dependency as it was when asked."""

    name: str
    required: bool
    finding: Finding
    latency_ms: float

    def line(self) -> str:
        """Return name, state, latency and detail, one space between them."""
        return f"{self.name} {self.finding.state} {self.latency_ms:.1f}ms {self.finding.detail}".rstrip()


class Readiness(NamedTuple):
    """The answer. `status` is the HTTP status; `summary` is `ready`, `draining`, `degraded: ...` or `down: ...`."""

    status: int
    summary: str
    dependencies: tuple[Dependency, ...] = ()

    def text(self) -> str:
        """Return the summary and one line per dependency."""
        return "\n".join([self.summary, *(dependency.line() for dependency in self.dependencies)]) + "\n"


class Health:
    """The checks of one process, and whether it is draining."""

    def __init__(self) -> None:
        self.draining = False
        self._checks: list[tuple[str, bool, Check]] = []
        self._causes: dict[str, str] = {}

    def add(self, name: str, check: Check, *, required: bool) -> None:
        """Ask `check` from now on; answers come in the order of adding."""
        self._checks.append((name, required, check))

    async def readiness(self) -> Readiness:
        """Ask every dependency at once and judge. Takes at most `CHECK_S`. Cancellation: safe."""
        if self.draining:
            return Readiness(503, "draining")
        found: dict[str, Dependency] = {}
        async with trio.open_nursery() as nursery:
            for name, required, check in self._checks:
                nursery.start_soon(_ask, found, name, required, check)
        for name, dependency in found.items():
            self._tell(name, dependency.finding)
        return judge(tuple(found[name] for name, _, _ in self._checks))

    def _tell(self, name: str, finding: Finding) -> None:
        told = self._causes.pop(name, "")
        if finding.cause:
            self._causes[name] = finding.cause
            if finding.cause != told:
                _log.error("%s is %s: %s", name, finding.state, finding.cause)
        elif told:
            _log.info("%s is %s again", name, finding.state)


def judge(dependencies: tuple[Dependency, ...]) -> Readiness:
    """Return the verdict over what was found."""
    down = [one.name for one in dependencies if one.required and one.finding.state == "down"]
    limping = [one.name for one in dependencies if one.finding.state != "ok" and one.name not in down]
    if down:
        return Readiness(503, f"down: {', '.join(down)}", dependencies)
    if limping:
        return Readiness(200, f"degraded: {', '.join(limping)}", dependencies)
    return Readiness(200, "ready", dependencies)


async def _ask(found: dict[str, Dependency], name: str, required: bool, check: Check) -> None:
    started = trio.current_time()
    finding = Finding("down", f"no answer within {CHECK_S:g} s")
    with trio.move_on_after(CHECK_S):
        try:
            finding = await check()
        except Exception:  # noqa: BLE001 - fan-out: one broken check must not hide what the others found
            _log.exception("health check %s failed", name)
            finding = Finding("down", "the check failed; see the log")
    found[name] = Dependency(name, required, finding, (trio.current_time() - started) * 1000)
