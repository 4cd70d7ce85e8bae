"""Cursors of the stores: where a page ended, tied to its query.

Two kinds of order, two kinds of position. A listing, or a search sorted by a field, goes on behind (value, URI), which
no other document's change can move. A search sorted by score cannot: each document that comes or goes changes all
scores. Its cursor holds the numbers of what has been shown, so that what is left is simply all the rest: nothing that
did not change is shown twice or skipped. At `MAX_SEEN` that gets long, and is refused.

Called by: every backend; `search.cursors`, whose cursors have the same form. Pure. Deliberately not secret or signed: a
client never gets a store's cursor as it is, and a forged one only gets an odd page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from mcpd.storage.documents import BadCursor, Matching, Where
from mcpd.storage.fields import LARGEST, SMALLEST

T = TypeVar("T")

MAX_SEEN: Final = 10_000
"""Hits by score that can be paged through: some 14 KB of cursor. Who needs more sorts by a field."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: behind `uri` (with `key` None among those without a value), or with `seen` shown."""

    query: bytes
    uri: str | None = None
    key: Any = None
    """A `Key` or None."""
    packed: bytes = b""

    @property
    def seen(self) -> frozenset[int]:
        """The numbers of the documents that have been shown."""
        return frozenset(_unpacked(self.packed))


_POSITION: Final = msgspec.msgpack.Decoder(Position)


def seen_after(query: bytes, numbers: Iterable[int]) -> Position:
    """Return the position at which the documents with these numbers have been shown."""
    return Position(query, packed=_packed(numbers))


def listing_key(where: Where) -> bytes:
    """Return what a listing's cursors are tied to."""
    return _digest(["page", where])


def matching_key(query: Matching) -> bytes:
    """Return what a search's cursors are tied to: all but how much is wanted of it."""
    return _digest(["match", query.text.encode(errors="replace"), query.where, query.sort])


def _digest(parts: list[Any]) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).digest()


def encode(position: msgspec.Struct) -> str:
    """Return the cursor."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).decode().rstrip("=")


def position_in(cursor: str, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """Return what `encode` put into the cursor. Raises: ValueError for any other text."""
    try:
        return decoder.decode(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (RecursionError, msgspec.DecodeError) as error:
        raise ValueError("no cursor") from error


def decode(query: bytes, cursor: str | None) -> Position:
    """Return the position in `cursor`; that of the first page for None. Raises: BadCursor."""
    if cursor is None:
        return Position(query)
    try:
        position = position_in(cursor, _POSITION)
        shown = len(position.seen)
        if not _is_key(position.key):
            raise ValueError("no key")
    except ValueError:
        raise BadCursor("This is not a cursor of this store") from None
    if position.query != query:
        raise BadCursor("The cursor belongs to another query")
    if shown > MAX_SEEN:
        raise BadCursor(f"{shown} hits have been shown: narrow the query, or sort by a field to page through more")
    return position


def _is_key(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return SMALLEST <= value <= LARGEST if isinstance(value, int) else isinstance(value, float | str | bytes | None)


def _packed(numbers: Iterable[int]) -> bytes:
    """Differences of the sorted numbers, in groups of seven bits."""
    packed, last = bytearray(), 0
    for number in sorted(numbers):
        step, last = number - last, number
        while step > 0x7F:
            packed.append(step & 0x7F | 0x80)
            step >>= 7
        packed.append(step)
    return bytes(packed)


def _unpacked(packed: bytes) -> Iterable[int]:
    number = step = shift = 0
    for byte in packed:
        step |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            number += step
            step = shift = 0
            yield number
        elif shift > 63:
            raise ValueError("no number of ours is that long")
    if shift:
        raise ValueError("cut off")
