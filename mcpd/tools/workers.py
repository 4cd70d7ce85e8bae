"""The pool of worker processes: work that is killed when its call ends, even in the middle of a C loop.

A few workers are kept warm; more are started while calls wait, up to a maximum, and retired when they have been idle
for a while. A call owns one worker from its job to its reply. A call that ends in any other way (cancelled, crashed,
garbage) kills its worker and waits, under a bounded shield, until the pid is reaped; the pool then starts another.
Calls wait in `tools.waiting`, fairly by owner.

Called by: `tools.manager` for tools with `isolation="process"`; `run` is one of the services of `app`. Runs
`tools.process`, one task per process. Deliberately not: the owner of a deadline (that is the caller's scope) and not
Trio's or the standard library's pool, neither of which can kill one worker and keep the rest.

Laws: 2 (the pid is dead and replaced), 5 (`_balance`, `_offer` decide without an await), 6 (a broken exchange poisons
its worker), 8 (workers, waiting calls and message sizes are bounded; a full queue is `Overloaded`).
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import trio

from mcpd.deadlines import bounded_shield
from mcpd.errors import Draining, InvalidParams, McpdError, RegistrationError, RpcError, ToolError
from mcpd.tools import frames
from mcpd.tools.process import OnLog, OnProgress, WorkerBroken, WorkerProcess
from mcpd.tools.waiting import Waiter, Waiting

_log = logging.getLogger(__name__)


class WorkerCrashed(McpdError):
    """The worker process died under its call, talked garbage, or could not be started."""


class WorkerLost(WorkerCrashed):
    """The worker process died under its call."""


class WorkerToolFailed(McpdError):
    """What the tool returned is no result. The text is the worker's traceback: for the log only."""


class WorkerToolRaised(McpdError):
    """The tool's function raised something unforeseen: `Type: message`. The cause's text is the worker's traceback."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a pool."""

    warm: int = 1
    """Workers kept ready."""
    max_workers: int = 4
    """Processes at any moment, those included that are starting or dying."""
    max_queued: int = 256
    """Calls that may wait for a worker; one more is refused."""
    max_message_bytes: int = 16 * 1024 * 1024
    """Largest job, result or notification."""
    start_s: float = 10.0
    """A worker that is not ready after this long is killed."""
    idle_s: float = 10.0
    """How long a worker beyond the warm ones may stay idle."""
    cleanup_s: float = 2.0
    """Bound of every shielded wait for a killed process."""
    max_start_delay_s: float = 5.0
    """Starts that keep failing are tried again after 0.1 s, 0.2 s, ... up to this."""
    preload: tuple[str, ...] = ()
    """Tool files or modules that a worker loads before it is ready."""


class WorkerStatistics(msgspec.Struct, frozen=True):
    """A snapshot of a pool. The first four are gauges, the `*_total` ones only grow."""

    starting: int
    idle: int
    busy: int
    waiting: int
    started_total: int
    crashed_total: int
    killed_total: int
    refused_total: int
    last_start_s: float
    """From fork to ready, of the worker that was last ready."""
    pids: tuple[int, ...]
    """All live processes, oldest first."""


class WorkerPool:
    """Run tools in processes that can be killed. `run` must be running for `call` to work."""

    def __init__(self, settings: WorkerSettings | None = None) -> None:
        self.settings = settings or WorkerSettings()
        if not 0 <= self.settings.warm <= self.settings.max_workers or self.settings.max_workers < 1:
            raise ValueError("worker processes: 0 <= warm <= max_workers and 1 <= max_workers")
        self._nursery: trio.Nursery | None = None
        self._lives = 0
        self._workers: dict[WorkerProcess, None] = {}
        self._starting = 0
        self._idle: list[WorkerProcess] = []
        self._waiters: Waiting[WorkerProcess] = Waiting(self.settings.max_queued)
        self._busy = self._started = self._crashed = self._killed = self._failures = 0
        self._unasked = 0
        """Workers that have ended by themselves since one has done a job."""
        self._last_start_s = 0.0
        self._changed = trio.Event()
        self._surplus = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the warm workers alive until cancelled; then kill and reap every one.

        Reports started when the processes have been forked, not when they are ready (`wait_ready`).
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._balance()
                task_status.started()
                try:
                    await self._retire_surplus()
                finally:
                    self._nursery = None
                    self._waiters.refuse_all(Draining("The server is stopping"))
        finally:
            self._starting = 0

    async def wait_ready(self) -> None:
        """Wait until no start is pending and at least the warm number of workers can take or has taken a job."""
        while self._starting or len(self._idle) + self._busy < self.settings.warm:
            await self._changed.wait()

    async def call(self, job: frames.Job, *, on_progress: OnProgress, on_log: OnLog, owner: str = "") -> dict[str, Any]:
        """Run a tool and return the body of its `tools/call` result.

        `owner` is whose call it is: workers are shared out fairly between owners, whatever each has waiting. The job's
        deadline is what the tool sees as `ctx.deadline`; the caller enforces it.
        The callbacks run in the calling task. Arguments are taken as checked already where the tool has a raw
        `input_schema`; a raw `output_schema` is the caller's to check.
        Cancellation: kills the worker, returns when its pid is reaped (at most `cleanup_s` later).
        Raises: ToolError (the tool's own, a wrong argument, a result too large), RegistrationError, WorkerToolFailed,
        WorkerToolRaised, WorkerCrashed, InvalidParams (arguments too large), Overloaded, Draining.
        """
        frame = self._encode(job)
        worker = await self._acquire(owner)
        self._busy += 1
        self._waiters.began(owner)
        try:
            reply = await worker.exchange(frame, on_progress, on_log)
        except WorkerBroken as broken:
            self._crashed += 1
            await self._discard(worker)  # noqa: ASYNC120 - shielded and bounded inside
            raise WorkerLost(f"The worker process of {job.tool!r} is lost: {broken} ({worker.fate})") from broken
        except BaseException:
            self._killed += 1
            await self._discard(worker)  # noqa: ASYNC102 - shielded and bounded inside
            raise
        finally:
            self._busy -= 1
            self._waiters.ended(owner)
        self._unasked = 0
        self._offer(worker)
        return _result_of(reply)

    def statistics(self) -> WorkerStatistics:
        """Return a snapshot."""
        return WorkerStatistics(
            starting=self._starting,
            idle=len(self._idle),
            busy=self._busy,
            waiting=len(self._waiters),
            started_total=self._started,
            crashed_total=self._crashed,
            killed_total=self._killed,
            refused_total=self._waiters.refused,
            last_start_s=self._last_start_s,
            pids=tuple(worker.pid for worker in self._workers),
        )

    def _encode(self, job: frames.Job) -> bytes:
        frame = frames.encode(job)
        if len(frame) - frames.HEADER_BYTES > self.settings.max_message_bytes:
            raise InvalidParams(
                f"The arguments are {len(frame)} bytes long; {self.settings.max_message_bytes} are allowed"
            )
        return frame

    async def _acquire(self, owner: str) -> WorkerProcess:
        if self._nursery is None:
            raise Draining("The worker processes are not running")
        while self._idle:
            worker = self._idle.pop()
            if worker.quiet():
                return worker
            worker.kill()
        return await self._wait_turn(self._waiters.enter(owner))

    async def _wait_turn(self, waiter: Waiter[WorkerProcess]) -> WorkerProcess:
        self._balance()
        try:
            await waiter.decided.wait()
        except BaseException:
            self._waiters.leave(waiter)
            if waiter.given is not None:
                self._offer(waiter.given)
            raise
        if waiter.given is None:
            assert waiter.error is not None
            raise waiter.error
        return waiter.given

    async def _discard(self, worker: WorkerProcess) -> None:
        worker.kill()
        with bounded_shield(self.settings.cleanup_s):
            await worker.gone.wait()

    def _offer(self, worker: WorkerProcess) -> None:
        """Give a worker to a call that waits, or keep it; kill it if it is dead or has babbled."""
        if not worker.quiet():
            worker.kill()
            return
        if self._waiters.give(worker):
            return
        worker.idle_since = trio.current_time()
        self._idle.append(worker)
        if self._lives > self.settings.warm:
            self._surplus.set()

    def _balance(self) -> None:
        """Start what is missing: up to the warm number always, up to the maximum while calls wait."""
        if self._nursery is None:
            return
        missing = max(
            self.settings.warm - self._lives,
            min(len(self._waiters) - self._starting, self.settings.max_workers - self._lives),
        )
        for _ in range(missing):
            self._lives += 1
            self._starting += 1
            self._nursery.start_soon(self._live)

    async def _live(self) -> None:
        """The whole life of one process, from before its fork to after its reaping."""
        try:
            await trio.sleep(self._start_delay_s())
            worker = self._spawn()
            if worker is not None:
                await self._keep(worker)
        finally:
            self._lives -= 1
            self._note_change()
        self._balance()

    def _start_delay_s(self) -> float:
        failures = self._failures + self._unasked
        if failures == 0:
            return 0.0
        return min(0.1 * 2.0 ** min(failures - 1, 16), self.settings.max_start_delay_s)

    def _spawn(self) -> WorkerProcess | None:
        settings = self.settings
        try:
            worker = WorkerProcess(max_message_bytes=settings.max_message_bytes, preload=settings.preload)
        except OSError as error:
            self._start_failed(str(error))
            return None
        self._workers[worker] = None
        self._started += 1
        return worker

    async def _keep(self, worker: WorkerProcess) -> None:
        unasked = False
        try:
            if await self._became_ready(worker):
                await worker.wait_exit()
                unasked = worker in self._idle
        finally:
            with bounded_shield(self.settings.cleanup_s):
                await worker.aclose()
            del self._workers[worker]
            if worker in self._idle:
                self._idle.remove(worker)
        if unasked:
            self._unasked += 1
            _log.error("a worker process has ended while it was idle: %s", worker.fate)

    async def _became_ready(self, worker: WorkerProcess) -> bool:
        try:
            with trio.fail_after(self.settings.start_s):
                await worker.wait_ready()
        except (WorkerBroken, trio.TooSlowError) as error:
            self._start_failed(str(error) or f"not ready after {self.settings.start_s} s")
            return False
        self._starting -= 1
        self._failures = 0
        self._last_start_s = trio.current_time() - worker.started_at
        if self._waiters or self._lives <= self.settings.warm:
            self._offer(worker)
        else:
            worker.kill()
        self._note_change()
        return True

    def _start_failed(self, why: str) -> None:
        self._starting -= 1
        self._failures += 1
        _log.error("a worker process could not be started: %s", why)
        self._waiters.refuse_all(WorkerCrashed(f"A worker process could not be started: {why}"))

    async def _retire_surplus(self) -> None:
        while True:
            if not self._idle or self._lives <= self.settings.warm:
                self._surplus = trio.Event()
                await self._surplus.wait()
                continue
            await trio.sleep_until(self._idle[0].idle_since + self.settings.idle_s)
            worker = self._due()
            if worker is not None:
                worker.kill()
                await worker.gone.wait()

    def _due(self) -> WorkerProcess | None:
        if not self._idle or self._lives <= self.settings.warm:
            return None
        if self._idle[0].idle_since + self.settings.idle_s > trio.current_time():
            return None
        return self._idle.pop(0)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _result_of(reply: frames.Reply) -> dict[str, Any]:
    if isinstance(reply, frames.Done):
        return reply.result
    if isinstance(reply, frames.Failed):
        trace = WorkerToolFailed(reply.traceback)
        if reply.raised:
            raise WorkerToolRaised(reply.error) from trace
        raise trace
    if reply.kind == "registration":
        raise RegistrationError(reply.text)
    if reply.kind == "rpc":
        raise RpcError(reply.code, reply.text, reply.data)
    raise ToolError(reply.text)
