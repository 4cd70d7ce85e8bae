"""Opens the stores that the configuration names: the only file that knows which backends there are.

Documents are in Elasticsearch when `elasticsearch.url` names one, else in SQLite, in the data folder, as call records
are. What replicas share besides is in Redis when `redis.url` names one, else in this process; tasks, HTTP sessions,
idempotency keys and what processes tell each other are in Redis then, else in the data folder. Whoever needs documents,
the state of their schema, tasks, sessions, keys, records, or what is shared asks here and gets the contract
(`storage.documents`, `storage.records`, `storage.shared`, `storage.replicas`), never a backend.

A backend of a server that must be configured is loaded when it is: the embedded default starts without its code.

Called by: `assembly` and the commands. Deliberately not: the memory stores of documents and tasks, which are for tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Final, Protocol, TypeVar

from mcpd.config import Config
from mcpd.drivers.timing import Observe
from mcpd.storage.documents import Documents, Schema
from mcpd.storage.inbox import Inbox
from mcpd.storage.memory.inbox import MemoryInbox
from mcpd.storage.memory.rates import MemoryRates
from mcpd.storage.memory.sessions import MemorySessions
from mcpd.storage.memory.shared import LocalShared
from mcpd.storage.records import Records
from mcpd.storage.replicas import Advice, Shared
from mcpd.storage.shared import Idempotency, SessionStore, TaskStore
from mcpd.storage.sqlite.documents import SqliteSchema
from mcpd.storage.sqlite.documents import open_documents as open_sqlite
from mcpd.storage.sqlite.idempotency import open_idempotency as open_sqlite_idempotency
from mcpd.storage.sqlite.inbox import open_inbox as open_sqlite_inbox
from mcpd.storage.sqlite.records import FILE_NAME as RECORDS_FILE
from mcpd.storage.sqlite.records import open_records as open_sqlite_records
from mcpd.storage.sqlite.sessions import open_sessions as open_sqlite_sessions
from mcpd.storage.sqlite.tasks import FILE_NAME as TASKS_FILE
from mcpd.storage.sqlite.tasks import open_tasks as open_sqlite_tasks

T = TypeVar("T")

REPLICA_POLL_S: Final = 0.2
"""How soon replicas on one data folder notice each other's changes: 3 ms of processor time a second."""

ALONE_POLL_S: Final = 0.9
"""The same for a server that has no replicas: 0.8 ms."""

INDEX_POLL_S: Final = 0.5
"""The same for servers on one Elasticsearch, after the refresh that shows a change: one small search."""

WORKER_POLL_S: Final = 0.05
"""How soon workers on one data folder hear what they tell each other: a cancel, an answer."""


class Observer(Protocol):
    """Whoever counts what stores are asked; `store` is the kind of one."""

    def store_finished(self, store: str, operation: str, outcome: str, seconds: float) -> None:
        """Take one operation that ended (`drivers.timing`)."""

    def cache_asked(self, cache: str, result: str) -> None:
        """Take what came of one question to a cache."""

    def watch_store(self, store: str, state: str, read: Callable[[], float]) -> None:
        """Have `read` say how many connections are in a state."""


@asynccontextmanager
async def open_documents(config: Config, observer: Observer | None = None) -> AsyncIterator[Documents]:
    """Give the documents, their schema brought up to date. Raises: StorageError. Resources: closed with the block."""
    if config.elasticsearch.url is not None:
        from mcpd.storage.elasticsearch.opening import open_indices

        observe = _observing(observer, "elasticsearch")
        settings = config.elasticsearch
        async with open_indices(settings, poll_s=INDEX_POLL_S, observer=observer, observe=observe) as indices:
            yield indices
        return
    alone = config.redis.url is None and config.server.workers == 1
    poll_s = ALONE_POLL_S if alone else REPLICA_POLL_S
    async with open_sqlite(config.data.folder, poll_s=poll_s, observe=_observing(observer)) as documents:
        if observer is not None:
            observer.watch_store("sqlite", "busy", lambda: documents.connections().busy)
            observer.watch_store("sqlite", "idle", lambda: documents.connections().idle)
        yield documents


def open_tasks(
    config: Config, shared: Shared, observer: Observer | None = None
) -> AbstractAsyncContextManager[TaskStore]:
    """Give the tasks, as a new owner of them. Raises: StorageError. Resources: closed with the block."""
    return _shared_or(shared.tasks, open_sqlite_tasks(config.data.folder, observe=_observing(observer)))


async def count_tasks(config: Config) -> int | None:
    """Return how many tasks the data folder has, None where there has never been one. Raises: StorageError."""
    if config.redis.url is not None or not (config.data.folder / TASKS_FILE).exists():
        return None
    async with open_sqlite_tasks(config.data.folder) as tasks:
        return sum((await tasks.count()).values())


def open_idempotency(
    config: Config, shared: Shared, observer: Observer | None = None
) -> AbstractAsyncContextManager[Idempotency]:
    """Give the idempotency keys. Raises: StorageError. Resources: closed with the block."""
    return _shared_or(shared.idempotency, open_sqlite_idempotency(config.data.folder, observe=_observing(observer)))


def open_sessions(
    config: Config, shared: Shared, observer: Observer | None = None
) -> AbstractAsyncContextManager[SessionStore]:
    """Give the HTTP sessions. Raises: StorageError. Resources: closed with the block."""
    return _shared_or(shared.sessions, open_sqlite_sessions(config.data.folder, observe=_observing(observer)))


def open_records(config: Config, observer: Observer | None = None) -> AbstractAsyncContextManager[Records]:
    """Give the call records, whether or not new ones are wanted. Raises: StorageError.

    Resources: closed with the block.
    """
    return open_sqlite_records(config.data.folder, observe=_observing(observer))


def recording(
    config: Config, observer: Observer | None = None
) -> AbstractAsyncContextManager[Records] | AbstractAsyncContextManager[None]:
    """Give the call records where new ones are wanted, else None. Raises and resources: as `open_records`."""
    return open_records(config, observer) if config.records.enabled else nullcontext()


def has_records(config: Config) -> bool:
    """True when calls have been recorded in the data folder. Blocking."""
    return (config.data.folder / RECORDS_FILE).exists()


def open_inbox(config: Config, shared: Shared, observer: Observer | None = None) -> AbstractAsyncContextManager[Inbox]:
    """Give the inbox of this process; it works while its `run` runs. Raises: StorageError.

    Resources: closed with the block.
    """
    poll_s = ALONE_POLL_S if config.server.workers == 1 else WORKER_POLL_S
    return _shared_or(shared.inbox, open_sqlite_inbox(config.data.folder, poll_s=poll_s, observe=_observing(observer)))


def _shared_or(store: T | None, embedded: AbstractAsyncContextManager[T]) -> AbstractAsyncContextManager[T]:
    """Return what replicas share, which is closed with the rest of it, or else what is in the data folder."""
    return embedded if store is None else nullcontext(store)


def _observing(observer: Observer | None, store: str = "sqlite") -> Observe | None:
    return None if observer is None else partial(observer.store_finished, store)


def passing_sessions() -> SessionStore:
    """Return sessions that end with the process."""
    return MemorySessions()


def own_inbox() -> Inbox:
    """Return the inbox of a process that has no others."""
    return MemoryInbox()


def schema_of(config: Config) -> Schema:
    """Return the schema of the store, which need not exist yet; nothing is opened before it is asked."""
    if config.elasticsearch.url is not None:
        from mcpd.storage.elasticsearch.opening import schema_in

        return schema_in(config.elasticsearch)
    return SqliteSchema(config.data.folder)


async def open_shared(
    config: Config, observer: Observer | None = None, *, normal: Callable[[str], str] = str
) -> Shared:
    """Return what replicas share; it works while its `run` runs. `normal` brings all spellings of a URI to one.

    A server that is not there is no error: it may come. Raises: ConfigurationError for a URL that cannot be meant, and
    when the server is there and turns us down for good (password, version).
    """
    if config.redis.url is None:
        return alone(observer)
    from mcpd.storage.redis.opening import open_redis

    observe = _observing(observer, "redis")
    return await open_redis(config, config.redis.url, normal, MemoryRates(), observer=observer, observe=observe)


async def examine_shared(config: Config) -> list[Advice]:
    """Ask the store that replicas share whether it will do; nothing when there is none. Raises: ConfigurationError."""
    if config.redis.url is None:
        return []
    from mcpd.storage.redis.opening import examine_redis

    return await examine_redis(config, config.redis.url)


def alone(observer: Observer | None = None) -> Shared:
    """Return what a server without replicas shares with nobody."""
    return LocalShared(_observing(observer, "memory"))
