"""Keeps the store in step with folders while they change: `mcpd ingest --watch`.

A look at a source lists its files with size, times and inode, and reads none. What differs from the last look is read
when it has stopped changing for one look, or after `PATIENCE_S` when it never does; what is missing in two looks is
removed if it is gone indeed. Reading decides by digest, as always, so a file that was only touched is not written.

A file that was modified within `GRAIN_S` before it was read is read once more later: on a coarse clock another change
of the same size would look like none. A root that is missing or unreadable changes nothing; one that has become another
folder (a link pointed elsewhere, a file system mounted) is ingested anew.

Called by: the command line. Calls `pipeline.Ingestion`. Deliberately not: inotify and the like, which end at network
file systems and at a number of folders, and need a walk to begin with all the same.

Laws: between two looks lies a pause of at least `REST` times the look: however large the folder, watching takes less
than a tenth of one processor. `Watched` decides and does nothing; `watch` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import trio

from mcpd.ingest.pipeline import Ingestion
from mcpd.ingest.sources import Identity, Selection, Source, entries, entry_of
from mcpd.storage.documents import StoreUnreachable

POLL_S: Final = 1.0
REST: Final = 10.0
PATIENCE_S: Final = 10.0
"""A log file that is written to all the time is read so often."""

GRAIN_S: Final = 2.0
"""The coarsest times that file systems keep (FAT)."""


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Look(NamedTuple):
    """What one look has seen: the root's identity, the files by relative path, the folders that could not be listed."""

    identity: Identity
    files: dict[str, Stamp]
    failing: dict[Path, OSError]
    at_ns: int


class Due(NamedTuple):
    """What there is to do: files to read, and files that are missing."""

    changed: list[str]
    missing: list[str]


class Waiting(NamedTuple):
    """A file that has changed and may go on changing; `since_s` is when that began."""

    stamp: Stamp
    since_s: float


class Watched:
    """What is known of one source; times are the caller's."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.identity: Identity | None = None
        self.failing: set[Path] = set()
        """Folders that could not be listed at the last look."""
        self._stored: dict[str, Stamp | None] = {}
        """None: stored, and to be read once more."""
        self._waiting: dict[str, Waiting] = {}
        self._missing: set[str] = set()

    def begin(self, look: Look, unsettled: set[str]) -> None:
        """Start afresh: what was seen has been read after the look, but for the files whose URIs are `unsettled`."""
        self.identity, self.failing = look.identity, set(look.failing)
        self._stored, self._waiting, self._missing = {}, {}, set()
        self.done(Due(list(look.files), []), look, unsettled)

    def due(self, look: Look, now_s: float) -> Due:
        """Compare a look with what is known."""
        missing = self._stored.keys() - look.files.keys()
        gone, self._missing = sorted(missing & self._missing), missing
        for relative in self._waiting.keys() - look.files.keys():
            del self._waiting[relative]
        changed = [relative for relative, stamp in look.files.items() if self._is_due(relative, stamp, now_s)]
        return Due(changed, gone)

    def _is_due(self, relative: str, stamp: Stamp, now_s: float) -> bool:
        if self._stored.get(relative) == stamp:
            self._waiting.pop(relative, None)
            return False
        waiting = self._waiting.get(relative)
        since_s = now_s if waiting is None else waiting.since_s
        self._waiting[relative] = Waiting(stamp, since_s)
        return waiting is not None and (waiting.stamp == stamp or now_s - since_s >= PATIENCE_S)

    def done(self, due: Due, look: Look, unsettled: set[str]) -> None:
        """Take note that what was due has been done, but for the files whose URIs are `unsettled`."""
        for relative in due.changed:
            settled = self.source.uri(relative) not in unsettled
            self._waiting.pop(relative, None)
            self._stored[relative] = _trusted(look.files[relative], look.at_ns) if settled else None
        for relative in due.missing:
            self._stored.pop(relative, None)


def _trusted(stamp: Stamp, at_ns: int) -> Stamp | None:
    """Return the stamp unless the file was modified so shortly before that its next change might not show."""
    return stamp if abs(at_ns - stamp.mtime_ns) > GRAIN_S * 1e9 else None


def look_at(source: Source, selection: Selection) -> Look:
    """List a source. Blocks. Raises: OSError when its root cannot be looked at."""
    at_ns = time.time_ns()
    failing: dict[Path, OSError] = {}
    root = source.root.stat()
    files: dict[str, Stamp] = {}
    for entry in entries(source, selection, failing.__setitem__):
        try:
            found = entry.path.stat(follow_symlinks=False)
        except OSError:
            continue
        files[entry.relative] = Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    if source.only is not None:
        failing = {}
    elif source.root.resolve() in failing:
        raise failing[source.root.resolve()]
    return Look((root.st_dev, root.st_ino), files, failing, at_ns)


class Watch:
    """Watches sources; see the module's docstring.

    `settled` is called after each round in which something was done, `trouble` when store or model cannot be reached,
    which is tried again.
    """

    def __init__(
        self,
        ingestion: Ingestion,
        sources: Sequence[Source],
        *,
        settled: Callable[[], None] = lambda: None,
        trouble: Callable[[Exception], None] = lambda _: None,
        poll_s: float = POLL_S,
    ) -> None:
        self._ingestion = ingestion
        self._watched = [Watched(source) for source in sources]
        self._settled = settled
        self._trouble = trouble
        self._poll_s = poll_s
        self._looking_s = 0.0

    async def run(self) -> NoReturn:
        """Ingest the sources, then follow them until cancelled. Raises: StorageError."""
        while True:
            self._looking_s = 0.0
            if any([await self._round(watched) for watched in self._watched]):
                self._settled()
            await trio.sleep(max(self._poll_s, REST * self._looking_s))

    async def _round(self, watched: Watched) -> bool:
        """Look once, and do what is due; return whether anything was."""
        look = await self._look(watched)
        if look is None:
            return False
        try:
            return await self._do(watched, look)
        except StoreUnreachable as error:
            self._trouble(error)
            return False

    async def _look(self, watched: Watched) -> Look | None:
        began = trio.current_time()
        job = partial(look_at, watched.source, self._ingestion.selection)
        try:
            look = await trio.to_thread.run_sync(job, abandon_on_cancel=True)
        except OSError as error:
            self._tell_failing(watched, {watched.source.root: error})
            return None
        self._looking_s += trio.current_time() - began
        if look.identity == watched.identity:
            self._tell_failing(watched, look.failing)
        return look

    def _tell_failing(self, watched: Watched, failing: dict[Path, OSError]) -> None:
        """Tell once of each folder that cannot be listed, until it can."""
        for folder in failing.keys() - watched.failing:
            self._ingestion.cannot_list(folder, failing[folder])
        watched.failing = set(failing)
        self._ingestion.tell_unlisted()

    async def _do(self, watched: Watched, look: Look) -> bool:
        ingestion, source = self._ingestion, watched.source
        if look.identity != watched.identity:
            await ingestion.ingest(source)
            watched.begin(look, ingestion.unsettled)
            return True
        due = watched.due(look, trio.current_time())
        if due.changed:
            await ingestion.take(entry_of(source, relative) for relative in due.changed)
        if due.missing:
            await ingestion.remove(source, due.missing, watched.identity)
            ingestion.unsettled.difference_update(map(source.uri, due.missing))
        watched.done(due, look, ingestion.unsettled)
        return bool(due.changed or due.missing)
