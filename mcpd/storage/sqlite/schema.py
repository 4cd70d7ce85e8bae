"""The tables of `mcpd.db`, as numbered steps up and down.

    documents   one row each; `id` is the number of the change that wrote it, which is also its version
    contents    text or blob in parts, so that a fragment does not load all of a long text
    chunks      spans, `id` = document << 20 | number: a chunk's document needs no look-up
    fts         the words of the chunks, without their text (`content=''`); rows have the ids of chunks. A document
                without chunks has one row, of its title
    fields      (document, name, value) of tags, media type, origin, metadata: filters, facets, sorting
    relations   between documents
    journal     the last changes, for watchers and the vectors in memory; its AUTOINCREMENT numbers never come twice
    models, vectors, codes      which models made vectors, the vectors as 32-bit floats, their binary codes

No foreign keys, although SQLite has them: their statement journals make FTS5 write a segment for each document rather
than for each transaction. One file (`writes`) writes these tables.

No FTS5 prefix index: it doubles the index and halves the speed of writing, and `word*` works without.

Called by: `documents`, and `files` with steps of its stores. Step n leads from version n-1 to n (`PRAGMA user_version`)
and back, in one transaction, so that several processes may open and migrate one file at once.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mcpd.drivers.sqlite import Connection
from mcpd.storage.documents import StorageError

CHUNK_BITS: Final = 20
"""Of an id, for the number within the document."""

APPLICATION: Final = int.from_bytes(b"mcpd")

TOKENIZER: Final = "porter unicode61"


class Step(NamedTuple):
    """SQL up and down; statements end with a semicolon at the end of a line."""

    up: str
    down: str


_DOCUMENTS = Step(
    up=f"""
    CREATE TABLE documents (
        id INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, title TEXT NOT NULL, mime_type TEXT NOT NULL,
        kind INTEGER NOT NULL, tags TEXT NOT NULL, metadata TEXT NOT NULL, origin TEXT, digest TEXT NOT NULL,
        size INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL);
    CREATE INDEX documents_by_created ON documents (created);
    CREATE INDEX documents_by_updated ON documents (updated);
    CREATE TABLE contents (id INTEGER PRIMARY KEY, data NOT NULL);
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY, start INTEGER NOT NULL, stop INTEGER NOT NULL, heading TEXT NOT NULL);
    CREATE VIRTUAL TABLE fts USING fts5 (title, heading, text, content='', tokenize='{TOKENIZER}');
    CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE fields (
        document INTEGER NOT NULL, name INTEGER NOT NULL, value NOT NULL,
        PRIMARY KEY (document, name, value)) WITHOUT ROWID;
    CREATE INDEX fields_by_value ON fields (name, value, document);
    CREATE TABLE relations (
        source TEXT NOT NULL, kind TEXT NOT NULL, target TEXT NOT NULL,
        PRIMARY KEY (source, kind, target)) WITHOUT ROWID;
    CREATE INDEX relations_by_target ON relations (target, source, kind);
    CREATE TABLE journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, uri TEXT NOT NULL, old INTEGER, listed INTEGER NOT NULL);
    """,
    down="",
)

_VECTORS = Step(
    up="""
    CREATE TABLE models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dims INTEGER NOT NULL);
    CREATE TABLE vectors (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE codes (id INTEGER PRIMARY KEY, model INTEGER NOT NULL, coding TEXT NOT NULL, code BLOB NOT NULL);
    """,
    down="""
    DROP TABLE codes;
    DROP TABLE vectors;
    DROP TABLE models;
    """,
)

STEPS: Final = (_DOCUMENTS, _VECTORS)
VERSION: Final = len(STEPS)
"""What this mcpd works with."""


def version_of(connection: Connection) -> int:
    """Return the version of the schema in the file; 0 for an empty file. Raises: StorageError for a foreign one."""
    version = _number(connection, "PRAGMA user_version")
    ours = _number(connection, "PRAGMA application_id") == APPLICATION
    if not ours and (version or _number(connection, "SELECT count(*) FROM sqlite_schema")):
        raise StorageError("The database there is not one of mcpd: choose another folder with --data")
    return version


def migrate(connection: Connection, target: int = VERSION, steps: tuple[Step, ...] = STEPS) -> int:
    """Bring the schema to version `target`, within the transaction that is open; return the version before.

    `steps` are those of another of our files, when it is not `mcpd.db`.

    Going down loses what only the newer version had. Raises: StorageError for a file of a newer mcpd.
    """
    version, newest = version_of(connection), len(steps)
    if version > newest:
        raise StorageError(
            f"The database has schema {version}, and this mcpd knows {newest}: use the newer mcpd that wrote it,"
            f" or let that one go back with `mcpd migrate down`"
        )
    if not 1 <= target <= newest:
        raise StorageError(f"There is no schema {target}: this mcpd knows 1 to {newest}")
    for step in steps[version:target]:
        _run(connection, step.up)
    for step in reversed(steps[target:version]):
        _run(connection, step.down)
    if version != target:
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {target}")
    return version


def _run(connection: Connection, sql: str) -> None:
    for statement in sql.split(";\n"):
        connection.execute(statement)


def _number(connection: Connection, sql: str) -> int:
    row = connection.one(sql)
    return int(row[0]) if row else 0
