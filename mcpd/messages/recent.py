"""What has changed lately, for a session that learns late that it should have been told.

Another process has committed a subscription and answered its client; that reaches this process a moment later, and an
event may have come in between. Whoever takes such a subscription asks here.

Called by: `messages.sessions`, `messages.interprocess`. Deliberately not: a log of events; what is older than `KEEP_S`
is no longer known.

Laws: bounded in number and age (law 8); when more has come than is kept, anything may have changed.

Sources: STR-6, PUB-1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import trio

from mcpd.events import Changed
from mcpd.messages.session import Session
from mcpd.wire.subscriptions import watched_of

KEEP_S: Final = 5.0
"""Many times what a message takes from one process to another."""
MAX_EVENTS: Final = 256


class RecentEvents:
    """The resources that have changed in the last `KEEP_S`. Nothing here is a checkpoint."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, str | None]] = deque(maxlen=MAX_EVENTS)

    def add(self, event: Changed) -> None:
        """Take an event that has been told to all who had asked for it."""
        if event.kind == "resource":
            self._events.append((trio.current_time(), event.uri))

    def tell(self, session: Session, watched: Mapping[str, str]) -> None:
        """Tell a session, which watches these from now on, what of them has changed lately."""
        horizon = trio.current_time() - KEEP_S
        late = [uri for at, uri in self._events if at >= horizon]
        if len(late) == MAX_EVENTS:
            late.append(None)
        for spelt in {spelt: None for uri in late for spelt in watched_of(uri, watched)}:
            session.tell(Changed("resource", spelt))
