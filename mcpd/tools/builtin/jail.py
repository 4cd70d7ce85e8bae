"""One folder, and no way out of it.

`Jail` turns the paths that a model writes into open descriptors below one root. Every component is opened relative to
its parent's descriptor and never through a symbolic link, so what was checked is what is used: swapping a name while a
call runs changes nothing about a descriptor that is already open.

Called by `globbing` and `files`; calls `protected`. It makes no decision about sizes, encodings or pages, and it never
blocks on anything but the disk: only regular files are opened, without waiting for a FIFO's other end.

Laws:
- a path is relative, has no `..` and no NUL; what begins with a dot is not there unless `hidden`; neither are the
  server's own places, recognised by name and by identity (`protected`);
- a file with several hard links is not read: its other name may lie outside, and the link may be somebody's trick.
  Writing and deleting touch the name alone, so they need no such rule;
- a write appears whole or not at all, and without `overwrite` it never replaces anything, whoever else is writing;
- every refusal is a `ToolError` that names the path as it was given, never where the root is.

Sources: openat(2), link(2), rename(2), open(2) on O_NOFOLLOW; protocol RSC-3, TOOL-5.
"""

from __future__ import annotations

import errno
import heapq
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mcpd.errors import ConfigurationError, ToolError
from mcpd.tools.builtin.protected import NOWHERE, Identity, Parts, Places, Protected

MAX_PATH_CHARACTERS = 4096
MAX_SHOWN_CHARACTERS = 200
"""Of a refused path, in the error about it."""

_TEMPORARY = (".mcpd-", ".tmp")
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)

_HIDDEN = "names beginning with a dot and the server's own files are not served"
_CODE = (
    "the server imports Python modules from this folder, so files that Python could run are not written or deleted;"
    " the operator can keep the tools in another folder than the served one"
)
_LINK = "it is a symbolic link, and links are not followed; use the path of the file itself"
_REASONS = {
    errno.ENOENT: "there is no such file or folder; list_files shows what is there",
    errno.ENOTDIR: "a part of it is not a folder (symbolic links are not followed)",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "a part of it is a symbolic link, and links are not followed",
    errno.EEXIST: "it exists already; pass overwrite=true to replace it",
    errno.EACCES: "the server has no permission for that",
    errno.EPERM: "the server has no permission for that",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EMFILE: "the server has too many open files; try again",
    errno.ENFILE: "the server has too many open files; try again",
}


class Found(NamedTuple):
    """One entry of a folder."""

    name: str
    status: os.stat_result
    """Of the entry itself, never of what a link points to."""


class Folder(NamedTuple):
    """An open folder, and what was found out on the way to it."""

    fd: int
    secret: frozenset[Identity]
    way: tuple[Identity, ...]
    """From the root to the folder."""


def missing_support() -> str | None:
    """Say why this platform cannot jail file access; None when it can."""
    needed = {os.open, os.stat, os.unlink, os.mkdir, os.link, os.rename}
    able = needed <= os.supports_dir_fd and os.scandir in os.supports_fd
    if able and hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY"):
        return None
    return "this platform cannot open files relative to a folder's descriptor, so file access cannot be confined"


class Jail:
    """Opens, writes and deletes below `root`; all methods block on the disk and may run in any thread.

    Resources: holds no descriptor between calls.
    """

    def __init__(self, root: Path, places: Places = NOWHERE, *, hidden: bool = False) -> None:
        """Fix the root where it is now.

        `hidden`: also serve names that begin with a dot. `places`: the server's own, which need not exist yet.

        Raises: ConfigurationError when the root is no folder, or is itself secret.
        """
        self._root = root.resolve()
        self._hidden = hidden
        self._protected = Protected(self._root, places)
        if not self._root.is_dir():
            raise ConfigurationError(f"files.root: {root} is not a folder; create it or give another with --files DIR")
        if self._protected.holds_root:
            raise ConfigurationError(
                f"files.root: {root} is the data folder or another of the server's own; give another with --files DIR,"
                " or none with --no-files"
            )

    def parse(self, path: str) -> Parts:
        """Split `path` into names; `()` is the root. Raises: ToolError for a path that may not be used."""
        if len(path) > MAX_PATH_CHARACTERS:
            raise refusal(path, "it is too long")
        if "\0" in path or not _is_unicode(path):
            raise refusal(path, "it contains a character that no path may have")
        if path.startswith("/"):
            raise refusal(path, "paths are relative to the served folder, for example 'notes/today.txt'")
        parts = tuple(name for name in path.split("/") if name not in ("", "."))
        if ".." in parts:
            raise refusal(path, "'..' is not allowed; paths are relative to the served folder")
        if not all(self._is_visible(name) for name in parts) or self._protected.hides(parts):
            raise refusal(path, _HIDDEN)
        return parts

    def parse_file(self, path: str) -> Parts:
        """As `parse`, for what must name a file: the root is refused."""
        parts = self.parse(path)
        if not parts:
            raise refusal(path, "a file's path is needed, for example 'notes/today.txt'")
        return parts

    @contextmanager
    def folder(self, parts: Parts, *, create: bool = False) -> Iterator[Folder]:
        """Lend an open folder; `create` makes the missing ones. Raises: ToolError."""
        with _told(parts):
            secret = self._protected.identities()
            fd = os.open(self._root, _FOLDER_FLAGS)
            try:
                way = [_identity(os.fstat(fd))]
                for depth, name in enumerate(parts, start=1):
                    outer, fd = fd, self._enter(fd, name, create=create)
                    os.close(outer)
                    way.append(_identity(os.fstat(fd)))
                    if way[-1] in secret:
                        raise refusal(parts[:depth], _HIDDEN)
                yield Folder(fd, secret, tuple(way))
            finally:
                os.close(fd)

    @contextmanager
    def file(self, parts: Parts) -> Iterator[tuple[int, os.stat_result]]:
        """Lend a readable descriptor of a regular file, and its status. Raises: ToolError."""
        with self.folder(parts[:-1]) as folder, _told(parts):
            _regular(os.stat(parts[-1], dir_fd=folder.fd, follow_symlinks=False), folder, parts)
            fd = os.open(parts[-1], _FILE_FLAGS, dir_fd=folder.fd)
        try:
            with _told(parts):
                status = _regular(os.fstat(fd), folder, parts)
                if status.st_nlink > 1:
                    raise refusal(parts, "it has several names (hard links), which are not read; copy it to a new file")
                yield fd, status
        finally:
            os.close(fd)

    def scan(self, parts: Parts, *, first: str, limit: int) -> list[Found]:
        """Return up to `limit` visible entries of a folder, sorted by name, from the name `first` on.

        Names that are not Unicode are left out: no JSON text could name them. Raises: ToolError.
        """
        with self.folder(parts) as folder, _told(parts):
            with os.scandir(folder.fd) as entries:
                names = (entry.name for entry in entries if entry.name >= first and self._is_visible(entry.name))
                chosen = heapq.nsmallest(limit, names)
            return [Found(name, status) for name, status in self._statuses(folder, parts, chosen)]

    def write(self, parts: Parts, data: bytes, *, overwrite: bool) -> bool:
        """Put `data` under a name, whole, on disk when this returns; missing folders are made.

        Returns True when the file is new. An existing file keeps its permission bits. Raises: ToolError.
        """
        self._refuse_code(parts)
        with self.folder(parts[:-1], create=True) as folder, _told(parts):
            self._refuse_code(parts, folder.way)
            before = _target(folder, parts)
            if before is not None and not overwrite:
                raise FileExistsError(errno.EEXIST, "exists")
            with _temporary(folder.fd) as (fd, name):
                if before is not None:
                    os.fchmod(fd, before.st_mode & 0o777)
                _write_all(fd, data)
                _publish(folder.fd, name, parts[-1], overwrite=overwrite)
            _sync_folder(folder.fd)
        return before is None

    def delete(self, parts: Parts) -> int:
        """Remove a regular file's name and return its size in bytes. Raises: ToolError."""
        with self.folder(parts[:-1]) as folder, _told(parts):
            self._refuse_code(parts, folder.way)
            status = _regular(os.stat(parts[-1], dir_fd=folder.fd, follow_symlinks=False), folder, parts)
            os.unlink(parts[-1], dir_fd=folder.fd)
            _sync_folder(folder.fd)
        return status.st_size

    def _refuse_code(self, parts: Parts, way: tuple[Identity, ...] = ()) -> None:
        if self._protected.forbids_code(parts, way):
            raise refusal(parts, _CODE)

    def _enter(self, fd: int, name: str, *, create: bool) -> int:
        try:
            return os.open(name, _FOLDER_FLAGS, dir_fd=fd)
        except FileNotFoundError:
            if not create:
                raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=fd)
        return os.open(name, _FOLDER_FLAGS, dir_fd=fd)

    def _statuses(self, folder: Folder, parts: Parts, names: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        for name in names:
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
                if _identity(status) not in folder.secret and not self._protected.hides((*parts, name)):
                    yield name, status

    def _is_visible(self, name: str) -> bool:
        if name.startswith(_TEMPORARY[0]) and name.endswith(_TEMPORARY[1]):
            return False
        return _is_unicode(name) and (self._hidden or not _begins_with_dot(name))


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _regular(status: os.stat_result, folder: Folder, parts: Parts) -> os.stat_result:
    if _identity(status) in folder.secret:
        raise refusal(parts, _HIDDEN)
    if stat.S_ISLNK(status.st_mode):
        raise refusal(parts, _LINK)
    if stat.S_ISDIR(status.st_mode):
        raise refusal(parts, "it is a folder; list_files shows what is in it")
    if not stat.S_ISREG(status.st_mode):
        raise refusal(parts, "it is not a regular file")
    return status


def _target(folder: Folder, parts: Parts) -> os.stat_result | None:
    try:
        status = os.stat(parts[-1], dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return _regular(status, folder, parts)


def refusal(path: str | Parts, reason: str) -> ToolError:
    """Make the error for a path that cannot be used: the path as the caller wrote it, and what to do."""
    text = path if isinstance(path, str) else "/".join(path) or "."
    shown = text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"
    return ToolError(f"{shown!r}: {reason}")


@contextmanager
def _told(parts: Parts) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
        raise refusal(parts, reason) from error


@contextmanager
def _temporary(folder: int) -> Iterator[tuple[int, str]]:
    name = secrets.token_hex(8).join(_TEMPORARY)
    fd = os.open(name, _CREATE_FLAGS, 0o666, dir_fd=folder)
    try:
        yield fd, name
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _publish(folder: int, name: str, target: str, *, overwrite: bool) -> None:
    if overwrite:
        os.rename(name, target, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.link(name, target, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.fsync(fd)


def _sync_folder(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise


def _begins_with_dot(name: str) -> bool:
    # Some file systems drop invisible format characters from names: "\u200c.git" opens ".git" there.
    return next((c for c in name if unicodedata.category(c) != "Cf"), ".") == "."


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
