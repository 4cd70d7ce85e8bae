"""A database of its own beside `mcpd.db`: how it is opened and brought up to date, and how its store asks it.

Tasks, sessions, idempotency keys and inboxes have a file each, so that none of them waits for another's writes.

Called by: `tasks`, `sessions`, `idempotency`, `inbox` of this package. Calls: `drivers.sqlite`, `schema`, `owners`.
Deliberately not: `mcpd.db`, which `mcpd migrate` may find at any version.

Laws: 7: what SQLite and the file system raise becomes a storage error here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from mcpd.drivers.sqlite import Connection, Database, in_thread
from mcpd.drivers.timing import Observe
from mcpd.storage.sqlite import schema
from mcpd.storage.sqlite.documents import make_folder
from mcpd.storage.sqlite.errors import translated
from mcpd.storage.sqlite.owners import Owners, take_epoch

T = TypeVar("T")


class FileStore:
    """What the stores of this kind have in common: one database, asked with storage errors for its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _write(self, work: Callable[[Connection], T]) -> T:
        with translated(self._database.path):
            return await self._database.write(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        with translated(self._database.path):
            return await self._database.read(work)


@asynccontextmanager
async def open_file(
    path: Path,
    steps: tuple[schema.Step, ...],
    *,
    readers: int,
    busy_s: float,
    observe: Observe | None,
    durable: bool = True,
) -> AsyncIterator[Database]:
    """Open the database at `path`, making it and its folder if need be, with the schema of all `steps`.

    Raises: StorageError when the folder cannot be used or the database is of a newer mcpd. Resources: closed with the
    block.
    """
    await in_thread(partial(make_folder, path.parent))
    database = Database(path, readers=readers, busy_s=busy_s, observe=observe, durable=durable)
    try:
        with translated(path):
            await database.open()
            if await database.read(schema.version_of) != len(steps):
                await database.write(partial(schema.migrate, target=len(steps), steps=steps))
        yield database
    finally:
        await database.aclose()


@asynccontextmanager
async def owning(folder: Path) -> AsyncIterator[Owners]:
    """Be a new owner in `folder`. Raises: StorageError. Resources: the owner ends with the block."""
    owners = await in_thread(partial(take_epoch, folder))
    try:
        yield owners
    finally:
        owners.close()
