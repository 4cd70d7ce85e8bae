"""What one client has still to be told of changes, coalesced: a pending flag for each kind and each URI.

`offer` never waits. `tell` says what is pending, then lets a pause pass in which more may gather: a single change is
told at once, a storm of them a few times. The pause grows while changes go on coming, and starts again when they cease.

Called by: `messages.listens` (a listen stream), `messages.sessions` (a session, whose transport runs `tell`).
Deliberately not: the encoding of notifications.

Laws: however fast things change and however slowly the client reads, each change that concerns it is told after it
happened, and no more is kept than what the client asked for (SUB-8, PUB-1).

Sources: SUB-4..8, PUB-1, STR-6.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mcpd.events import Changed
from mcpd.wire.subscriptions import Pending, notification

LEAST_PAUSE_S = 0.1
"""Two changes of one piece of work are mostly nearer to each other; nobody minds so short a wait."""
MOST_PAUSE_S = 2.0
"""While changes go on coming: an ingest of 500 files is told a handful of times."""

Tell = Callable[[str, dict[str, Any]], Awaitable[None]]


class Notices:
    """The pending changes of one client."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self._news = trio.Event()
        self._ended = trio.Event()

    def offer(self, event: Changed) -> None:
        """Take a change event if it concerns this client. Not a checkpoint."""
        if self._pending.offer(event.kind, event.uri):
            self._news.set()

    def end(self) -> None:
        """Have `tell` say what is pending and return. Not a checkpoint."""
        self._ended.set()
        self._news.set()

    async def tell(self, send: Tell) -> None:
        """Tell of changes through `send` until `end`.

        Cancellation: safe; what was not handed to `send` stays pending for the next who tells.
        """
        pause_s = LEAST_PAUSE_S
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self._tell_pending(send)
            if self._ended.is_set():
                return
            with trio.move_on_after(pause_s):
                await self._ended.wait()
            pause_s = min(2 * pause_s, MOST_PAUSE_S) if self._news.is_set() else LEAST_PAUSE_S

    async def _tell_pending(self, send: Tell) -> None:
        try:
            for kind, uri in self._pending.take():
                await send(*notification(kind, uri))
        except trio.Cancelled:
            self._news.set()
            raise
