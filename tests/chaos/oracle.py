"""Which failures a storm excuses. Pure: a failure, what is known of the call, and the history in; a class or None out.

    cut          the connection broke           a replica died while it was open
    store        503, `store_unavailable`       the call needs Redis, which was away
    lost owner   a task failed, `owner_lost`    the process that ran it is dead
    gone         404 of a session               Redis was emptied after the session had begun
                 -32600, "has ended"            Redis was emptied while the call was under way
                 -32800 of a session's call     as for 404: its session was lost while it was under way
    unknown      -32602 of a task               Redis was emptied after the task was made
    limited      429                            the caller wanted to find out how far it can go

Every refusal that is excused says that it may be retried, but for `gone` and `unknown`, after which a client begins
anew. All else is a violation, and so is an answer that does not come. `owed` says what a role may meet.

Source: the table of failures in the design of replicas; errors.TABLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from tests.chaos.history import History

ENTRY_S = 2.0
"""A session's call that has got so far has found its session, and needs the store no more."""
UNKNOWN = -32602
CANCELLED = -32800
CLASSES = ("cut", "store", "lost owner", "gone", "unknown", "limited")


@dataclass(frozen=True)
class Failure:
    """How a call failed: `broken` (no answer), `silent` (none in time), or refused with a JSON-RPC error."""

    kind: Literal["broken", "silent", "refused"]
    text: str = ""
    status: int = 0
    code: int | None = None
    data: Any = None

    @property
    def reason(self) -> str:
        """What the error's data gives as the reason."""
        return str(self.data.get("reason", "")) if isinstance(self.data, dict) else ""

    @property
    def retryable(self) -> bool:
        """True when the error says that the same may work later."""
        return isinstance(self.data, dict) and self.data.get("retryable") is True


class Owed(NamedTuple):
    """What is known of a call: whether it needs Redis, all along or only to find its session, and since when its
    session or task has been there."""

    store: bool = False
    only_entry: bool = False
    session_since: float | None = None
    task_since: float | None = None
    limited: bool = False


def excuse(failure: Failure, begin: float, end: float, owed: Owed, history: History) -> str | None:
    """Return the class of a failure that may be, None for one that must not."""
    if failure.kind == "silent":
        return None
    if failure.kind == "broken":
        return "cut" if history.died(begin, end) else None
    if failure.reason == "store_unavailable":
        return "store" if _store_away(failure, begin, end, owed, history) else None
    if failure.reason == "rate_limited":
        return "limited" if owed.limited and failure.retryable and failure.status in {0, 429} else None
    if "session has ended" in failure.text:
        return "gone" if history.emptied(begin - ENTRY_S, end) else None
    if failure.status == 404 or failure.code == CANCELLED or "no such session" in failure.text:
        since = owed.session_since
        return "gone" if since is not None and history.emptied(since, end) else None
    if failure.code == UNKNOWN and owed.task_since is not None:
        return "unknown" if history.emptied(owed.task_since, end) else None
    return None


def _store_away(failure: Failure, begin: float, end: float, owed: Owed, history: History) -> bool:
    """`status` is 0 where the client shows none, and 200 in a session (section 3.8)."""
    until = min(end, begin + ENTRY_S) if owed.only_entry else end
    return owed.store and failure.retryable and failure.status in {0, 200, 503} and history.troubled(begin, until)


class Run(NamedTuple):
    """One run of a tool, as it wrote it down: by which process, when it began, how it ended (empty: not at all)."""

    pid: int
    began: float
    end: str


def runs_too_many(runs: list[Run], acknowledged: float | None, history: History) -> str | None:
    """Return what is wrong with the runs of one idempotency key: None when each but the first had to be.

    It may run again when the process of the run before is dead and nobody was told the outcome, or when Redis has lost
    what it knew since that began.
    """
    for before, after in pairwise(runs):
        forgotten = history.emptied(before.began - 1, after.began)
        told = acknowledged is not None and acknowledged < after.began
        dead = history.death_of(before.pid) < after.began
        if not (forgotten or (dead and not told)):
            alive = "" if dead else f" while {before.pid} was alive"
            return f"run again{' after its outcome was told' if told else ''}{alive}"
    return None


def lost_owner(runs: list[Run], since: float, now: float, history: History) -> bool:
    """Return whether a task may have lost its owner: whoever ran it, or any replica when nobody got so far."""
    if runs:
        return history.death_of(runs[-1].pid) < now
    return history.died(since, now)
