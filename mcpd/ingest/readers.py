"""Reads one file within bounds, and says what it holds.

    load      a path -> its bytes, their SHA-256, size and time: enough to see that a file is unchanged
    extract   a name and bytes -> title, text or blob, media type, metadata (`extraction`)
    read      both

A file is read whole or not at all. One that is larger than its bound is refused by its size, before more than its
first bytes are read; there is no reading of a large file in parts, because a file is one document with one version,
and half of one that changes meanwhile would be neither. What a file holds decides its bound: text, or anything else.

Called by: the ingestion pipeline, in threads: these functions block. Deliberately not: folders, which are `walking`'s.

Laws: never more than the bound in memory, and its text; a file that changes while it is read is an error, not a
mixture; only regular files are opened, and a symbolic link is not followed: what it points to may be outside of what
was to be read. Who was given a link by the user resolves it first.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from mcpd.errors import McpdError
from mcpd.ingest.encoding import decode
from mcpd.ingest.extraction import Extracted, Kind, extract
from mcpd.ingest.formats import format_of

__all__ = [
    "Extracted", "FileChanged", "FileTooLarge", "Kind", "Loaded", "NotRegularFile", "ReadError", "extract", "load",
    "read",
]  # fmt: skip

MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
"""A text of this size has some 25,000 chunks: minutes of embedding, and more than anybody reads."""

MAX_BLOB_BYTES: Final = 16 * 1024 * 1024
"""A blob travels in one message, a third larger as Base64."""

SNIFF_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 1024 * 1024

_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)


class ReadError(McpdError):
    """This file cannot be taken as it is; the text says why, without its path. Others are not concerned."""


class FileTooLarge(ReadError):
    """Larger than its bound."""

    def __init__(self, size: int, limit: int, setting: str) -> None:
        super().__init__(f"the file has {size} bytes, more than the {limit} that {setting} allows")
        self.size = size
        self.limit = limit
        self.setting = setting


class FileChanged(ReadError):
    """Its size or time changed while it was read; reading again may succeed."""


class NotRegularFile(ReadError):
    """A folder, symbolic link, device, pipe or socket."""


class Loaded(msgspec.Struct, frozen=True):
    """The bytes of a file, and what tells whether it is still the same."""

    name: str
    data: bytes
    sha256: str
    mtime_ns: int


def load(
    path: Path,
    *,
    max_text_bytes: int = MAX_TEXT_BYTES,
    max_blob_bytes: int = MAX_BLOB_BYTES,
    on_piece: Callable[[int], None] = lambda _: None,
) -> Loaded:
    """Read a file whole. `on_piece` hears the size of each piece after it was read; what it raises ends the reading.

    Raises: FileTooLarge, FileChanged, NotRegularFile; OSError when it cannot be opened or read.
    """
    descriptor = _open(path)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise NotRegularFile("not a regular file")
        first = os.read(descriptor, SNIFF_BYTES)
        _check_size(path.name, first, before.st_size, max_text_bytes, max_blob_bytes)
        on_piece(len(first))
        data = _rest(descriptor, first, before.st_size, on_piece)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(data) != before.st_size:
        raise FileChanged("the file changed while it was read")
    return Loaded(path.name, data, hashlib.sha256(data).hexdigest(), before.st_mtime_ns)


def read(path: Path, *, max_text_bytes: int = MAX_TEXT_BYTES, max_blob_bytes: int = MAX_BLOB_BYTES) -> Extracted:
    """Return what a file holds. Raises: as `load`."""
    loaded = load(path, max_text_bytes=max_text_bytes, max_blob_bytes=max_blob_bytes)
    return extract(loaded.name, loaded.data)


def _open(path: Path) -> int:
    """Open without following a link, and without waiting for the writer of a pipe."""
    if path.is_symlink():
        raise NotRegularFile("a symbolic link")
    return os.open(path, _FLAGS)


def _check_size(name: str, first: bytes, size: int, max_text_bytes: int, max_blob_bytes: int) -> None:
    if size <= min(max_text_bytes, max_blob_bytes):
        return
    binary = format_of(name, first).family in ("blob", "no_text") or decode(first) is None
    limit, setting = (max_blob_bytes, "max_blob_bytes") if binary else (max_text_bytes, "max_text_bytes")
    if size > limit:
        raise FileTooLarge(size, limit, f"limits.{setting}")


def _rest(descriptor: int, first: bytes, size: int, on_piece: Callable[[int], None]) -> bytes:
    """Read on to the end, one byte beyond the expected size at most, so that growth shows and costs nothing."""
    pieces, missing = [first], size - len(first)
    while piece := os.read(descriptor, max(0, min(PIECE_BYTES, missing + 1))):
        pieces.append(piece)
        missing -= len(piece)
        on_piece(len(piece))
    return b"".join(pieces)
