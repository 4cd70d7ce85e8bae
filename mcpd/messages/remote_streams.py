"""A stream of another process as it is read here.

A `RemoteStream` asks its owner for events (`messages.pulls`) and holds them until they have been sent on; it asks again
when all have been, so that a slow client is slow for the owner, too, where a stream is bounded. To the exchange that
reads it, it is a stream like any other. When nobody lives at the owner's address, what is kept of the stream is read,
or the request is answered with an error (`messages.kept_replies`). While the store is away it goes on asking, and after
`OUTAGE_S` it sends its client away to come back.

Called by: `messages.resumption`. Calls: the inbox. Deliberately not: who may read, which is known before.

Laws: it holds one batch, or one event that comes in pieces (law 8); the newest reader has a stream, wherever it is.

Sources: MCP 2025-11-25 transports; RSM-2, RSM-4, STR-3.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from mcpd.deadlines import bounded_shield
from mcpd.messages.kept_replies import BEHIND, KeptReplies, Rest
from mcpd.messages.pulls import PAUSE_S, PULL, PULLED, Batch, Pull, encode, read_batch
from mcpd.messages.session import Session
from mcpd.messages.stream_names import Position
from mcpd.messages.streams import EventStream
from mcpd.storage.documents import StorageError
from mcpd.storage.inbox import Inbox, Message

ANSWER_S: Final = PAUSE_S + 1.0
"""How long an answer may take until it is asked for again."""

BEGIN_S: Final = 1.0
"""How long a reader waits for the first answer before its own client gets the head of a reply."""

BUSY_S: Final = 5.0
"""How often a reader whose client is slow says that it is still there."""

RETRY_S: Final = 0.5
OUTAGE_S: Final = 30.0
"""After so long without the store a client is sent away: it comes back when there is more to say."""

COME_BACK_MS: Final = 2_000
LEAVE_S: Final = 1.0


class UnknownStream(Exception):
    """There is no such stream, or what is asked for is no longer kept of it."""


class RemoteStreams:
    """What is read here of streams of other processes, by the token of its reader."""

    def __init__(self, inbox: Inbox, kept: KeptReplies) -> None:
        self.inbox = inbox
        self.kept = kept
        self._open: dict[str, RemoteStream] = {}
        inbox.on(PULLED, self._on_batch)

    def _on_batch(self, message: Message) -> None:
        batch = read_batch(message.body)
        stream = self._open.get(batch.token)
        if stream is not None and message.sender == stream.position.address:
            stream.take(batch)

    @asynccontextmanager
    async def open(self, session: Session, position: Position) -> AsyncIterator[RemoteStream]:
        """Give the stream as far as it is known at once. Raises: UnknownStream; StorageError."""
        stream = RemoteStream(self, session.key, position)
        self._open[stream.token] = stream
        session.remote.add(stream)
        try:
            await stream.begin()
            yield stream
        finally:
            del self._open[stream.token]
            session.remote.discard(stream)


class RemoteStream(EventStream):
    """One stream of another process; made by `RemoteStreams.open`. It gets more while `run` runs."""

    def __init__(self, streams: RemoteStreams, session: str, position: Position) -> None:
        super().__init__(position.name, max_events=sys.maxsize, max_bytes=sys.maxsize, on_drop=_never)
        self.position = position
        self.owner = session
        self.token = secrets.token_hex(8)
        self._streams = streams
        self._got = self.delivered = position.number
        self._piece_of = 0
        self._pieces = bytearray()
        self._state = ""
        """Of the last answer."""
        self._answered = trio.Event()
        self._down_since: float | None = None

    def take(self, batch: Batch) -> None:
        """Take an answer of the owner. Not a checkpoint."""
        self._state = batch.state
        for piece in batch.pieces:
            if piece.number > self._got:
                self._collect(piece.number, piece.size, piece.offset, piece.data)
        if batch.state == "replaced":
            self.take_over(None)
        if batch.retry_ms is not None:
            self.release(batch.retry_ms)
        if batch.state == "dropped" or (batch.ended_at is not None and self._got >= batch.ended_at):
            self.finish()
        self._answered.set()

    def _collect(self, number: int, size: int, offset: int, data: bytes) -> None:
        if offset == 0:
            self._piece_of, self._pieces = number, bytearray()
        if (number, offset) == (self._piece_of, len(self._pieces)):
            self._pieces += data
            if len(self._pieces) == size:
                self._got = number
                self.append(bytes(self._pieces), number=number)
                self._piece_of, self._pieces = 0, bytearray()

    def _adopt(self, rest: Rest | None) -> None:
        """End with what is kept."""
        for number, data in [] if rest is None else rest.events:
            if number > self._got:
                self._got = number
                self.append(data, number=number)
        self.finish()

    def sent(self, number: int) -> None:
        """See `EventStream`; what has been sent is let go of."""
        self.let_go(number)
        super().sent(number)

    async def begin(self) -> None:
        """Ask for the first time. Raises: UnknownStream; StorageError."""
        if not await self._send("first"):
            await self._give_up()
            if not self.held():
                raise UnknownStream
            return
        with trio.move_on_after(BEGIN_S):
            await self._answered.wait()
        if self._state in ("unknown", "dropped"):
            rest = await self._streams.kept.find(self.owner, self.name)
            if rest is None or not rest.holds(self.position.number):
                raise UnknownStream
            self._adopt(rest)

    async def run(self) -> None:
        """Go on asking, until cancelled; then the owner is told."""
        try:
            while self.attended and not self.finished and self.retry_ms is None:
                await self._wait_room()
                await self._ask()
            await trio.sleep_forever()
        finally:
            await self._leave()  # noqa: ASYNC102 - shielded and bounded inside

    async def _wait_room(self) -> None:
        while self.held():
            with trio.move_on_after(BUSY_S) as slow:
                await self.wait_sent(self._got)
            if slow.cancelled_caught:
                await self._say("busy")

    async def _ask(self) -> None:
        self._answered = trio.Event()
        try:
            if await self._send("more" if self._state else "first"):
                with trio.move_on_after(ANSWER_S):
                    await self._answered.wait()
                if self._state == "unknown":
                    await self._give_up()
            else:
                await self._give_up()
        except StorageError:
            await self._wait_store()
        else:
            self._down_since = None

    async def _wait_store(self) -> None:
        now = trio.current_time()
        self._down_since = now if self._down_since is None else self._down_since
        if now - self._down_since > OUTAGE_S:
            self.release(COME_BACK_MS)
        else:
            await trio.sleep(RETRY_S)

    async def _give_up(self) -> None:
        self._adopt(await self._streams.kept.give_up(self.owner, self.position))

    async def _send(self, kind: str) -> bool:
        body = encode(
            Pull(
                self.owner,
                self.name,
                self.token,
                self._got,
                kind,  # type: ignore[arg-type]
                self._piece_of,
                len(self._pieces),
            )
        )
        return await self._streams.inbox.send(self.position.address, PULL, body)

    async def _say(self, kind: str) -> None:
        """Tell the owner what it need not answer."""
        try:
            await self._send(kind)
        except StorageError:
            return

    async def _leave(self) -> None:
        if self._state not in ("", "replaced") and self._got < BEHIND:
            with bounded_shield(LEAVE_S):
                await self._say("done" if self.fetched else "left")


def _never() -> None:
    """Nothing is dropped: no more is asked for than there is room."""
