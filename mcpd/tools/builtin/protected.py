"""What of a served folder belongs to the server itself: secrets that no model sees, and code that no model writes.

A model that reads the configuration has its keys; one that writes a module has whatever the next worker process may do.
So `jail` asks here, by name and by identity (device and inode), whether a path leads to something of the server's own:
names are compared as the most lenient file system would, without case, accents' spelling and invisible characters;
identities find the same thing under another name, hard link or bind mount.

Called by: `jail` (`Protected`), the composition root and `mcpd check` (`own_places`). Deliberately not: rules for what
is secret of other programs; a served folder is the operator's choice.

Laws: what is secret need not exist yet; identities are looked up anew in each call, because files are replaced by
renaming; a folder below which Python imports gets no file that Python could run. Not found: a second file system made
from the same files (overlay), which has inodes of its own.

Sources: RSC-3, TOOL-5; importlib documentation (path-based finder); site documentation; proc(5).
"""

from __future__ import annotations

import os
import site
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Final, NamedTuple

from mcpd.config import Config

Parts = tuple[str, ...]
Identity = tuple[int, int]
"""Device and inode."""

MAX_WALKED_ITEMS: Final = 10_000
"""Entries of secret folders whose identities are known; data and prompt folders hold tens."""

_RUNNABLE: Final = (*all_suffixes(), ".pth", ".pyd", ".dist-info", ".egg-info", ".egg", ".egg-link")
_CACHE: Final = "__pycache__"


class Places(NamedTuple):
    """Files and folders of the server's own; they need not exist yet."""

    secret: tuple[Path, ...] = ()
    """Neither they nor anything in them is listed, opened or written."""
    runtime: tuple[Path, ...] = ()
    """The same, for folders too large to know everything in them: the interpreter's, /proc."""
    imported: tuple[Path, ...] = ()
    """No file that Python could run is written or deleted below these folders."""


NOWHERE: Final = Places()


def own_places(config: Config, modules: Iterable[str] = ()) -> Places:
    """Return all places of the running server; `modules` are the loaded tool modules, as files or by name."""
    prompts = () if config.prompts.folder is None else (config.prompts.folder,)
    secret = (*config.secrets, *prompts, *(path for spec in modules for path in _module_places(spec)))
    runtime = (Path(sys.prefix), Path(site.getusersitepackages()), *_process_file_systems())
    return Places(secret, runtime, tuple(Path(entry or ".") for entry in sys.path) + tuple(_loaded_from()))


def _module_places(spec: str) -> Iterator[Path]:
    module = sys.modules.get(spec)
    file = getattr(module, "__file__", None) or spec
    yield Path(file)
    yield Path(file).with_name(_CACHE)
    yield from map(Path, getattr(module, "__path__", ()))


def _loaded_from() -> set[Path]:
    files = [getattr(module, "__dict__", {}).get("__file__") for module in list(sys.modules.values())]
    return {Path(file).parent for file in files if isinstance(file, str)}


def _process_file_systems() -> Iterator[Path]:
    """Yield where processes show their environment and memory."""
    yield Path("/proc")
    with suppress(OSError), Path("/proc/self/mounts").open(encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split(" ")
            if len(fields) > 2 and fields[2] == "proc":
                yield Path(fields[1].replace("\\040", " "))


class Protected:
    """The places of the server's own, as they look from one served folder, `root` (resolved)."""

    def __init__(self, root: Path, places: Places) -> None:
        self._secret = tuple(spelling for path in places.secret for spelling in _spellings(path))
        self._runtime = tuple(path.absolute() for path in places.runtime if root not in _spellings(path))
        self._imported = _outermost(path for path in places.imported if _real(path).is_relative_to(root))
        self._names = {parts for path in (*self._secret, *self._runtime) for parts in _names(root, path)}
        self._imported_names = {parts for path in self._imported for parts in _names(root, path)}
        self.holds_root = root in self._secret
        """True when the root is secret itself."""

    def hides(self, parts: Parts) -> bool:
        """True when a path below the root is secret by its name."""
        return _begins(parts, self._names)

    def identities(self) -> frozenset[Identity]:
        """Return all that is secret by identity, as it is now. Blocks on the disk."""
        found = set(_identities((*self._secret, *self._runtime)))
        for path in self._secret:
            if path.is_dir():
                found.update(_identities(_inside(path)))
        return frozenset(found)

    def forbids_code(self, parts: Parts, folders: Iterable[Identity]) -> bool:
        """True when the file `parts` could be run by Python and lies where it imports from.

        `folders` are the identities of the folders on the way to it, the root first.
        """
        if not any(_is_runnable(_folded(name)) for name in parts):
            return False
        return _begins(parts, self._imported_names) or not set(_identities(self._imported)).isdisjoint(folders)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return these folders without those that lie in others of them."""
    kept: dict[Path, Path] = {}
    for real, path in sorted({_real(path): path.absolute() for path in paths}.items()):
        if not any(outer in kept for outer in real.parents):
            kept[real] = path
    return tuple(kept.values())


def _names(root: Path, path: Path) -> set[Parts]:
    """Return what a place is called from the root; empty when it is not below it."""
    below = (one.relative_to(root).parts for one in _spellings(path) if one.is_relative_to(root))
    return {tuple(map(_folded, parts)) for parts in below}


def _spellings(path: Path) -> set[Path]:
    """Return the absolute names of a place: as written, with its folder resolved, and resolved as a whole."""
    path = path.absolute()
    return {Path(os.path.normpath(path)), path.parent.resolve() / path.name, path.resolve()}


def _begins(parts: Parts, names: set[Parts]) -> bool:
    folded = tuple(map(_folded, parts))
    return any(folded[:depth] in names for depth in range(len(folded) + 1))


def _folded(name: str) -> str:
    if name.isascii():
        return name.lower()
    spelt = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    return "".join(character for character in spelt if unicodedata.category(character) != "Cf")


def _is_runnable(name: str) -> bool:
    return name == _CACHE or name.endswith(_RUNNABLE)


def _identities(paths: Iterable[Path]) -> Iterator[Identity]:
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            yield status.st_dev, status.st_ino


def _inside(folder: Path) -> Iterator[Path]:
    count = 0
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            count += 1
            if count > MAX_WALKED_ITEMS:
                return
            yield Path(top, name)
