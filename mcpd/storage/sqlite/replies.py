"""What is left of finished replies, in the file of the sessions: a restarted server can still give it out.

    replies    session, stream, when it ends, and the rest as its owner wrote it

Called by: `storage.sqlite.sessions`, which purges. Deliberately not: a file of its own, since a session's end has to
be the end of its replies, too, in one transaction.

Laws: 5, 7, 12. Looking and writing are one transaction; what has been answered is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from mcpd.drivers.sqlite import Connection, Database
from mcpd.storage.replies import MAX_REPLY_BYTES, MAX_SESSION_BYTES, MAX_SESSION_REPLIES
from mcpd.storage.sqlite import schema
from mcpd.storage.sqlite.files import FileStore

REPLIES: Final = schema.Step(
    up="""
    CREATE TABLE replies (
        id INTEGER PRIMARY KEY, session TEXT NOT NULL, stream TEXT NOT NULL, expires REAL NOT NULL,
        data BLOB NOT NULL, UNIQUE (session, stream));
    CREATE INDEX replies_by_expiry ON replies (expires);
    CREATE TRIGGER replies_end AFTER DELETE ON sessions BEGIN DELETE FROM replies WHERE session = OLD.key; END;
    """,
    down="""
    DROP TRIGGER replies_end;
    DROP TABLE replies;
    """,
)


class SqliteReplies(FileStore):
    """Implements `Replies`. `clock` gives seconds since the epoch."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        super().__init__(database)
        self._clock = clock

    async def keep(self, session: str, stream: str, data: bytes, ttl_s: float) -> bytes | None:
        """See `Replies`."""
        if len(data) > MAX_REPLY_BYTES:
            return None
        row = (session, stream, self._clock() + ttl_s, data)
        return await self._write(partial(_keep_reply, row=row, now_s=self._clock()))

    async def get(self, session: str, stream: str) -> bytes | None:
        """See `Replies`."""
        return await self._read(partial(_get_reply, session=session, stream=stream, now_s=self._clock()))


def _keep_reply(connection: Connection, row: tuple[str, str, float, bytes], now_s: float) -> bytes | None:
    session, stream, _, data = row
    if connection.one("SELECT 1 FROM sessions WHERE key = ? AND expires > ?", (session, now_s)) is None:
        return None
    purge_replies(connection, now_s)
    stored = _get_reply(connection, session, stream, now_s)
    if stored is not None:
        return stored
    _make_room(connection, session, len(data))
    connection.execute("INSERT INTO replies (session, stream, expires, data) VALUES (?, ?, ?, ?)", row)
    return data


def _make_room(connection: Connection, session: str, size: int) -> None:
    sql = "SELECT id, length(data) FROM replies WHERE session = ? ORDER BY id"
    held = connection.execute(sql, (session,)).fetchall()
    over = sum(length for _, length in held) + size - MAX_SESSION_BYTES
    for left, (number, length) in zip(range(len(held), 0, -1), held, strict=True):
        if over <= 0 and left < MAX_SESSION_REPLIES:
            break
        connection.execute("DELETE FROM replies WHERE id = ?", (number,))
        over -= length


def _get_reply(connection: Connection, session: str, stream: str, now_s: float) -> bytes | None:
    sql = "SELECT data FROM replies WHERE session = ? AND stream = ? AND expires > ?"
    row = connection.one(sql, (session, stream, now_s))
    return None if row is None else bytes(row[0])


def purge_replies(connection: Connection, now_s: float) -> None:
    """Forget what has expired, in the transaction that is open."""
    connection.execute("DELETE FROM replies WHERE expires <= ?", (now_s,))
