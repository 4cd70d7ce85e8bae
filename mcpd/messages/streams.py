"""The replies of one stateful HTTP session as resumable event streams.

An `EventStream` is a ring of numbered events that outlives the connection carrying it: a call writes into it, a POST or
a later GET reads from it, and whoever comes last is its reader. Event ids name stream and number (`3-17`), so they are
unique in the session and a resuming client gets only what that stream had (RSM-1, RSM-2).

Called by: `messages.sessions`, `gateway.stateful_http`. Deliberately not: SSE framing, or the calls themselves.

Laws: bounded in events and bytes; when full the oldest notification goes, never the response (law 8), whose bytes are
bounded by `messages.replays` while nobody reads; a message stands in exactly one stream (STR-5).

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
        self.owner = ""
        """Key of its session."""
        self.share = ""
        """Whose share of what is kept for nobody it uses (`Principal.share`)."""
        self.on_change: Callable[[EventStream], None] = _ignore
        """Told when what is held, or whether somebody reads, has changed."""
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._on_drop = on_drop
        self._events: deque[tuple[int, bytes, bool]] = deque()
        self.held_bytes = 0
        self._last = 0
        self._lost = 0
        self._news = trio.Event()
        self._sent = trio.lowlevel.ParkingLot()
        self.reader: object | None = None
        """Who reads; whoever finds here somebody else has been replaced, and ends."""
        self.named = False
        """True once a client was given the id of an event: only then it can come back for the rest."""
        self.fetched = False
        """True once a reader was sent the end."""
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

    def append(self, data: bytes, *, final: bool = False, number: int | None = None) -> int:
        """Write one message and return its number; `final` marks a response, which makes no room for others.

        `number` is given where another process has numbered it.
        """
        self._last = self._last + 1 if number is None else number
        self._events.append((self._last, data, final))
        self.held_bytes += len(data)
        while len(self._events) > self._max_events or self.held_bytes > self._max_bytes:
            if not self._drop_oldest():
                break
        self._tell()
        self.on_change(self)
        return self._last

    def _drop_oldest(self) -> bool:
        for index, (_, data, final) in enumerate(self._events):
            if not final:
                del self._events[index]
                self.held_bytes -= len(data)
                self._on_drop()
                return True
        return False

    def empty(self) -> int:
        """Give up everything held, responses too; whoever has not seen it cannot resume. Returns how many events."""
        dropped = len(self._events)
        self._events.clear()
        self.held_bytes = 0
        self._lost = self._last
        return dropped

    def let_go(self, number: int) -> None:
        """Forget the events up to `number`."""
        while self._events and self._events[0][0] <= number:
            self.held_bytes -= len(self._events.popleft()[1])

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

    def held(self) -> list[tuple[int, bytes, bool]]:
        """Return the events that are still kept, each with whether it is a response."""
        return list(self._events)

    @property
    def lost(self) -> int:
        """The last event that was given up with all before it."""
        return self._lost

    def holds(self, number: int) -> bool:
        """True when a reader that has seen `number` misses nothing that was dropped."""
        return self._lost <= number <= self._last and (
            not self._events or number >= self._events[0][0] - 1 or number == 0
        )

    async def run(self) -> None:
        """Get what is to be read, where that is not written here. Cancellation: safe."""

    async def wait_news(self) -> None:
        """Wait until something is appended, or the stream is finished or released."""
        await self._news.wait()

    def sent(self, number: int) -> None:
        """Note that the reader was sent event `number`."""
        self.delivered = number
        self._sent.unpark_all()

    async def wait_sent(self, number: int) -> None:
        """Wait until a reader was sent event `number`. Cancellation: safe."""
        while self.delivered < number:
            await self._sent.park()

    def take_over(self, reader: object | None) -> None:
        """Make `reader` the only reader; an earlier one is woken to find that out (its connection may be dead)."""
        self.reader = reader
        self.retry_ms = None
        self._tell()
        self.on_change(self)

    def leave(self, reader: object) -> None:
        """Forget `reader`."""
        if self.reader is reader:
            self.reader = None
            self.on_change(self)

    @property
    def attended(self) -> bool:
        """True while somebody reads."""
        return self.reader is not None


def _ignore(_stream: EventStream) -> None:
    """Stands in until somebody counts."""
