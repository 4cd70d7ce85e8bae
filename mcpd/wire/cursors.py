"""Page cursors: the key of the last item of a page, sealed so that only the list it came from takes it back.

A cursor is bound to the kind of list, the version of the set (any string or number that changes with the set) and
the caller; the bound parts are signed and not carried. Nothing is remembered, so every process with the same ring and
the same set accepts it. The position can be read by the client: it is a key that the client has just been shown.

Called by: `catalog`, and storage listings. Calls `wire.sealed`. Deliberately not: the pages themselves, nor a page
size. Cursors do not expire; a changed set refuses them.

Sources: MCP server/utilities/pagination (PAG-1).
"""

from __future__ import annotations

from typing import Final

import msgspec

from mcpd.errors import InvalidParams
from mcpd.wire.sealed import KeyRing, sign, verify

PURPOSE: Final = "cursor"

__all__ = ["KeyRing", "decode_cursor", "encode_cursor"]


def encode_cursor(ring: KeyRing, kind: str, position: str, version: str | int, principal: str) -> str:
    """Return a cursor for what comes after `position` in the list `kind`."""
    return sign(ring, PURPOSE, position.encode(), _context(kind, version, principal))


def decode_cursor(ring: KeyRing, kind: str, cursor: object, version: str | int, principal: str) -> str:
    """Return the position in `cursor`, which is present: "" is a cursor like any other, and no valid one.

    Raises: InvalidParams for a cursor that we did not make, or made for another list, set or caller.
    """
    position = verify(ring, PURPOSE, cursor, _context(kind, version, principal))
    if position is None:
        raise InvalidParams("Invalid cursor")
    return position.decode()


def _context(kind: str, version: str | int, principal: str) -> bytes:
    return msgspec.json.encode([kind, version, principal])
