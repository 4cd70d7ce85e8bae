"""Sessions in one SQLite file, `<data>/sessions.db`: a restarted server knows its sessions.

It is beside the files of documents and tasks, so that neither a large ingest nor a busy task holds up a session.

    sessions    a record as JSON without its times, and what is asked for: share, rev, and the times
    replies     what is left of their streams (`replies` of this package); a trigger removes it with the session

Any number of processes on one data folder share the file. To ask for a session costs a look into shared memory as long
as no process has written since it was last read (`PRAGMA data_version`), else a read. Over `drivers.sqlite`.

Called by: `storage.open`. Deliberately not: who gives way, which is `storage.session_records`.

Laws: 5, 7, 12. Counting, choosing and writing are one transaction; what has been answered is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from mcpd.drivers.sqlite import Connection, Database
from mcpd.drivers.timing import Observe
from mcpd.storage.session_records import (
    SessionRecord,
    SessionRoom,
    Use,
    decode,
    encode,
    giving_way,
    placed,
    retimed,
    times,
)
from mcpd.storage.sqlite import schema
from mcpd.storage.sqlite.errors import translated
from mcpd.storage.sqlite.files import FileStore, open_file
from mcpd.storage.sqlite.replies import REPLIES, SqliteReplies, purge_replies

FILE_NAME: Final = "sessions.db"
READERS: Final = 2
MAX_KNOWN_ITEMS: Final = 10_000
"""Records that are kept as read, until the next write of any process."""

STEPS: Final = (
    schema.Step(
        up="""
        CREATE TABLE sessions (
            key TEXT PRIMARY KEY, share TEXT NOT NULL, rev INTEGER NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
            expires REAL NOT NULL, busy REAL NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
        CREATE INDEX sessions_by_expiry ON sessions (expires);
        """,
        down="",
    ),
    REPLIES,
)


class SqliteSessions(FileStore):
    """Implements `SessionStore`; made by `open_sessions`. `clock` gives seconds since the epoch."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        super().__init__(database)
        self._clock = clock
        self.replies = SqliteReplies(database, clock=clock)
        self._version: int | None = None
        self._known: dict[str, SessionRecord] = {}
        """What was read while the file had `_version`."""

    async def create(self, record: SessionRecord, use: Use, room: SessionRoom) -> list[str]:
        """See `SessionStore`."""
        new = placed(record, use, self._clock())
        return await self._write(partial(_create_session, new=new, data=encode(record), room=room))

    async def get(self, key: str) -> SessionRecord | None:
        """See `SessionStore`."""
        with translated(self._database.path):
            version = await self._database.data_version()
            if version != self._version or len(self._known) >= MAX_KNOWN_ITEMS:
                self._version, self._known = version, {}
            record = self._known.get(key)
            if record is None:
                record = await self._database.read(partial(_get_session, key=key))
                if record is not None and version == self._version:
                    self._known[key] = record
        return None if record is None or record.expires_s <= self._clock() else record

    async def replace(self, record: SessionRecord) -> SessionRecord | None:
        """See `SessionStore`."""
        return await self._write(partial(_replace_session, record=record, data=encode(record), now_s=self._clock()))

    async def renew(self, uses: Mapping[str, Use]) -> set[str]:
        """See `SessionStore`."""
        return await self._write(partial(_renew_sessions, uses=uses, now_s=self._clock())) if uses else set()

    async def remove(self, keys: Collection[str]) -> None:
        """See `SessionStore`."""
        await self._write(partial(_remove_sessions, keys=keys))

    async def purge(self) -> int:
        """See `SessionStore`."""
        now_s = self._clock()
        found = await self._read(partial(_expired_sessions, now_s=now_s))
        return await self._write(partial(_purge_sessions, now_s=now_s)) if found else 0

    async def count(self) -> int:
        """See `SessionStore`."""
        return await self._read(_count_sessions)


def _create_session(connection: Connection, new: SessionRecord, data: bytes, room: SessionRoom) -> list[str]:
    _purge_sessions(connection, new.created_s)
    of_share = sum(place.share == new.share for place in room.others)
    total, mine = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE share = ?) FROM sessions", (new.share,)
    ).fetchone()
    gone: list[str] = []
    if total + len(room.others) >= room.most or mine + of_share >= room.most_of_share:
        rows = connection.execute("SELECT key, share, used, busy FROM sessions").fetchall()
        places = [room.place(key, share, used_s, busy_s, new.created_s) for key, share, used_s, busy_s in rows]
        gone = giving_way([*room.elsewhere(new.created_s), *places], new.share, room)
        _remove_sessions(connection, gone)
    connection.execute(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (new.key, new.share, new.rev, new.created_s, new.used_s, new.expires_s, new.busy_s, data),
    )
    return gone


def _get_session(connection: Connection, key: str) -> SessionRecord | None:
    row = connection.one("SELECT record, created, used, expires, busy FROM sessions WHERE key = ?", (key,))
    if row is None:
        return None
    data, created_s, used_s, expires_s, busy_s = row
    return decode(data, created_s=created_s, used_s=used_s, expires_s=expires_s, busy_s=busy_s)


def _replace_session(connection: Connection, record: SessionRecord, data: bytes, now_s: float) -> SessionRecord | None:
    stored = _get_session(connection, record.key)
    if stored is None or stored.expires_s <= now_s:
        return None
    if stored.rev != record.rev - 1:
        return stored
    connection.execute("UPDATE sessions SET rev = ?, record = ? WHERE key = ?", (record.rev, data, record.key))
    return retimed(record, stored)


def _renew_sessions(connection: Connection, uses: Mapping[str, Use], now_s: float) -> set[str]:
    gone = set()
    sql = """UPDATE sessions SET used = max(used, ?), expires = max(expires, ?), busy = max(busy, ?)
             WHERE key = ? AND expires > ?"""
    for key, use in uses.items():
        after = times(use, now_s)
        values = (after["used_s"], after["expires_s"], after["busy_s"], key, now_s)
        if connection.execute(sql, values).rowcount == 0:
            gone.add(key)
    return gone


def _remove_sessions(connection: Connection, keys: Collection[str]) -> None:
    connection.executemany("DELETE FROM sessions WHERE key = ?", [(key,) for key in keys])


def _expired_sessions(connection: Connection, now_s: float) -> bool:
    sql = "SELECT 1 FROM sessions WHERE expires <= ?1 UNION ALL SELECT 1 FROM replies WHERE expires <= ?1"
    return connection.one(sql, (now_s,)) is not None


def _purge_sessions(connection: Connection, now_s: float) -> int:
    purge_replies(connection, now_s)
    return connection.execute("DELETE FROM sessions WHERE expires <= ?", (now_s,)).rowcount


def _count_sessions(connection: Connection) -> int:
    row = connection.one("SELECT count(*) FROM sessions")
    return 0 if row is None else int(row[0])


@asynccontextmanager
async def open_sessions(
    folder: Path,
    *,
    busy_s: float = 30.0,
    clock: Callable[[], float] = time.time,
    observe: Observe | None = None,
) -> AsyncIterator[SqliteSessions]:
    """Open the sessions in `folder`, bringing the schema up to date.

    Raises: StorageError when the folder cannot be used or its database is of a newer mcpd. Resources: closed with the
    block.
    """
    path = folder / FILE_NAME
    async with open_file(path, STEPS, readers=READERS, busy_s=busy_s, observe=observe) as database:
        yield SqliteSessions(database, clock=clock)
