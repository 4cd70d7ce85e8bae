"""`list_files`, `read_file`, `write_file`, `delete_file`: a model's hands in one folder.

Plain `def` tools, so they run in threads. They deal with sizes, encodings and pages; where a path may lead is decided
by `jail`, in which order a folder is walked by `globbing`. Every failure is a `ToolError` that says what to do instead.

Called by: `assembly`, through `file_tools`. Calls the disk through `Jail` alone.

Laws: no call reads, writes or lists more than its limit, and what is left can be had with the offset or cursor that the
result names; text is valid UTF-8 cut between characters, anything else is a blob; without `files.write` the two
writing tools do not exist. A write that was cancelled may still happen, but never by halves.

Sources: surfaces "Writing tools" (built in); TOOL-4, TOOL-5, RSC-3, PAG-1.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec

from mcpd.authoring.content import Block, Embedded, Text
from mcpd.authoring.declarations import ToolDeclaration, declarations_of, tool
from mcpd.config import Files, Limits
from mcpd.errors import ToolError, counted
from mcpd.tools.builtin.globbing import Glob, Visit, walk
from mcpd.tools.builtin.jail import Jail, missing_support
from mcpd.tools.builtin.protected import NOWHERE, Parts, Places

SCANS_PER_ITEM = 50
"""How many entries a page of `list_files` may look at for each one it may show."""
_CONTINUATION = 0b10 << 6

Pattern = Annotated[str, msgspec.Meta(max_length=1024)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
MaxBytes = Annotated[int, msgspec.Meta(ge=4)]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file or folder. `size` is in bytes, of files only; `modified` is ISO 8601 in UTC."""

    path: str
    type: Literal["file", "folder", "link", "other"]
    size: int | None = None
    modified: str | None = None


class Listing(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One page of a folder. With `nextCursor` there is more."""

    entries: list[Entry]
    next_cursor: str | None = None


class Written(msgspec.Struct, frozen=True):
    """What was written: `size` in bytes, and whether the file is new."""

    path: str
    size: int
    created: bool


class Deleted(msgspec.Struct, frozen=True):
    """What was deleted: `size` in bytes."""

    path: str
    size: int


def file_tools(root: Path, files: Files, limits: Limits, places: Places = NOWHERE) -> list[ToolDeclaration]:
    """Declare the file tools for the folder `root`; none where the platform cannot confine them.

    `places` are the server's own, which these tools do not reach.

    Raises: ConfigurationError when `root` is not a folder or is secret itself.
    """
    if missing_support() is not None:
        return []
    jail = Jail(root, places, hidden=files.hidden)
    functions = [_list_files(jail, limits.max_list_items), _read_file(jail, limits.max_read_bytes)]
    if files.write:
        functions += [_write_file(jail, limits.max_write_bytes), _delete_file(jail)]
    declared = [item for function in functions for item in declarations_of(function)]
    return [item for item in declared if isinstance(item, ToolDeclaration)]


def _hints(*, read_only: bool, destructive: bool = False) -> dict[str, Any]:
    hints: dict[str, Any] = {"readOnlyHint": read_only, "idempotentHint": read_only, "openWorldHint": False}
    return hints if read_only else hints | {"destructiveHint": destructive}


def _list_files(jail: Jail, max_items: int) -> Callable[..., Any]:
    @tool(title="List files", annotations=_hints(read_only=True))
    def list_files(
        path: str = ".", glob: Pattern | None = None, recursive: bool = False, cursor: str | None = None
    ) -> Listing:
        """List files and folders, in a fixed order.

        With `recursive`, or a pattern that has a '/', folders below are looked into. Symbolic links are listed and not
        followed. A result with `nextCursor` is one page: call again with it for the next, even if the page is empty.

        Args:
            path: Folder to list, relative to the served folder; '.' is the served folder itself.
            glob: Pattern for names ('*.py') or for paths below the folder ('src/**/*.py').
            recursive: Look into folders below, too.
            cursor: The nextCursor of the page before.
        """
        base = jail.parse(path)
        after = _position(jail, base, cursor)
        visits = walk(jail, base, Glob(glob, recursive=recursive), after=after, limit=max_items * SCANS_PER_ITEM)
        entries: list[Entry] = []
        last: Parts = ()
        for scanned, visit in enumerate(visits):
            if len(entries) == max_items or scanned == max_items * SCANS_PER_ITEM:
                return Listing(entries, "/".join(last))
            last = visit.parts
            if visit.matches:
                entries.append(_entry(visit))
        return Listing(entries)

    return list_files


def _read_file(jail: Jail, max_bytes_allowed: int) -> Callable[..., Any]:
    @tool(title="Read a file", annotations=_hints(read_only=True))
    def read_file(path: str, offset: Offset = 0, max_bytes: MaxBytes | None = None) -> list[Block]:
        """Read a file: text as text, anything else as a blob.

        A long file comes in parts: the result then says with which `offset` to go on.

        Args:
            path: Relative to the served folder, such as 'notes/today.txt'.
            offset: First byte to read.
            max_bytes: Read at most so many bytes; the server has a limit of its own.
        """
        parts = jail.parse_file(path)
        count = min(max_bytes or max_bytes_allowed, max_bytes_allowed)
        with jail.file(parts) as (fd, status):
            if offset > status.st_size:
                raise ToolError(f"offset {offset} is behind the end: {path!r} has {counted(status.st_size, 'byte')}")
            data = os.pread(fd, count, offset)
        return _chunk(parts, data, offset=offset, size=max(status.st_size, offset + len(data)))

    return read_file


def _write_file(jail: Jail, max_bytes: int) -> Callable[..., Any]:
    @tool(title="Write a file", annotations=_hints(read_only=False, destructive=True), scopes=("write",))
    def write_file(
        path: str, content: str, encoding: Literal["utf-8", "base64"] = "utf-8", overwrite: bool = False
    ) -> Written:
        """Write a whole file; missing folders are made.

        An existing file is replaced only with `overwrite`, and always at once: nobody sees half of it.

        Args:
            path: Relative to the served folder, such as 'notes/today.txt'.
            content: The whole new content.
            encoding: How `content` is to be read: as text, or as base64 of any bytes.
            overwrite: Replace a file that exists.
        """
        parts = jail.parse_file(path)
        data = _decode(content, encoding)
        if len(data) > max_bytes:
            raise ToolError(f"the content has {len(data)} bytes, and a file may have {max_bytes}; split it")
        created = jail.write(parts, data, overwrite=overwrite)
        return Written("/".join(parts), len(data), created)

    return write_file


def _delete_file(jail: Jail) -> Callable[..., Any]:
    @tool(title="Delete a file", annotations=_hints(read_only=False, destructive=True), scopes=("write",))
    def delete_file(path: str) -> Deleted:
        """Delete a file for good. Folders and symbolic links are refused.

        Args:
            path: Relative to the served folder, such as 'notes/today.txt'.
        """
        parts = jail.parse_file(path)
        return Deleted("/".join(parts), jail.delete(parts))

    return delete_file


def _position(jail: Jail, base: Parts, cursor: str | None) -> Parts:
    if cursor is None:
        return ()
    try:
        parts = jail.parse(cursor)
    except ToolError:
        parts = ()
    if len(parts) <= len(base) or parts[: len(base)] != base:
        raise ToolError("the cursor is not one that this listing gave; leave it out to begin again")
    return parts[len(base) :]


def _entry(visit: Visit) -> Entry:
    status = visit.found.status
    kind = _kind(status.st_mode)
    size = status.st_size if kind == "file" else None
    return Entry("/".join(visit.parts), kind, size, _modified(status.st_mtime))


def _modified(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None  # a date that no calendar has


def _kind(mode: int) -> Literal["file", "folder", "link", "other"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def _chunk(parts: Parts, data: bytes, *, offset: int, size: int) -> list[Block]:
    skipped, text = cut_text(data, inside=offset > 0, at_end=offset + len(data) >= size)
    if text is None:
        first, end = offset, offset + len(data)
    else:
        first = offset + skipped
        end = first + len(text.encode())
    meta = {"dev.mcpd/offset": first, "dev.mcpd/size": size}
    if end < size:
        meta["dev.mcpd/nextOffset"] = end
    block = _blob(parts, data, meta) if text is None else Text(text=text, meta=meta)
    return [block] if end >= size else [block, _rest(first, end, size)]


def _blob(parts: Parts, data: bytes, meta: dict[str, Any]) -> Block:
    mime_type = mimetypes.guess_type(parts[-1])[0] or "application/octet-stream"
    return Embedded(uri="file:///" + quote("/".join(parts)), blob=data, mime_type=mime_type, meta=meta)


def _rest(first: int, end: int, size: int) -> Block:
    note = f"[bytes {first} to {end} of {size}; call again with offset={end} to go on]"
    return Text(text=note, annotations={"audience": ["assistant"]})


def cut_text(data: bytes, *, inside: bool, at_end: bool) -> tuple[int, str | None]:
    """Decode a piece of a file; None when it is no text.

    `inside`: the piece may begin in the middle of a character, whose bytes are then left out and counted in the first
    part of the answer. `at_end`: no bytes follow, so that a character cut off at the end is an error.
    """
    skipped = 0
    while inside and skipped < min(3, len(data)) and data[skipped] & 0b1100_0000 == _CONTINUATION:
        skipped += 1
    piece = data[skipped:]
    try:
        return skipped, _without_nul(piece.decode())
    except UnicodeDecodeError as error:
        if at_end or error.reason != "unexpected end of data" or error.start + skipped == 0:
            return 0, None
        return skipped, _without_nul(piece[: error.start].decode())


def _without_nul(text: str) -> str | None:
    return None if "\0" in text else text


def _decode(content: str, encoding: str) -> bytes:
    if encoding == "base64":
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ToolError(f"content is not base64: {error}") from error
    return content.encode()
