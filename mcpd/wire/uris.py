"""URIs in RFC 3986 normal form: two spellings that mean the same resource become the same text.

A client rarely sends back the URI that it was listed: its URL class lowers the scheme and the host, encodes what is not
ASCII, turns a host into punycode or adds the slash behind it; an expanded template encodes every reserved character.
`normalise` undoes these choices; whoever looks a URI up, compares or indexes it does so by `normalise(uri)`, and shows
the spelling that was declared or asked for. `tidy` changes only how characters are written; templates match on it, and
on `with_normal_authority` or `with_normal_scheme`.

Called by: `resources`, `storage`, `ingest`, `wire.subscriptions`, `messages.sessions`. Pure. Deliberately not: checks
of what a URI may be (`resources.templates.is_uri`).

Laws: total (any text has a normal form, a URI or not), idempotent, linear in time, and ASCII unless the scheme is not.
Reserved characters of a path that separate nothing (`( ) + & ' @ , = ! : ; $ *`) mean themselves, encoded or not: the
schemes are ours, so RFC 3986 section 2.2 leaves that to us. In a query and a fragment they stay as they are. No Unicode
normalisation: names differ when their bytes do.

Sources: RFC 3986 sections 2, 3, 5.2.4, 6.2.2 and 6.2.3; RFC 3987 section 3.1; RFC 3492; the WHATWG URL standard (what
clients do).
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final
from urllib.parse import unquote_to_bytes

_PARTS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_NORMAL: Final = re.compile(r"(?!file:)[a-z][a-z0-9+\-]*://(?!xn--)[a-z0-9_]*(?:/[A-Za-z0-9_~\-][A-Za-z0-9_~\-.]*)+")
"""Most URIs: normal as they stand. A narrow test, so that they cost one match."""
_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN_IN_PATH: Final = _UNRESERVED | frozenset(b"!$&'()*+,;=:@")
_UNTIDY: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")
_BEYOND_ASCII: Final = re.compile(r"(?:%[89A-F][0-9A-F])+")
_BRACKETS: Final = re.compile(r"[\[\]]")
_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


def normalise(uri: str) -> str:
    """Return the normal form of `uri`: equal for all spellings of one URI. A text without a scheme is only tidied."""
    if _NORMAL.fullmatch(uri):
        return uri
    found = _PARTS.fullmatch(uri)
    if found is None:
        return tidy(uri)
    scheme, authority, path, query, fragment = found.groups("")
    scheme = scheme.lower()
    path = _BRACKETS.sub(_encode, _recode(path, _PLAIN_IN_PATH))
    if found[2] is not None or path.startswith("/"):
        path = _without_dots(path)
    where = "" if found[2] is None else "//" + _authority(scheme, authority)
    return f"{scheme}:{where}{path}{tidy(query)}{tidy(fragment)}"


def with_normal_authority(uri: str) -> str:
    """Return `uri` with its scheme and authority in normal form and the rest tidied: nothing is decoded or removed."""
    found = _PARTS.fullmatch(uri)
    if found is None or found[2] is None:
        return with_normal_scheme(uri)
    scheme = found[1].lower()
    return f"{scheme}://{_authority(scheme, found[2])}{tidy(uri[found.end(2) :])}"


def with_normal_scheme(uri: str) -> str:
    """Return `uri` tidied, its scheme in small letters; an authority, which may hold a variable, keeps its letters."""
    scheme, colon, rest = uri.partition(":")
    return tidy(f"{scheme.lower()}{colon}{rest}")


def tidy(text: str) -> str:
    """Return a part of a URI with each character written in one way.

    Encoded letters, digits and `- . _ ~` become themselves, other triplets get capitals; what may not stand in a URI
    (spaces, quotes, anything that is not ASCII, a lone `%`) is encoded as UTF-8. Reserved characters stay as they are.
    """
    return _recode(text, _UNRESERVED)


def _recode(text: str, plain: frozenset[int]) -> str:
    return _ENCODED.sub(partial(_decode, plain), _UNTIDY.sub(_encode, text))


def _decode(plain: frozenset[int], found: re.Match[str]) -> str:
    octet = int(found[1], 16)
    return chr(octet) if octet in plain else found[0].upper()


def _encode(found: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in found[0].encode("utf-8", "surrogatepass"))


def _authority(scheme: str, authority: str) -> str:
    user, at, address = tidy(authority).rpartition("@")
    host, colon, port = address.rpartition(":")
    if not colon or port.strip("0123456789") or (":" in host and not host.endswith("]")):
        host, port = address, ""
    if port == _PORTS.get(scheme):
        port = ""
    host = ".".join(_label(label) for label in _BEYOND_ASCII.sub(_read, host).lower().split("."))
    return f"{user}{at}{tidy(host)}{':' if port else ''}{port}"


def _read(found: re.Match[str]) -> str:
    try:
        return unquote_to_bytes(found[0]).decode()
    except UnicodeError:
        return found[0]


def _label(label: str) -> str:
    """Write one label of a host in Unicode, which `tidy` then encodes: `xn--caf-dma` is `caf%C3%A9`."""
    if not label.startswith("xn--") or len(label) > 63:
        return label
    try:
        return label[4:].encode("ascii").decode("punycode").lower()
    except UnicodeError:
        return label


def _without_dots(path: str) -> str:
    """Remove `.` and `..` from an absolute path (RFC 3986 section 5.2.4); an empty one is `/`."""
    kept: list[str] = []
    steps = path.split("/")[1:]
    for step in steps:
        if step == "..":
            del kept[-1:]
        elif step != ".":
            kept.append(step)
    if steps and steps[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
