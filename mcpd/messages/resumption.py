"""Where a client goes on reading: the stream that a `Last-Event-ID` names, wherever it is written.

What is kept of a stream comes first, because its first word stands; then a stream of this process; then one of another
process, which is asked for it. An event of a standalone stream of another process leads to the session's own here.
A session has one reader of what belongs to no call, the newest: other processes are told of it, and end theirs, unless
that one came later by the machines' clocks.

Called by: `gateway.stateful_http`. Calls: `messages.remote_streams`, `messages.kept_replies`. Deliberately not: reading
the stream, or who may, which is the session's matter: a stream is only ever found in the session of its caller.

Laws: a client's stream is bound to session and principal (RSM-5); a store that is away never makes a stream that is
here unknown.

Sources: MCP 2025-11-25 transports; RSM-2, RSM-4, RSM-5, STR-4, STR-6.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from mcpd.errors import Overloaded, counted
from mcpd.messages.kept_replies import Rest
from mcpd.messages.lending import Lending
from mcpd.messages.remote_streams import RemoteStreams, UnknownStream
from mcpd.messages.session import Session
from mcpd.messages.sessions import Sessions
from mcpd.messages.stream_names import STANDALONE, Position, position_of
from mcpd.messages.streams import EventStream
from mcpd.storage.documents import StorageError
from mcpd.storage.inbox import Message
from mcpd.storage.refusals import SESSIONS, answering

_READING = "reading"
_log = logging.getLogger(__name__)


class _Reading(msgspec.Struct, array_like=True, frozen=True):
    session: str
    at_s: float


class Resumption:
    """Finds streams for clients that come back, and lends those of this process to others."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        max_remote: int,
        nursery: trio.Nursery,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`max_remote` bounds the streams of other processes that one session reads here; `clock` is the machine's."""
        self._clock = clock
        self._sessions = sessions
        self._standalone = f"{sessions.address}{STANDALONE}"
        self._max_remote = max_remote
        self._remote = RemoteStreams(sessions.inbox, sessions.kept)
        self._lending = Lending(sessions.inbox, sessions.kept, sessions.here, nursery)
        sessions.inbox.on(_READING, self._on_reading)
        nursery.start_soon(sessions.kept.run)

    def standalone(self, session: Session) -> EventStream:
        """Return the stream of what belongs to no call. Raises: Overloaded when all streams are in use."""
        return session.streams.get(self._standalone) or self._sessions.open_stream(session, self._standalone)

    @asynccontextmanager
    async def stream(self, session: Session, last_event_id: str | None) -> AsyncIterator[tuple[EventStream, int]]:
        """Give the stream to read, and the number of the event behind which to begin.

        Raises: UnknownStream; Overloaded; StoreUnavailable.
        """
        position = None if last_event_id is None else position_of(last_event_id)
        if last_event_id is None or (position is not None and self._is_elsewhere(position) and position.standalone):
            own = self.standalone(session)
            await self._tell_reading(session)
            yield own, own.delivered
        elif position is None:
            raise UnknownStream
        elif (found := await self._here(session, position)) is not None:
            if position.standalone:
                await self._tell_reading(session)
            yield found, position.number
        else:
            async with self._from_elsewhere(session, position) as remote:
                yield remote, position.number

    async def _tell_reading(self, session: Session) -> None:
        if session.record is not None:
            session.read_at_s = self._clock()
            told = msgspec.json.encode(_Reading(session.key, session.read_at_s))
            try:
                await self._sessions.inbox.send_all(_READING, told)
            except StorageError as error:
                _log.warning("other processes are not told that a stream is read here: %s", error)

    def _on_reading(self, message: Message) -> None:
        told = msgspec.json.decode(message.body, type=_Reading)
        session = self._sessions.here(told.session)
        stream = None if session is None else session.streams.get(self._standalone)
        if session is not None and stream is not None and session.read_at_s <= told.at_s:
            stream.take_over(None)

    def _is_elsewhere(self, position: Position) -> bool:
        return position.address != self._sessions.address

    async def _here(self, session: Session, position: Position) -> EventStream | None:
        """Return what can be read without asking anybody else. Raises: UnknownStream; StoreUnavailable."""
        if not position.standalone and (rest := await self._kept(session, position)) is not None:
            if not rest.holds(position.number):
                raise UnknownStream
            return _restored(position.name, rest)
        if self._is_elsewhere(position):
            return None
        found = session.streams.get(position.name)
        if found is None or not found.holds(position.number):
            raise UnknownStream
        return found

    async def _kept(self, session: Session, position: Position) -> Rest | None:
        try:
            return await self._sessions.kept.find(session.key, position.name)
        except StorageError:
            if position.name not in session.streams:
                with answering(SESSIONS):
                    raise
        return None

    @asynccontextmanager
    async def _from_elsewhere(self, session: Session, position: Position) -> AsyncIterator[EventStream]:
        if len(session.remote) >= self._max_remote:
            raise Overloaded(f"This session reads {counted(len(session.remote), 'stream')} of other servers here")
        with answering(SESSIONS):
            async with self._remote.open(session, position) as stream:
                yield stream


def _restored(name: str, rest: Rest) -> EventStream:
    """Return a finished stream with what was kept of it."""
    stream = EventStream(name, max_events=sys.maxsize, max_bytes=sys.maxsize, on_drop=_never)
    for number, data in rest.events:
        stream.append(data, number=number)
    stream.finish()
    return stream


def _never() -> None:
    """Nothing is dropped of what is read and not written."""
