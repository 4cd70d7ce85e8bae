"""The tasks extension: who may get a task, how long it is kept, how it is asked, told and cancelled.

A `tools/call` may be answered with a task: its work goes on without the call, in this process, and the client asks for
its state, answers its questions, or cancels it, through any process. The record is in a `TaskStore`; the work is a call
like any other, run by the Message Manager in a nursery of the services (`jobs`).

Called by: `service` (methods), `messages.listens` (notices), `app` (`run`, `drain`). Calls: the store, `jobs`.
Deliberately not: the state machine (`storage.task_states`), JSON (`wire.tasks`), running a tool.

Laws: a task is durable before its client hears of it (TSK-4); it belongs to its principal, for anybody else it does not
exist (SEC-5, TSK-11); ids are 192 random bits; tasks are bounded in number, time and bytes (law 8). A task whose
process has died is `failed`, never for ever `working` (TSK-13). At shutdown a task has the same grace as a call, one
that waits for an answer has none; then it is `failed` with an error that says retryable.

Sources: MCP tasks extension 2026-07-28 (TSK-1..14); architecture laws 1, 2, 8, 12.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from mcpd.authoring.judging import fits
from mcpd.config import Limits, Timeouts
from mcpd.deadlines import bounded_shield
from mcpd.errors import Draining, InvalidParams, Overloaded, counted
from mcpd.events import Changed, LocalBus
from mcpd.jobs import MAX_HELD_BYTES, Held, Job, Launch, weigh
from mcpd.monitoring.metrics import Metrics
from mcpd.storage.documents import StorageError
from mcpd.storage.refusals import TASKS, answering, refusal
from mcpd.storage.shared import NoRoom, Room, TaskStore
from mcpd.storage.task_states import STATES, Answer, Draft, Refused, State, Task, WantCancel
from mcpd.wire.call import Call, Principal
from mcpd.wire.jsonrpc import encode
from mcpd.wire.rounds import Rounds
from mcpd.wire.tasks import declared, raw, read_answers, read_task_id, task_members, undeclared, unknown_task

Result = dict[str, Any]

ID_BYTES: Final = 24
SWEEP_S: Final = 5.0
"""Between two looks for tasks that have expired, or whose process has died; who asks for one sees it at once."""
RETRY_S: Final = 0.5
_LOST: Final = {"code": -32603, "data": {"reason": "owner_lost", "retryable": True}}
_log = logging.getLogger(__name__)


class Tasks:
    """The tasks of this server, as far as this process has to do with them."""

    def __init__(self, store: TaskStore, *, limits: Limits, timeouts: Timeouts, metrics: Metrics) -> None:
        self._store = store
        self._room = Room(limits.max_tasks, limits.max_tasks_per_principal)
        self._timeouts = timeouts
        self._metrics = metrics
        self._jobs: dict[str, Job] = {}
        self._held = Held()
        self._settled = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._launch: Launch | None = None
        self._counts: Mapping[State, int] = {}
        self._trouble = ""
        self.bus = LocalBus()
        """Carries `Changed("task", id)` for every task that changes, in whatever process."""
        metrics.watch("tasks_running", lambda: len(self._jobs))
        for state in STATES:
            metrics.watch("tasks", self._counter(state), state)

    def _counter(self, state: State) -> Callable[[], int]:
        return lambda: self._counts.get(state, 0)

    async def run(self, launch: Launch, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run tasks until cancelled; `launch` makes the work of one. Started when tasks can be created.

        Cancellation: stops the tasks' work; what is not written down by then is found by the next process.
        """
        async with trio.open_nursery() as nursery:
            self._launch, self._nursery = launch, nursery
            await nursery.start(self._follow)
            await self._sweep()
            task_status.started()
            while True:
                await trio.sleep(SWEEP_S)
                await self._sweep()

    async def _follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        while True:
            try:
                await self._store.watch(self._heard, task_status=task_status)
            except StorageError as error:
                _log.error("watching tasks failed, trying again in %g s: %s", RETRY_S, error)
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(RETRY_S)

    async def _sweep(self) -> None:
        try:
            lost = await self._store.recover()
            await self._store.purge()
            self._counts = await self._store.count()
        except StorageError as error:
            if str(error) != self._trouble:
                _log.error("tasks could not be looked after, trying again every %g s: %s", SWEEP_S, error)
            self._trouble = str(error)
            return
        self._trouble = ""
        if lost:
            _log.warning("%s without a process, failed now", counted(lost, "task"))

    def _heard(self, task: Task) -> None:
        job = self._jobs.get(task.id)
        if job is not None:
            job.hear(task)
        self.bus.publish(Changed("task", task.id))

    def ttl_s(self) -> float:
        """Return how long a task is kept, from its creation: as long as it may run, and `task_keep_s` after that.

        At its end it becomes `task_keep_s` from then on, and its client is told.
        """
        return self._timeouts.task_max_s + self._timeouts.task_keep_s

    async def create(self, call: Call, rounds: Rounds) -> Result:
        """Answer a `tools/call` with a task that does its work. `rounds` are the answers that it has already.

        Raises: Overloaded, StoreUnavailable. Cancellation: ends the task if its client has not been told of it.
        """
        assert self._nursery is not None, "tasks are served while `run` runs"
        assert self._launch is not None, "as above"
        size, share = weigh(call.params), call.principal.share
        self._check_held(share, size)
        job = Job(secrets.token_urlsafe(ID_BYTES), call, rounds, self._store, self._launch)
        job.keep_s = self._timeouts.task_keep_s
        job.on_answers = lambda answers: self._held.add(job.id, share, weigh(answers)) if answers else None
        self._held.add(job.id, share, size)
        self._nursery.start_soon(self._do, job)
        try:
            await job.created.wait()
        except trio.Cancelled:
            job.leave_untold()
            raise
        if isinstance(job.made, Task):
            return {"resultType": "task", **members(job.made)}
        if isinstance(job.made, NoRoom):
            self._metrics.rejected("tasks")
            raise Overloaded(f"{job.made}; wait for one to expire, or cancel what is not needed")
        if job.made is None:
            raise Draining("The server is stopping; try again")
        raise refusal(job.made, TASKS)

    def _check_held(self, share: str, size: int) -> None:
        if not self._held.fits(share, size):
            self._metrics.rejected("tasks")
            raise Overloaded(
                f"The tasks under way hold as many bytes of arguments and answers as they may ({MAX_HELD_BYTES} in all,"
                " three quarters for one caller); try again when some have ended, or send less"
            )

    async def _do(self, job: Job) -> None:
        draft = Draft(
            id=job.id,
            principal=job.call.principal.id,
            share=job.call.principal.share,
            tool=str(job.call.params.get("name")),
            ttl_s=self.ttl_s(),
        )
        self._jobs[job.id] = job
        try:
            try:
                job.made = await self._store.create(draft, self._room)
            except StorageError as error:
                job.made = error
                return
            finally:
                job.created.set()
            await job.run()
        except Exception:  # noqa: BLE001 - one task's fault must not stop the others, nor the server
            _log.exception("a task of %s failed by a bug", draft.tool)
            await job.fail()
        finally:
            del self._jobs[job.id]
            self._held.release(job.id)
            self._settled.set()
            self._settled = trio.Event()

    def rounds_of(self, task_id: str) -> Rounds:
        """Return the answers that the running task `task_id` began with."""
        return self._jobs[task_id].rounds

    async def _own(self, task_id: str, principal: Principal) -> Task | None:
        with answering(TASKS):
            task = await self._store.peek(task_id)
        return task if task is not None and task.principal == principal.id else None

    async def _find(self, call: Call) -> Task:
        task = await self._own(read_task_id(call), call.principal)
        if task is None:
            raise unknown_task()
        return task

    async def get(self, call: Call) -> Result:
        """Serve `tasks/get`. Raises: InvalidParams, MissingCapability, NotFound, StoreUnavailable."""
        task_id = read_task_id(call)
        with answering(TASKS):
            task = await self._store.get(task_id)
        if task is None or task.principal != call.principal.id:
            raise unknown_task()
        return detailed(task)

    async def update(self, call: Call) -> Result:
        """Serve `tasks/update`: keys that are not asked are left alone, an answer that does not fit is refused.

        Raises: InvalidParams, MissingCapability, NotFound, StoreUnavailable.
        """
        task = await self._find(call)
        answers = {key: answer for key, answer in read_answers(call).items() if key in task.asked}
        for key, answer in answers.items():
            if not fits(task.asked[key], answer):
                raise InvalidParams(f"The response to {key!r} does not fit what was asked")
        if answers:
            if task.id in self._jobs:
                self._check_held(task.share, weigh(answers))
            await self._apply(task.id, Answer(answers))
        return {}

    async def cancel(self, call: Call) -> Result:
        """Serve `tasks/cancel`: a wish, which whoever runs the task obeys (TSK-7).

        Raises: InvalidParams, MissingCapability, NotFound, StoreUnavailable.
        """
        task = await self._find(call)
        if not task.ended:
            await self._apply(task.id, WantCancel())
        return {}

    async def _apply(self, task_id: str, event: Answer | WantCancel) -> None:
        with answering(TASKS):
            after = await self._store.apply(task_id, event)
        if isinstance(after, Refused) and after.why == "gone":
            raise unknown_task()
        if isinstance(after, Refused) and after.why == "size":
            raise InvalidParams("The responses to this task are too long")

    async def watchable(self, call: Call, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return those task ids of a listen request that its caller may watch.

        Raises: MissingCapability when there are some and the extension is not declared; StoreUnavailable.
        """
        if wanted is None:
            return ()
        if not declared(call):
            raise undeclared()
        return tuple([one for one in wanted if await self._own(one, call.principal) is not None])

    async def notice(self, task_id: str, principal: Principal) -> Result | None:
        """Return the parameters of `notifications/tasks`; None when there is nothing to tell, or no store to ask."""
        try:
            task = await self._store.get(task_id)
        except StorageError as error:
            _log.warning("a change of a task could not be told: %s", error)
            return None
        return detailed(task) if task is not None and task.principal == principal.id else None

    def drain(self) -> None:
        """End the tasks that wait for an answer, which nobody can give any more. Not a checkpoint."""
        for job in self._jobs.values():
            if job.waiting:
                job.work.cancel("drain")

    async def wait_settled(self) -> None:
        """Wait until this process runs no task, at most `timeouts.cleanup_s`: their ends are written down then."""
        with bounded_shield(self._timeouts.cleanup_s):
            while self._jobs:
                await self._settled.wait()


def members(task: Task) -> Result:
    """Return what a client is told of a task in every state."""
    return task_members(
        task.id,
        task.state,
        message=task.message,
        created_s=task.created_s,
        updated_s=task.updated_s,
        ttl_s=task.ttl_s,
    )


def detailed(task: Task) -> Result:
    """Return all that a client is told of a task: `tasks/get`, and `notifications/tasks`."""
    more: Result = {}
    if task.state == "input_required":
        more = {"inputRequests": task.asked}
    elif task.state == "completed":
        more = {"result": raw(task.outcome or b"{}")}
    elif task.state == "failed":
        more = {"error": raw(task.outcome or encode({**_LOST, "message": task.message}))}
    return {**members(task), **more}
