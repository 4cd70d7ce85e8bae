"""Streams of this process that are read on another one: the owner's side.

A remote reader is a stream's reader like any other: the newest has the stream, so a first `Pull` ends whoever reads it,
and a later local reader ends the remote one, which is told. Each has a task here, which answers its pulls
(`messages.pulls`) and lets go of the stream when it has not heard of its reader for `GONE_S`.

Called by: the inbox; made by `gateway.stateful_http`. Deliberately not: whether the reader's client may read, which
the other process has looked up; a stream is only ever found in the session that was named.

Laws: a stream has one remote reader at a time, which bounds their number; those that were replaced are remembered for
a while, so that a message that comes late takes no stream back (law 8).

Sources: RSM-2, RSM-4, RSM-5, STR-3.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from mcpd.messages.kept_replies import KeptReplies
from mcpd.messages.pulls import PAUSE_S, PULL, PULLED, Batch, Pull, encode, gather, read_pull
from mcpd.messages.session import Session
from mcpd.messages.streams import EventStream
from mcpd.storage.documents import StorageError
from mcpd.storage.inbox import Inbox, Message

GONE_S: Final = 15.0
"""How long a reader that says nothing still counts as one; it says something every few seconds."""

MAX_REPLACED: Final = 1_024

_log = logging.getLogger(__name__)


class RemoteReader:
    """The reader of a stream, on another process."""

    def __init__(self, stream: EventStream, to: str, pull: Pull) -> None:
        self.stream = stream
        self.to = to
        self.pull = pull
        self.asked = trio.Event()
        """Set by a pull that wants an answer."""
        self.heard = trio.Event()
        """Set by any pull."""
        self.scope = trio.CancelScope()

    def hear(self, pull: Pull) -> None:
        """Take a pull. Not a checkpoint."""
        self.pull = pull
        self.heard.set()
        if pull.kind in ("first", "more"):
            self.asked.set()
        if pull.kind in ("done", "left"):
            self.stream.fetched = self.stream.fetched or (pull.kind == "done" and self.stream.finished)
            self.scope.cancel()

    async def wait_asked(self) -> bool:
        """Wait until an answer is wanted; False when nothing was heard for too long."""
        while not self.asked.is_set():
            self.heard = trio.Event()
            with trio.move_on_after(GONE_S) as gone:
                await self.heard.wait()
            if gone.cancelled_caught:
                return False
        self.asked = trio.Event()
        return True

    async def batch(self) -> Batch:
        """Return what there is behind the reader's place, as soon as there is anything or after a pause."""
        with trio.move_on_after(PAUSE_S):
            while not (found := self._look()):
                await self.stream.wait_news()
            return found
        return Batch(self.pull.token, "ok")

    def _look(self) -> Batch | None:
        if self.stream.reader is not self:
            return Batch(self.pull.token, "replaced")
        batch = gather(self.stream, self.pull)
        says = batch.pieces or batch.ended_at is not None or batch.retry_ms is not None
        return batch if says or self.pull.kind == "first" else None


class Lending:
    """The remote readers of this process's streams. Their tasks live in `nursery`."""

    def __init__(
        self,
        inbox: Inbox,
        kept: KeptReplies,
        session_here: Callable[[str], Session | None],
        nursery: trio.Nursery,
    ) -> None:
        self._inbox = inbox
        self._kept = kept
        self._session_here = session_here
        self._nursery = nursery
        self._readers: dict[str, RemoteReader] = {}
        self._replaced: deque[str] = deque(maxlen=MAX_REPLACED)
        inbox.on(PULL, self._on_pull)

    def _on_pull(self, message: Message) -> None:
        pull = read_pull(message.body)
        reader = self._readers.get(pull.token)
        if reader is not None:
            reader.hear(pull)
        elif pull.kind in ("first", "more"):
            self._begin(message.sender, pull)

    def _begin(self, to: str, pull: Pull) -> None:
        session = self._session_here(pull.session)
        stream = None if session is None else session.streams.get(pull.stream)
        if stream is None:
            self._refuse(to, Batch(pull.token, "unknown"))
        elif pull.token in self._replaced or (pull.kind == "more" and stream.attended):
            self._refuse(to, Batch(pull.token, "replaced"))
        elif pull.kind == "first" and not stream.holds(pull.after):
            self._refuse(to, Batch(pull.token, "dropped"))
        else:
            reader = self._readers[pull.token] = RemoteReader(stream, to, pull)
            stream.take_over(reader)
            reader.hear(pull)
            self._nursery.start_soon(self._serve, reader)

    def _refuse(self, to: str, batch: Batch) -> None:
        self._nursery.start_soon(self._say, to, batch)

    async def _say(self, to: str, batch: Batch) -> None:
        try:
            await self._inbox.send(to, PULLED, encode(batch))
        except StorageError as error:
            _log.debug("a remote reader was not answered and will ask again: %s", error)

    async def _serve(self, reader: RemoteReader) -> None:
        stream = reader.stream
        try:
            with reader.scope:
                while stream.reader is reader and await reader.wait_asked():
                    await self._say(reader.to, await reader.batch())
        finally:
            del self._readers[reader.pull.token]
            if stream.reader is not reader:
                self._replaced.append(reader.pull.token)
            stream.leave(reader)
            self._kept.want(stream)
