"""One client that has initialized, as this process knows it: its state, its streams, and what it has in flight.

A session over HTTP has a `record` in the shared store besides (`messages.records`), which may be newer than what is
known here; `take` brings it up to date. A session of a connection has none.

Called by: `messages.sessions`, which makes and ends it; the transports. Deliberately not: the store, or other sessions.

Laws: ending a session cancels and releases everything in it (SES-4, S2C-3); nobody is told of lists before
`notifications/initialized` (INI-4).

Sources: MCP 2025-11-25 lifecycle; INI-4, SES-4, STR-6.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mcpd.errors import Reason
from mcpd.events import Changed
from mcpd.messages.inflight import InFlight
from mcpd.messages.notices import Notices
from mcpd.messages.peer import Peer
from mcpd.messages.records import state_of
from mcpd.messages.streams import EventStream
from mcpd.storage.session_records import SessionRecord
from mcpd.wire.call import Principal
from mcpd.wire.session import SessionState
from mcpd.wire.subscriptions import Pending

_KINDS = frozenset(("tools", "prompts", "resources"))


class Session:
    """One client that has initialized."""

    def __init__(self, key: str, state: SessionState, principal: Principal, peer: Peer) -> None:
        self.key = key
        self.state = state
        self.principal = principal
        self.peer = peer
        self.notices = Notices(Pending(_KINDS, state.subscriptions))
        """Changes to be told; the transport runs `tell`."""
        self.calls = InFlight(max_items=0)
        self.hang_up: Callable[[], None] | None = None
        """Ends the connection that carries the session; None where sessions outlive connections (HTTP)."""
        self.streams: dict[str, EventStream] = {}
        self.remote: set[EventStream] = set()
        """Streams of other processes that are read here."""
        self.read_at_s = 0.0
        """When somebody came last to read here what belongs to no call, by the machine's clock."""
        self.last_used = trio.current_time()
        self.renewed = self.last_used
        """What the store knows of that."""
        self.told_busy = 0.0
        """Until when the store believes that it is in use."""
        self.record: SessionRecord | None = None
        """As it is known to be stored; None for a session that is in no store."""
        self.ended = False
        self.end_reason: Reason = "explicit"
        """Why its calls have no answer."""

    def take(self, record: SessionRecord) -> dict[str, str]:
        """Take over what is stored, unless it is older than what is known; return what is watched only from now on.

        Not a checkpoint.
        """
        if self.record is None or self.record.rev >= record.rev:
            return {}
        watched = {form: uri for form, uri in record.subscriptions.items() if form not in self.state.subscriptions}
        self.record = record
        self.state.adopt(state_of(record))
        if record.initialized:
            self.initialized()
        return watched

    def note_use(self, now: float) -> bool:
        """Tell whether the store should hear of a use; a session in use is used now."""
        in_use = self.in_use
        if in_use:
            self.last_used = now
        return in_use or self.last_used > self.renewed

    def initialized(self) -> None:
        """Take `notifications/initialized`. Not a checkpoint."""
        self.state.initialized = True
        self.peer.ready.set()

    @property
    def in_use(self) -> bool:
        """True while its connection is open, a call runs or somebody reads a stream."""
        used = self.hang_up is not None or len(self.calls) > 0 or bool(self.remote)
        return used or any(stream.attended for stream in self.streams.values())

    def tell(self, event: Changed) -> None:
        """Pass a change event on if this client asked for it. Not a checkpoint."""
        if event.kind == "resource" or self.state.initialized:
            self.notices.offer(event)

    def end(self, reason: Reason) -> None:
        """Cancel everything this session has in flight and release whoever waits for its client."""
        self.ended, self.end_reason = True, reason
        self.calls.end(reason)
        self.peer.leave()
        for stream in (*self.streams.values(), *self.remote):
            stream.finish()
        if self.hang_up is not None and reason == "admin":
            self.hang_up()
