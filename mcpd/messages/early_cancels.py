"""Cancels that have come before their calls.

A client sends each message of a session by a request of its own, so that a cancel can overtake its call: on another
connection, or on the way through another process. A call whose cancel is known by the time it begins is never run.

Called by: `messages.interprocess`, `messages.sessions`. Deliberately not: connections, on which nothing overtakes.

Laws: bounded in number and age (law 8); the oldest make way. An id is used once in a session (RPC-3), so that a cancel
which came too late, not too early, meets no other call.

Sources: CAN-3, RPC-3.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import trio

from mcpd.wire.call import RequestId

KEEP_S: Final = 2.0
"""Many times what a message takes from one process to another."""
MAX_ITEMS: Final = 1_000


class EarlyCancels:
    """By session key and id. Nothing here is a checkpoint."""

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[str, RequestId], float] = OrderedDict()

    def note(self, session: str, request_id: RequestId) -> None:
        """Remember the cancel of a call that is not here."""
        self._until[session, request_id] = trio.current_time() + KEEP_S
        self._until.move_to_end((session, request_id))
        if len(self._until) > MAX_ITEMS:
            self._until.popitem(last=False)

    def take(self, session: str, request_id: RequestId) -> bool:
        """Tell, once, whether the call that begins under this id has been cancelled."""
        return bool(self._until) and self._until.pop((session, request_id), 0.0) > trio.current_time()
