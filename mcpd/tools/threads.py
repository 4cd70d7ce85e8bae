"""Bounded threads for `def` functions: abandoned when their call ends, counted until they end themselves.

No thread can be killed. A call that is cancelled leaves its thread behind; what it returns or raises later is dropped.
An abandoned thread keeps its place in the pool, so a few stuck ones would use it up: from `max_abandoned` of them on,
new calls are refused at once until some have ended.

Called by: `tools.manager` and `turns` (functions of tools, resources and prompts). Built on `trio.to_thread`, whose
threads are daemons: none of them holds up the exit of the process. Deliberately not: a way to stop code. A function
that must be stoppable in a C loop belongs into a worker process (`workers.py`).

The way back, `call_back`, runs a coroutine function in the event loop for the thread. It is not `trio.from_thread.run`,
which lets such work of an abandoned thread run on, free of its call's scope; here it ends with the call.

Laws: 2 (abandoned and counted; late results dropped; call-backs cancelled, their `finally` done), 8 (threads, abandoned
threads and the wait for call-backs are bounded).
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import msgspec
import trio

from mcpd.deadlines import bounded_shield
from mcpd.errors import Overloaded

T = TypeVar("T")


class ThreadStatistics(msgspec.Struct, frozen=True):
    """A snapshot of a pool; `*_total` only grow."""

    max_threads: int
    busy: int
    """Threads in use, abandoned ones included."""
    abandoned: int
    waiting: int
    """Calls waiting for a thread."""
    abandoned_total: int
    ended_late_total: int
    """Abandoned threads that have ended since."""
    refused_total: int


class _Job:
    """One call: what its task and its thread know of each other. `over` and `running` change under the pool's lock."""

    __slots__ = ("callbacks", "name", "over", "quiet", "running")

    def __init__(self, name: str) -> None:
        self.name = name
        self.over = False
        """The task has gone; from here on the thread is abandoned."""
        self.running = False
        self.callbacks: set[trio.CancelScope] = set()
        self.quiet: trio.Event | None = None


class _Current(threading.local):
    job: _Job | None = None


_current = _Current()


class _Share:
    """One owner's part of a pool, as a limiter for `trio.to_thread`: three quarters, so that another finds a thread."""

    def __init__(self, pool: trio.CapacityLimiter) -> None:
        self._pool = pool
        most = int(pool.total_tokens)
        self.own = trio.CapacityLimiter(most - most // 4)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self.own.acquire_on_behalf_of(borrower)
        try:
            await self._pool.acquire_on_behalf_of(borrower)
        except BaseException:
            self.own.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._pool.release_on_behalf_of(borrower)
        self.own.release_on_behalf_of(borrower)

    @property
    def idle(self) -> bool:
        return not self.own.borrowed_tokens and not self.own.statistics().tasks_waiting


class ThreadPool:
    """At most `max_threads` threads at a time, at most about `max_abandoned` of them given up on.

    Calls that run when the bound is reached may still be cancelled, so `abandoned` can exceed it, up to `max_threads`;
    no call ever waits for a place that only a stuck thread could give back while `abandoned` is at the bound.
    """

    def __init__(self, max_threads: int = 40, max_abandoned: int = 20, *, cleanup_s: float = 2.0) -> None:
        self._limiter = trio.CapacityLimiter(max_threads)
        self._shares: dict[str, _Share] = {}
        self._max_abandoned = max_abandoned
        self._cleanup_s = cleanup_s
        self._lock = threading.Lock()
        self._abandoned: dict[_Job, None] = {}
        self._abandoned_total = self._ended_late = self._refused = 0

    async def run(self, fn: Callable[[], T], *, name: str, owner: str = "") -> T:
        """Run `fn()` in a thread and return what it returns. `name` is for `stuck()`: the tool's.

        `owner` is whose call it is: nobody has over three quarters of the threads, stuck ones included ("": no share).

        Cancellation: returns at once and abandons the thread, after the call-backs it had running have ended (at most
        `cleanup_s`). A function whose thread has not begun yet will not begin.
        Raises: what `fn` raises; Overloaded when too many threads are stuck.
        """
        if len(self._abandoned) >= self._max_abandoned:
            self._refused += 1
            raise Overloaded(f"{len(self._abandoned)} threads are stuck in calls that have ended")
        job = _Job(name)
        limiter: Any = self._share(owner) if owner else self._limiter
        try:
            value = await trio.to_thread.run_sync(
                self._in_thread, job, fn, abandon_on_cancel=True, limiter=limiter, thread_name=name
            )
        except trio.Cancelled:
            await self._abandon(job)  # noqa: ASYNC102 - shielded and bounded inside
            raise
        return cast(T, value)

    def _share(self, owner: str) -> _Share:
        share = self._shares.get(owner)
        if share is None:
            self._shares = {name: one for name, one in self._shares.items() if not one.idle}
            share = self._shares[owner] = _Share(self._limiter)
        return share

    @property
    def abandoned(self) -> int:
        """Threads that still run although their call is over."""
        return len(self._abandoned)

    @property
    def degraded(self) -> bool:
        """True while new calls are refused because of stuck threads."""
        return len(self._abandoned) >= self._max_abandoned

    def stuck(self) -> tuple[str, ...]:
        """Return the names of the abandoned threads' functions, the longest abandoned first."""
        with self._lock:
            return tuple(job.name for job in self._abandoned)

    def statistics(self) -> ThreadStatistics:
        """Return a snapshot."""
        limiter = self._limiter.statistics()
        return ThreadStatistics(
            max_threads=int(limiter.total_tokens),
            busy=limiter.borrowed_tokens,
            abandoned=len(self._abandoned),
            waiting=limiter.tasks_waiting + sum(one.own.statistics().tasks_waiting for one in self._shares.values()),
            abandoned_total=self._abandoned_total,
            ended_late_total=self._ended_late,
            refused_total=self._refused,
        )

    def _in_thread(self, job: _Job, fn: Callable[[], T]) -> T | None:
        with self._lock:
            if job.over:
                return None
            job.running = True
        _current.job = job
        try:
            return fn()
        finally:
            _current.job = None
            self._ended(job)

    def _ended(self, job: _Job) -> None:
        with self._lock:
            job.running = False
            if job in self._abandoned:
                del self._abandoned[job]
                self._ended_late += 1

    async def _abandon(self, job: _Job) -> None:
        with self._lock:
            job.over = True
            if job.running:
                self._abandoned[job] = None
                self._abandoned_total += 1
        for scope in job.callbacks:
            scope.cancel(reason="the call of this thread is over")
        if job.callbacks:
            job.quiet = trio.Event()
            with bounded_shield(self._cleanup_s):
                await job.quiet.wait()


def call_back(afn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """From a function that a ThreadPool runs: run `await afn(*args)` in the event loop and wait for its result.

    It is cancelled with the call whose thread this is.
    Raises: what `afn` raises; trio.Cancelled when the call is over (already, or meanwhile); trio.RunFinishedError when
    the event loop has gone; RuntimeError in any other thread.
    """
    job = _current.job
    if job is None:
        raise RuntimeError("this works only in the thread of a call")
    finished, value = trio.from_thread.run(_within, job, afn, args)
    if not finished:
        trio.from_thread.check_cancelled()
        raise trio.RunFinishedError("the event loop is stopping")
    return cast(T, value)


async def _within(job: _Job, afn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> tuple[bool, T | None]:
    if job.over:
        return False, None
    with trio.CancelScope() as scope:
        job.callbacks.add(scope)
        try:
            return True, await afn(*args)
        finally:
            job.callbacks.discard(scope)
            if job.quiet is not None and not job.callbacks:
                job.quiet.set()
    return False, None
