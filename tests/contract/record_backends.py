"""The backends that every contract test of call records runs on: two processes on one store.

A contract test never asks which one it has.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from mcpd.storage.memory.records import MemoryRecords, RecordShelf
from mcpd.storage.records import Records
from mcpd.storage.sqlite.records import open_records


class Processes(NamedTuple):
    """The store as two processes see it."""

    one: Records
    other: Records


@asynccontextmanager
async def memory() -> AsyncIterator[Processes]:
    shelf: RecordShelf = {}
    yield Processes(MemoryRecords(shelf), MemoryRecords(shelf))


@asynccontextmanager
async def sqlite() -> AsyncIterator[Processes]:
    with tempfile.TemporaryDirectory() as folder:
        async with open_records(Path(folder)) as one, open_records(Path(folder)) as other:
            yield Processes(one, other)


BACKENDS: dict[str, Callable[[], AbstractAsyncContextManager[Processes]]] = {"memory": memory, "sqlite": sqlite}
