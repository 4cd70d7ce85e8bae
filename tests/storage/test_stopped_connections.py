"""Law 6 for SQLite: a connection that was stopped, or that failed, is closed, and the ones after it work."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.drivers.sqlite import Connection, Database
from mcpd.storage.documents import BadQuery, Condition, Facet, Matching, Near
from mcpd.storage.sqlite import reads
from mcpd.storage.sqlite.documents import SqliteDocuments, open_documents
from mcpd.storage.sqlite.facets import facets
from mcpd.storage.sqlite.vectors import Neighbours
from tests.contract.backends import put

WORDS = tuple(f"w{n}" for n in range(40))
QUERY = Matching(text="w1 w2 w3", limit=5, highlight=2)
NEAR = Near(vector=(1.0, 0.0), model="m", limit=3)

Work = Callable[[Connection], Any]
WORKS: dict[str, Work] = {
    "words": partial(reads.match, query=QUERY),
    "facets": partial(facets, text="w1 w2", where=(), wanted=[Facet(field="tags")]),
    "vectors": lambda connection: Neighbours().nearest(connection, NEAR),
    "page": partial(reads.page, where=(Condition("tags", any_of=("t1",)),), cursor=None, limit=3),
}


async def fill(documents: SqliteDocuments, count: int, length: int) -> None:
    draw = random.Random(8)
    await documents.write(
        [
            put(
                f"docs:///{n}",
                " ".join(draw.choices(WORDS, k=length)),
                vectors=[(1.0, 0.0) if n % 2 else (0.0, 1.0)],
                model="m",
                tags=(f"t{n % 3}",),
            )
            for n in range(count)
        ]
    )


class Stopping:
    """Cancels `scope` at the n-th look that SQLite's machine offers, while the statement stands still."""

    def __init__(self, scope: trio.CancelScope, at: int) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._scope = scope
        self._left = at
        self.was_reached = False

    def arm(self, connection: Connection) -> None:
        connection.main.set_progress_handler(self._look, 1)
        connection.scratch.set_progress_handler(self._look, 1)

    def _cancel(self, cancelled: threading.Event) -> None:
        self._scope.cancel()
        cancelled.set()

    def _look(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self.was_reached = True
            cancelled = threading.Event()
            self._token.run_sync_soon(self._cancel, cancelled)
            cancelled.wait(5)
        return False


async def stopped_at(database: Database, work: Work, at: int) -> bool:
    """Run a read that is cancelled at its n-th step; return whether it has that many."""
    with trio.CancelScope() as scope:
        stopping = Stopping(scope, at)

        def armed(connection: Connection) -> None:
            stopping.arm(connection)
            work(connection)

        await database.read(armed)
    assert scope.cancelled_caught == stopping.was_reached or database._idle == []
    return stopping.was_reached


@pytest.mark.parametrize("kind", WORKS)
async def test_a_read_stopped_at_any_step_of_sqlite_harms_no_later_one(kind: str, tmp_path: Path) -> None:
    """Every fifth step; they include those within FTS5, in the private database, and of the rollback at the end."""
    async with open_documents(tmp_path, readers=1) as documents:
        await fill(documents, 6, 12)
        database = documents._database
        right = {name: await database.read(work) for name, work in WORKS.items()}
        for at in range(1, 4_000, 5):
            if not await stopped_at(database, WORKS[kind], at):
                break
            assert database._readers == []
            with trio.fail_after(5):
                assert await database.read(WORKS[kind]) == right[kind]
            database._idle.pop().close()
            database._readers.clear()
        assert at > 20
        assert {name: await database.read(work) for name, work in WORKS.items()} == right


async def test_a_stop_between_the_end_of_the_thread_and_the_news_of_it_harms_no_later_read(tmp_path: Path) -> None:
    """The loop is held until the thread has ended, and only then hears of the cancellation."""
    async with open_documents(tmp_path, readers=1) as documents:
        await fill(documents, 3, 12)
        database = documents._database
        token = trio.lowlevel.current_trio_token()
        for _ in range(20):
            begun, ended = trio.Event(), threading.Event()

            def work(connection: Connection, begun: trio.Event, ended: threading.Event) -> None:
                token.run_sync_soon(begun.set)
                reads.match(connection, QUERY)
                connection.main.set_trace_callback(lambda sql: ended.set() if sql == "ROLLBACK" else None)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.read, partial(work, begun=begun, ended=ended))
                await begun.wait()
                assert ended.wait(5)
                nursery.cancel_scope.cancel()
            with trio.fail_after(5):
                assert (await documents.match(QUERY)).total == 3


async def test_searches_cut_at_random_moments_harm_no_later_one(tmp_path: Path) -> None:
    draw = random.Random(1)

    async def cut(documents: SqliteDocuments) -> None:
        text = " ".join(draw.choices(WORDS, k=6))
        searches: list[Callable[[], Awaitable[object]]] = [
            lambda: documents.match(Matching(text=text, limit=50, highlight=3)),
            lambda: documents.facets(text, (), [Facet(field="tags")]),
            lambda: documents.nearest(NEAR),
        ]
        with trio.move_on_after(draw.uniform(0, 0.01)):
            await draw.choice(searches)()

    async def cut_many(documents: SqliteDocuments) -> None:
        for _ in range(300):
            await cut(documents)

    async with open_documents(tmp_path) as documents:
        await fill(documents, 200, 300)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(cut_many, documents)
            for _ in range(40):
                assert (await documents.match(Matching(text="w1", limit=1))).total > 100
        assert len(documents._database._readers) <= 4


@pytest.fixture
async def database(tmp_path: Path) -> Any:
    opened = Database(tmp_path / "test.db", readers=1)
    await opened.open()
    await opened.write(lambda c: c.execute("CREATE TABLE t (n INTEGER)"))
    yield opened
    await opened.aclose()


def left_open(where: str, connection: Connection) -> None:
    """Begin what cannot be rolled back any more, as after an I/O error."""
    inner: sqlite3.Connection = getattr(connection, where)
    if not inner.in_transaction:
        inner.execute("BEGIN")
    inner.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else 0)
    raise BadQuery("the caller's mistake, for which alone the connection would be kept")


def insert(connection: Connection) -> None:
    connection.scratch.execute("BEGIN")
    connection.scratch.execute("ROLLBACK")
    connection.execute("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("where", ["main", "scratch"])
@pytest.mark.parametrize("doing", ["read", "write"])
async def test_a_transaction_that_does_not_end_costs_its_connection_alone(
    database: Database, doing: str, where: str
) -> None:
    run: Callable[[Work], Any] = getattr(database, doing)
    with pytest.raises(BadQuery):
        await run(partial(left_open, where))
    for _ in range(2):
        await database.write(insert)

    def count(connection: Connection) -> Any:
        connection.scratch.execute("BEGIN")
        connection.scratch.execute("ROLLBACK")
        return connection.one("SELECT count(*) FROM t")

    assert await database.read(count) == (2,)


@pytest.mark.parametrize("doing", ["read", "write"])
async def test_a_connection_that_sqlite_failed_on_is_not_used_again(database: Database, doing: str) -> None:
    run: Callable[[Work], Any] = getattr(database, doing)
    used: list[Connection] = []

    def failing(connection: Connection) -> None:
        used.append(connection)
        connection.execute("SELECT nothing FROM nowhere")

    with pytest.raises(sqlite3.OperationalError):
        await run(failing)
    await run(used.append)
    assert used[0] is not used[1]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        used[0].one("SELECT 1")


async def test_a_refusal_of_ours_costs_no_connection(database: Database) -> None:
    used: list[Connection] = []

    def refusing(connection: Connection) -> None:
        used.append(connection)
        raise BadQuery("no")

    for _ in range(2):
        with pytest.raises(BadQuery):
            await database.read(refusing)
    assert used[0] is used[1]


async def test_a_poller_that_failed_is_opened_anew(database: Database) -> None:
    before = await database.data_version()
    poller = database._poller
    assert poller is not None
    poller.main.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    with pytest.raises(sqlite3.DatabaseError):
        await database.data_version()
    assert await database.data_version() > before
    with pytest.raises(sqlite3.ProgrammingError):
        poller.one("SELECT 1")


async def test_after_closing_nothing_is_opened_again(database: Database) -> None:
    await database.aclose()
    for call in (database.read, database.write):
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            await call(lambda c: c.one("SELECT 1"))
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await database.data_version()
