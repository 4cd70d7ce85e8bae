"""Opens the embedding provider that the settings ask for.

Called by: `assembly` and the commands that ingest or search. Without `embeddings.url` it is the built-in one, and
neither the HTTP client nor its library is loaded. Deliberately not a test of the endpoint: one that is
down now may be up when the first text comes, and text search does not need it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mcpd.config import Embeddings
from mcpd.search.embeddings import EmbeddingProvider, HashProvider
from mcpd.storage.shared import CacheStore


@asynccontextmanager
async def open_provider(
    settings: Embeddings, *, observe: Callable[[str], None] = lambda _: None, second: CacheStore | None = None
) -> AsyncIterator[EmbeddingProvider]:
    """Give the provider; `observe` hears of its cache: `hit`, `shared`, `miss`, `evicted`.

    `second` has the vectors that replicas have asked for. Raises: ConfigurationError. Resources: its connections are
    closed on leaving.
    """
    if settings.url is None:
        yield HashProvider()
        return
    from mcpd.drivers.http import open_http
    from mcpd.search.endpoint import MAX_REPLY_BYTES, HttpProvider

    async with open_http(reply_s=settings.reply_s, max_reply_bytes=MAX_REPLY_BYTES) as client:
        yield HttpProvider(client, settings, observe=observe, second=second)
