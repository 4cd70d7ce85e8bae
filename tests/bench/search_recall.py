"""How many of the true nearest documents the coded vectors find: recall@10 against every vector, exactly.

Called by: `search_timing` for the built-in vectors, `search_dense` for those of a model. The answer judged is the
store's own (`Documents.nearest`): candidates by binary code, then rescored. The truth comes from the very vectors in
its tables, each compared with each query. A hit counts when it is as near as the tenth of the truth: texts occur twice.
"""

from __future__ import annotations

import math
import sqlite3
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import trio

from mcpd.search.embeddings import EmbeddingProvider
from mcpd.storage.documents import Documents, Near
from mcpd.storage.sqlite.codes import from_bytes
from mcpd.storage.sqlite.schema import CHUNK_BITS

DEPTH = 10
BLOCK_ITEMS = 1_000
GRAIN = 1e-6
"""Of a cosine computed in two ways."""


class Nearest:
    """The ten documents nearest to one query so far, each by its nearest chunk."""

    def __init__(self, query: Sequence[float]) -> None:
        self._distance = partial(math.dist, tuple(query))
        self._best: dict[int, float] = {}
        self.limit = math.inf
        """Distance of the tenth."""

    def take(self, chunks: list[int], vectors: list[tuple[float, ...]]) -> None:
        """Compare with some more vectors."""
        distances = list(map(self._distance, vectors))
        if min(distances) > self.limit:
            return
        for chunk, distance in zip(chunks, distances, strict=True):
            document = chunk >> CHUNK_BITS
            if distance <= self.limit and distance < self._best.get(document, math.inf):
                self._best[document] = distance
        nearest = sorted(self._best.items(), key=lambda item: item[1])[:DEPTH]
        self._best = dict(nearest)
        if len(nearest) == DEPTH:
            self.limit = nearest[-1][1]

    @property
    def cosines(self) -> list[float]:
        """Of the nearest, best first."""
        return sorted((1.0 - distance * distance / 2.0 for distance in self._best.values()), reverse=True)


def exact(file: Path, queries: list[Sequence[float]]) -> list[list[float]]:
    """Return the cosines of the ten nearest documents of each query."""
    found = [Nearest(query) for query in queries]
    for chunks, vectors in _blocks(file):
        for one in found:
            one.take(chunks, vectors)
    return [one.cosines for one in found]


def _blocks(file: Path) -> Iterator[tuple[list[int], list[tuple[float, ...]]]]:
    connection = sqlite3.connect(file)
    rows = connection.execute("SELECT id, data FROM vectors")
    while block := rows.fetchmany(BLOCK_ITEMS):
        yield [chunk for chunk, _ in block], [from_bytes(data) for _, data in block]
    connection.close()


async def recall(documents: Documents, provider: EmbeddingProvider, file: Path, texts: list[str]) -> float:
    """Return the share of the true ten nearest documents that the store finds, over all queries."""
    queries = await provider.embed(texts)
    truths = await trio.to_thread.run_sync(exact, file, queries)
    shares = []
    for query, truth in zip(queries, truths, strict=True):
        hits = await documents.nearest(Near(vector=query, model=provider.model, limit=DEPTH))
        shares.append(sum(hit.score >= truth[-1] - GRAIN for hit in hits) / len(truth))
    return statistics.fmean(shares)
