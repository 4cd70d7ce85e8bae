"""Idempotency keys in one SQLite file, `<data>/idempotency.db`: the embedded default.

    outcomes    a row for each key: what it stands for, who runs it, and in the end its outcome

Any number of processes on one data folder share the file; who of them lives, `owners` knows, so that the keys of a
process that was killed are free at once. Over `drivers.sqlite`.

Called by: `storage.open`. Deliberately not: what is worth keeping.

Laws: 2, 5, 7, 12. A key is read, decided on and written in one transaction, and acknowledged when that is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from mcpd.drivers.sqlite import Connection, Database
from mcpd.drivers.timing import Observe
from mcpd.storage.shared import Begun, Busy, Claim, Kept, Mismatch, New, NoRoom, Room
from mcpd.storage.sqlite import schema
from mcpd.storage.sqlite.errors import unwritable
from mcpd.storage.sqlite.files import FileStore, open_file, owning
from mcpd.storage.sqlite.owners import Owners

FILE_NAME: Final = "idempotency.db"
READERS: Final = 1
STEPS: Final = (
    schema.Step(
        up="""
        CREATE TABLE outcomes (
            id TEXT PRIMARY KEY, share TEXT NOT NULL, digest TEXT NOT NULL, holder TEXT NOT NULL, expires REAL NOT NULL,
            outcome BLOB);
        CREATE INDEX outcomes_by_share ON outcomes (share);
        CREATE INDEX outcomes_by_expiry ON outcomes (expires);
        """,
        down="",
    ),
)


class _Record(NamedTuple):
    digest: str
    holder: str
    outcome: bytes | None


class _Wish(NamedTuple):
    claim: Claim
    room: Room
    holder: str
    lost: str
    """A holder that is gone: what it has can be had."""


class SqliteIdempotency(FileStore):
    """Implements `Idempotency`; made by `open_idempotency`. `clock` gives seconds since the epoch."""

    def __init__(self, database: Database, owners: Owners, *, clock: Callable[[], float]) -> None:
        super().__init__(database)
        self._owners = owners
        self._clock = clock

    def _is_alive(self, holder: str) -> bool:
        try:
            return self._owners.is_alive(holder.partition(".")[0])
        except OSError as error:
            raise unwritable(self._database.path.parent, error) from error

    async def begin(self, claim: Claim, room: Room, hold_s: float) -> Begun:
        """See `Idempotency`."""
        holder, lost = f"{self._owners.epoch}.{claim.token}", ""
        while True:
            wish = _Wish(claim, room, holder, lost)
            found = await self._write(partial(_claim, wish=wish, now_s=self._clock(), hold_s=hold_s))
            if found is None:
                return New(holder)
            if found.outcome is not None:
                return Kept(found.outcome) if found.digest == claim.digest else Mismatch()
            if self._is_alive(found.holder):
                return Busy(found.holder) if found.digest == claim.digest else Mismatch()
            lost = found.holder

    async def finish(self, claim: Claim, holder: str, outcome: bytes, ttl_s: float) -> bool:
        """See `Idempotency`."""
        until_s = self._clock() + ttl_s
        return await self._write(partial(_finish, key=claim.id, holder=holder, outcome=outcome, until_s=until_s))

    async def release(self, claim: Claim, holder: str) -> None:
        """See `Idempotency`."""
        await self._write(partial(_release, key=claim.id, holder=holder))

    async def purge(self) -> int:
        """See `Idempotency`."""
        with suppress(OSError):
            self._owners.sweep()
        return await self._write(partial(_purge, now_s=self._clock()))


def _claim(connection: Connection, wish: _Wish, now_s: float, hold_s: float) -> _Record | None:
    """Return what stands in the way; None when the key is the wish's own now."""
    claim = wish.claim
    sql = "SELECT digest, holder, outcome FROM outcomes WHERE id = ? AND expires > ?"
    row = connection.one(sql, (claim.id, now_s))
    if row is None:
        _check_room(connection, claim, wish.room, now_s)
    elif (found := _Record(*row)).outcome is not None or found.holder not in (wish.holder, wish.lost):
        return found
    connection.execute(
        "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, NULL)",
        (claim.id, claim.share, claim.digest, wish.holder, now_s + hold_s),
    )
    return None


def _check_room(connection: Connection, claim: Claim, room: Room, now_s: float) -> None:
    mine = connection.one("SELECT count(*) FROM outcomes WHERE share = ? AND expires > ?", (claim.share, now_s))
    if mine is not None and mine[0] >= room.most_of_share:
        raise NoRoom("share", room.most_of_share, "idempotency key")
    if _count(connection, now_s) >= room.most:
        raise NoRoom("all", room.most, "idempotency key")


def _count(connection: Connection, now_s: float) -> int:
    row = connection.one("SELECT count(*) FROM outcomes WHERE expires > ?", (now_s,))
    return 0 if row is None else int(row[0])


def _finish(connection: Connection, *, key: str, holder: str, outcome: bytes, until_s: float) -> bool:
    sql = "UPDATE outcomes SET outcome = ?, expires = ? WHERE id = ? AND holder = ?"
    return connection.execute(sql, (outcome, until_s, key, holder)).rowcount == 1


def _release(connection: Connection, *, key: str, holder: str) -> None:
    connection.execute("DELETE FROM outcomes WHERE id = ? AND holder = ? AND outcome IS NULL", (key, holder))


def _purge(connection: Connection, *, now_s: float) -> int:
    connection.execute("DELETE FROM outcomes WHERE expires <= ?", (now_s,))
    return _count(connection, now_s)


@asynccontextmanager
async def open_idempotency(
    folder: Path,
    *,
    busy_s: float = 30.0,
    clock: Callable[[], float] = time.time,
    observe: Observe | None = None,
) -> AsyncIterator[SqliteIdempotency]:
    """Open the keys in `folder` as a new owner, bringing the schema up to date.

    Raises: StorageError when the folder cannot be used or its database is of a newer mcpd. Resources: closed with the
    block, with which the owner ends and what it has not finished is free.
    """
    path = folder / FILE_NAME
    async with (
        open_file(path, STEPS, readers=READERS, busy_s=busy_s, observe=observe) as database,
        owning(folder) as owners,
    ):
        yield SqliteIdempotency(database, owners, clock=clock)
