"""Opens the stores that the configuration names: the only file that knows which backends there are.

Today there is one, SQLite in the data folder. Whoever needs documents, or the state of their schema, asks here and gets
the contract (`storage.documents`), never a backend.

Called by: `assembly` and the commands. Deliberately not: the memory store, which keeps nothing and is for tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcpd.config import Config
from mcpd.storage.documents import Documents, Schema
from mcpd.storage.sqlite.documents import SqliteSchema
from mcpd.storage.sqlite.documents import open_documents as open_sqlite


@asynccontextmanager
async def open_documents(config: Config) -> AsyncIterator[Documents]:
    """Give the documents, their schema brought up to date. Raises: StorageError. Resources: closed with the block."""
    async with open_sqlite(config.data.folder) as documents:
        yield documents


def schema_of(config: Config) -> Schema:
    """Return the schema of the store, which need not exist yet; nothing is opened before it is asked."""
    return SqliteSchema(config.data.folder)
