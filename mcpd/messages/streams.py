"""The replies of one stateful HTTP session as resumable event streams.

An `EventStream` is a ring of numbered events that outlives the connection carrying it: a call writes into it, a POST or
a later GET reads from it, and whoever comes last is its reader. Event ids name stream and number (`3-17`), so they are
unique in the session and a resuming client gets only what that stream had (RSM-1, RSM-2).

Called by: `messages.sessions`, `gateway.stateful_http`. Deliberately not: SSE framing, or the calls themselves.

Laws: bounded in events and bytes; when full the oldest notification goes, never the response (law 8); a message stands
in exactly one stream (STR-5).

Sources: MCP 2025-11-25 transports; STR-1..6, RSM-1..5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio


class EventStream:
    """One stream. `append` and `finish` never block; readers wait on `news`."""

    def __init__(self, name: str, *, max_events: int, max_bytes: int, on_drop: Callable[[], None]) -> None:
        self.name = name
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._on_drop = on_drop
        self._events: deque[tuple[int, bytes, bool]] = deque()
        self._bytes = 0
        self._last = 0
        self._news = trio.Event()
        self._reader: trio.CancelScope | None = None
        self.finished = False
        self.finished_at = 0.0
        self.delivered = 0
        """The last event that a reader was sent."""
        self.retry_ms: int | None = None
        """Set when the connection is to be closed while the call goes on (RSM-4)."""

    def event_id(self, number: int) -> str:
        """Return the id of event `number`; 0 names the place before the first event."""
        return f"{self.name}-{number}"

    @property
    def quiet(self) -> bool:
        """True while nothing but responses was written: the reply can still be plain JSON."""
        return self.retry_ms is None and all(final for _, _, final in self._events) and self._last == len(self._events)

    def append(self, data: bytes, *, final: bool = False) -> None:
        """Write one message; `final` marks a response, which is never dropped."""
        self._last += 1
        self._events.append((self._last, data, final))
        self._bytes += len(data)
        while len(self._events) > self._max_events or self._bytes > self._max_bytes:
            if not self._drop_oldest():
                break
        self._tell()

    def _drop_oldest(self) -> bool:
        for index, (_, data, final) in enumerate(self._events):
            if not final:
                del self._events[index]
                self._bytes -= len(data)
                self._on_drop()
                return True
        return False

    def finish(self) -> None:
        """Nothing more will be written."""
        self.finished = True
        self.finished_at = trio.current_time()
        self._tell()

    def release(self, retry_ms: int) -> None:
        """Ask the reader to leave and come back after `retry_ms`."""
        if not self.finished:
            self.retry_ms = retry_ms
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def since(self, number: int) -> list[tuple[int, bytes]]:
        """Return the events after `number` that are still kept."""
        return [(n, data) for n, data, _ in self._events if n > number]

    def holds(self, number: int) -> bool:
        """True when a reader that has seen `number` misses nothing that was dropped."""
        return 0 <= number <= self._last and (not self._events or number >= self._events[0][0] - 1 or number == 0)

    async def wait_news(self) -> None:
        """Wait until something is appended, or the stream is finished or released."""
        await self._news.wait()

    def take_over(self, reader: trio.CancelScope) -> None:
        """Make `reader` the only reader: an earlier one is cancelled (its connection is dead or about to be)."""
        if self._reader is not None:
            self._reader.cancel()
        self._reader = reader
        self.retry_ms = None

    def leave(self, reader: trio.CancelScope) -> None:
        """Forget `reader`."""
        if self._reader is reader:
            self._reader = None

    @property
    def attended(self) -> bool:
        """True while somebody reads."""
        return self._reader is not None
