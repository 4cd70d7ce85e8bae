"""The one call that every benchmark makes: `tools/call` of `echo`, as 2026-07-28 wants it, and how its reply is judged.

Called by: `lanes` (bytes to send), `servers` (is it up?), `disconnect` (the same envelope around another tool),
`core`. Pure: bytes and values only.

Law: a reply counts only when it is a JSON-RPC result for the same id whose content is exactly one text with exactly
the argument. `structuredContent`, `_meta` and the like may differ from server to server; the content may not.

Sources: MCP 2026-07-28 transports (routing headers), tools (`CallToolResult`).
"""

from __future__ import annotations

import json
from typing import Any

VERSION = "2026-07-28"
TEXT = "The quick brown fox jumps over the lazy dog, and the dog is fine."
_PREFIX = "io.modelcontextprotocol/"
_META = {
    _PREFIX + "protocolVersion": VERSION,
    _PREFIX + "clientInfo": {"name": "mcpd-bench", "version": "1"},
    _PREFIX + "clientCapabilities": {},
}


class WrongReply(Exception):
    """A server did not give the reply that everybody must give."""


def body(tool: str = "echo", arguments: dict[str, Any] | None = None, request_id: int = 1) -> bytes:
    """The JSON-RPC request as compact JSON."""
    params = {"name": tool, "arguments": arguments or {"text": TEXT}, "_meta": _META}
    request = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    return json.dumps(request, separators=(",", ":")).encode()


def http(port: int, content: bytes, *, tool: str = "echo", path: str = "/mcp") -> bytes:
    """`content` as an HTTP/1.1 POST with the routing headers."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {VERSION}\r\n"
        f"Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def check(reply: bytes, request_id: int = 1) -> None:
    """Judge a reply body.

    Raises:
        WrongReply: it is anything but the echo.
    """
    try:
        message = json.loads(reply)
        answered = message["id"], message["result"]["content"], message["result"].get("isError", False)
    except (ValueError, TypeError, KeyError) as error:
        raise WrongReply(f"no result: {reply[:400]!r}") from error
    if answered != (request_id, [{"type": "text", "text": TEXT}], False):
        raise WrongReply(f"not the echo: {reply[:400]!r}")
