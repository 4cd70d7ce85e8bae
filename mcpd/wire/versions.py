"""Protocol revisions: the only file in which a version string stands.

Two eras share every transport. `stateless` is 2026-07-28: each request carries its own version and capabilities.
`stateful` is everything older: an `initialize` handshake opens a session that remembers them. What differs between the
stateful revisions is a set of named abilities here, so that the rest of the code asks `can(version, "batch")` and never
compares dates.

Called by: every other file of `wire`, the transports, `service`. Calls nothing.

Sources: MCP specification, the "key changes" of each revision (ERA-1, INI-2, DIS-2, table 3.9).
"""

from __future__ import annotations

STATELESS = "2026-07-28"
STATEFUL = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Newest first."""

SUPPORTED_STATELESS = [STATELESS]
"""What `server/discover` lists and `-32022` offers (DIS-2)."""

HEADERLESS = "2025-03-26"
"""Assumed for a stateful HTTP request with neither version header nor session (ERA-4)."""

_SINCE = {
    "annotations": "2025-03-26",
    "audio": "2025-03-26",
    "progress_message": "2025-03-26",
    "completions": "2025-03-26",
    "title": "2025-06-18",
    "structured": "2025-06-18",
    "resource_link": "2025-06-18",
    "elicitation": "2025-06-18",
    "icons": "2025-11-25",
    "priming": "2025-11-25",
}


def is_stateless(version: str) -> bool:
    """True for a revision whose requests carry their own context."""
    return version == STATELESS


def can(version: str, ability: str) -> bool:
    """True when `version` has `ability`, a key of the table above or `batch`."""
    if ability == "batch":
        return version == HEADERLESS
    return version >= _SINCE[ability]


def negotiate(requested: str) -> str:
    """Return the revision to answer an `initialize` with: the requested one, or the newest stateful one (INI-2)."""
    return requested if requested in STATEFUL else STATEFUL[0]
