"""Many tasks on one connection: what they ask in one pass of the event loop leaves in one write, replies come in order.

    writer    waits until something is queued, joins all of it, sends it
    reader    hands each reply to the oldest request, and wakes its task
    watch     ends the connection when the oldest request has waited for `stall_s`

A request is a `_Slot`: some commands whose replies belong together. A task that is cancelled before its commands have
left takes them back; afterwards its slot stays as a tombstone whose replies are thrown away, so that no reply ever
reaches somebody else.

Called by: `client`, for short commands. Deliberately not: blocking commands, transactions with WATCH, large values,
which would hold up everybody else (leased connections).

Laws: nothing is sent twice here. When the connection ends, who has not been sent gets NotExecuted, who has been sent
gets OutcomeUnknown (law 6). Commands queued, commands and bytes in flight are bounded; the reader never waits for the
writer.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import trio

from mcpd.drivers.redis.connection import LOST, Connection
from mcpd.drivers.redis.errors import NotExecuted, OutcomeUnknown, RedisError, Unreachable
from mcpd.drivers.resp import Push
from mcpd.errors import SHOWN_CHARS

MAX_QUEUED: Final = 10_000
"""Requests that wait for their turn; more are refused at once."""

MAX_IN_FLIGHT: Final = 1_000
"""Requests that have been sent and not answered. Servers keep unread replies without a bound; we do not make them."""

MAX_WRITE_BYTES: Final = 1 << 20
"""Of commands joined into one write."""


class _Slot:
    __slots__ = ("data", "error", "expected", "replies", "sent_at", "task")

    def __init__(self, data: bytes, expected: int, task: trio.lowlevel.Task) -> None:
        self.data = data
        self.expected = expected
        self.replies: list[Any] = []
        self.error: RedisError | None = None
        self.sent_at = 0.0
        self.task: trio.lowlevel.Task | None = task

    def wake(self) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task)

    def fail(self, error: RedisError) -> None:
        self.error = error
        self.wake()


class Pipeline:
    """A connection that tasks share while `run` runs."""

    def __init__(self, connection: Connection, *, stall_s: float) -> None:
        self._connection = connection
        self._stall_s = stall_s
        self._queued: deque[_Slot] = deque()
        self._sent: deque[_Slot] = deque()
        self._writer: trio.lowlevel.Task | None = None
        self._reason: RedisError | None = None
        self.failure: RedisError | None = None
        """Why the connection has ended."""

    @property
    def queued(self) -> int:
        """Requests that have not been sent."""
        return len(self._queued)

    @property
    def in_flight(self) -> int:
        """Requests that have been sent and not answered, tombstones included."""
        return len(self._sent)

    async def run(self) -> None:
        """Serve until the connection ends or this is cancelled; then everybody who waits is told.

        Resources: closes the connection.
        """
        failure: RedisError = Unreachable("the client has been closed")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                await self._read()
        except* (RedisError, *LOST) as group:
            failure = self._reason or Unreachable(f"the connection was lost: {_first(group)}")
        finally:
            self._end(failure)

    def close(self, reason: RedisError) -> None:
        """End the connection; `run` returns soon. Not a checkpoint."""
        self._reason = reason
        self._connection.abort()

    def _end(self, failure: RedisError) -> None:
        self.failure = failure
        self._connection.abort()
        while self._sent:
            self._sent.popleft().fail(OutcomeUnknown(str(failure), failure.code))
        while self._queued:
            self._queued.popleft().fail(failure)

    async def submit(self, data: bytes, expected: int) -> list[Any]:
        """Send encoded commands and return their `expected` replies, errors as `ErrorReply`.

        Cancellation: takes the commands back if they have not left; if they have, they may run.
        Raises: NotExecuted, OutcomeUnknown.
        """
        if self.failure is not None:
            raise NotExecuted(str(self.failure), self.failure.code)
        if len(self._queued) >= MAX_QUEUED:
            raise NotExecuted(f"{MAX_QUEUED} requests wait for the Redis server")
        slot = _Slot(data, expected, trio.lowlevel.current_task())
        self._queued.append(slot)
        if len(self._sent) < MAX_IN_FLIGHT:
            self._wake_writer()

        def leave(_: object) -> trio.lowlevel.Abort:
            slot.task = None
            if not slot.sent_at:
                self._queued.remove(slot)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        if slot.error is not None:
            raise slot.error
        return slot.replies

    def _wake_writer(self) -> None:
        if self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)

    async def _write(self) -> None:
        while True:
            while not self._queued or len(self._sent) >= MAX_IN_FLIGHT:
                await self._wait_queued()
            await self._connection.send(self._take())

    def _take(self) -> bytes:
        now, size = trio.current_time(), 0
        taken: list[bytes] = []
        while self._queued and size < MAX_WRITE_BYTES and len(self._sent) < MAX_IN_FLIGHT:
            slot = self._queued.popleft()
            slot.sent_at = now
            self._sent.append(slot)
            taken.append(slot.data)
            size += len(slot.data)
            slot.data = b""
        return b"".join(taken)

    async def _wait_queued(self) -> None:
        self._writer = trio.lowlevel.current_task()

        def leave(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def _read(self) -> None:
        while True:
            for item in await self._connection.receive():
                if not isinstance(item, Push):
                    self._answer(item)
            if self._queued:
                self._wake_writer()

    def _answer(self, reply: Any) -> None:
        if not self._sent:
            raise Unreachable(f"a reply that nobody asked for: {str(reply)[:SHOWN_CHARS]}")
        slot = self._sent[0]
        slot.replies.append(reply)
        if len(slot.replies) == slot.expected:
            self._sent.popleft()
            slot.wake()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(self._stall_s / 4)
            if self._sent and self._sent[0].sent_at < trio.current_time() - self._stall_s:
                raise Unreachable(f"no reply for {self._stall_s:g} s")


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
