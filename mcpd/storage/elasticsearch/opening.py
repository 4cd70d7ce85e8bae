"""Opens the documents in Elasticsearch as the configuration says, and their schema.

A cluster that is not there is no error at the start of a server: it may come, and asking for documents fails until
then. One that is there and turns us down is.

Called by: `storage.open`, which loads this file, and with it the client, only where an Elasticsearch is configured.
Deliberately not: which settings there are (`config`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, Protocol

from mcpd.config import Elasticsearch as Settings
from mcpd.drivers.elasticsearch import Elasticsearch, Options, Refused, open_elasticsearch
from mcpd.drivers.timing import Observe
from mcpd.errors import ConfigurationError
from mcpd.storage.documents import Documents, Schema
from mcpd.storage.elasticsearch.documents import open_documents
from mcpd.storage.elasticsearch.schema import ElasticsearchSchema

OPTIONS: Final[dict[str, Any]] = {"refresh_interval": "1s", "auto_expand_replicas": "0-1"}
"""Of new indices. Searches see a change after a second at most, also when nobody has searched for a while; and there is
a copy as soon as there is a second node."""


class Observer(Protocol):
    """Whoever counts requests in flight."""

    def watch_store(self, store: str, state: str, read: Callable[[], float]) -> None:
        """Have `read` say how many connections are in a state."""


@asynccontextmanager
async def open_client(settings: Settings, observe: Observe | None = None) -> AsyncIterator[Elasticsearch]:
    """Give a client of the cluster. Raises: ConfigurationError for settings that cannot be meant."""
    url = settings.url.reveal() if settings.url is not None else ""
    options = Options(
        api_key=settings.api_key.reveal() if settings.api_key else "",
        username=settings.user or "",
        password=settings.password.reveal() if settings.password else "",
        ca_file=str(settings.ca_file) if settings.ca_file else "",
        fingerprint=settings.fingerprint or "",
    )
    opening = open_elasticsearch([one.strip() for one in url.split(",") if one.strip()], options, observe)
    async with AsyncExitStack() as opened:
        try:
            client = await opened.enter_async_context(opening)
        except Refused as error:
            raise ConfigurationError(f"elasticsearch: {error}") from None
        yield client


@asynccontextmanager
async def open_indices(
    settings: Settings, *, poll_s: float, observer: Observer | None, observe: Observe | None
) -> AsyncIterator[Documents]:
    """Give the documents. Raises: ConfigurationError, StorageError. Resources: closed with the block."""
    async with (
        open_client(settings, observe) as client,
        open_documents(client, settings.index_prefix, options=OPTIONS, poll_s=poll_s) as documents,
    ):
        if observer is not None:
            observer.watch_store("elasticsearch", "busy", lambda: client.statistics().in_flight)
            observer.watch_store("elasticsearch", "waiting", lambda: client.statistics().waiting)
        yield documents


def schema_in(settings: Settings) -> Schema:
    """Return the schema of the indices, which need not exist yet; nothing is asked before it is."""
    return ElasticsearchSchema(partial(open_client, settings), settings.index_prefix, OPTIONS)
