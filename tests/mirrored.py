"""What a client writes into the headers that mirror members of its body.

Used by the tests that play a client over HTTP. The server only reads such headers (`mcpd.wire.headers.decode_value`).

Sources: MCP 2026-07-28 transports (HDR-6).
"""

from __future__ import annotations

import base64


def encode_value(text: str) -> str:
    """Return `text` as a header value: as it is where that is unambiguous, else in Base64 (HDR-6).

    Raises: UnicodeEncodeError for a lone surrogate.
    """
    marked = text.startswith("=?base64?") and text.endswith("?=")
    plain = text.isascii() and (text.isprintable() or text.replace("\t", " ").isprintable())
    if not marked and plain and text == text.strip(" \t"):
        return text
    return "=?base64?" + base64.b64encode(text.encode("utf-8")).decode("ascii") + "?="
