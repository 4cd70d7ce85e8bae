"""Cursors of searches: where a page of hits ended.

Text search goes on as far as the store does: its cursor is wrapped, with the number of hits before it, so that ranks go
on as well. Semantic and hybrid search have a window, the candidates of each retriever merged; their cursor holds what
has been shown of it, as short hashes of URIs, so that nothing is shown twice although each page is searched for anew.

Called by: `searcher`. Calls `storage.cursors` for the text of a cursor. Pure. Deliberately not secret or signed: a
forged one only gets an odd page, and what a store makes of its own part is the store's to check.

Law: a cursor is tied to its search, all but `size`, `highlight` and facets; any other text is `BadCursor`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

import msgspec

from mcpd.search.query import Search
from mcpd.storage.cursors import encode, position_in
from mcpd.storage.documents import BadCursor

__all__ = ["MAX_BEFORE", "Position", "decode", "encode", "first_position"]

_HASH_BYTES: Final = 5
"""Of each URI: two of 200 are equal once in 50 million searches, and one of them is then not shown."""

MAX_BEFORE: Final = 1 << 53
"""More hits than a store has; ranks go on from it, and all clients can read them exactly."""


class Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page begins: behind `before` hits; in the store's own terms, or behind the URIs hashed in `shown`."""

    search: bytes
    before: Annotated[int, msgspec.Meta(ge=0, le=MAX_BEFORE)] = 0
    inner: str | None = None
    shown: bytes = b""

    def has_shown(self, uri: str) -> bool:
        """Whether an earlier page had this document."""
        wanted = _hash(uri)
        return any(self.shown[at : at + _HASH_BYTES] == wanted for at in range(0, len(self.shown), _HASH_BYTES))

    def after(self, uris: list[str]) -> Position:
        """Return the position behind a page of these documents."""
        shown = self.shown + b"".join(map(_hash, uris))
        return Position(self.search, self.before + len(uris), shown=shown)


_POSITION: Final = msgspec.msgpack.Decoder(Position)


def _hash(uri: str) -> bytes:
    return hashlib.blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()


def first_position(search: Search, mode: str, model: str) -> Position:
    """Return where the first page begins; it knows to which search its cursors belong."""
    parts: list[Any] = [mode, model if mode != "text" else "", search.query, search.where, search.sort]
    return Position(hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).digest())


def decode(cursor: str | None, first: Position) -> Position:
    """Return the position that a cursor names; `first` when there is none. Raises: BadCursor."""
    if cursor is None:
        return first
    try:
        position = position_in(cursor, _POSITION)
    except ValueError:
        raise BadCursor("This is not a cursor of a search") from None
    if position.search != first.search:
        raise BadCursor("The cursor belongs to another search; send it with everything else unchanged")
    if len(position.shown) % _HASH_BYTES:
        raise BadCursor("This is not a cursor of a search")
    return position
