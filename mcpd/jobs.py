"""A task as this process runs it: its work, its way back into the record, and its end.

The work is a `tools/call` without a client: what it says becomes the task's status message, what it asks becomes open
questions of the record, and how it ends becomes the record's end.

Called by: `tasks`. Calls: the store, and the `Launch` that makes the work; `messages.work` is where the Message Manager
comes in. Deliberately not: which tasks there are.

Laws: one scope and one deadline, the Message Manager's (1); while an answer is awaited the work lends its place; an end
is written down before the job is over, however long the store takes; `failed` is a JSON-RPC error, `isError` is not
(TSK-8); a key is asked once (TSK-6).

Sources: MCP tasks extension 2026-07-28; TSK-5..8, TSK-12, TSK-13.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple, Protocol

import trio
from msgspec import structs

from mcpd.deadlines import bounded_shield
from mcpd.errors import InternalError, Reason, ToolError
from mcpd.shares import most_of
from mcpd.storage.documents import StorageError
from mcpd.storage.refusals import TASKS, unavailable
from mcpd.storage.shared import TaskStore
from mcpd.storage.task_states import Ask, End, Event, Refused, Report, Task, Withdraw
from mcpd.wire.call import Call
from mcpd.wire.jsonrpc import encode, error_of
from mcpd.wire.rounds import Rounds
from mcpd.wire.session import outline
from mcpd.wire.tasks import status_text

REPORT_PAUSE_S: Final = 0.5
"""Between two status messages that are written down: each is a write to the disk."""
RETRY_S: Final = 0.5
MOST_RETRY_S: Final = 15.0
"""Between two attempts to store an end; the pauses grow up to it."""
WITHDRAW_S: Final = 2.0
_log = logging.getLogger(__name__)


MAX_HELD_BYTES: Final = 64 << 20
"""Of what the tasks that run in a process hold of requests and answers, about; one caller alone three quarters."""
_ITEM_BYTES: Final = 32
"""What a value takes besides its JSON: a number, a place in an array or object."""


def weigh(value: Any) -> int:
    """Return about how many bytes JSON values take in memory, at most what one caller may hold."""
    data = encode(value)
    items = data.count(b",") + data.count(b"[") + data.count(b"{")
    return min(len(data) + _ITEM_BYTES * items, most_of(MAX_HELD_BYTES))


class Held:
    """What running tasks hold in memory, by task and by whose share it is."""

    def __init__(self) -> None:
        self._of_task: dict[str, tuple[str, int]] = {}
        self._of_share: Counter[str] = Counter()

    @property
    def bytes(self) -> int:
        """Of all together."""
        return self._of_share.total()

    def fits(self, share: str, size: int) -> bool:
        """True when a task of `share` may hold so much more."""
        own = self._of_share.get(share, 0) + size <= most_of(MAX_HELD_BYTES)
        return own and self.bytes + size <= MAX_HELD_BYTES

    def add(self, task_id: str, share: str, size: int) -> None:
        """Count what a task holds from now on."""
        self._of_task[task_id] = (share, self._of_task.get(task_id, (share, 0))[1] + size)
        self._of_share[share] += size

    def release(self, task_id: str) -> None:
        """Forget what a task held; it has ended. Idempotent."""
        share, size = self._of_task.pop(task_id, ("", 0))
        self._of_share[share] -= size
        if not self._of_share[share]:
            del self._of_share[share]


class Ended(NamedTuple):
    """How the work ended: the state, the JSON of a result or error, and a status message."""

    state: Literal["completed", "failed", "cancelled"]
    outcome: bytes | None
    message: str = ""


class Work(Protocol):
    """A call that the Message Manager runs."""

    def cancel(self, reason: Reason) -> None:
        """Stop it, whether it has started or not. Not a checkpoint."""

    def waiting_for_client(self) -> AbstractAsyncContextManager[None]:
        """Lend its place while the client is asked."""

    async def run(self) -> Ended:
        """Run it to its end. Raises: nothing but `trio.Cancelled`."""


class Exchange(Protocol):
    """The call's way back, as `authoring.context` has it."""

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Say something."""

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Ask something."""

    def release(self, retry_ms: int) -> None:
        """Let go of a stream."""


Launch = Callable[[Call, Exchange], Work]


class Job:
    """One running task. It is the `Exchange` of its own call."""

    def __init__(self, task_id: str, call: Call, rounds: Rounds, store: TaskStore, launch: Launch) -> None:
        self.id = task_id
        self.keep_s: float | None = None
        """How long the record stays after the end."""
        self.on_answers: Callable[[dict[str, Any]], None] = _ignore
        """Hears of answers that are held from now on."""
        self.call = call
        self.rounds = rounds
        self.created = trio.Event()
        self.made: Task | StorageError | None = None
        """The new record, or why there is none; set when `created` is."""
        self._store = store
        self._open: dict[str, trio.Event] = {}
        self._answers: dict[str, Any] = {}
        self._used: set[str] = set()
        self._status = ""
        self._untold = False
        self._news = trio.Event()
        params = {key: call.params.get(key) for key in ("name", "arguments")}
        own = {"task": task_id, "progress_token": task_id, "timeout_ms": None, "log_level": None, "deferrable": False}
        known = outline(call.capabilities)
        self.work = launch(structs.replace(call, params=params, capabilities=known, **own), self)

    @property
    def waiting(self) -> bool:
        """True while the work waits for an answer."""
        return bool(self._open)

    def hear(self, task: Task) -> None:
        """Take what others have done to the record. Not a checkpoint."""
        news = {key: task.answers[key] for key in self._open.keys() & task.answers.keys() if key not in self._answers}
        self._answers.update(news)
        for key in news:
            self._open[key].set()
        self.on_answers(news)
        if task.cancel_wanted and not task.ended:
            self.work.cancel("explicit")
        elif task.ended:
            self.work.cancel("admin")

    def leave_untold(self) -> None:
        """Stop: the client has gone before it was told of the task, which nobody can ask for. Not a checkpoint."""
        self._untold = True
        self.work.cancel("client_gone")

    async def run(self) -> None:
        """Run the work, and write its end down."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report)
            ended = await self.work.run()
            nursery.cancel_scope.cancel()
        await self._end(End(self._store.owner, ended.state, ended.outcome, ended.message, self._untold, self.keep_s))

    async def fail(self) -> None:
        """End the task after a bug of ours."""
        await self._end(
            End(
                self._store.owner,
                "failed",
                error_of(InternalError(self.call.request_id)),
                "Internal error",
                keep_s=self.keep_s,
            )
        )

    async def _end(self, end: End) -> None:
        pause_s = RETRY_S
        while True:
            try:
                after = await self._store.apply(self.id, end)
            except StorageError as error:
                _log.error("the end of a task could not be stored, trying again in %g s: %s", pause_s, error)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, MOST_RETRY_S)
                continue
            said = after.why if isinstance(after, Refused) else after.state
            _log.info("task of %s, request_id=%s: %s", self.call.params.get("name"), self.call.request_id, said)
            return

    async def _report(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            try:
                await self._store.apply(self.id, Report(self._store.owner, self._status))
            except StorageError as error:
                _log.warning("the status of a task could not be stored: %s", error)
            await trio.sleep(REPORT_PAUSE_S)

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Take progress as the status message; anything else has nobody to go to."""
        if method == "notifications/progress":
            self._status = status_text(params)
            self._news.set()
        await trio.lowlevel.checkpoint()

    def release(self, retry_ms: int) -> None:
        """There is no stream."""

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Put questions into the record and wait for all answers; return them by key.

        Raises: ToolError when they cannot be asked. Cancellation: what is still open is withdrawn.
        """
        names = {key: self._name(key) for key in requests}
        async with self.work.waiting_for_client():
            self._open.update({name: trio.Event() for name in names.values()})
            try:
                await self._apply(Ask(self._store.owner, {names[key]: requests[key] for key in requests}))
                for name in names.values():
                    await self._open[name].wait()
                return {key: self._answers[name] for key, name in names.items()}
            finally:
                await self._withdraw(names)  # noqa: ASYNC102 - shielded and bounded inside

    def _name(self, key: str) -> str:
        """Return a key that this task has not asked: `key` itself, or with a number."""
        name, number = key, 1
        while name in self._used:
            number += 1
            name = f"{key}-{number}"
        self._used.add(name)
        return name

    async def _apply(self, event: Event) -> None:
        try:
            after = await self._store.apply(self.id, event)
        except StorageError as error:
            _log.warning("a task could not ask its client: %s", error)
            raise ToolError(f"The client could not be asked. {unavailable(error, TASKS)}; try again shortly") from error
        if isinstance(after, Refused):
            raise ToolError(_REFUSALS.get(after.why, "The task is no longer this server's"))

    async def _withdraw(self, names: dict[str, str]) -> None:
        events = {name: self._open.pop(name) for name in names.values()}
        left = tuple(name for name, event in events.items() if not event.is_set())
        for name in names.values():
            self._answers.pop(name, None)
        if left:
            with bounded_shield(WITHDRAW_S):
                try:
                    await self._store.apply(self.id, Withdraw(self._store.owner, left))
                except StorageError as error:
                    _log.warning("a question of a task could not be withdrawn: %s", error)


def _ignore(_: dict[str, Any]) -> None:
    """Stands in until somebody counts."""


_REFUSALS: Final = {
    "key": "This task has asked too many questions",
    "size": "The questions of this task are too long",
}
