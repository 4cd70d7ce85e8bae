"""What Elasticsearch's errors mean to whoever uses the store: one table.

Called by: `storage.elasticsearch.documents`, `schema`. The texts say what to do, to an operator. Deliberately not where
requests are tried again: that is the client's.

Laws: 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mcpd.drivers.elasticsearch import Blocked, ElasticsearchError, Garbled, Missing, NotExecuted, OutcomeUnknown
from mcpd.storage.documents import StorageError, StoreUnreachable

NO_INDICES: Final = "Elasticsearch has no indices of this name ({error}): make them with `mcpd migrate up`"
_UNREACHABLE: Final = "Elasticsearch does not answer now: {error}"

TABLE: Final[tuple[tuple[type[ElasticsearchError], type[StorageError], str], ...]] = (
    (NotExecuted, StoreUnreachable, _UNREACHABLE),
    (OutcomeUnknown, StoreUnreachable, _UNREACHABLE),
    (Blocked, StoreUnreachable, "Elasticsearch takes no writes now: {error}"),
    (Missing, StorageError, NO_INDICES),
    (Garbled, StorageError, "What answers is no Elasticsearch, or something is between: {error}"),
    (ElasticsearchError, StorageError, "Elasticsearch refuses: {error}"),
)
"""Driver's error -> ours, and its text; the first that fits."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise storage errors for what the client raises inside."""
    try:
        yield
    except ElasticsearchError as error:
        raise meaning(error) from error


def meaning(error: ElasticsearchError) -> StorageError:
    """Return the storage error for one of the client's."""
    kind, text = next((ours, text) for theirs, ours, text in TABLE if isinstance(error, theirs))
    return kind(text.format(error=error))
