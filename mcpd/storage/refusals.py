"""What a caller is told of a storage error: its own mistake, or that the same may work later.

Called by: whoever answers callers out of a store: `search`, `resources`, `tasks`, `idempotency`, `messages`.
Deliberately not: what the errors mean to a backend, which each adapter decides in a table of its own.

Laws: 7, one table from storage errors to wire errors. What a driver says is for the log alone: it names addresses and
paths, and a caller could do nothing about either. A caller is told which store it is, and that trying again helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mcpd.errors import InvalidParams, StoreUnavailable, WireError
from mcpd.storage.documents import BadCursor, BadQuery, StorageError, TooLong

DOCUMENTS: Final = "document store"
TASKS: Final = "task store"
SESSIONS: Final = "session store"
KEYS: Final = "store of idempotency keys"
PROCESSES: Final = "link to other processes"

_CALLERS_OWN: Final = (BadQuery, BadCursor, TooLong)
"""Mistakes of the caller, whose texts are written for it."""


def unavailable(error: StorageError, store: str) -> str:
    """Return the sentence, without its end, that a caller is told of a store that failed."""
    return f"The {error.store or store} is unavailable"


def refusal(error: StorageError, store: str) -> WireError:
    """Return what a caller is told who asked `store`."""
    if isinstance(error, _CALLERS_OWN):
        return InvalidParams(str(error))
    return StoreUnavailable(f"{unavailable(error, store)}; try again shortly", detail=str(error))


@contextmanager
def answering(store: str) -> Iterator[None]:
    """Raise what a caller is told for what `store` raises inside."""
    try:
        yield
    except StorageError as error:
        raise refusal(error, store) from error
