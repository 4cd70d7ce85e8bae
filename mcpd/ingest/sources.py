"""What a user names to be ingested, and how its files and documents are called.

    a folder      its files; `docs:///NAME/relative/path`, NAME being the folder's name
    a file        as if its folder had been named, with that one file: the same file has one URI, however it was named

Parts of a path are percent-encoded byte by byte, so that a name that is no UTF-8 comes back as it was. The *origin* of
the documents is the source root as a `file:` URI. Links above the root are resolved, the root's own name is kept: a
link that is pointed elsewhere (`current`) stays the same source.

Called by: `pipeline`, `watch`, the command line. Calls `walking`; all that looks at files blocks. Deliberately not:
what is in the files.

Laws: what is kept apart (data folder, key file) is never an entry; a file is `gone` only when the file system says
that there is no such file, in a root that is still the same folder, never because it could not be looked at, was not
asked for, or is ignored.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from mcpd.errors import McpdError
from mcpd.ingest.ignore import Rule, glob_rule, ignored
from mcpd.ingest.walking import OnError, walk
from mcpd.storage.uris import SCHEME, encoded

Identity = tuple[int, int]
"""Device and inode of a folder: another one when a file system was mounted there, or no longer is."""


class BadSource(McpdError):
    """What was named cannot be ingested like this; the text says why."""


class Selection(NamedTuple):
    """Which files of a source are wanted.

    `globs` are patterns as in `.gitignore`, one of which must match; `include_all` takes dotfiles and ignored files;
    nothing under `excluded` (resolved paths) is taken.
    """

    globs: tuple[str, ...] = ()
    include_all: bool = False
    excluded: tuple[Path, ...] = ()


class Source(NamedTuple):
    """A source root: a folder, or `only` one file of it. `name` is the first part of the documents' paths."""

    root: Path
    name: str
    only: str | None = None

    @property
    def origin(self) -> str:
        """The owner of the documents."""
        return self.root.as_uri()

    @property
    def prefix(self) -> str:
        """How the URIs of all its documents begin."""
        return f"{SCHEME}{encoded(os.fsencode(self.name))}/"

    def uri(self, relative: str) -> str:
        """Return the URI of a file, given its path from the root with `/`."""
        return self.prefix + "/".join(encoded(os.fsencode(part)) for part in relative.split("/"))

    def relative(self, uri: str) -> str:
        """Return the path from the root with `/` of one of its URIs."""
        return os.fsdecode(unquote_to_bytes(uri.removeprefix(self.prefix)))


class Entry(NamedTuple):
    """A file to read. `relative` is its path from the root of `source`, with `/`."""

    source: Source
    relative: str
    path: Path

    @property
    def uri(self) -> str:
        """The URI of its document."""
        return self.source.uri(self.relative)


def source_of(path: Path, name: str | None = None) -> Source:
    """Return what `path` names; `name` instead of the folder's name.

    Raises: BadSource when there is nothing, or no usable name.
    """
    place = _place(path)
    if not place.exists():
        raise BadSource(f"{path}: there is no such file or folder")
    root, only = (place, None) if place.is_dir() else (place.parent, place.name)
    name = root.name if name is None else name
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise BadSource(f"{path}: {name!r} cannot be the name of its documents: give another with --as NAME")
    return Source(root, name, only)


def origin_of(text: str) -> str:
    """Return the origin that a user means: it as it is written in listings, or the path of the source root."""
    return text if text.startswith("file:") else _place(Path(text)).as_uri()


def _place(path: Path) -> Path:
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def entries(source: Source, selection: Selection, on_error: OnError) -> Iterator[Entry]:
    """Yield the files of a source, in order. Raises: ValueError for a glob that can match nothing."""
    top = (source.root if source.only is None else source.root / source.only).resolve()
    for path in walk(top, include_all=selection.include_all, globs=selection.globs, on_error=on_error):
        if not any(path.is_relative_to(kept) for kept in selection.excluded):
            yield Entry(source, source.only or path.relative_to(top).as_posix(), path)


def entry_of(source: Source, relative: str) -> Entry:
    """Return the entry of a file of a source, given its path from the root with `/`."""
    path = source.root / relative
    return Entry(source, relative, path if source.only is None else path.resolve())


def glob_rules(selection: Selection) -> tuple[Rule, ...]:
    """Return the rules of the globs. Raises: BadSource for one that can match nothing."""
    try:
        return tuple(glob_rule(glob) for glob in selection.globs)
    except ValueError as error:
        raise BadSource(f"--glob: {error}") from error


def is_gone(source: Source, relative: str, rules: tuple[Rule, ...]) -> bool:
    """Return whether a file that the globs ask for is certainly not there any more."""
    if rules and not ignored(rules, relative, folder=False):
        return False
    try:
        return not stat.S_ISREG((source.root / relative).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False


def identity_of(source: Source) -> Identity | None:
    """Return which folder the root is now, followed when it is a link; None when it cannot be looked at."""
    try:
        found = source.root.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def gone(source: Source, relatives: Iterable[str], rules: tuple[Rule, ...], root: Identity | None) -> list[str]:
    """Return those of the files that are gone; none when the root is no longer the folder `root`."""
    found = [relative for relative in relatives if is_gone(source, relative, rules)]
    return found if root is not None and identity_of(source) == root else []
