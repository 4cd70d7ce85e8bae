"""The state machine of a task, which every `TaskStore` shares: what may happen to a record, and what becomes of it.

    working  <->  input_required          Ask, Withdraw, Answer
    both      ->  completed, failed, cancelled          End; nothing changes a task that has ended

A backend reads a record, lets `step` decide, and writes what comes back only if the record's `rev` is still the one
that was read (in one transaction, or by compare-and-set). What its runner does to a task (Report, Ask, Withdraw, End)
names the owner: the epoch of the process that runs it. Once that epoch is closed, it changes no task any more. Answers
and the wish to cancel come from clients, through whatever process.

Called by: `tasks` of the packages of the backends; `tasks` makes the events. Pure: time is an argument.
Deliberately not: who may, how many, how long (`tasks`), nor what a task looks like on the wire (`wire.tasks`).

Laws: a key is asked once in a task's lifetime (TSK-6); ended states are final (TSK-8); what a client sends is bounded.

Sources: MCP tasks extension 2026-07-28 "Task Status", "Task Update Requests"; TSK-5..8, TSK-13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import msgspec

Json = dict[str, Any]
State = Literal["working", "input_required", "completed", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = get_args(State)
ENDED: Final = frozenset(("completed", "failed", "cancelled"))

MAX_MESSAGE_CHARS: Final = 1_000
"""Of a status message; it is shown beside a task, and read by people and models."""
MAX_QUESTIONS_ITEMS: Final = 256
"""Asked in a task's lifetime; their keys are kept, so that none comes twice."""
MAX_ASKED_BYTES: Final = 1 << 19
"""Of all questions that are open at once, as JSON: what one notification may carry."""
MAX_ANSWERS_BYTES: Final = 4 << 20
"""Of all answers to one task, as JSON: what one request may carry."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is to be made."""

    id: str
    principal: str
    """`Principal.id` of whoever called: nobody else sees the task."""
    share: str
    """Whose share of the places for tasks it takes."""
    tool: str
    ttl_s: float
    """From its creation to its end as a record."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task as it is stored. `rev` grows with every change."""

    id: str
    principal: str
    share: str
    tool: str
    ttl_s: float
    owner: str
    """Epoch of the process that runs it; "" once it has ended."""
    created_s: float
    """Seconds since the epoch, as `updated_s`."""
    updated_s: float
    rev: int = 1
    state: State = "working"
    message: str = ""
    asked: dict[str, Json] = {}
    """Open questions: key -> `{"method", "params"}`."""
    answers: dict[str, Any] = {}
    """What has been answered and the runner may not have read yet; dropped at the end."""
    used: tuple[str, ...] = ()
    """Keys of all questions so far."""
    cancel_wanted: bool = False
    outcome: bytes | None = None
    """JSON of the result (completed) or the JSON-RPC error (failed). None: cancelled, or failed with its owner; also in
    notices, which do not carry it."""

    @property
    def ended(self) -> bool:
        """True for a final state."""
        return self.state in ENDED

    @property
    def expires_s(self) -> float:
        """When it is forgotten."""
        return self.created_s + self.ttl_s


class Report(msgspec.Struct, frozen=True):
    """The runner says how far it is."""

    owner: str
    message: str


class Ask(msgspec.Struct, frozen=True):
    """The runner needs answers: key -> `{"method", "params"}`, keys that this task has never asked."""

    owner: str
    requests: dict[str, Json]


class Withdraw(msgspec.Struct, frozen=True):
    """The runner no longer waits for the answers to these keys."""

    owner: str
    keys: tuple[str, ...]


class End(msgspec.Struct, frozen=True):
    """The work has ended."""

    owner: str
    state: Literal["completed", "failed", "cancelled"]
    outcome: bytes | None = None
    message: str = ""
    forget: bool = False
    """Nobody knows of the task: its record ends at once, too, and with it its share of the places."""
    keep_s: float | None = None
    """How long its record stays from now on, where that is shorter than its `ttl_s` says; None: for all of that."""


class Answer(msgspec.Struct, frozen=True):
    """A client answers; keys that are not open are left alone."""

    answers: dict[str, Any]


class WantCancel(msgspec.Struct, frozen=True):
    """A client wants the work to stop; its runner sees that and ends the task."""


Event = Report | Ask | Withdraw | End | Answer | WantCancel
Why = Literal["gone", "owner", "ended", "key", "size"]


class Refused(msgspec.Struct, frozen=True):
    """An event that changed nothing.

    `gone`: no such task, or it has expired. `owner`: somebody else runs it, or its owner was closed. `ended`: it is in
    a final state. `key`: a key was used before, or there were too many. `size`: too many bytes.
    """

    why: Why
    task: Task | None = None


def new_task(draft: Draft, owner: str, *, now_s: float) -> Task:
    """Return the record of a new task."""
    given = {name: getattr(draft, name) for name in draft.__struct_fields__}
    return Task(**given, owner=owner, created_s=now_s, updated_s=now_s)


def step(task: Task, event: Event, *, now_s: float) -> Task | Refused:
    """Return the record after `event`: `task` itself when nothing changes, or why it may not happen."""
    if now_s >= task.expires_s:
        return Refused("gone")
    if task.ended:
        return Refused("ended", task)
    if not isinstance(event, Answer | WantCancel) and event.owner != task.owner:
        return Refused("owner", task)
    changes = _STEPS[type(event)](task, event)
    if isinstance(changes, str):
        return Refused(changes, task)
    if not changes:
        return task
    if isinstance(event, End):
        changes["ttl_s"] = _ttl_left(task, event, now_s)
    return msgspec.structs.replace(task, rev=task.rev + 1, updated_s=max(now_s, task.updated_s), **changes)


def _ttl_left(task: Task, end: End, now_s: float) -> float:
    """Return the `ttl_s` of a task that ends now, without the time that it did not need."""
    if end.forget:
        return 0.0
    return task.ttl_s if end.keep_s is None else min(task.ttl_s, now_s - task.created_s + end.keep_s)


def lost(task: Task) -> End:
    """Return the end of a task whose owner is gone."""
    return End(task.owner, "failed", None, "The server that ran this task has ended")


def _report(task: Task, event: Report) -> Json | Why:
    message = _written(event.message)
    return {} if message == task.message else {"message": message}


def _ask(task: Task, event: Ask) -> Json | Why:
    used = (*task.used, *event.requests)
    if len(set(used)) < len(used) or len(used) > MAX_QUESTIONS_ITEMS:
        return "key"
    asked = {**task.asked, **event.requests}
    if _size(asked) > MAX_ASKED_BYTES:
        return "size"
    return {"asked": asked, "used": used, "state": "input_required"} if event.requests else {}


def _withdraw(task: Task, event: Withdraw) -> Json | Why:
    return _left(task, {key: request for key, request in task.asked.items() if key not in event.keys})


def _answer(task: Task, event: Answer) -> Json | Why:
    taken = {key: value for key, value in event.answers.items() if key in task.asked}
    answers = {**task.answers, **taken}
    if taken and _size(answers) > MAX_ANSWERS_BYTES:
        return "size"
    left = _left(task, {key: request for key, request in task.asked.items() if key not in taken})
    return {**left, "answers": answers} if left else {}


def _left(task: Task, asked: dict[str, Json]) -> Json:
    """Return the changes when only these questions stay open."""
    if len(asked) == len(task.asked):
        return {}
    return {"asked": asked} if asked else {"asked": asked, "state": "working"}


def _end(task: Task, event: End) -> Json | Why:
    message = _written(event.message) or task.message
    closed: Json = {"owner": "", "asked": {}, "answers": {}, "outcome": event.outcome}
    return {**closed, "state": event.state, "message": message}


def _want_cancel(task: Task, _: WantCancel) -> Json | Why:
    return {} if task.cancel_wanted else {"cancel_wanted": True}


_STEPS: Final[dict[type[Any], Callable[[Task, Any], Json | Why]]] = {
    Report: _report,
    Ask: _ask,
    Withdraw: _withdraw,
    Answer: _answer,
    End: _end,
    WantCancel: _want_cancel,
}


def _written(message: str) -> str:
    """Return a message as it is kept: half a surrogate pair is escaped, or no store could keep it."""
    return message[:MAX_MESSAGE_CHARS].encode("utf-8", "backslashreplace").decode()


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))
