"""The corpus of `search`: Python's own sources, ingested by mcpd into stores of 1,000, 10,000 and 100,000 chunks.

The standard library and the installed packages, every `*.py`, in an order shuffled once and for all. One store grows;
each time it has as many chunks as wanted its file is copied, so that each stage is a store as an ingest leaves it.
Where the sources are too few they are taken again under other names, and the report says so.

Called by: `search`; `queries` also by `search_timing`. Deliberately not: reading, cutting or storing, which is mcpd's.
"""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import sqlite3
import sysconfig
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from mcpd.ingest.pipeline import Ingestion, Options
from mcpd.ingest.sources import Entry, Selection, entries, source_of
from mcpd.search.embeddings import HashProvider
from mcpd.storage.documents import Documents
from mcpd.storage.sqlite.documents import FILE_NAME, open_documents
from mcpd.storage.sqlite.schema import CHUNK_BITS

SIZES = (1_000, 10_000, 100_000)
SEED = 4
TOLERANCE = 100
"""A store may lack one chunk of so many."""

LEAST_CHARS = 250
"""No file has more chunks than one for so many bytes, and one."""

WORD = re.compile(r"[^\W_]+")
FIGURES = "ingest.json"

Figures = dict[str, Any]


def sources(copy: int) -> Iterator[Entry]:
    """Yield the files: the standard library, then what is installed. `copy` above 0 gives them another name."""
    paths = sysconfig.get_paths()
    installed = tuple(dict.fromkeys(Path(paths[name]).resolve() for name in ("purelib", "platlib")))
    library = Path(paths["stdlib"]).resolve()
    without = (library / "site-packages", library / "dist-packages")
    for root, excluded in [(library, without), *((root, ()) for root in installed)]:
        source = source_of(root, f"{root.name}-{copy}" if copy else root.name)
        yield from entries(source, Selection(("*.py",), include_all=True, excluded=excluded), lambda *_: None)


def shuffled(copy: int = 0) -> list[Entry]:
    """Return the files in an order that is the same every time."""
    found = list(sources(copy))
    random.Random(SEED + copy).shuffle(found)
    return found


class Growing:
    """A store that is filled up stage by stage; time is only counted while mcpd ingests."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._ingestion = Ingestion(documents, HashProvider(), Options())
        self._waiting = shuffled()
        self._copies = count(1)
        self.repeated = 0
        self.elapsed_s = 0.0
        self.processor_s = 0.0

    async def fill(self, size: int) -> int:
        """Ingest until there are `size` chunks, or a little less; return how many there are."""
        while (room := size - (chunks := (await self._documents.statistics()).chunks)) > size // TOLERANCE:
            await self._take(self._fitting(room))
        return chunks

    async def finish(self) -> None:
        """Ingest what is left of the files, unless they are a repetition."""
        if not self.repeated:
            await self._take(self._waiting)

    async def _take(self, found: list[Entry]) -> None:
        began, used = time.perf_counter(), time.process_time()
        await self._ingestion.take(iter(found))
        self.elapsed_s += time.perf_counter() - began
        self.processor_s += time.process_time() - used

    def _fitting(self, room: int) -> list[Entry]:
        """Take the next files out of the row that certainly have no more than `room` chunks together."""
        taken, left = [], []
        for entry in self._waiting:
            most = entry.path.stat().st_size // LEAST_CHARS + 1
            if most <= room:
                room -= most
                taken.append(entry)
            else:
                left.append(entry)
        self._waiting = left
        if not taken:
            self.repeated += 1
            self._waiting += shuffled(next(self._copies))
        return taken

    def figures(self) -> Figures:
        """Return what the ingest has come to."""
        said = self._ingestion.report()
        return {
            "files": said.added,
            "failed": said.failed,
            "bytes": said.bytes,
            "repeated": self.repeated,
            "elapsed_s": self.elapsed_s,
            "processor_s": self.processor_s,
            "documents_s": said.added / self.elapsed_s,
            "mb_s": said.bytes / 1e6 / self.elapsed_s,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


async def build(folder: Path, sizes: tuple[int, ...]) -> Figures:
    """Make the stores `folder/SIZE`, and return the figures of the ingest; those that are complete are kept."""
    known = folder / FIGURES
    if known.exists() and (figures := json.loads(known.read_text()))["sizes"] == list(sizes):
        return dict(figures)
    growing_in = folder / "growing"
    shutil.rmtree(growing_in, ignore_errors=True)
    chunks = []
    async with open_documents(growing_in) as documents:
        growing = Growing(documents)
        for size in sizes:
            chunks.append(await growing.fill(size))
            _copy(growing_in, folder / str(size))
        await growing.finish()
        there = await documents.statistics()
    figures = growing.figures() | {"sizes": list(sizes), "chunks": chunks, "all_chunks": there.chunks}
    figures["file_bytes"] = (growing_in / FILE_NAME).stat().st_size
    shutil.rmtree(growing_in)
    known.write_text(json.dumps(figures))
    return figures


def _copy(source: Path, target: Path) -> None:
    """Copy the database of a folder page by page, open as it may be."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    origin, copy = sqlite3.connect(source / FILE_NAME), sqlite3.connect(target / FILE_NAME)
    origin.backup(copy)
    origin.close()
    copy.close()


def queries(file: Path, wanted: int) -> list[str]:
    """Return 3 to 8 consecutive words out of each of `wanted` random chunks, the same ones every time."""
    drawing = random.Random(SEED)
    connection = sqlite3.connect(file)
    chunks = [row[0] for row in connection.execute("SELECT id FROM chunks ORDER BY id")]
    drawn: list[str] = []
    while len(drawn) < wanted:
        words = WORD.findall(_text(connection, drawing.choice(chunks)))
        length = drawing.randint(3, 8)
        if len(words) >= length:
            start = drawing.randrange(len(words) - length + 1)
            drawn.append(" ".join(words[start : start + length]))
    connection.close()
    return drawn


def _text(connection: sqlite3.Connection, chunk: int) -> str:
    document = chunk >> CHUNK_BITS << CHUNK_BITS
    start, stop = connection.execute("SELECT start, stop FROM chunks WHERE id = ?", (chunk,)).fetchone()
    parts = connection.execute(
        "SELECT data FROM contents WHERE id BETWEEN ? AND ? ORDER BY id", (document, document | (1 << CHUNK_BITS) - 1)
    )
    return "".join(row[0] for row in parts)[start:stop]
