"""Call records in memory: the contract in plain Python, for tests, and an oracle for the other backends.

A `RecordShelf` is what several processes share. Nothing survives.

Called by: tests. Deliberately not: bounded by itself, which `prune` is for.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from mcpd.storage.records import (
    MAX_PAGE_ITEMS,
    Keep,
    Page,
    Record,
    Wanted,
    bound_of,
    bounded,
    checked,
    page_of,
)

RecordShelf = dict[str, Record]


class MemoryRecords:
    """Implements `Records`."""

    def __init__(self, shelf: RecordShelf | None = None) -> None:
        self.shelf: RecordShelf = {} if shelf is None else shelf

    async def add(self, records: Sequence[Record]) -> None:
        """See `Records`."""
        await trio.lowlevel.checkpoint()
        for record in records:
            self.shelf.setdefault(record.id, record)

    async def page(self, wanted: Wanted, cursor: str | None = None, limit: int = MAX_PAGE_ITEMS) -> Page:
        """See `Records`."""
        await trio.lowlevel.checkpoint()
        behind, limit = checked(cursor), bounded(limit)
        ordered = sorted(self.shelf.values(), key=lambda record: record.id, reverse=True)
        fitting = [one for one in ordered if (behind is None or one.id < behind) and wanted.fits(one)]
        return page_of(fitting[: limit + 1], limit)

    async def prune(self, keep: Keep) -> int:
        """See `Records`."""
        await trio.lowlevel.checkpoint()
        ids = sorted(self.shelf, reverse=True)
        calls, refused = ([one for one in ids if self.shelf[one].refused is kind] for kind in (False, True))
        kept = {*calls[: keep.most], *refused[: keep.most_refused]}
        gone = [one for one in ids if one not in kept or one < bound_of(keep.since_s)]
        for one in gone:
            del self.shelf[one]
        return len(gone)
