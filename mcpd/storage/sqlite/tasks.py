"""Tasks in one SQLite file, `<data>/tasks.db`: the embedded default.

It is beside the documents' file, so that a large ingest does not hold up an answer, nor a task's progress wake all
who watch documents.

    tasks     a record as JSON, its outcome apart, and what is asked for: share, owner, state, expiry
    changes   numbers the changes, whoever made them; a watcher reads on from the last one it has seen

Any number of processes on one data folder share the file; who of them lives, `owners` knows. Over `drivers.sqlite`.

Called by: `storage.open`. Deliberately not: the state machine, which is `storage.task_states`.

Laws: 2, 5, 7, 12. A record is read, decided on and written in one transaction; it is acknowledged when that is on the
disk. A change of this process is told at once, that of another within `poll_s`
while this one runs tasks, else within `IDLE_POLLS` of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from mcpd.drivers.sqlite import Connection, Database
from mcpd.drivers.timing import Observe
from mcpd.storage.shared import NoRoom, Room
from mcpd.storage.sqlite import schema
from mcpd.storage.sqlite.errors import translated, unwritable
from mcpd.storage.sqlite.files import FileStore, open_file, owning
from mcpd.storage.sqlite.owners import Owners
from mcpd.storage.task_states import Draft, Event, Refused, State, Task, lost, new_task, step

FILE_NAME: Final = "tasks.db"
READERS: Final = 2
POLL_S: Final = 0.1
"""How soon a process that runs tasks notices what others do to them; a look takes microseconds and no thread."""

IDLE_POLLS: Final = 9
"""So many times longer while it runs none: ten looks a second are 6 ms of processor time."""

STEPS: Final = (
    schema.Step(
        up="""
        CREATE TABLE tasks (
            id TEXT PRIMARY KEY, share TEXT NOT NULL, owner TEXT NOT NULL, state TEXT NOT NULL, expires REAL NOT NULL,
            change INTEGER NOT NULL, writer TEXT NOT NULL, record BLOB NOT NULL, outcome BLOB) WITHOUT ROWID;
        CREATE INDEX tasks_by_share ON tasks (share);
        CREATE INDEX tasks_by_owner ON tasks (owner);
        CREATE INDEX tasks_by_expiry ON tasks (expires);
        CREATE INDEX tasks_by_change ON tasks (change);
        CREATE TABLE changes (last INTEGER NOT NULL);
        INSERT INTO changes VALUES (0);
        """,
        down="",
    ),
)
_decode: Final = msgspec.json.Decoder(Task).decode


class SqliteTasks(FileStore):
    """Implements `TaskStore`; made by `open_tasks`. `clock` gives seconds since the epoch."""

    def __init__(self, database: Database, owners: Owners, *, poll_s: float, clock: Callable[[], float]) -> None:
        super().__init__(database)
        self._owners = owners
        self._poll_s = poll_s
        self._clock = clock
        self._watchers: dict[object, Callable[[Task], None]] = {}
        self._running: set[str] = set()
        self._stirred = trio.Event()

    @property
    def owner(self) -> str:
        """See `TaskStore`."""
        return self._owners.epoch

    def _tell(self, task: Task) -> Task:
        if task.ended:
            self._running.discard(task.id)
        for notice in list(self._watchers.values()):
            notice(msgspec.structs.replace(task, outcome=None))
        return task

    async def create(self, draft: Draft, room: Room) -> Task:
        """See `TaskStore`."""
        task = new_task(draft, self.owner, now_s=self._clock())
        await self._write(partial(_create_task, task=task, room=room))
        self._running.add(task.id)
        self._stirred.set()
        return self._tell(task)

    async def get(self, task_id: str) -> Task | None:
        """See `TaskStore`."""
        task = await self._read(partial(_get_task, task_id=task_id))
        if task is None or self._clock() >= task.expires_s:
            return None
        if not task.ended and not self._is_alive(task.owner):
            await self._apply(task_id, lost(task))
            task = await self._read(partial(_get_task, task_id=task_id))
        return task

    async def peek(self, task_id: str) -> Task | None:
        """See `TaskStore`."""
        task = await self._read(partial(_peek_task, task_id=task_id))
        return None if task is None or self._clock() >= task.expires_s else task

    def _is_alive(self, owner: str) -> bool:
        try:
            return self._owners.is_alive(owner)
        except OSError as error:
            raise unwritable(self._database.path.parent, error) from error

    async def apply(self, task_id: str, event: Event) -> Task | Refused:
        """See `TaskStore`."""
        after = await self._apply(task_id, event)
        if isinstance(after, Task) and not after.ended and not self._is_alive(after.owner):
            ended = await self._apply(task_id, lost(after))
            return Refused("ended", ended if isinstance(ended, Task) else None)
        return after

    async def _apply(self, task_id: str, event: Event) -> Task | Refused:
        before, after = await self._write(
            partial(_change_task, task_id=task_id, event=event, now_s=self._clock(), writer=self.owner)
        )
        if isinstance(after, Refused):
            if after.task is None or after.task.ended:
                self._running.discard(task_id)
            return after
        return after if after is before else self._tell(after)

    async def recover(self) -> int:
        """See `TaskStore`."""
        orphans = [task for task in await self._read(_running_tasks) if not self._is_alive(task.owner)]
        ended = [await self._apply(task.id, lost(task)) for task in orphans]
        with suppress(OSError):
            self._owners.sweep()
        return sum(isinstance(task, Task) for task in ended)

    async def purge(self) -> int:
        """See `TaskStore`."""
        now_s = self._clock()
        found = await self._read(partial(_expired_tasks, now_s=now_s))
        return await self._write(partial(_purge_tasks, now_s=now_s)) if found else 0

    async def count(self) -> Mapping[State, int]:
        """See `TaskStore`."""
        return await self._read(_count_tasks)

    async def watch(
        self, notice: Callable[[Task], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `TaskStore`."""
        key = object()
        self._watchers[key] = notice
        try:
            with translated(self._database.path):
                seen = await self._database.data_version()
                last = await self._database.read(_last_change)
                task_status.started()
                while True:
                    now = await self._database.data_version()
                    if now != seen:
                        seen = now
                        last, found = await self._database.read(partial(_changed_tasks, after=last, reader=self.owner))
                        for task in found:
                            notice(task)
                    await self._pause()
        finally:
            del self._watchers[key]

    async def _pause(self) -> None:
        if self._running:
            await trio.sleep(self._poll_s)
            return
        self._stirred = trio.Event()
        with trio.move_on_after(IDLE_POLLS * self._poll_s):
            await self._stirred.wait()


def _create_task(connection: Connection, task: Task, room: Room) -> None:
    kept, of_share = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE share = ?) FROM tasks WHERE expires > ?", (task.share, task.created_s)
    ).fetchone()
    if of_share >= room.most_of_share:
        raise NoRoom("share", room.most_of_share)
    if kept >= room.most:
        raise NoRoom("all", room.most)
    _put(connection, task, writer=task.owner)


def _put(connection: Connection, task: Task, *, writer: str) -> None:
    connection.execute("UPDATE changes SET last = last + 1")
    record = msgspec.json.encode(msgspec.structs.replace(task, outcome=None))
    connection.execute(
        "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, (SELECT last FROM changes), ?, ?, ?)",
        (task.id, task.share, task.owner, task.state, task.expires_s, writer, record, task.outcome),
    )


def _get_task(connection: Connection, task_id: str) -> Task | None:
    row = connection.one("SELECT record, outcome FROM tasks WHERE id = ?", (task_id,))
    return None if row is None else msgspec.structs.replace(_decode(row[0]), outcome=row[1])


def _peek_task(connection: Connection, task_id: str) -> Task | None:
    row = connection.one("SELECT record FROM tasks WHERE id = ?", (task_id,))
    return None if row is None else _decode(row[0])


def _change_task(
    connection: Connection, task_id: str, event: Event, now_s: float, writer: str
) -> tuple[Task | None, Task | Refused]:
    before = _get_task(connection, task_id)
    if before is None:
        return None, Refused("gone")
    after = step(before, event, now_s=now_s)
    if isinstance(after, Task) and after is not before:
        _put(connection, after, writer=writer)
    return before, after


def _running_tasks(connection: Connection) -> list[Task]:
    return [_decode(row[0]) for row in connection.execute("SELECT record FROM tasks WHERE owner != ''").fetchall()]


def _expired_tasks(connection: Connection, now_s: float) -> bool:
    return connection.one("SELECT 1 FROM tasks WHERE expires <= ?", (now_s,)) is not None


def _purge_tasks(connection: Connection, now_s: float) -> int:
    return connection.execute("DELETE FROM tasks WHERE expires <= ?", (now_s,)).rowcount


def _count_tasks(connection: Connection) -> dict[State, int]:
    return dict(connection.execute("SELECT state, count(*) FROM tasks GROUP BY state").fetchall())


def _last_change(connection: Connection) -> int:
    row = connection.one("SELECT last FROM changes")
    return 0 if row is None else int(row[0])


def _changed_tasks(connection: Connection, after: int, reader: str) -> tuple[int, list[Task]]:
    """Return the number of the last change, and the tasks that others have changed since `after`."""
    sql = "SELECT record FROM tasks WHERE change > ? AND writer != ? ORDER BY change"
    rows = connection.execute(sql, (after, reader)).fetchall()
    return _last_change(connection), [_decode(row[0]) for row in rows]


@asynccontextmanager
async def open_tasks(
    folder: Path,
    *,
    busy_s: float = 30.0,
    poll_s: float = POLL_S,
    clock: Callable[[], float] = time.time,
    observe: Observe | None = None,
) -> AsyncIterator[SqliteTasks]:
    """Open the tasks in `folder` as a new owner, bringing the schema up to date.

    Raises: StorageError when the folder cannot be used or its database is of a newer mcpd. Resources: closed with the
    block, with which the owner ends.
    """
    path = folder / FILE_NAME
    async with (
        open_file(path, STEPS, readers=READERS, busy_s=busy_s, observe=observe) as database,
        owning(folder) as owners,
    ):
        yield SqliteTasks(database, owners, poll_s=poll_s, clock=clock)
