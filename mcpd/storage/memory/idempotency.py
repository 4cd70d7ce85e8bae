"""Idempotency keys in memory: the contract in plain Python, for tests, and an oracle for the other backends.

A `KeyShelf` is what several processes share; each `MemoryIdempotency` is one process's view. Nothing survives.

Called by: tests. Deliberately not: bounded by itself, which `Room` is for.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from mcpd.storage.shared import Begun, Busy, Claim, Kept, Mismatch, New, NoRoom, Room


@dataclass
class _Record:
    share: str
    digest: str
    holder: str
    expires_s: float
    outcome: bytes | None = None


class KeyShelf:
    """The keys of all processes, and which of these are alive. `clock` gives seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.records: dict[str, _Record] = {}
        self.alive: set[str] = set()

    def sweep(self) -> None:
        """Forget what has expired."""
        now_s = self.clock()
        self.records = {name: record for name, record in self.records.items() if now_s < record.expires_s}


class MemoryIdempotency:
    """Implements `Idempotency` for one process. Resources: `close`, or the process goes on being alive."""

    def __init__(self, shelf: KeyShelf) -> None:
        self._shelf = shelf
        self._epoch = secrets.token_hex(12)
        shelf.alive.add(self._epoch)

    def close(self) -> None:
        """The process ends, in order or not. Idempotent."""
        self._shelf.alive.discard(self._epoch)

    async def begin(self, claim: Claim, room: Room, hold_s: float) -> Begun:
        """See `Idempotency`."""
        await trio.lowlevel.checkpoint()
        self._shelf.sweep()
        holder = f"{self._epoch}.{claim.token}"
        record = self._shelf.records.get(claim.id)
        if record is None:
            self._check_room(claim, room)
        elif record.outcome is not None:
            return Kept(record.outcome) if record.digest == claim.digest else Mismatch()
        elif record.holder.partition(".")[0] in self._shelf.alive and record.holder != holder:
            return Busy(record.holder) if record.digest == claim.digest else Mismatch()
        self._shelf.records[claim.id] = _Record(claim.share, claim.digest, holder, self._shelf.clock() + hold_s)
        return New(holder)

    def _check_room(self, claim: Claim, room: Room) -> None:
        records = self._shelf.records.values()
        if sum(record.share == claim.share for record in records) >= room.most_of_share:
            raise NoRoom("share", room.most_of_share, "idempotency key")
        if len(records) >= room.most:
            raise NoRoom("all", room.most, "idempotency key")

    async def finish(self, claim: Claim, holder: str, outcome: bytes, ttl_s: float) -> bool:
        """See `Idempotency`."""
        await trio.lowlevel.checkpoint()
        self._shelf.sweep()
        record = self._shelf.records.get(claim.id)
        if record is None or record.holder != holder:
            return False
        record.outcome, record.expires_s = outcome, self._shelf.clock() + ttl_s
        return True

    async def release(self, claim: Claim, holder: str) -> None:
        """See `Idempotency`."""
        await trio.lowlevel.checkpoint()
        record = self._shelf.records.get(claim.id)
        if record is not None and record.holder == holder and record.outcome is None:
            del self._shelf.records[claim.id]

    async def purge(self) -> int:
        """See `Idempotency`."""
        await trio.lowlevel.checkpoint()
        self._shelf.sweep()
        return len(self._shelf.records)
