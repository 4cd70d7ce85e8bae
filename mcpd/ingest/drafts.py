"""From a file to a document that only lacks its vectors: read, compare, extract, cut.

    load_batch    entries -> loaded files and failures, as many as fit into one batch
    draft_batch   loaded files -> documents, their spans, and the texts to embed

What decides about writing is the digest: of the file's bytes, its origin and URI, the tags, the embedding model and
`RECIPE`. It is known before anything is extracted or embedded, so that an unchanged file costs its reading and one
look-up. There is no skipping by size and time: a file that was changed within the clock's grain, or given its old time
back, would be missed, and reading is the cheap part.

Called by: `pipeline`, in threads: all of this blocks. Deliberately not: the store, and embedding.

Laws: a file that cannot be read or taken apart is a failure of that file; a batch holds `BATCH_BYTES` and one file more
at most.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from mcpd.ingest.encoding import REPLACEMENT
from mcpd.ingest.extraction import extract
from mcpd.ingest.formats import SNIFFED_BYTES, format_of
from mcpd.ingest.readers import MAX_BLOB_BYTES, MAX_TEXT_BYTES, FileChanged, Loaded, ReadError, load
from mcpd.ingest.sources import Entry
from mcpd.search.chunking import chunk
from mcpd.storage.documents import Document, Span

RECIPE: Final = "1"
"""Part of every digest: a new one makes every file count as changed, when extraction or chunking has become better."""

BATCH_BYTES: Final = 1024 * 1024
"""Of files read before they are passed on: about a second of work, which is how soon progress shows."""

BATCH_ITEMS: Final = 64

_log = logging.getLogger(__name__)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Making(NamedTuple):
    """How files are made into documents: tags for all of them, bounds, and the model that will embed them."""

    model: str
    tags: tuple[str, ...] = ()
    max_text_bytes: int = MAX_TEXT_BYTES
    max_blob_bytes: int = MAX_BLOB_BYTES


class Fresh(NamedTuple):
    """A file that was read. `digest` says all that decides about its document."""

    entry: Entry
    loaded: Loaded
    digest: str

    @property
    def without_text(self) -> bool:
        """True for a format whose text cannot be read here: PDF, office files."""
        return format_of(self.loaded.name, self.loaded.data[:SNIFFED_BYTES]).family == "no_text"


class Unread(NamedTuple):
    """A file that could not be read, or taken apart.

    `passing`: it changed meanwhile, so the next attempt may succeed.
    """

    entry: Entry
    reason: str
    passing: bool = False


class Draft(NamedTuple):
    """A document without vectors; `texts` has what to embed of each span."""

    entry: Entry
    document: Document
    spans: tuple[Span, ...]
    texts: tuple[str, ...]
    without_text: bool


def load_batch(entries: Iterator[Entry], making: Making) -> list[Fresh | Unread]:
    """Read the next files, up to `BATCH_BYTES` or `BATCH_ITEMS`; none when there are no more."""
    batch: list[Fresh | Unread] = []
    size = 0
    for entry in islice(entries, BATCH_ITEMS):
        found = _read(entry, making)
        batch.append(found)
        size += len(found.loaded.data) if isinstance(found, Fresh) else 0
        if size >= BATCH_BYTES:
            break
    return batch


def _read(entry: Entry, making: Making) -> Fresh | Unread:
    """Read a file; once more when it changed meanwhile."""
    try:
        try:
            loaded = _load(entry, making)
        except FileChanged:
            loaded = _load(entry, making)
    except FileChanged as error:
        return Unread(entry, str(error), passing=True)
    except ReadError as error:
        return Unread(entry, str(error))
    except OSError as error:
        return Unread(entry, error.strerror or str(error), passing=isinstance(error, FileNotFoundError))
    return Fresh(entry, loaded, _digest(entry, loaded.sha256, making))


def _load(entry: Entry, making: Making) -> Loaded:
    return load(entry.path, max_text_bytes=making.max_text_bytes, max_blob_bytes=making.max_blob_bytes)


def _digest(entry: Entry, sha256: str, making: Making) -> str:
    parts = (RECIPE, sha256, entry.source.origin, entry.uri, making.model, *making.tags)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def draft_batch(batch: Iterable[Fresh], making: Making) -> list[Draft | Unread]:
    """Extract and cut each file."""
    return [_drafted(fresh, making) for fresh in batch]


def _drafted(fresh: Fresh, making: Making) -> Draft | Unread:
    try:
        return draft(fresh, making)
    except Exception as error:  # noqa: BLE001 - whatever one file brings about, the others are not lost
        _log.debug("%s", fresh.entry.path, exc_info=error)
        return Unread(fresh.entry, f"its content could not be taken apart ({type(error).__name__}: {error})")


def draft(fresh: Fresh, making: Making) -> Draft:
    """Extract and cut. Time and memory are linear in the file."""
    entry, size = fresh.entry, len(fresh.loaded.data)
    found = extract(entry.relative, fresh.loaded.data)
    spans = tuple(Span(c.start, c.end, c.heading) for c in chunk(found.text, found.mime_type)) if found.text else ()
    document = Document(
        uri=entry.uri,
        title=printable(found.title),
        mime_type=found.mime_type,
        text=found.text,
        blob=found.blob,
        tags=making.tags,
        metadata={"source": printable(entry.source.name), "path": printable(entry.relative), **found.metadata},
        origin=entry.source.origin,
        digest=fresh.digest,
        size=size,
    )
    return Draft(entry, document, spans, _texts(document, spans), found.kind == "no_text")


def printable(name: str) -> str:
    """Return a file's name as Unicode: bytes that are none, and thus no text that a store takes, are replaced."""
    return name if name.isascii() else _SURROGATE.sub(REPLACEMENT, name)


def _texts(document: Document, spans: tuple[Span, ...]) -> tuple[str, ...]:
    """Return each span's text below the title of its document and its heading: a piece knows what it is about."""
    title, text = document.title, document.text or ""
    return tuple(f"{_about(title, span.heading)}\n{text[span.start : span.end]}" for span in spans)


def _about(title: str, heading: str) -> str:
    """Return title and heading; a heading may begin with the title, as the first of those above a piece."""
    return heading or title if heading.startswith(title) else f"{title}\n{heading}".rstrip()
