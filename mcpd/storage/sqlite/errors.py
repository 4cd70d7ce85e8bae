"""What SQLite's errors mean to whoever uses the store: one table, by primary result code.

Called by: `storage.sqlite.documents`. The texts say what to do; the path in them is the user's own. Deliberately not
where errors are retried: a busy database is waited for in `drivers.sqlite`, and comes here only when patience has run
out.

Laws: 7.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mcpd.drivers.sqlite import Busy, Error, primary_code
from mcpd.storage.documents import BadQuery, StorageError, StoreUnreachable

_ELSEWHERE = "choose another folder with --data"
_UNWRITABLE = f"{{path}} cannot be written ({{error}}): {_ELSEWHERE}"
_DAMAGED = f"{{path}} is no database of mcpd, or is damaged ({{error}}): move it away, or {_ELSEWHERE}"

TABLE: Final[dict[int, tuple[type[StorageError], str]]] = {
    sqlite3.SQLITE_BUSY: (StoreUnreachable, "{path} is held by another process"),
    sqlite3.SQLITE_LOCKED: (StoreUnreachable, "{path} is held by another process"),
    sqlite3.SQLITE_NOMEM: (StoreUnreachable, "there is no memory left to read {path}"),
    sqlite3.SQLITE_IOERR: (StoreUnreachable, "the disk of {path} does not answer as it should ({error})"),
    sqlite3.SQLITE_FULL: (StorageError, "the disk of {path} is full"),
    sqlite3.SQLITE_READONLY: (StorageError, _UNWRITABLE),
    sqlite3.SQLITE_CANTOPEN: (StorageError, _UNWRITABLE),
    sqlite3.SQLITE_PERM: (StorageError, _UNWRITABLE),
    sqlite3.SQLITE_CORRUPT: (StorageError, _DAMAGED),
    sqlite3.SQLITE_NOTADB: (StorageError, _DAMAGED),
}
"""Code -> which error, and its text. What is not here is a mistake of ours: SQLite's own words, as StorageError."""

ITEM_ERRORS: Final = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError, ValueError)
"""What storing one document may raise because of what is in it; the others of its batch are fine."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise storage errors for what SQLite raises inside."""
    try:
        yield
    except Busy as error:
        raise StoreUnreachable(str(error)) from error
    except Error as error:
        kind, text = TABLE.get(primary_code(error), (StorageError, "{path}: {error}"))
        raise kind(text.format(path=path, error=error)) from error
    except UnicodeEncodeError as error:
        raise BadQuery("a text with half a surrogate pair is no Unicode") from error


def unwritable(path: Path, error: OSError) -> StorageError:
    """Return what to say when the file system refuses."""
    return StorageError(_UNWRITABLE.format(path=path, error=error.strerror or error))
