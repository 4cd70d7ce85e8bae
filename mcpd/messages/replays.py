"""What is kept of streams that nobody reads, bounded in bytes: of one session, and of all together.

A reply whose client has lost its connection waits to be fetched, answers included, and an answer may be megabytes long.
Every stream says when what it holds for nobody may have changed (`update`). When a bound is passed, whole streams lose
what they hold, the oldest first: of the session that holds too much, or of whoever holds most of all. A client that
resumes a stream that was emptied is told to send its call again.

Called by: `messages.sessions`. Deliberately not: what a reader is being sent, which its connection bounds.

Laws: bytes are bounded as well as items; the policy is `unread` in `mcpd_outbox_dropped_total` (law 8).

Sources: RSM-5, STR-3, SEC-4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mcpd.messages.streams import EventStream

MAX_BYTES = 64 * 1024 * 1024
"""Of all streams that nobody reads: some hundred replies of usual size, and no danger to a small machine."""
MAX_SESSION_BYTES = 8 * 1024 * 1024
"""Of one session's: two of the largest messages that a client may send."""


class Replays:
    """The ledger of unread bytes. Nothing here is a checkpoint."""

    def __init__(
        self,
        on_drop: Callable[[int], None],
        *,
        max_bytes: int = MAX_BYTES,
        max_session_bytes: int = MAX_SESSION_BYTES,
    ) -> None:
        self._on_drop = on_drop
        self._max_bytes = max_bytes
        self._max_session_bytes = max_session_bytes
        self._held: dict[EventStream, int] = {}
        self._by_owner: Counter[str] = Counter()
        self._by_share: Counter[str] = Counter()
        self.total_bytes = 0

    def update(self, stream: EventStream) -> None:
        """Count a stream anew, and make room if there is too much."""
        if stream.attended and stream not in self._held:
            return
        self._count(stream, 0 if stream.attended else stream.held_bytes)
        while self._by_owner[stream.owner] > self._max_session_bytes:
            self._empty(next(held for held in self._held if held.owner == stream.owner))
        while self.total_bytes > self._max_bytes:
            (share, _), *_ = self._by_share.most_common(1)
            self._empty(next(held for held in self._held if held.share == share))

    def forget(self, stream: EventStream) -> None:
        """Take out a stream that is no more."""
        self._count(stream, 0)

    def _empty(self, stream: EventStream) -> None:
        self._on_drop(stream.empty())
        self._count(stream, 0)

    def _count(self, stream: EventStream, held: int) -> None:
        change = held - self._held.get(stream, 0)
        if held:
            self._held[stream] = held
        else:
            self._held.pop(stream, None)
        self.total_bytes += change
        for counter, name in ((self._by_owner, stream.owner), (self._by_share, stream.share)):
            counter[name] += change
            if not counter[name]:
                del counter[name]
