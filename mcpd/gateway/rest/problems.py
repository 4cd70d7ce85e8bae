"""Errors as REST clients read them: problem details, one JSON object whatever went wrong.

    {"type": "urn:mcpd:problem:not-found", "title": "Not found", "status": 404, "detail": "...", "code": -32602,
     "requestId": "..."}

with the members of the error's data besides (`reason`, `retryable`, `retryAfterMs`, `path`, ...). `code` is the
JSON-RPC code of the same error over MCP, where there is one.

Called by: `gateway.rest.api`. Pure. Deliberately not: which error it is, which `errors.TABLE` says.

Sources: RFC 9457; surfaces "REST", "Errors".
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from mcpd.errors import WireError, facing

CONTENT_TYPE: Final = (b"content-type", b"application/problem+json")


class Problem(NamedTuple):
    """A status and the body that explains it."""

    status: int
    body: bytes


def of_error(error: WireError, request_id: str) -> Problem:
    """Return what a call that failed with `error` is answered with."""
    row = facing(error)
    return _problem(
        row.rest_status, row.graphql_code, error.message, request_id, {**(error.data or {}), "code": row.code}
    )


def of_refusal(status: int, reason: str, message: str, request_id: str) -> Problem:
    """Return what a request is answered with that was refused before it was a call; `reason` is a word or two."""
    return _problem(status, reason, message, request_id, {})


def _problem(status: int, name: str, detail: str, request_id: str, more: dict[str, Any]) -> Problem:
    words = name.lower().replace("_", " ")
    body = {
        **more,
        "type": f"urn:mcpd:problem:{words.replace(' ', '-')}",
        "title": words.capitalize(),
        "status": status,
        "detail": detail,
        "requestId": request_id,
    }
    return Problem(status, msgspec.json.encode(body))
