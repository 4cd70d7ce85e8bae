"""The one value that every transport hands to the Message Manager.

A transport decodes its own format (a POST, a frame, a line, a REST path) into a `Call`; from there on nothing knows
which transport it was. `Principal` is who asks. Both are plain frozen values: no clock, no I/O.

Called by: `wire.envelope`, `wire.session` and the transports, which build it; `messages`, `service`, the managers,
which read it. Deliberately not: a cancel scope, a deadline or anything that lives only while the call runs.

Sources: MCP 2026-07-28 (STA-1): a stateless call carries all that its interpretation needs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mcpd.wire.versions import is_stateless

RequestId = str | int
MAX_ID_CHARS = 4096
"""Of an id or progress token that is a string: it is kept and echoed."""
_LEAST, _MOST = -(2**63), 2**64 - 1


def is_request_id(value: Any) -> bool:
    """True for what may be an id or a progress token: a string of bounded length, or an integer of 64 bits."""
    if type(value) is str:
        return len(value) <= MAX_ID_CHARS
    return type(value) is int and _LEAST <= value <= _MOST


class Principal(msgspec.Struct, frozen=True):
    """Who makes a call. `id` binds cursors, sealed state, sessions and cached results; no other caller is shown it."""

    id: str
    """Names the key itself: a key made anew under an old name is somebody else."""
    scopes: frozenset[str]
    unbounded: bool = False
    """May do everything, also what asks for a scope that no key has."""
    name: str = ""
    """What its owner calls the key: for logs and authors, never for decisions."""
    address: str = ""
    """Where a caller without a key comes from; "" where there are keys."""

    @property
    def share(self) -> str:
        """Whose share of a limited place this caller uses: its key's, or its address's where there are no keys."""
        return self.id or self.address

    def held(self, scopes: frozenset[str]) -> frozenset[str]:
        """Return those of `scopes` that this caller has."""
        return scopes if self.unbounded else scopes & self.scopes

    def has(self, scope: str) -> bool:
        """True when this caller has `scope`."""
        return self.unbounded or scope in self.scopes


ANONYMOUS = Principal("", frozenset(), unbounded=True)
"""The caller on a server without keys: everything is allowed to whoever can reach it."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, free of its transport."""

    method: str
    params: dict[str, Any]
    version: str
    """Protocol revision that rules this call (`wire.versions`)."""
    transport: str
    """Metric label: `http`, `websocket`, `stdio`, `rest`, `graphql`."""
    id: RequestId | None = None
    """JSON-RPC id as sent, for echoing; never a key across connections (RPC-5)."""
    principal: Principal = ANONYMOUS
    capabilities: dict[str, Any] = {}
    """ClientCapabilities of this request (stateless) or of its session (stateful)."""
    log_level: str | None = None
    """Lowest level of log notifications that the caller wants; None: none at all."""
    progress_token: str | int | None = None
    timeout_ms: int | None = None
    """The client's own budget, `_meta["dev.mcpd/timeoutMs"]`; None: not given."""
    request_id: str = ""
    """`X-Request-Id`: names this call in logs."""
    traceparent: str | None = None
    client: str = ""
    """What the client's program calls itself; of any length."""
    session: str | None = None
    """Key of the stateful session or connection that owns the call."""
    idempotency_key: str | None = None
    """`_meta["dev.mcpd/idempotencyKey"]`: a call with the same key has the same outcome; None: not given."""
    task: str | None = None
    """Id of the task whose work this call is; None: it has a client that waits."""
    deferrable: bool = False
    """The running function may still turn this call into a task (`Context.start_task`)."""

    @property
    def stateless(self) -> bool:
        """True for a 2026-07-28 call."""
        return is_stateless(self.version)


def target_of(params: dict[str, Any]) -> str:
    """Return what a message is about, of any length: a tool or prompt, a URI, a task, or what is to be completed."""
    target = params.get("name")
    if target is None:
        target = params.get("uri")
        if target is None:
            target = params.get("taskId")
    if type(target) is str:
        return target
    ref = params.get("ref")
    return target_of({"name": ref.get("name"), "uri": ref.get("uri")}) if type(ref) is dict else ""
