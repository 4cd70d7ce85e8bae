"""Finds the files of a folder: sorted, one after the other, without what its owner does not want seen.

Names that begin with a dot, folders that programs fill (`MADE`) and whatever `.gitignore` files leave out are passed
over, unless all is wanted; the
`.gitignore` files of the folders above count as well, up to the folder that holds `.git`, as they do for git. Symbolic
links are never followed, whether to files or folders: so no loop is walked, nothing outside of the folder is found, and
nothing twice. Pipes, sockets and devices are passed over.

Called by: the ingestion pipeline and its watch, in threads: this blocks. Deliberately not a watcher.

Laws: the order is that of the names in each folder, whatever the file system says; memory is the names of the folders
on the way down; a folder that cannot be listed is reported and the others are still walked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from mcpd.ingest.ignore import Rule, glob_rule, ignored, parse_rules

MAX_IGNORE_BYTES: Final = 1024 * 1024
"""What is read of one `.gitignore`."""

MADE: Final = frozenset({"__pycache__", "node_modules"})
"""Folders that programs fill, also where no `.gitignore` says so."""

OnError = Callable[[Path, OSError], None]


class _Rules(NamedTuple):
    """The rules of one folder, `depth` characters below the top."""

    depth: int
    rules: tuple[Rule, ...]


class _Folder(NamedTuple):
    """A folder to walk; `below` is its path from the top, with a slash at its end unless it is the top."""

    path: Path
    below: str
    rules: tuple[_Rules, ...]


def walk(
    root: Path, *, include_all: bool = False, globs: Sequence[str] = (), on_error: OnError | None = None
) -> Iterator[Path]:
    """Yield the files under `root`, or `root` itself when it is a file.

    Args:
        root: where to begin; itself taken, and followed, whatever it is called.
        include_all: take dotfiles and ignored files as well.
        globs: patterns in the language of `.gitignore`, relative to `root`; a file must match one, if there are any.
        on_error: hears of folders that cannot be listed; without it the first one is raised.

    Raises: ValueError for a glob that can match nothing; OSError without `on_error`.
    """
    wanted = tuple(glob_rule(glob) for glob in globs)
    root = root.resolve()
    if root.is_file():
        yield root
        return
    start = len(str(root)) + 1 if root.parent != root else 1
    for path in _files(_start(root, include_all), include_all, on_error or _raise):
        if not wanted or ignored(wanted, str(path)[start:].replace(os.sep, "/"), folder=False):
            yield path


def _raise(_: Path, error: OSError) -> None:
    raise error


def _start(root: Path, include_all: bool) -> _Folder:
    """Return the folder to begin with, under the rules of those above it in the same repository."""
    above = [] if include_all else _above(root)
    below, rules = "", []
    for folder in above:
        rules.append(_Rules(len(below), _rules(folder)))
        index = len(folder.parts)
        below += root.parts[index] + "/"
    return _Folder(root, below, tuple(found for found in rules if found.rules))


def _above(root: Path) -> list[Path]:
    """Return the folders above `root`, from the one that holds `.git` on down; none outside of a repository."""
    if (root / ".git").exists():
        return []
    for number, folder in enumerate(root.parents):
        if (folder / ".git").exists():
            return list(root.parents[: number + 1])[::-1]
    return []


def _rules(folder: Path) -> tuple[Rule, ...]:
    path = folder / ".gitignore"
    try:
        if path.is_symlink() or not path.is_file():
            return ()
        with path.open("rb") as file:
            return parse_rules(file.read(MAX_IGNORE_BYTES).decode("utf-8", "replace"))
    except OSError:
        return ()


def _files(start: _Folder, include_all: bool, on_error: OnError) -> Iterator[Path]:
    stack = [_entries(start, include_all, on_error)]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
        elif isinstance(found, _Folder):
            stack.append(_entries(found, include_all, on_error))
        else:
            yield found


def _entries(folder: _Folder, include_all: bool, on_error: OnError) -> Iterator[_Folder | Path]:
    """Yield the files and folders in one folder by name."""
    try:
        with os.scandir(folder.path) as entries:
            kinds = sorted((entry.name, _kind(entry)) for entry in entries)
    except OSError as error:
        on_error(folder.path, error)
        return
    rules = folder.rules
    if not include_all and (own := _rules(folder.path)):
        rules = (*rules, _Rules(len(folder.below), own))
    for name, kind in kinds:
        below = folder.below + name
        if kind == "" or (not include_all and _is_left_out(name, rules, below, kind == "folder")):
            continue
        path = folder.path / name
        yield _Folder(path, below + "/", rules) if kind == "folder" else path


def _kind(entry: os.DirEntry[str]) -> str:
    """Say "file" or "folder", or nothing for links and all else; what cannot be looked at is nothing."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "file" if entry.is_file(follow_symlinks=False) else ""
    except OSError:
        return ""


def _is_left_out(name: str, rules: tuple[_Rules, ...], below: str, folder: bool) -> bool:
    return name.startswith(".") or name in MADE or _is_ignored(rules, below, folder)


def _is_ignored(rules: tuple[_Rules, ...], below: str, folder: bool) -> bool:
    """The rules of the innermost folder that have something to say count."""
    for found in reversed(rules):
        verdict = ignored(found.rules, below[found.depth :], folder=folder)
        if verdict is not None:
            return verdict
    return False
