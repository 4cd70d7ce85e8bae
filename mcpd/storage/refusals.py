"""What a caller is told of a storage error: its own mistake, or that the same may work later.

Called by: whoever answers callers out of a store: `search`, `resources`. Deliberately not: what the errors mean to a
backend, which each adapter decides in a table of its own.

Law 7: one table from storage errors to wire errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mcpd.errors import InvalidParams, StoreUnavailable, WireError
from mcpd.storage.documents import BadCursor, BadQuery, StorageError

_TABLE: Final[tuple[tuple[type[StorageError], type[InvalidParams | StoreUnavailable]], ...]] = (
    (BadQuery, InvalidParams),
    (BadCursor, InvalidParams),
    (StorageError, StoreUnavailable),
)


def refusal(error: StorageError) -> WireError:
    """Return what a caller is told."""
    return next(told for kind, told in _TABLE if isinstance(error, kind))(str(error))


@contextmanager
def answering() -> Iterator[None]:
    """Raise what a caller is told for what a store raises inside."""
    try:
        yield
    except StorageError as error:
        raise refusal(error) from error
