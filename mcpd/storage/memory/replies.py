"""What is left of finished replies, in memory: the contract in plain Python.

Called by: `storage.memory.sessions`, which hands in what lies on its shelf and forgets it with the session.
Deliberately not: anything that outlives the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import trio

from mcpd.storage.replies import MAX_REPLY_BYTES, MAX_SESSION_BYTES, MAX_SESSION_REPLIES


class KeptReply(NamedTuple):
    """One rest, and when it ends, in seconds since the epoch."""

    data: bytes
    expires_s: float


class Shelf(Protocol):
    """Where sessions are, and what is kept of them: session -> stream -> rest."""

    replies: dict[str, dict[str, KeptReply]]

    def find(self, key: str) -> object | None:
        """Return a session that has not ended."""

    @property
    def clock(self) -> Callable[[], float]:
        """Gives seconds since the epoch."""


class MemoryReplies:
    """Implements `Replies`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def keep(self, session: str, stream: str, data: bytes, ttl_s: float) -> bytes | None:
        """See `Replies`."""
        await trio.lowlevel.checkpoint()
        if self._shelf.find(session) is None or len(data) > MAX_REPLY_BYTES:
            return None
        now_s = self._shelf.clock()
        kept = {name: one for name, one in self._shelf.replies.get(session, {}).items() if one.expires_s > now_s}
        if stream not in kept:
            _make_room(kept, len(data))
            kept[stream] = KeptReply(data, now_s + ttl_s)
        self._shelf.replies[session] = kept
        return kept[stream].data

    async def get(self, session: str, stream: str) -> bytes | None:
        """See `Replies`."""
        await trio.lowlevel.checkpoint()
        found = self._shelf.replies.get(session, {}).get(stream)
        return None if found is None or found.expires_s <= self._shelf.clock() else found.data


def _make_room(kept: dict[str, KeptReply], size: int) -> None:
    over = sum(len(one.data) for one in kept.values()) + size - MAX_SESSION_BYTES
    while over > 0 or len(kept) >= MAX_SESSION_REPLIES:
        over -= len(kept.pop(next(iter(kept))).data)
