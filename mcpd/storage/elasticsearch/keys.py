"""Names, ids and values as Elasticsearch compares them.

All values of a document's fields are in one `flattened` field, since a mapping cannot foresee what metadata holds. It
compares texts, so each value is written as a text that sorts as `storage.fields` wants it: numbers, then texts, then
booleans; a number as the bits of its double, rearranged to sort, followed by what a 64-bit integer has beyond that.

Called by: the other files here. Pure. Deliberately not: queries (`query`).
"""

from __future__ import annotations

import hashlib
import re
import struct
from base64 import urlsafe_b64encode
from typing import Final

from mcpd.storage.documents import Relation
from mcpd.storage.fields import METADATA, Key

NUMBER, TEXT, BOOLEAN, END = "0", "1", "2", "3"
"""How the texts of each kind of value begin, in their order; nothing begins with the last."""

MAX_KEY_CHARS: Final = 7_900
"""Lucene takes terms of 32,766 bytes, and a character may have four; longer texts sort by so many characters."""

MAX_URI_CHARS: Final = 8_000
"""The same for URIs, which are refused when they are longer."""

MAX_NAME_CHARS: Final = 200
"""Of a field, as it is named in Elasticsearch; a longer one is named by its digest."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9-]")
_RESIDUE: Final = 1 << 15
_SIGN: Final = 1 << 63
_ALL: Final = (1 << 64) - 1
_DOUBLE_CHARS: Final = 16
"""Of a double in hex."""


def uri_key(uri: str) -> str:
    """Return the id of a URI's documents: ids are short, URIs need not be."""
    return _digest(uri)


def relation_key(relation: Relation) -> str:
    """Return the id of a relation."""
    return "r." + _digest(f"{relation.source}\0{relation.kind}\0{relation.target}")


def _digest(text: str) -> str:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=18).digest()
    return urlsafe_b64encode(digest).decode()


def number_of(version: str) -> int:
    """Return the number by which a cursor remembers a version: 48 bits of its digest."""
    return int.from_bytes(hashlib.blake2b(version.encode(), digest_size=6).digest())


def field_of(name: str, within: str = "fields") -> str:
    """Return the path of a field in the mapping; no two names have the same."""
    safe = _UNSAFE.sub(lambda found: f"_{ord(found[0]):x}_", name.removeprefix(METADATA))
    if len(safe) > MAX_NAME_CHARS:
        safe = "_" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{within}.{'m' if name.startswith(METADATA) else 'd'}-{safe}"


def leaf_of(name: str) -> str:
    """Return the key of a field within the `flattened` object."""
    return field_of(name, "").removeprefix(".")


def sortable(key: Key) -> str:
    """Return the value as a text that sorts and compares as the value does."""
    if isinstance(key, bytes):
        return f"{BOOLEAN}{key[0]}"
    if isinstance(key, str):
        return f"{TEXT}{key}" if len(key) <= MAX_KEY_CHARS else f"{TEXT}{key[:MAX_KEY_CHARS]}\x01{_digest(key)}"
    return _sortable_number(key)


def _sortable_number(number: float) -> str:
    double = float(number) + 0.0
    residue = number - int(double) if isinstance(number, int) else 0
    bits = int.from_bytes(struct.pack(">d", double))
    bits = _ALL - bits if bits & _SIGN else bits | _SIGN
    return f"{NUMBER}{bits:016x}{residue + _RESIDUE:04x}"


def value_of(text: str) -> Key:
    """Return the value that `sortable` wrote; of a long text, its beginning."""
    kind, rest = text[0], text[1:]
    if kind == BOOLEAN:
        return bytes([int(rest)])
    if kind == TEXT:
        return rest[:MAX_KEY_CHARS]
    bits = int(rest[:_DOUBLE_CHARS], 16)
    bits = bits ^ _SIGN if bits & _SIGN else _ALL - bits
    double: float = struct.unpack(">d", bits.to_bytes(8))[0]
    residue = int(rest[_DOUBLE_CHARS:], 16) - _RESIDUE
    return int(double) + residue if residue else double


def after_prefix(prefix: str) -> str:
    """Return the least text greater than all that begin with `prefix`; "" when there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return ""
    code = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if code == 0xD800 else code)
