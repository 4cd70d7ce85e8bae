"""THE table: which method exists in which era, and what it needs.

A method's legality is a row here and nowhere else (law 4). The ladder asks `lookup`, the transports ask the row for its
target header, the Message Manager for its scope and kind, the service for its capability.

Called by: `wire.envelope`, `wire.session`, `messages`, `service`. Calls nothing.

Sources: MCP 2026-07-28 schema and each older one (protocol sections 2.1, 3.8; HDR-4; MRT-1; RES-3; TSK-11).
"""

from __future__ import annotations

import msgspec

from mcpd.wire.versions import is_stateless


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    stateless: bool = False
    stateful: bool = False
    capability: str | None = None
    """Server capability without which the method does not exist (step 10 of the ladder)."""
    target: str | None = None
    """Parameter mirrored by the `Mcp-Name` header (HDR-4). Of an extension's method it may be missing: the extension
    obliges clients to send it, for whatever routes by it, and no server to refuse one that does not (FastMCP 4.1)."""
    scope: str = "read"
    """Scope that a key needs."""
    inputs: bool = False
    """May answer `input_required` (MRT-1)."""
    stream: bool = False
    """Runs until its client or the server ends it: no deadline, its own limit."""
    extension: str | None = None
    """Extension without which the method does not exist."""
    ours: bool = False
    """MCP has no such method: of transports which are not MCP's, and found by no MCP client."""
    session: bool = False
    """Changes the state of a session rather than asking the service."""


OTHERS = frozenset({"rest", "graphql"})
"""Transports that are not MCP's: they have the stateless methods, and those of our own."""

TASKS = "io.modelcontextprotocol/tasks"

_ROWS = (
    Method(name="server/discover", stateless=True),
    Method(name="subscriptions/listen", stateless=True, stream=True),
    Method(name="tools/list", stateless=True, stateful=True, capability="tools"),
    Method(
        name="tools/call", stateless=True, stateful=True, capability="tools", target="name", scope="call", inputs=True
    ),
    Method(name="resources/list", stateless=True, stateful=True, capability="resources"),
    Method(name="resources/templates/list", stateless=True, stateful=True, capability="resources"),
    Method(
        name="resources/read",
        stateless=True,
        stateful=True,
        capability="resources",
        target="uri",
        inputs=True,
    ),
    Method(name="prompts/list", stateless=True, stateful=True, capability="prompts"),
    Method(name="prompts/get", stateless=True, stateful=True, capability="prompts", target="name", inputs=True),
    Method(name="completion/complete", stateless=True, stateful=True, capability="completions"),
    Method(name="tasks/get", stateless=True, target="taskId", scope="call", extension=TASKS),
    Method(name="tasks/update", stateless=True, target="taskId", scope="call", extension=TASKS),
    Method(name="tasks/cancel", stateless=True, target="taskId", scope="call", extension=TASKS),
    Method(name="dev.mcpd/calls/list", ours=True),
    Method(name="dev.mcpd/calls/cancel", ours=True, scope="call"),
    Method(name="initialize", stateful=True, session=True),
    Method(name="ping", stateful=True, session=True),
    Method(name="logging/setLevel", stateful=True, capability="logging", session=True),
    Method(name="resources/subscribe", stateful=True, capability="resources", session=True),
    Method(name="resources/unsubscribe", stateful=True, capability="resources", session=True),
)

TABLE: dict[str, Method] = {row.name: row for row in _ROWS}
_STATELESS = {row.name: row for row in _ROWS if row.stateless}
_STATEFUL = {row.name: row for row in _ROWS if row.stateful}
_OURS = {row.name: row for row in _ROWS if row.stateless or row.ours}

STATELESS_ONLY = frozenset(row.name for row in _ROWS if row.stateless and not row.stateful)
"""Methods whose bare use means a stateless request that forgot its markers (ERA-8)."""


def lookup(method: str, version: str, transport: str = "") -> Method | None:
    """Return the row of `method` if it exists in the era of `version` for clients of `transport`."""
    if transport in OTHERS:
        return _OURS.get(method)
    return (_STATELESS if is_stateless(version) else _STATEFUL).get(method)
