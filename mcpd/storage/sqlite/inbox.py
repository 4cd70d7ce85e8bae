"""What processes on one data folder tell each other, in one SQLite file, `<data>/inbox.db`.

    addresses    which processes there are, each with the epoch by which `owners` knows whether it lives
    messages     what each has still to hear, in one order

A process notices what is sent to it by `PRAGMA data_version`, within `poll_s`: a look takes microseconds and no thread.
The file is beside that of the sessions, so that no message makes anybody read a session again.

Called by: `storage.open`. Implements `storage.inbox.Inbox`. Over `drivers.sqlite`. Deliberately not: durable; what is
lost with the power has nobody left to hear it.

Laws: a message is written and taken away in one transaction each, so it is told once; a stopped process lives, and what
it has to hear is bounded by `INBOX_ROOM`. What a dead one had to hear is taken away by whoever meets it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from mcpd.drivers.sqlite import Connection, Database
from mcpd.drivers.timing import Observe
from mcpd.storage.documents import StorageError
from mcpd.storage.inbox import ADDRESS_BYTES, INBOX_ROOM, InboxFull, InboxRoom, Message, Receive
from mcpd.storage.receivers import Receivers
from mcpd.storage.sqlite import schema
from mcpd.storage.sqlite.errors import translated, unwritable
from mcpd.storage.sqlite.files import FileStore, open_file, owning
from mcpd.storage.sqlite.owners import Owners

T = TypeVar("T")
FILE_NAME: Final = "inbox.db"
READERS: Final = 1
READ_ITEMS: Final = 200
POLL_S: Final = 0.05
RETRY_S: Final = 1.0

STEPS: Final = (
    schema.Step(
        up="""
        CREATE TABLE addresses (address TEXT PRIMARY KEY, epoch TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, sender TEXT NOT NULL, topic TEXT NOT NULL,
            body BLOB NOT NULL);
        CREATE INDEX messages_by_receiver ON messages (receiver, id);
        """,
        down="",
    ),
)
_log = logging.getLogger(__name__)


class SqliteInbox(FileStore):
    """Implements `Inbox`; made by `open_inbox`. Others find this process once `run` has begun."""

    def __init__(self, database: Database, owners: Owners, *, poll_s: float, room: InboxRoom) -> None:
        super().__init__(database)
        self._owners = owners
        self._poll_s = poll_s
        self._room = room
        self.address = secrets.token_hex(ADDRESS_BYTES)
        self._receivers = Receivers()
        self._last = 0
        """The number of the last message that was told."""

    def on(self, topic: str, receive: Receive) -> None:
        """See `Inbox`."""
        self._receivers.on(topic, receive)

    async def _write_looking(self, work: Callable[[Connection], T]) -> T:
        """Write, where `work` looks who lives."""
        try:
            return await self._write(work)
        except OSError as error:
            raise unwritable(self._database.path.parent, error) from error

    async def send(self, to: str, topic: str, body: bytes) -> bool:
        """See `Inbox`."""
        message = Message(self.address, topic, body)
        if to == self.address:
            await trio.lowlevel.checkpoint()
            self._receivers.tell(message)
            return True
        told, full = await self._write_looking(partial(_send, to=[to], message=message, inbox=self))
        if full:
            raise InboxFull(f"the process {to} has more to hear than it may")
        return bool(told)

    async def send_all(self, topic: str, body: bytes) -> int:
        """See `Inbox`."""
        others = [address for address in await self._read(_addresses) if address != self.address]
        if not others:
            return 0
        message = Message(self.address, topic, body)
        told, full = await self._write_looking(partial(_send, to=others, message=message, inbox=self))
        if full:
            raise InboxFull(f"{full} of {full + told} processes have more to hear than they may")
        return told

    def take(self, connection: Connection, to: str, message: Message) -> bool | None:
        """Write a message down if its receiver lives; False when it has too much to hear, None when it does not."""
        row = connection.one("SELECT epoch FROM addresses WHERE address = ?", (to,))
        if row is None or not self._owners.is_alive(row[0]):
            _forget(connection, to)
            return None
        items, size = connection.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM messages WHERE receiver = ?", (to,)
        ).fetchone()
        if items >= self._room.max_items or size + len(message.body) > self._room.max_bytes:
            return False
        connection.execute("INSERT INTO messages (receiver, sender, topic, body) VALUES (?, ?, ?, ?)", (to, *message))
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Inbox`."""
        try:
            await self._write(partial(_enter, address=self.address, epoch=self._owners.epoch))
        except StorageError as error:
            _log.error("this process cannot be found by others: %s", error)
        task_status.started()
        seen = -1
        while True:
            pause_s = self._poll_s
            try:
                with translated(self._database.path):
                    now = await self._database.data_version()
                if now != seen:
                    await self._hear()
                    seen = now
            except StorageError as error:
                _log.warning("what other processes say is not heard, trying again in %g s: %s", RETRY_S, error)
                pause_s = RETRY_S
            await trio.sleep(pause_s)

    async def _hear(self) -> None:
        while found := await self._read(partial(_unheard, receiver=self.address, after=self._last)):
            for number, sender, topic, body in found:
                self._last = number
                self._receivers.tell(Message(sender, topic, body))
            await self._write(partial(_take_away, receiver=self.address, last=self._last))

    async def leave(self) -> None:
        """See `Inbox`."""
        try:
            await self._write(partial(_forget, address=self.address))
        except StorageError as error:
            _log.debug("the inbox could not be given up: %s", error)


def _send(connection: Connection, to: list[str], message: Message, inbox: SqliteInbox) -> tuple[int, int]:
    """Return how many were told, and how many have too much to hear."""
    taken = [inbox.take(connection, address, message) for address in to]
    return taken.count(True), taken.count(False)


def _addresses(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT address FROM addresses").fetchall()]


def _enter(connection: Connection, address: str, epoch: str) -> None:
    connection.execute("INSERT OR REPLACE INTO addresses VALUES (?, ?)", (address, epoch))


def _forget(connection: Connection, address: str) -> None:
    connection.execute("DELETE FROM addresses WHERE address = ?", (address,))
    connection.execute("DELETE FROM messages WHERE receiver = ?", (address,))


def _unheard(connection: Connection, receiver: str, after: int) -> list[tuple[int, str, str, bytes]]:
    sql = "SELECT id, sender, topic, body FROM messages WHERE receiver = ? AND id > ? ORDER BY id LIMIT ?"
    return connection.execute(sql, (receiver, after, READ_ITEMS)).fetchall()


def _take_away(connection: Connection, receiver: str, last: int) -> None:
    connection.execute("DELETE FROM messages WHERE receiver = ? AND id <= ?", (receiver, last))


@asynccontextmanager
async def open_inbox(
    folder: Path,
    *,
    busy_s: float = 30.0,
    poll_s: float = POLL_S,
    room: InboxRoom = INBOX_ROOM,
    observe: Observe | None = None,
) -> AsyncIterator[SqliteInbox]:
    """Open the inbox of a new process in `folder`.

    Raises: StorageError when the folder cannot be used or its database is of a newer mcpd. Resources: closed with the
    block, with which nobody lives there any longer.
    """
    path = folder / FILE_NAME
    async with (
        open_file(path, STEPS, readers=READERS, busy_s=busy_s, observe=observe, durable=False) as database,
        owning(folder) as owners,
    ):
        yield SqliteInbox(database, owners, poll_s=poll_s, room=room)
