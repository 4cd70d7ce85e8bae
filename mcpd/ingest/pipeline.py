"""Files -> documents in the store, with bounded memory, and documents of files that are gone out of it.

    read (thread)  files, 1 MiB at a time -> digest known? unchanged : extract, cut (thread)
      -> embed     the texts of all files of a batch together
        -> write   one batch, acknowledged -> results

The stages run at once and hand batches on without a buffer, so that about five batches are in memory, whatever the
number of files. A file that fails is a result; a store or a model that fails ends the ingest with its error. What was
acknowledged stays in any case, and the next run finds it unchanged.

A document of a source is removed when its file is gone (`sources.gone`) and within what the run asks for: folder,
name, globs. A folder in which no file at all is found removes nothing: it is rather an empty mount point.

Called by: `watch`, the command line. Calls `sources`, `drafts`, the store and the model through their Protocols.
Deliberately not: progress bars, signals, and how a store cuts its transactions.

Laws: 7, 8, 12. Cancellation: a batch whose writing has begun is written and told, bounded by `WRITE_S`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import trio

from mcpd.deadlines import bounded_shield
from mcpd.errors import counted
from mcpd.ingest.drafts import Draft, Fresh, Making, Unread, draft_batch, load_batch, printable
from mcpd.ingest.readers import MAX_BLOB_BYTES, MAX_TEXT_BYTES
from mcpd.ingest.reports import FileResult, Report, Tally
from mcpd.ingest.reports import Outcome as Became
from mcpd.ingest.sources import Entry, Identity, Selection, Source, entries, entry_of, glob_rules, gone, identity_of
from mcpd.search.embeddings import EmbeddingError, EmbeddingProvider
from mcpd.search.together import Job, run_together
from mcpd.storage.documents import Change, Condition, Documents, Head, Outcome, Put, Remove, StoreUnreachable, Where

T = TypeVar("T")
Heard = Callable[[FileResult], None]

EMBEDDERS: Final = 2
"""Batches embedded at once: one may wait for the network while another is prepared."""

EMBED_ITEMS: Final = 256
"""Texts given to the model at once; between two such calls the work can be cancelled."""

MAX_REFUSALS: Final = 3
"""Documents that the model refuses one after the other: by then it is not the documents."""

PAGE_ITEMS: Final = 500
WRITE_S: Final = 120.0
"""A batch takes a second, a text of the largest size ten; other processes' writes come before."""

_BECAME: Final[dict[str, Became]] = {
    "created": "added", "updated": "updated", "unchanged": "unchanged", "removed": "removed",
}  # fmt: skip


class Options(NamedTuple):
    """What is ingested, and with which tags and bounds."""

    selection: Selection = Selection()
    tags: tuple[str, ...] = ()
    max_text_bytes: int = MAX_TEXT_BYTES
    max_blob_bytes: int = MAX_BLOB_BYTES


DEFAULTS: Final = Options()


class Made(NamedTuple):
    """A draft and the change that stores it."""

    draft: Draft
    put: Put


class Ingestion:
    """One ingest: sources are taken one after the other, everything is counted into one report.

    `heard` is called with each file's result as it is settled; it must neither block nor raise. `unsettled` has the
    URIs of files that changed while they were read, until they could be.
    """

    def __init__(
        self, documents: Documents, provider: EmbeddingProvider, options: Options, heard: Heard = lambda _: None
    ) -> None:
        self._documents = documents
        self._provider = provider
        self.selection = options.selection
        self._making = Making(provider.model, options.tags, options.max_text_bytes, options.max_blob_bytes)
        self._rules = glob_rules(options.selection)
        self._heard = heard
        self._tally = Tally()
        self._unlisted: list[FileResult] = []
        self._refusals = 0
        self.unsettled: set[str] = set()

    def report(self) -> Report:
        """Return what has become of the files so far; also after a failure or cancellation."""
        return self._tally.report()

    async def ingest(self, source: Source) -> None:
        """Store what is new or changed in a source, remove what is gone.

        Raises: StorageError, of the store or the model.
        """
        before, root = self._tally.files, await _in_thread(partial(identity_of, source))
        await self.take(entries(source, self.selection, self.cannot_list))
        if source.only is not None:
            return
        if self._tally.files > before:
            await self._sweep(source, root)
        elif (await self._documents.page(_of(source), None, 1)).items:
            self._tally.note(
                f"{source.root}: no file was found there, so no document was removed; to do that:"
                f" mcpd documents remove --origin {source.origin}"
            )

    async def take(self, found: Iterator[Entry]) -> None:
        """Store what is new or changed among these files. Raises: as `ingest`."""
        read, to_embed = trio.open_memory_channel[list[Draft]](0)
        embedded, to_write = trio.open_memory_channel[list[Made]](0)
        jobs: list[Job] = [partial(self._read, found, read), partial(self._write, to_write)]
        jobs += [partial(self._embed, to_embed.clone(), embedded.clone()) for _ in range(EMBEDDERS)]
        to_embed.close()
        embedded.close()
        await run_together(jobs)

    async def _read(self, found: Iterator[Entry], drafts: trio.MemorySendChannel[list[Draft]]) -> None:
        async with drafts:
            while batch := await _in_thread(partial(load_batch, found, self._making)):
                changed = await self._changed(batch)
                if changed:
                    await drafts.send(await self._drafted(changed))
            self.tell_unlisted()

    async def _drafted(self, changed: list[Fresh]) -> list[Draft]:
        drafted = await _in_thread(partial(draft_batch, changed, self._making))
        self._tell_unread(drafted)
        return [found for found in drafted if isinstance(found, Draft)]

    def _tell_unread(self, batch: Iterable[Fresh | Draft | Unread]) -> None:
        for unread in batch:
            if isinstance(unread, Unread):
                self._tell(_failed(unread.entry, unread.reason, passing=unread.passing))

    async def _changed(self, batch: Sequence[Fresh | Unread]) -> list[Fresh]:
        """Tell what could not be read and what has not changed; return the rest."""
        self.tell_unlisted()
        self._tell_unread(batch)
        fresh = [found for found in batch if isinstance(found, Fresh)]
        known = await self._documents.versions([found.entry.uri for found in fresh])
        changed = []
        for found in fresh:
            if known.get(found.entry.uri, ("", ""))[1] == found.digest:
                size, bare = len(found.loaded.data), found.without_text
                self._tell(_result(found.entry, "unchanged", size=size, without_text=bare))
            else:
                changed.append(found)
        return changed

    async def _embed(
        self, drafts: trio.MemoryReceiveChannel[list[Draft]], made: trio.MemorySendChannel[list[Made]]
    ) -> None:
        async with drafts, made:
            async for batch in drafts:
                await made.send(await self._made(batch))

    async def _made(self, batch: Sequence[Draft]) -> list[Made]:
        """Embed all documents at once or, when the model refuses that, each by itself."""
        try:
            puts = await self._puts(batch)
        except EmbeddingError as error:
            if len(batch) == 1:
                self._refused(batch[0], error)
                return []
        else:
            self._refusals = 0
            return [Made(found, put) for found, put in zip(batch, puts, strict=True)]
        return [made for found in batch for made in await self._made([found])]

    def _refused(self, found: Draft, error: EmbeddingError) -> None:
        """Count one document as failed. Raises: the error itself when it is not about this document, as it seems."""
        self._tell(_failed(found.entry, str(error), size=found.document.size))
        self._refusals += 1
        if self._refusals >= MAX_REFUSALS:
            raise error

    async def _puts(self, batch: Sequence[Draft]) -> list[Put]:
        texts = [text for found in batch for text in found.texts]
        vectors: list[Sequence[float]] = []
        for start in range(0, len(texts), EMBED_ITEMS):
            vectors += await self._provider.embed(texts[start : start + EMBED_ITEMS])
        remaining = iter(vectors)
        return [_put(found, tuple(next(remaining) for _ in found.spans), self._provider.model) for found in batch]

    async def _write(self, made: trio.MemoryReceiveChannel[list[Made]]) -> None:
        async with made:
            async for batch in made:
                outcomes = await self._written([item.put for item in batch])
                for item, outcome in zip(batch, outcomes, strict=True):
                    self._tell(_stored(item.draft, outcome))

    async def _written(self, changes: Sequence[Change]) -> list[Outcome]:
        """Write, to the end even when cancelled, so that what is stored has been told. Raises: StorageError."""
        with bounded_shield(WRITE_S):
            return await self._documents.write(changes)
        raise StoreUnreachable(f"the store has not taken {counted(len(changes), 'document')} within {WRITE_S:g} s")

    async def _sweep(self, source: Source, root: Identity | None) -> None:
        """Remove the documents whose files are gone."""
        cursor: str | None = None
        while True:
            page = await self._documents.page(_of(source), cursor, PAGE_ITEMS)
            await self._remove_gone(source, page.items, root)
            if page.cursor is None:
                return
            cursor = page.cursor

    async def remove(self, source: Source, relatives: Sequence[str], root: Identity | None) -> None:
        """Remove the documents of these files, as far as they are gone from the folder `root`. Raises: StorageError."""
        for start in range(0, len(relatives), PAGE_ITEMS):
            uris = tuple(source.uri(relative) for relative in relatives[start : start + PAGE_ITEMS])
            where = (*_of(source), Condition("uri", any_of=uris))
            await self._remove_gone(source, (await self._documents.page(where, None, PAGE_ITEMS)).items, root)

    async def _remove_gone(self, source: Source, heads: Iterable[Head], root: Identity | None) -> None:
        versions = {source.relative(head.uri): head.version for head in heads}
        lost = await _in_thread(partial(gone, source, versions, self._rules, root))
        if lost:
            changes = [Remove(uri=source.uri(relative), expected=versions[relative]) for relative in lost]
            for relative, outcome in zip(lost, await self._written(changes), strict=True):
                entry = entry_of(source, relative)
                if outcome.status == "removed":
                    self._tell(_result(entry, "removed"))
                elif outcome.status == "failed":
                    self._tell(_failed(entry, outcome.reason))

    def cannot_list(self, folder: Path, error: OSError) -> None:
        """Take note of a folder that cannot be listed; may be called in a thread."""
        reason = error.strerror or str(error)
        self._unlisted.append(FileResult(path=printable(str(folder)), uri="", outcome="failed", reason=reason))

    def tell_unlisted(self) -> None:
        """Tell of the folders that could not be listed."""
        while self._unlisted:
            self._tell(self._unlisted.pop(0))

    def _tell(self, result: FileResult) -> None:
        (self.unsettled.add if result.passing else self.unsettled.discard)(result.uri)
        self._tally.add(result)
        self._heard(result)


async def ingest(
    sources: Iterable[Source],
    documents: Documents,
    provider: EmbeddingProvider,
    *,
    options: Options = DEFAULTS,
    progress: Heard = lambda _: None,
) -> Report:
    """Bring the store in step with the sources, one after the other; see `Ingestion`.

    Raises: StorageError, of the store or the model; BadSource for a glob that can match nothing.
    Cancellation: what was told to `progress` is in the store.
    """
    ingestion = Ingestion(documents, provider, options, progress)
    for source in sources:
        await ingestion.ingest(source)
    return ingestion.report()


async def _in_thread(work: Callable[[], T]) -> T:
    """Run what only reads; when cancelled, do not wait for its end."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def _of(source: Source) -> Where:
    return (Condition("origin", any_of=(source.origin,)), Condition("uri", prefix=source.prefix))


def _put(found: Draft, vectors: tuple[Sequence[float], ...], model: str) -> Put:
    if not vectors:
        return Put(document=found.document, spans=found.spans)
    return Put(document=found.document, spans=found.spans, vectors=vectors, model=model)


def _stored(found: Draft, outcome: Outcome) -> FileResult:
    size = found.document.size
    if outcome.status == "foreign":
        reason = f"{outcome.uri}: {outcome.reason}; --as NAME gives these documents another name"
        return _failed(found.entry, reason, size=size)
    if outcome.status not in _BECAME:
        return _failed(found.entry, outcome.reason or outcome.status, size=size)
    return _result(found.entry, _BECAME[outcome.status], size=size, without_text=found.without_text)


def _result(entry: Entry, outcome: Became, *, size: int = 0, without_text: bool = False) -> FileResult:
    return FileResult(path=_shown(entry), uri=entry.uri, outcome=outcome, size=size, without_text=without_text)


def _failed(entry: Entry, reason: str, *, size: int = 0, passing: bool = False) -> FileResult:
    return FileResult(path=_shown(entry), uri=entry.uri, outcome="failed", size=size, reason=reason, passing=passing)


def _shown(entry: Entry) -> str:
    return printable(str(entry.source.root / entry.relative))
