"""The driver: snapshots and transactions in threads, how cancellation stops a read, how writers queue."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from mcpd.drivers import sqlite
from mcpd.drivers.sqlite import Busy, Connection, Database, Interrupted

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000000) SELECT count(*) FROM n"
"""Some six seconds; not for ever, so that a test ends when nothing stops it."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "test.db", readers=2, busy_s=0.2)
    await opened.open()
    await opened.write(lambda c: c.execute("CREATE TABLE t (n INTEGER)"))
    yield opened
    await opened.aclose()


def count(connection: Connection) -> int:
    return int((connection.one("SELECT count(*) FROM t") or (0,))[0])


def insert(connection: Connection, n: int = 1) -> None:
    connection.execute("INSERT INTO t VALUES (?)", (n,))


def run_endless(connection: sqlite3.Connection, stopped: threading.Event, begun: Callable[[], object] = int) -> None:
    """Say whether the statement was stopped or came to its end after all; call `begun` when it has begun."""
    try:
        rows = connection.execute(f"SELECT 0 UNION ALL SELECT * FROM ({ENDLESS})")
        begun()
        rows.fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            stopped.set()
        raise


async def test_a_commit_is_on_the_disk_before_it_is_acknowledged(database: Database) -> None:
    """The writer's own settings: those of a reader say nothing of a commit."""

    def settings(connection: Connection) -> list[object]:
        return [(connection.one(f"PRAGMA {name}") or (None,))[0] for name in ("journal_mode", "synchronous")]

    assert await database.write(settings) == ["wal", 2]


async def test_a_write_that_raises_changes_nothing(database: Database) -> None:
    def broken(connection: Connection) -> None:
        insert(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(broken)
    assert await database.read(count) == 0
    await database.write(insert)
    assert await database.read(count) == 1


async def test_all_statements_of_a_read_see_one_state(database: Database) -> None:
    between, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def twice(connection: Connection) -> tuple[int, int]:
        before = count(connection)
        token.run_sync_soon(between.set)
        go_on.wait(5)
        return before, count(connection)

    async def write_between() -> None:
        await between.wait()
        await database.write(insert)
        go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_between)
        assert await database.read(twice) == (0, 0)
    assert await database.read(count) == 1


async def test_a_statement_stops_when_its_caller_is_cancelled_and_the_next_ones_work(database: Database) -> None:
    """The statement would run far longer than the test waits."""
    token = trio.lowlevel.current_trio_token()
    for _ in range(5):
        begun, stopped = trio.Event(), threading.Event()

        def endless(connection: Connection, begun: trio.Event, stopped: threading.Event) -> None:
            token.run_sync_soon(begun.set)
            run_endless(connection.main, stopped)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.read, partial(endless, begun=begun, stopped=stopped))
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert stopped.is_set()
        assert await database.read(count) == 0


@pytest.mark.parametrize("where", ["main", "scratch"])
async def test_a_statement_that_runs_is_interrupted_however_rarely_the_flag_is_looked_at(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PROGRESS_STEPS", 1 << 30)
    database = Database(tmp_path / "test.db")
    await database.open()
    begun, stopped = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def endless(connection: Connection) -> None:
        run_endless(getattr(connection, where), stopped, lambda: token.run_sync_soon(begun.set))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.read, endless)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert stopped.is_set()
    await database.aclose()


@pytest.mark.parametrize("where", ["main", "scratch"])
async def test_a_cancellation_before_the_statement_has_begun_is_not_lost(where: str, database: Database) -> None:
    """`Connection.interrupt` would be: it only reaches statements that run."""
    begun, go_on, stopped = trio.Event(), threading.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def late(connection: Connection) -> None:
        token.run_sync_soon(begun.set)
        go_on.wait(5)
        run_endless(getattr(connection, where), stopped)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.read, late)
        await begun.wait()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        go_on.set()
    assert stopped.is_set()


async def test_python_loops_of_a_read_stop_at_their_next_check(database: Database) -> None:
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()
    ended_by: list[BaseException] = []

    def looping(connection: Connection) -> None:
        token.run_sync_soon(begun.set)
        try:
            while True:
                connection.check()
        except Interrupted as error:
            ended_by.append(error)
            raise

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.read, looping)
            await begun.wait()
            nursery.cancel_scope.cancel()
    assert len(ended_by) == 1


async def test_a_write_that_has_begun_is_finished_although_its_caller_is_cancelled(database: Database) -> None:
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(connection: Connection) -> None:
        insert(connection)
        token.run_sync_soon(begun.set)
        go_on.wait(5)
        insert(connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, slow)
        await begun.wait()
        nursery.cancel_scope.cancel()
        go_on.set()
    assert await database.read(count) == 2


async def test_only_so_many_reads_run_at_once_and_waiting_can_be_cancelled(database: Database) -> None:
    running, go_on = 0, threading.Event()
    both = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def one_more() -> None:
        nonlocal running
        running += 1
        if running == 2:
            both.set()

    def hold(connection: Connection) -> int:
        token.run_sync_soon(one_more)
        go_on.wait(5)
        return count(connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.read, hold)
        nursery.start_soon(database.read, hold)
        await both.wait()
        with trio.move_on_after(0.01) as scope:
            await database.read(hold)
        assert scope.cancelled_caught
        go_on.set()
    assert running == 2
    assert await database.read(count) == 0


def locked(path: Path) -> sqlite3.Connection:
    """Another process's write, as SQLite sees it."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


async def test_a_writer_waits_for_another_process_no_longer_than_its_deadline(database: Database) -> None:
    other = locked(database.path)
    with trio.move_on_after(0.05) as scope:
        await database.write(insert)
    assert scope.cancelled_caught
    other.execute("ROLLBACK")
    other.close()
    assert await database.read(count) == 0


async def test_without_a_deadline_a_writer_gives_up_and_says_why(database: Database) -> None:
    other = locked(database.path)
    with pytest.raises(Busy, match=r"0\.2 s"):
        await database.write(insert)
    assert await database.read(count) == 0
    other.execute("ROLLBACK")
    other.close()
    await database.write(insert)


async def test_a_writer_goes_on_as_soon_as_the_other_process_is_done(tmp_path: Path) -> None:
    database = Database(tmp_path / "test.db", busy_s=30)
    await database.open()
    await database.write(lambda c: c.execute("CREATE TABLE t (n INTEGER)"))
    other = locked(database.path)
    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, insert)
            await trio.testing.wait_all_tasks_blocked()
            other.execute("INSERT INTO t VALUES (7)")
            other.execute("COMMIT")
    assert await database.read(count) == 2
    other.close()
    await database.aclose()


async def test_the_data_version_changes_with_every_commit_of_anybody(database: Database) -> None:
    first = await database.data_version()
    assert await database.data_version() == first
    await database.write(insert)
    second = await database.data_version()
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("INSERT INTO t VALUES (1)")
    other.close()
    assert len({first, second, await database.data_version()}) == 3


async def test_closing_twice_is_fine_and_leaves_nothing_behind(database: Database) -> None:
    await database.write(insert)
    await database.read(count)
    await database.aclose()
    await database.aclose()
    assert [path.name for path in database.path.parent.iterdir()] == ["test.db"]
    with pytest.raises(sqlite3.ProgrammingError):
        await database.write(insert)


async def test_many_openings_at_once_make_one_database(tmp_path: Path) -> None:
    databases = [Database(tmp_path / "new.db") for _ in range(8)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for database in databases:
                nursery.start_soon(database.open)
        async with trio.open_nursery() as nursery:
            for n, database in enumerate(databases):
                nursery.start_soon(database.write, partial(_make_and_insert, n=n))
    assert await databases[0].read(count) == 8
    for database in databases:
        await database.aclose()


def _make_and_insert(connection: Connection, n: int) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
    insert(connection, n)
