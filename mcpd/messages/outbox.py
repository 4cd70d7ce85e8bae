"""The one way onto a connection that many calls share: a bounded queue in front of one writer.

Whoever has something to send while the writer rests may become the writer until the queue is empty: the common case,
one finished call with nobody else sending, costs no task switch. Only work that is over may do so (`deliver`), because
a blocked `send` cannot be cancelled; a running call queues (`put`) and waits for room, and `offer` never waits.

Called by: `messages.duplex`, the SSE writer of `gateway`. Deliberately not: framing.

Laws: order of entry is order of sending; the bounds are `limits.max_outbox_items` and the bytes below, back-pressure
their policy for notifications of calls, dropping for unrelated notices (law 8); a failing `send` closes the outbox for
good (law 6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

MAX_BYTES: Final = 2 << 20
"""Of what waits before a notification has to: two of the longest (`wire.jsonrpc.MAX_SAID_BYTES`)."""

MAX_BEHIND_BYTES: Final = 32 << 20
"""Of what waits, answers too, for a reader that is still served: two of the longest answers."""

Send = Callable[[bytes], Awaitable[None]]


class Outbox:
    """A queue of encoded messages and their writer. `run` must be running for `put` and `offer` to get through."""

    def __init__(self, send: Send, *, max_items: int) -> None:
        self._send = send
        self._max_items = max_items
        self._items: deque[bytes] = deque()
        self._size = 0
        self._writing = False
        self._work = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._rest = trio.lowlevel.ParkingLot()
        self.closed = False

    @property
    def full(self) -> bool:
        """True while its reader is so far behind that nobody should take on more work for it."""
        return len(self._items) >= self._max_items or self._size >= MAX_BEHIND_BYTES

    async def catch_up(self) -> None:
        """Let the writer go on while more than half of the room is taken and that becomes less.

        Never waits for a reader: only for turns of the scheduler that bring something onto its way.
        """
        before = len(self._items) + 1
        while self._max_items // 2 < len(self._items) < before:
            before = len(self._items)
            await trio.lowlevel.checkpoint()

    async def put(self, item: bytes) -> None:
        """Queue an item, waiting for room. Items for a closed outbox vanish. Cancellation: safe, nothing was queued."""
        while (self.full or self._size >= MAX_BYTES) and not self.closed:
            await self._room.park()
        self._push(item)

    def offer(self, item: bytes) -> bool:
        """Queue an item if there is room; False when it was dropped. Not a checkpoint."""
        if self.full:
            return False
        self._push(item)
        return True

    async def deliver(self, item: bytes) -> None:
        """Queue the last word of a finished call, room or not, and write if nobody else does."""
        if self.closed:
            return
        self._append(item)
        if not self._writing:
            await self._write()

    def _push(self, item: bytes) -> None:
        if not self.closed:
            self._append(item)
            self._work.set()

    def _append(self, item: bytes) -> None:
        self._items.append(item)
        self._size += len(item)

    async def run(self, *, ping: bytes | None = None, ping_s: float = float("inf")) -> None:
        """Write whatever is queued, until cancelled; `ping` after every `ping_s` in which nothing was queued."""
        while True:
            with trio.move_on_after(ping_s) as quiet:
                await self._work.wait()
            if quiet.cancelled_caught and ping is not None:
                self._append(ping)
            self._work = trio.Event()
            if not self._writing:
                await self._write()

    async def _write(self) -> None:
        self._writing = True
        try:
            while self._items:
                item = self._items.popleft()
                self._size -= len(item)
                if self._room:
                    self._room.unpark()
                await self._send(item)
        except BaseException:
            self.close()
            raise
        finally:
            self._writing = False
            if self._rest:
                self._rest.unpark_all()

    async def flush(self) -> None:
        """Wait until everything queued has been handed to `send`, or the outbox is closed."""
        while (self._items or self._writing) and not self.closed:
            await (self._rest.park() if self._writing else self._write())

    def close(self) -> None:
        """Drop what is queued and whatever comes later. Idempotent; not a checkpoint."""
        self.closed = True
        self._items.clear()
        self._size = 0
        self._room.unpark_all()
        self._rest.unpark_all()
