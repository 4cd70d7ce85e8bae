"""One store, searched in every mode, and by hand: the process that `search` starts for each size.

`python -m tests.bench.search_timing FOLDER` prints JSON: for every query and way, milliseconds on the clock and of
processor time; resident memory; recall of the coded vectors. All runs in this one process, one query after the other,
each asked in every way before the next; who begins changes, so that what one has brought into memory serves the others
as often.

    text, semantic, hybrid   `Searcher.search` as a transport calls it: ten hits, highlights, the answer as JSON
    plain                    text search without highlights: what the statement by hand is asked as well
    by hand                  one FTS5 statement on a connection with the same settings: the best chunk of each of the
                             ten best documents, with title and place; compared with what text search answers

Called by: `search`. Deliberately not: statistics; it keeps every sample.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from mcpd.search.embeddings import EmbeddingProvider, HashProvider
from mcpd.search.query import DEFAULT_FRAGMENTS, Mode, Search
from mcpd.search.searcher import Searcher
from mcpd.storage.documents import Documents
from mcpd.storage.sqlite.documents import FILE_NAME, open_documents
from tests.bench import machine, search_corpus, search_recall

WARM_UP = 20
HITS = 10
READER_CACHE_KIB = 8 << 10

BY_HAND = """
    SELECT d.uri, d.title, c.start, c.stop, best.score
    FROM (SELECT rowid AS chunk, rowid >> 20 AS document, min(rank) AS score FROM fts WHERE fts MATCH ?
          GROUP BY document ORDER BY score, document LIMIT 10) AS best
    JOIN documents d ON d.id = best.document LEFT JOIN chunks c ON c.id = best.chunk ORDER BY best.score, d.id"""

Way = Callable[[str], Awaitable[object]]


class Ways:
    """Every way to ask, each taking the query's words."""

    def __init__(self, documents: Documents, provider: EmbeddingProvider, file: Path) -> None:
        self._searcher = Searcher(documents, provider, patience_s=60.0)
        self._connection = sqlite3.connect(file, isolation_level=None, cached_statements=256)
        self._connection.execute(f"PRAGMA cache_size = {-READER_CACHE_KIB}")

    def all(self) -> dict[str, Way]:
        """Return the ways by name."""
        return {
            "by hand": self.by_hand,
            "plain": lambda query: self.search(query, "text", highlight=0),
            "text": lambda query: self.search(query, "text"),
            "semantic": lambda query: self.search(query, "semantic"),
            "hybrid": lambda query: self.search(query, "hybrid"),
        }

    async def search(self, query: str, mode: Mode, highlight: int = DEFAULT_FRAGMENTS) -> list[str]:
        """Return the URIs of the hits."""
        answer = await self._searcher.search(Search(query=query, mode=mode, highlight=highlight))
        return [hit["uri"] for hit in answer["hits"]]

    async def by_hand(self, query: str) -> list[str]:
        """Return the URIs of the hits."""
        return [row[0] for row in self._connection.execute(BY_HAND, (_expression(query),)).fetchall()]


def _expression(query: str) -> str:
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(query.split()))


Sample = tuple[float, float]
"""Milliseconds on the clock, and of processor time of all threads."""


async def timed(way: Way, query: str) -> Sample:
    """Time one answer."""
    began, used = time.perf_counter(), time.process_time()
    await way(query)
    return (time.perf_counter() - began) * 1000, (time.process_time() - used) * 1000


async def alternate(ways: dict[str, Way], queries: list[str]) -> dict[str, list[Sample]]:
    """Return a sample for each way and query."""
    names = list(ways)
    taken: dict[str, list[Sample]] = {name: [] for name in names}
    for at, query in enumerate(queries):
        first = at % len(names)
        order = names[first:] + names[:first]
        for name in order if at // len(names) % 2 == 0 else reversed(order):
            taken[name].append(await timed(ways[name], query))
    return taken


async def measure(folder: Path, wanted: int) -> dict[str, Any]:
    """Measure the store in `folder`."""
    queries = search_corpus.queries(folder / FILE_NAME, wanted)
    memory = {"start": machine.resident_mib(os.getpid())}
    provider = HashProvider()
    async with open_documents(folder) as documents:
        made = Ways(documents, provider, folder / FILE_NAME)
        ways = made.all()
        for query in queries[:WARM_UP]:
            await ways["text"](query)
        memory["text"] = machine.resident_mib(os.getpid())
        first_ms, _ = await timed(ways["semantic"], queries[0])
        for query in queries[:WARM_UP]:
            await ways["hybrid"](query)
        taken = await alternate(ways, queries)
        memory["all"] = machine.resident_mib(os.getpid())
        equal = sum([await made.by_hand(query) == await made.search(query, "text") for query in queries])
        recall = await search_recall.recall(documents, provider, folder / FILE_NAME, queries)
    return {"ms": taken, "memory_mib": memory, "first_ms": first_ms, "equal": equal, "recall": recall}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Search one store in every way.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    print(json.dumps(trio.run(measure, options.folder, options.queries)))


if __name__ == "__main__":
    main()
