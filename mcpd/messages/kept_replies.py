"""What outlives the process of a reply: its rest when nobody was there to read it, or the error of whoever misses it.

    want     a stream has ended and its end has not been sent to a reader: the rest of it is kept in the store
    find     what is kept of a stream
    give_up  the process of a stream is gone: the request is answered with an error, unless something is kept by now

Only streams that a client can name are kept: those whose events it was given ids of. The first word on a stream stands
(`storage.replies`), so that a request has one answer, also when a process that was taken for dead comes back.

Called by: `gateway.stateful_http`, `messages.lending`, `messages.remote_streams`; `app` at the end. Calls: a `Replies`.
Deliberately not: what is held in memory for clients that come back (`messages.replays`).

Laws: what is kept is bounded by stream and session (`storage.replies`), by what one process keeps at a time, and in
time; the policy is `unkept` in `mcpd_outbox_dropped_total` (law 8). A store that is away is asked again.

Sources: STR-3, RSM-2, RSM-5.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from mcpd.errors import ReplyLost
from mcpd.messages.stream_names import Position
from mcpd.messages.streams import EventStream
from mcpd.storage.documents import StorageError
from mcpd.storage.replies import MAX_REPLY_BYTES, Replies
from mcpd.wire import jsonrpc

KEEP_REPLIES_S: Final = 300.0
"""How long a finished reply waits for a client that lost its connection."""

MAX_KEPT_BYTES: Final = 64 << 20
"""What one process has in the store at a time, and waiting to be written: as much as it holds itself for nobody."""

RETRY_S: Final = 1.0
BEHIND: Final = 10**12
"""Number of the event that ends a stream in place of its process: behind all that any client has seen."""

_ROOM: Final = 64
"""Bytes of a rest beside its messages: its frame, and that of each message."""

_log = logging.getLogger(__name__)


class Rest(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a stream: its events as number and message, in order. Those up to `lost` cannot be had."""

    lost: int
    events: list[tuple[int, bytes]]

    def holds(self, number: int) -> bool:
        """True when a reader that has seen `number` gets every response that it has not seen."""
        return number >= self.lost


_decode: Final = msgspec.msgpack.Decoder(Rest).decode


def rest_of(stream: EventStream) -> Rest | None:
    """Return what is left of a stream within the bounds: the newest notifications and all responses.

    None when there is no response to be had, or no room.
    """
    held = stream.held()
    room = MAX_REPLY_BYTES - sum(len(data) + _ROOM for _, data, final in held if final) - _ROOM
    if room < 0 or not any(final for _, _, final in held):
        return None
    events = []
    for number, data, final in reversed(held):
        if not final:
            room -= len(data) + _ROOM
        if final or room >= 0:
            events.append((number, data))
    return Rest(stream.lost, events[::-1])


class KeptReplies:
    """Keeps the rests of streams of this process, and finds those of any. `run` must be running."""

    def __init__(self, store: Replies, on_drop: Callable[[], None]) -> None:
        self._store = store
        self._on_drop = on_drop
        self._waiting: dict[EventStream, int] = {}
        """Streams to be kept, and how many bytes they held."""
        self._written: deque[tuple[float, int]] = deque()
        """When how many bytes were kept, within the time that they are."""
        self._news = trio.Event()

    def want(self, stream: EventStream) -> None:
        """Keep what is left of a stream if it has ended and its client has not been sent that. Not a checkpoint."""
        if not stream.finished or stream.fetched or stream.attended or not stream.named or stream in self._waiting:
            return
        if self._sum() + stream.held_bytes > MAX_KEPT_BYTES:
            self._on_drop()
            return
        self._waiting[stream] = stream.held_bytes
        self._news.set()

    def _sum(self) -> int:
        horizon = trio.current_time() - KEEP_REPLIES_S
        while self._written and self._written[0][0] < horizon:
            self._written.popleft()
        return sum(size for _, size in self._written) + sum(self._waiting.values())

    async def run(self) -> None:
        """Keep what is wanted, until cancelled; a store that is away is asked again. Raises nothing."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            if not await self.flush():
                await trio.sleep(RETRY_S)
                self._news.set()

    async def flush(self) -> bool:
        """Keep what is wanted now; False when the store is away. Cancellation: the rest is kept later, if at all."""
        for stream in list(self._waiting):
            rest = rest_of(stream)
            if rest is None or stream.fetched or stream.finished_at < trio.current_time() - KEEP_REPLIES_S:
                self._waiting.pop(stream, None)
                continue
            try:
                await self._store.keep(stream.owner, stream.name, msgspec.msgpack.encode(rest), KEEP_REPLIES_S)
            except StorageError as error:
                _log.debug("a reply is not kept yet: %s", error)
                return False
            self._written.append((trio.current_time(), self._waiting.pop(stream, 0)))
        return True

    async def find(self, session: str, name: str) -> Rest | None:
        """Return what is kept of a stream. Raises: StorageError."""
        return _read(await self._store.get(session, name))

    async def give_up(self, session: str, position: Position) -> Rest | None:
        """Return the last word on a stream whose process is gone: an error, if nothing is kept by now.

        None when nobody knows what to answer, or the session has ended. Raises: StorageError.
        """
        if position.request_id is None:
            return await self.find(session, position.name)
        error = ReplyLost("The server that ran this call has stopped; send the call again")
        answer = jsonrpc.failure_of(error, position.request_id, stateless=False)
        verdict = msgspec.msgpack.encode(Rest(0, [(BEHIND, answer)]))
        return _read(await self._store.keep(session, position.name, verdict, KEEP_REPLIES_S))


def _read(data: bytes | None) -> Rest | None:
    """Return a rest; None for what another version wrote and this one cannot read."""
    try:
        return None if data is None else _decode(data)
    except msgspec.MsgspecError:
        return None
