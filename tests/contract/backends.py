"""The backends that every contract test runs on, each opened as its own kind of store, empty, with a clock to turn.

A contract test never asks which one it has. Also what such tests write again and again: documents and conditions.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from mcpd.drivers.elasticsearch import open_elasticsearch
from mcpd.storage.documents import Condition, Document, Documents, Matching, Put, Scalar, Span
from mcpd.storage.elasticsearch.documents import open_documents as open_indices
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.sqlite.documents import open_documents
from tests import elasticsearch_server


class Clock:
    """Seconds since the epoch, as the test wants them."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def memory(clock: Clock) -> AsyncIterator[Documents]:
    yield MemoryDocuments(clock=clock)


@asynccontextmanager
async def sqlite(clock: Clock) -> AsyncIterator[Documents]:
    with tempfile.TemporaryDirectory() as folder:
        async with open_documents(Path(folder), poll_s=0.05, clock=clock) as documents:
            yield documents


_EMPTY: list[str] = []
"""Prefixes of indices that no test uses now: to empty them takes less than to make new ones."""


@asynccontextmanager
async def elasticsearch(clock: Clock) -> AsyncIterator[Documents]:
    server = elasticsearch_server.shared()
    prefix = _EMPTY.pop() if _EMPTY else elasticsearch_server.fresh_prefix()
    options = {"refresh_interval": "50ms", "number_of_replicas": 0}
    async with (
        open_elasticsearch([server.url]) as client,
        open_indices(client, prefix, options=options, poll_s=0.05, clock=clock) as documents,
    ):
        yield documents
    server.empty(prefix)
    _EMPTY.append(prefix)


Backend = Callable[[Clock], AbstractAsyncContextManager[Documents]]
BACKENDS: dict[str, Backend] = {"memory": memory, "sqlite": sqlite, "elasticsearch": elasticsearch}


def document(uri: str, text: str | None = "", **more: Any) -> Document:
    """A document whose digest covers all that is given."""
    described = {"title": "", "mime_type": "text/plain", **more}
    described.setdefault("digest", repr((text, sorted(described.items(), key=str))))
    return Document(uri=uri, text=text, **described)


def put(uri: str, *chunks: str, vectors: Sequence[Sequence[float]] | None = None, **more: Any) -> Put:
    """A document with one span for each chunk; its text is the chunks, a line each."""
    spans, at = [], 0
    for chunk in chunks:
        spans.append(Span(at, at + len(chunk)))
        at += len(chunk) + 1
    model, expected = more.pop("model", None), more.pop("expected", None)
    return Put(
        document=document(uri, "\n".join(chunks), **more),
        spans=tuple(spans),
        vectors=None if vectors is None else tuple(vectors),
        model=model,
        expected=expected,
    )


def having(field: str, *wanted: Scalar) -> tuple[Condition, ...]:
    """The one condition that the field equals one of these."""
    return (Condition(field=field, any_of=wanted),)


async def uris(documents: Documents, text: str, **more: Any) -> list[str]:
    """The URIs of a search's first hundred hits."""
    await documents.refresh()
    return [hit.head.uri for hit in (await documents.match(Matching(text=text, limit=100, **more))).hits]
