"""Call records in one SQLite file, `<data>/records.db`: the embedded default.

    records    a row for each; rows come in the order of their ids, or nearly, so that a page is read from the end

It is beside the other files, so that no call waits for its records. A filter reads rows from the newest on and needs no
index of its own, which every call would pay for. Commits wait for no disk: what a process has written outlives it, and
only a power failure can lose the last seconds. Any number of processes on one data folder share the file.

Called by: `storage.open`. Calls: `drivers.sqlite`. Deliberately not: what is written of a call, or when.

Laws: 7; forgetting is done in portions, so that no writer waits long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from mcpd.drivers.sqlite import Connection
from mcpd.drivers.timing import Observe
from mcpd.storage.records import (
    MAX_PAGE_ITEMS,
    Keep,
    Page,
    Record,
    Wanted,
    bound_of,
    bounded,
    checked,
    page_of,
)
from mcpd.storage.sqlite import schema
from mcpd.storage.sqlite.files import FileStore, open_file

FILE_NAME: Final = "records.db"
READERS: Final = 2
MAX_PRUNED_ITEMS: Final = 5000
"""Forgotten in one transaction: some 30 ms."""
ROWS_ITEMS: Final = 40
"""Written by one statement, which takes the interpreter's lock once: 800 values, which every SQLite takes."""

COLUMNS: Final = Record.__struct_fields__
STEPS: Final = (
    schema.Step(
        up="""
        CREATE TABLE records (
            id TEXT PRIMARY KEY, ended_s REAL NOT NULL, seconds REAL NOT NULL, outcome TEXT NOT NULL,
            reason TEXT NOT NULL, refused INTEGER NOT NULL, transport TEXT NOT NULL, method TEXT NOT NULL,
            target TEXT NOT NULL, principal TEXT NOT NULL, key TEXT NOT NULL, address TEXT NOT NULL,
            client TEXT NOT NULL, request_id TEXT NOT NULL, trace_id TEXT NOT NULL, task TEXT NOT NULL,
            digest BLOB NOT NULL, arguments TEXT NOT NULL, arguments_bytes INTEGER NOT NULL,
            result_bytes INTEGER NOT NULL);
        CREATE INDEX refused ON records (id) WHERE refused;
        """,
        down="",
    ),
)
_INSERT: Final = f"INSERT OR IGNORE INTO records ({', '.join(COLUMNS)}) VALUES "  # noqa: S608 - names of ours
_ROW: Final = f"({', '.join('?' * len(COLUMNS))})"
_SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM records WHERE "  # noqa: S608 - names of ours
_REFUSED: Final = COLUMNS.index("refused")
_EQUAL: Final = ("method", "target", "outcome", "request_id")


class SqliteRecords(FileStore):
    """Implements `Records`; made by `open_records`."""

    async def add(self, records: Sequence[Record]) -> None:
        """See `Records`."""
        await self._write(partial(_add_records, records=records))

    async def page(self, wanted: Wanted, cursor: str | None = None, limit: int = MAX_PAGE_ITEMS) -> Page:
        """See `Records`."""
        sql, values = _condition(wanted, checked(cursor))
        limit = bounded(limit)
        sql = f"{_SELECT}{sql} ORDER BY id DESC LIMIT {limit + 1}"
        return page_of(await self._read(partial(_page_records, sql=sql, values=values)), limit)

    async def prune(self, keep: Keep) -> int:
        """See `Records`."""
        pruned = 0
        for kind, most in (("NOT refused", keep.most), ("refused", keep.most_refused)):
            last = await self._read(partial(_last_to_go, kind=kind, most=most, since_s=keep.since_s))
            if last is not None:
                pruned += await self._write(partial(_prune_records, kind=kind, last=last))
        return pruned


def _add_records(connection: Connection, records: Sequence[Record]) -> None:
    for start in range(0, len(records), ROWS_ITEMS):
        some = records[start : start + ROWS_ITEMS]
        sql = _INSERT + ", ".join([_ROW] * len(some))
        connection.execute(sql, [value for record in some for value in structs.astuple(record)])


def _record(row: Sequence[Any]) -> Record:
    values = dict(zip(COLUMNS, row, strict=True))
    return Record(**values | {"refused": bool(row[_REFUSED])})


def _condition(wanted: Wanted, behind: str | None) -> tuple[str, list[str]]:
    parts, values = ["id >= ?", "id < ?"], [bound_of(wanted.since_s), bound_of(wanted.until_s)]
    if behind is not None:
        parts.append("id < ?")
        values.append(behind)
    if wanted.principal is not None:
        parts.append("? IN (principal, key)")
        values.append(wanted.principal)
    for name in _EQUAL:
        value = getattr(wanted, name)
        if value is not None:
            parts.append(f"{name} = ?")
            values.append(value)
    return " AND ".join(parts), values


def _page_records(connection: Connection, *, sql: str, values: Sequence[str]) -> list[Record]:
    return [_record(row) for row in connection.execute(sql, values)]


def _last_to_go(connection: Connection, *, kind: str, most: int, since_s: float) -> str | None:
    """Return the newest id of what is not to be kept; None when there is nothing."""
    late = f"SELECT id FROM records WHERE {kind} AND id < ? ORDER BY id DESC LIMIT 1"  # noqa: S608 - words of ours
    found = [connection.one(late, (bound_of(since_s),))]
    if _count(connection) > most:
        beyond = f"SELECT id FROM records WHERE {kind} ORDER BY id DESC LIMIT 1 OFFSET ?"  # noqa: S608 - as above
        found.append(connection.one(beyond, (most,)))
    return max((row[0] for row in found if row is not None), default=None)


def _count(connection: Connection) -> int:
    """Return how many records there are, of both kinds: an index is counted, no row is read."""
    row = connection.one("SELECT count(*) FROM records")
    return 0 if row is None else int(row[0])


def _prune_records(connection: Connection, *, kind: str, last: str) -> int:
    oldest = f"SELECT id FROM records WHERE {kind} AND id <= ? ORDER BY id LIMIT {MAX_PRUNED_ITEMS}"  # noqa: S608 - a number of ours
    return connection.execute(f"DELETE FROM records WHERE id IN ({oldest})", (last,)).rowcount  # noqa: S608 - as above


@asynccontextmanager
async def open_records(
    folder: Path, *, busy_s: float = 5.0, observe: Observe | None = None
) -> AsyncIterator[SqliteRecords]:
    """Open the records in `folder`, bringing the schema up to date.

    Raises: StorageError when the folder cannot be used or its database is of a newer mcpd. Resources: closed with the
    block.
    """
    path = folder / FILE_NAME
    async with open_file(path, STEPS, readers=READERS, busy_s=busy_s, observe=observe, durable=False) as database:
        yield SqliteRecords(database)
