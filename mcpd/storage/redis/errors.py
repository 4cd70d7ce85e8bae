"""What Redis's errors mean to whoever uses a store: one table, by whether the command ran.

Called by: the stores of this package. Deliberately not where commands are sent again: that is the client's, which knows
what is idempotent; an error comes here when its patience has run out.

Laws: 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mcpd.drivers.redis import NotExecuted, OutcomeUnknown, RedisError
from mcpd.storage.documents import StorageError, StoreUnreachable

TABLE: Final[tuple[tuple[type[RedisError], type[StorageError]], ...]] = (
    (NotExecuted, StoreUnreachable),
    (OutcomeUnknown, StoreUnreachable),
    (RedisError, StorageError),
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise storage errors for what the client raises inside."""
    try:
        yield
    except RedisError as error:
        kind = next(told for kind, told in TABLE if isinstance(error, kind))
        raise kind(str(error)) from error
