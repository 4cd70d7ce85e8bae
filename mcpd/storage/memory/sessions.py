"""Sessions in memory: the contract in plain Python, for servers without a data folder, tests, and as an oracle.

A `SessionShelf` is what several processes share, as they share a data folder; each `MemorySessions` is one's view of
it. Nothing survives the process, so what was committed is kept as long as anything.

Called by: `storage.open`, tests. Deliberately not: bounded by itself, which `SessionRoom` is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import trio

from mcpd.storage.memory.replies import KeptReply, MemoryReplies
from mcpd.storage.session_records import SessionRecord, SessionRoom, Use, encode, giving_way, placed, renewed, retimed


class SessionShelf:
    """The sessions of all processes. `clock` gives seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.records: dict[str, SessionRecord] = {}
        self.replies: dict[str, dict[str, KeptReply]] = {}
        """What is left of streams, by session and name."""

    def find(self, key: str) -> SessionRecord | None:
        """Return a session that has not expired."""
        record = self.records.get(key)
        return None if record is None or record.expires_s <= self.clock() else record

    def forget(self, key: str) -> None:
        """Forget a session and what is kept of it; an unknown one is no error."""
        self.records.pop(key, None)
        self.replies.pop(key, None)

    def purge(self) -> int:
        """Forget what has expired; return how many."""
        now_s = self.clock()
        expired = [key for key, record in self.records.items() if record.expires_s <= now_s]
        for key in expired:
            self.forget(key)
        for kept in self.replies.values():
            for stream in [stream for stream, one in kept.items() if one.expires_s <= now_s]:
                del kept[stream]
        return len(expired)


class MemorySessions:
    """Implements `SessionStore`."""

    def __init__(self, shelf: SessionShelf | None = None) -> None:
        self._shelf = shelf or SessionShelf()
        self.replies = MemoryReplies(self._shelf)

    async def create(self, record: SessionRecord, use: Use, room: SessionRoom) -> list[str]:
        """See `SessionStore`."""
        await trio.lowlevel.checkpoint()
        encode(record)
        self._shelf.purge()
        now_s, records = self._shelf.clock(), self._shelf.records
        places = [room.place(one.key, one.share, one.used_s, one.busy_s, now_s) for one in records.values()]
        gone = giving_way([*room.elsewhere(now_s), *places], record.share, room)
        for key in gone:
            self._shelf.forget(key)
        records[record.key] = placed(record, use, now_s)
        return gone

    async def get(self, key: str) -> SessionRecord | None:
        """See `SessionStore`."""
        await trio.lowlevel.checkpoint()
        return self._shelf.find(key)

    async def replace(self, record: SessionRecord) -> SessionRecord | None:
        """See `SessionStore`."""
        await trio.lowlevel.checkpoint()
        encode(record)
        stored = self._shelf.find(record.key)
        if stored is None or stored.rev != record.rev - 1:
            return stored
        after = self._shelf.records[record.key] = retimed(record, stored)
        return after

    async def renew(self, uses: Mapping[str, Use]) -> set[str]:
        """See `SessionStore`."""
        await trio.lowlevel.checkpoint()
        gone = set()
        for key, use in uses.items():
            stored = self._shelf.find(key)
            if stored is None:
                gone.add(key)
            else:
                self._shelf.records[key] = renewed(stored, use, self._shelf.clock())
        return gone

    async def remove(self, keys: Collection[str]) -> None:
        """See `SessionStore`."""
        await trio.lowlevel.checkpoint()
        for key in keys:
            self._shelf.forget(key)

    async def purge(self) -> int:
        """See `SessionStore`."""
        await trio.lowlevel.checkpoint()
        return self._shelf.purge()

    async def count(self) -> int:
        """See `SessionStore`."""
        await trio.lowlevel.checkpoint()
        return len(self._shelf.records)
