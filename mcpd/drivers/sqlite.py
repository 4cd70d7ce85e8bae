"""An SQLite database for Trio: one writer, a few readers, every statement in a thread.

    read      a function in a thread, in one snapshot; stops within about a millisecond when cancelled
    write     a function in a thread, in one transaction; once begun it is finished, committed or rolled back
    data_version    a number that changes when any process has committed

Called by: `storage.sqlite`. Knows nothing of documents. Deliberately not: SQL, schema, or the meaning of
errors: those of `sqlite3` pass through as they are (`Error`), for the adapter's table.

How cancellation works: `interrupt()` stops the running statement, and is lost when it comes before one has begun. So
every reader has a flag, too; its progress handler looks at it every `PROGRESS_STEPS` steps of SQLite's machine, and
long Python work calls `Connection.check`. The wait for the thread does both when it is cancelled and goes on waiting
until the thread has left the connection. A write is never stopped.

Law 6: a connection that was stopped is closed and never used again, because an interrupt that comes late stops the next
statement, and one inside FTS5 stops all later ones. So is one that SQLite reported a fault on, or whose transaction did
not end. The next read or write opens a new one.

Waiting for another process's write happens in Trio, not in SQLite, so the deadline of whoever waits bounds it;
`busy_s` bounds it for those who have none.

Settings: WAL (readers and the writer do not block each other), `synchronous=FULL` (a commit survives a power loss, not
only the death of the process), 16 MiB of cache for the writer and 8 for each reader, no memory mapping (an I/O error
would be a SIGBUS), a log cut back to 64 MiB after a peak. Law 8.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import trio

from mcpd.deadlines import bounded_shield
from mcpd.drivers.timing import Observe, Outcome, Timed, name_of
from mcpd.errors import McpdError

T = TypeVar("T")
Row = tuple[Any, ...]
Error = sqlite3.Error
"""What SQLite raises; `primary_code` tells the kinds apart."""

PROGRESS_STEPS: Final = 100_000
"""Between two looks at the flag: some milliseconds. Each look takes the interpreter's lock, so that frequent ones would
make a statement wait for every other thread; `interrupt` is what stops it at once."""

OLDEST_SQLITE: Final = (3, 35, 0)
"""Materialised common table expressions and RETURNING."""

SHORTEST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.025
CLOSE_S: Final = 10.0
"""Closing waits for the last writes; the shield around it needs a bound."""


class Interrupted(McpdError):
    """A read was stopped because its caller had been cancelled."""


class Busy(McpdError):
    """Another process has been writing for longer than `busy_s`."""


HARMLESS: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_FULL}
)
"""Result codes after which a connection is as good as before."""


class Connection:
    """One connection and a private in-memory one, used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        cache_kib: int,
        prepare: Callable[[Connection], object] | None = None,
        durable: bool = True,
    ) -> None:
        self.main = _connect(str(path))
        self.scratch = _connect(":memory:")
        """For what has to be worked out with SQLite's own functions; `prepare` puts tables there."""
        self._stopped = False
        self._failed = False
        try:
            self._prepare(cache_kib, "FULL" if durable else "NORMAL")
            if prepare is not None:
                prepare(self)
        except Error:
            self.close()
            raise

    def _prepare(self, cache_kib: int, synchronous: str) -> None:
        mode = self.main.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError(f"this file system does not allow a write-ahead log, only {mode!r}")
        self.main.execute(f"PRAGMA synchronous = {synchronous}")
        self.main.execute(f"PRAGMA cache_size = {-cache_kib}")
        self.main.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        self.main.set_progress_handler(self._look, PROGRESS_STEPS)
        self.scratch.set_progress_handler(self._look, PROGRESS_STEPS)

    def _look(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Make the running read raise soon. Thread-safe."""
        self._stopped = True
        self.main.interrupt()
        self.scratch.interrupt()

    @property
    def is_reusable(self) -> bool:
        """Whether the next read or write may have it: nothing stopped it, failed on it or was left open."""
        return not (self._stopped or self._failed or self.main.in_transaction or self.scratch.in_transaction)

    def check(self) -> None:
        """Raise Interrupted when the caller has been cancelled: for loops that run no SQL."""
        if self._stopped:
            raise Interrupted("the read was cancelled")

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self.main.execute(sql, values)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        self.main.executemany(sql, rows)

    def one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """Run one statement and return its first row."""
        row: Row | None = self.main.execute(sql, values).fetchone()
        return row

    def snapshot(self, work: Callable[[Connection], T]) -> T:
        """Run `work` so that all its statements see the same state."""
        self.check()
        return self._within("BEGIN", work, "ROLLBACK")

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """Run `work` and commit, or roll back whatever it raised for."""
        return self._within("BEGIN IMMEDIATE", work, "COMMIT")

    def _within(self, begin: str, work: Callable[[Connection], T], end: str) -> T:
        try:
            self.main.execute(begin)
            result = work(self)
            self.main.execute(end)
        except BaseException as error:
            self._failed = not _is_harmless(error)
            raise
        finally:
            if self.main.in_transaction:
                with suppress(Error):
                    self.main.execute("ROLLBACK")
        return result

    def close(self) -> None:
        """Close both; an open transaction is rolled back."""
        self.scratch.close()
        self.main.close()


def _is_harmless(error: BaseException) -> bool:
    return isinstance(error, McpdError) or (isinstance(error, Error) and primary_code(error) in HARMLESS)


def _close(connections: Iterable[Connection]) -> None:
    for connection in connections:
        connection.close()


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256)


class Statistics(NamedTuple):
    """The connections of a database at one moment."""

    busy: int
    idle: int


class Database:
    """A database file; see the module's docstring. `prepare` is called once with each new reader.

    What is committed to one that is not `durable` may be lost with the power, and with nothing less.

    Resources: `open` before anything else, `aclose` in the end.
    """

    def __init__(
        self,
        path: Path,
        *,
        readers: int = 4,
        busy_s: float = 30.0,
        prepare: Callable[[Connection], object] | None = None,
        observe: Observe | None = None,
        durable: bool = True,
    ) -> None:
        self.path = path
        self._durable = durable
        self._observe = observe
        self._busy_s = busy_s
        self._prepare_new = prepare
        self._writing = trio.Lock()
        self._seen = 0
        self._pollers = 0
        """How many there were: the numbers that two connections give do not compare."""
        self._free = trio.Semaphore(readers)
        self._max_readers = readers
        self._is_open = False
        self._readers: list[Connection] = []
        self._idle: list[Connection] = []
        self._writer: Connection | None = None
        self._poller: Connection | None = None

    async def open(self) -> None:
        """Open the file, making it when it is not there. Raises: Error; Busy."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            oldest = ".".join(map(str, OLDEST_SQLITE))
            raise sqlite3.NotSupportedError(f"SQLite {oldest} or newer is needed, not {sqlite3.sqlite_version}")
        self._writer = await self._connected(16 << 10)
        self._poller = await self._connected(64)
        self._is_open = True

    async def _connected(self, cache_kib: int, prepare: Callable[[Connection], object] | None = None) -> Connection:
        return await self._patiently(
            partial(Connection, self.path, cache_kib=cache_kib, prepare=prepare, durable=self._durable)
        )

    def _check_open(self) -> None:
        if not self._is_open:
            raise sqlite3.ProgrammingError("the database is closed")

    async def aclose(self) -> None:
        """Close everything, after what is running; at most `CLOSE_S`. Idempotent."""
        with bounded_shield(CLOSE_S):
            async with self._writing:
                for _ in range(self._max_readers):
                    await self._free.acquire()
                closing = [c for c in (*self._readers, self._poller, self._writer) if c is not None]
                self._is_open = False
                self._readers, self._idle, self._poller, self._writer = [], [], None, None
                await in_thread(partial(_close, closing))
                for _ in range(self._max_readers):
                    self._free.release()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, run in a thread on one snapshot.

        Cancellation: stops the statement, or `work` at its next `check`, then raises Cancelled.
        Raises: Error; what `work` raises.
        """
        with self._timed(work):
            return await self._read(work)

    def _timed(self, work: Callable[[Connection], object]) -> AbstractContextManager[None]:
        return nullcontext() if self._observe is None else Timed(self._observe, name_of(work), _outcome)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        async with self._free:
            self._check_open()
            reader = self._idle.pop() if self._idle else await self._new_reader()
            try:
                return await self._patiently(partial(reader.snapshot, work), reader.stop)
            except (Error, Interrupted) as error:
                failure = error
            finally:
                with bounded_shield(CLOSE_S):
                    await self._give_back(reader)  # noqa: ASYNC102 - in a bounded shield
        await trio.lowlevel.checkpoint_if_cancelled()
        raise failure

    async def _new_reader(self) -> Connection:
        reader = await self._connected(8 << 10, self._prepare_new)
        self._readers.append(reader)
        return reader

    async def _give_back(self, reader: Connection) -> None:
        if reader.is_reusable:
            self._idle.append(reader)
            return
        self._readers.remove(reader)
        await in_thread(reader.close)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, run in a thread in one transaction, after the writers before it.

        Cancellation: while it waits for its turn; once `work` has begun it ends by itself, committed or rolled back.
        Raises: Busy; Error; what `work` raises, with nothing changed.
        """
        with self._timed(work):
            return await self._write(work)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        async with self._writing:
            self._check_open()
            writer = self._writer = self._writer or await self._connected(16 << 10)
            try:
                return await self._patiently(partial(writer.transaction, work))
            finally:
                if not writer.is_reusable:
                    self._writer = None
                    with bounded_shield(CLOSE_S):
                        await in_thread(writer.close)  # noqa: ASYNC102 - in a bounded shield

    def statistics(self) -> Statistics:
        """Return how the connections stand; the one that only looks for changes is not counted."""
        writing = int(self._writing.locked())
        busy = len(self._readers) - len(self._idle) + writing
        return Statistics(busy, len(self._idle) + (self._writer is not None and not writing))

    async def data_version(self) -> int:
        """Return a number that is another one when any connection has committed since the last call.

        Asked in this very thread: it looks into shared memory, takes microseconds and waits for nobody; a thread for
        it would be most of what an idle server does. Raises: Error.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self._poller is None:
            self._poller = await self._connected(64)
            self._pollers += 1
        poller = self._poller
        try:
            row = poller.one("PRAGMA data_version")
        except Error as error:
            if primary_code(error) == sqlite3.SQLITE_BUSY:
                return self._seen
            self._poller = None
            poller.close()
            raise
        self._seen = self._pollers << 32 | (int(row[0]) if row else 0)
        return self._seen

    async def _patiently(self, job: Callable[[], T], when_cancelled: Callable[[], object] = lambda: None) -> T:
        """Run `job` in a thread, again and again while another process holds the lock that it needs."""
        for pause in self._pauses():
            try:
                return await in_thread(job, when_cancelled)
            except sqlite3.OperationalError as error:
                if primary_code(error) not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                    raise
            await trio.sleep(pause)
        raise Busy(f"another process has been writing to {self.path} for {self._busy_s:g} s")

    def _pauses(self) -> Iterator[float]:
        patience = trio.current_time() + self._busy_s
        longest = SHORTEST_PAUSE_S
        yield longest
        while trio.current_time() < patience:
            longest = min(longest * 2, LONGEST_PAUSE_S)
            yield random.uniform(SHORTEST_PAUSE_S, longest)  # noqa: S311 - no secret, only to fall out of step


def _outcome(error: BaseException) -> Outcome:
    return "unavailable" if isinstance(error, Busy) else "refused"


def primary_code(error: Error) -> int:
    """Return SQLite's primary result code of `error`; 1 (SQLITE_ERROR) when it carries none."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


async def in_thread(job: Callable[[], T], when_cancelled: Callable[[], object] = lambda: None) -> T:
    """Run `job()` in a thread and wait for its end, whatever happens.

    Cancellation: before the thread has begun, at once; later `when_cancelled` is called and the wait goes on.
    """
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

    def deliver(result: Any) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    def abort(_: object) -> trio.lowlevel.Abort:
        when_cancelled()
        return trio.lowlevel.Abort.FAILED

    await trio.lowlevel.checkpoint_if_cancelled()
    trio.lowlevel.start_thread_soon(job, deliver, "mcpd sqlite")
    result: T = await trio.lowlevel.wait_task_rescheduled(abort)
    return result
