"""What `mcpd ingest` does: from paths to a report, with progress on stderr.

Called by: `commands.ingest`. Calls `ingest.pipeline` and `ingest.watch`. Deliberately not: reading, cutting or storing.

Laws: the report is printed whatever ends the ingest, for what the store has acknowledged is worth knowing then; with
`--watch --json` each report is one line, printed when something has changed, with the counts since the start.

Sources: surfaces "Command line" (ingest).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from mcpd.commands import stores, terminal
from mcpd.commands.options import FAILED, print_json
from mcpd.config import Config
from mcpd.errors import McpdError
from mcpd.ingest.drafts import printable
from mcpd.ingest.pipeline import Ingestion, Options
from mcpd.ingest.sources import BadSource, Selection, Source, entries, glob_rules, source_of
from mcpd.ingest.watch import Watch
from mcpd.search.providers import open_provider
from mcpd.storage.open import open_documents


class Order(NamedTuple):
    """An ingest as it was ordered on the command line."""

    paths: tuple[Path, ...]
    name: str | None
    tags: tuple[str, ...]
    globs: tuple[str, ...]
    include_all: bool
    watch: bool
    as_json: bool


def run(order: Order, config: Config) -> int:
    """Ingest, print the report and return the exit code.

    Raises: BadSource, before anything is done; StorageError; click.Abort when interrupted.
    """
    if not all(tag and printable(tag) == tag for tag in order.tags):
        raise BadSource("--tag: a tag is Unicode text, and not empty")
    selection = Selection(order.globs, order.include_all, stores.kept_apart(config))
    glob_rules(selection)
    sources = list(dict.fromkeys(source_of(path, order.name) for path in order.paths))
    limits = config.limits
    options = Options(selection, tuple(sorted(set(order.tags))), limits.max_text_bytes, limits.max_blob_bytes)
    return stores.run(partial(_ingest, sources, options, order, config))


async def _ingest(sources: Sequence[Source], options: Options, order: Order, config: Config) -> int:
    progress = terminal.Progress()
    async with open_documents(config) as documents, open_provider(config.embeddings) as provider:
        ingestion = Ingestion(documents, provider, options, progress.heard)
        told = _Told(ingestion, progress, order)
        try:
            if order.watch:
                await _follow(ingestion, sources, told)
            else:
                await _once(ingestion, sources, progress)
        finally:
            told.tell()
    return FAILED if ingestion.report().failed else 0


async def _once(ingestion: Ingestion, sources: Sequence[Source], progress: terminal.Progress) -> None:
    failure: McpdError | None = None
    async with trio.open_nursery() as nursery:
        if progress.live:
            nursery.start_soon(_measure, sources, ingestion.selection, progress)
        try:
            for source in sources:
                await ingestion.ingest(source)
        except McpdError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _measure(sources: Sequence[Source], selection: Selection, progress: terminal.Progress) -> None:
    """Find out how much there is to do, beside doing it."""
    job = partial(_measured, sources, selection)
    progress.total_bytes, progress.total_files = await trio.to_thread.run_sync(job, abandon_on_cancel=True)


def _measured(sources: Sequence[Source], selection: Selection) -> tuple[int, int]:
    size = files = 0
    for source in sources:
        for entry in entries(source, selection, lambda *_: None):
            files += 1
            try:
                size += entry.path.stat(follow_symlinks=False).st_size
            except OSError:
                continue
    return size, files


async def _follow(ingestion: Ingestion, sources: Sequence[Source], told: _Told) -> None:
    def trouble(error: Exception) -> None:
        told.progress.say(f"mcpd: {error}; trying again")

    await Watch(ingestion, sources, settled=told.settled, trouble=trouble).run()


class _Told:
    """Prints reports: the whole in the end, and while watching whenever something has changed."""

    def __init__(self, ingestion: Ingestion, progress: terminal.Progress, order: Order) -> None:
        self._ingestion = ingestion
        self.progress = progress
        self._order = order
        self._began_s = time.monotonic()
        self._last: dict[str, Any] = {}

    def settled(self) -> None:
        """A round of watching is over."""
        report = self._ingestion.report()
        now = report.as_json()
        changed = {**now, "unchanged": 0, "bytes": 0}
        if changed != self._last:
            self._last = changed
            if self._order.as_json:
                terminal.echo(json.dumps(now, ensure_ascii=False))
        if not self.progress.following:
            self.progress.following = True
            self.progress.say(
                f"{terminal.summary(report, time.monotonic() - self._began_s)}\nWatching; Ctrl-C ends it."
            )

    def tell(self) -> None:
        """All is over, one way or another."""
        self.progress.clear()
        report = self._ingestion.report()
        if not self._order.as_json:
            terminal.echo(terminal.summary(report, time.monotonic() - self._began_s))
        elif self._order.watch:
            terminal.echo(json.dumps(report.as_json(), ensure_ascii=False))
        else:
            print_json(report.as_json())
