"""The `docs:///` scheme: `docs:///NAME/relative/path`, how it is written, compared and shown.

    stored    every byte but letters, digits and `- . _ ~` is percent-encoded, in capitals: the one form that ingest
              writes, so that a file's name that is no UTF-8 comes back as it was
    asked     what clients make of a listed URI or of the template: any of `( ) + & ' @ , = ! [ ] ? :`, spaces and
              letters of any script as they are or encoded in either case, `DOCS:`, dot segments
    shown     decoded text, for people who type it, except for what would mean something else in a template: `%`, `#`,
              `?`, control characters, and bytes that are no UTF-8

Called by: `ingest.sources`, `resources`, the command line. Pure. Deliberately not: the normal form of all other URIs
(`wire.uris`); equal documents are equal there, too.

Laws: total; `canonical` is idempotent, and gives what is stored for every spelling of it.

Sources: RFC 3986 sections 2.1, 5.2.4 and 6.2.2; RFC 6570 section 3.2.3 (reserved expansion).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

SCHEME: Final = "docs:///"

_HIDDEN: Final = re.compile("[\x00-\x1f\x7f%#?/\udc80-\udcff]")
"""Of a decoded part, what stays encoded: see `shown`. The last ones stand for bytes that are no UTF-8."""


def is_document(uri: str) -> bool:
    """True for a URI that only the document store can serve; the document need not exist."""
    return uri[: len(SCHEME)].lower() == SCHEME


def encoded(part: bytes) -> str:
    """Return one part of a path as it is stored."""
    return quote(part, safe="")


def whole(uri: str) -> str:
    """Return the URI of the whole document: without a fragment."""
    return uri.partition("#")[0]


def canonical(uri: str) -> str:
    """Return a document's URI as it is stored, without a fragment; any other text as it is."""
    if not is_document(uri):
        return uri
    kept: list[str] = []
    for part in whole(uri)[len(SCHEME) :].split("/"):
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(stored(part))
    return SCHEME + "/".join(kept)


def spellings(uri: str) -> tuple[str, ...]:
    """Return under which URIs to look for the document: as ingest writes it, and as it was asked for."""
    return tuple(dict.fromkeys((canonical(uri), whole(uri))))


def stored(text: str) -> str:
    """Return what `text`, encoded or not, is within a stored path; slashes separate."""
    parts = text.encode("utf-8", "surrogatepass").split(b"/")
    return "/".join(encoded(unquote_to_bytes(part)) for part in parts)


def shown(uri: str) -> str:
    """Return the path of a document's URI as text; `stored` of it is the path again."""
    parts = map(unquote_to_bytes, uri.removeprefix(SCHEME).split("/"))
    return "/".join(_HIDDEN.sub(_encoded_again, part.decode("utf-8", "surrogateescape")) for part in parts)


def _encoded_again(found: re.Match[str]) -> str:
    return encoded(found[0].encode("utf-8", "surrogateescape"))
