"""Bounded threads for `def` functions: abandoned when their call ends, counted until they end themselves.

No thread can be killed. A call that is cancelled leaves its thread behind; what it returns or raises later is dropped.
An abandoned thread keeps its place in the pool, in the share of the owner whose call it was. An owner that has three
quarters of `max_abandoned` stuck is refused at once until some have ended; the others go on with the threads left, and
are refused only when none is free for them and `max_abandoned` are stuck.

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
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import msgspec
import trio

from mcpd.deadlines import bounded_shield
from mcpd.errors import Overloaded
from mcpd.shares import QUARTERS, Shares, most_of

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

    __slots__ = ("callbacks", "name", "over", "owner", "quiet", "running")

    def __init__(self, name: str, owner: str) -> None:
        self.name = name
        self.owner = owner
        self.over = False
        """The task has gone; from here on the thread is abandoned."""
        self.running = False
        self.callbacks: set[trio.CancelScope] = set()
        self.quiet: trio.Event | None = None


class _Current(threading.local):
    job: _Job | None = None


_current = _Current()


class _Limiter:
    """The places of one call's owner, as `trio.to_thread` asks for them; it gives back when the thread has ended."""

    __slots__ = ("_owner", "_shares")

    def __init__(self, shares: Shares, owner: str) -> None:
        self._shares = shares
        self._owner = owner

    async def acquire_on_behalf_of(self, _borrower: object) -> None:
        await self._shares.enter(self._owner)

    def release_on_behalf_of(self, _borrower: object) -> None:
        self._shares.leave(self._owner)


class ThreadPool:
    """At most `max_threads` threads at a time, at most about `max_abandoned` of them given up on.

    Calls that run when a bound is reached may still be cancelled, so `abandoned` can exceed it, up to `max_threads`; no
    new call waits for a place that only a stuck thread could give back while its owner or the pool is at the bound.
    """

    def __init__(self, max_threads: int = 40, max_abandoned: int = 20, *, cleanup_s: float = 2.0) -> None:
        self._max_threads = max_threads
        self._shares = Shares(max_threads, times=QUARTERS)
        self._max_abandoned = max_abandoned
        self._stuck: Counter[str] = Counter()
        self._cleanup_s = cleanup_s
        self._lock = threading.Lock()
        self._abandoned: dict[_Job, None] = {}
        self._abandoned_total = self._ended_late = self._refused = 0

    async def run(self, fn: Callable[[], T], *, name: str, owner: str) -> T:
        """Run `fn()` in a thread and return what it returns. `name` is for `stuck()`: the tool's.

        `owner` is whose call it is: nobody has over three quarters of the threads, stuck ones included.

        Cancellation: returns at once and abandons the thread, after the call-backs it had running have ended (at most
        `cleanup_s`). A function whose thread has not begun yet will not begin.
        Raises: what `fn` raises; Overloaded when too many threads are stuck.
        """
        if self._has_too_many_stuck(owner):
            self._refused += 1
            raise Overloaded(f"Too many threads are stuck in calls that have ended ({len(self._abandoned)})")
        job = _Job(name, owner)
        limiter: Any = _Limiter(self._shares, owner)
        try:
            value = await trio.to_thread.run_sync(
                self._in_thread, job, fn, abandon_on_cancel=True, limiter=limiter, thread_name=name
            )
        except trio.Cancelled:
            await self._abandon(job)  # noqa: ASYNC102 - shielded and bounded inside
            raise
        return cast(T, value)

    def _has_too_many_stuck(self, owner: str) -> bool:
        if self._stuck[owner] >= most_of(self._max_abandoned):
            return True
        return len(self._abandoned) >= self._max_abandoned and not self._shares.may_have_more(owner)

    @property
    def abandoned(self) -> int:
        """Threads that still run although their call is over."""
        return len(self._abandoned)

    @property
    def degraded(self) -> bool:
        """True while new calls, of some callers at least, are refused because of stuck threads."""
        with self._lock:
            most = max(self._stuck.values(), default=0)
        return most >= most_of(self._max_abandoned) or len(self._abandoned) >= self._max_abandoned

    def stuck(self) -> tuple[str, ...]:
        """Return the names of the abandoned threads' functions, the longest abandoned first."""
        with self._lock:
            return tuple(job.name for job in self._abandoned)

    def statistics(self) -> ThreadStatistics:
        """Return a snapshot."""
        return ThreadStatistics(
            max_threads=self._max_threads,
            busy=self._max_threads - self._shares.free,
            abandoned=len(self._abandoned),
            waiting=self._shares.waiting,
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
                self._stuck[job.owner] -= 1
                if not self._stuck[job.owner]:
                    del self._stuck[job.owner]

    async def _abandon(self, job: _Job) -> None:
        with self._lock:
            job.over = True
            if job.running:
                self._abandoned[job] = None
                self._stuck[job.owner] += 1
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
