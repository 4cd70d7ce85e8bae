"""Stateful sessions: who has initialized, what each has asked to be told, and the calls each has in flight.

A `Session` is made by a transport when a client initializes: with an id and streams on HTTP, without on a duplex
connection. `Sessions` caps and expires them, and passes change events on to those that listen. An HTTP session has a
record in the shared store (`keep`), from which any process makes it again (`find`); the session of a connection ends
with that and is in no store.

Called by: `messages.manager` (session methods), `messages.duplex`, `gateway.stateful_http`. Calls: the event bus,
a `SessionStore`, `messages.methods`. Deliberately not: streams, questions and calls that outlive this process.

Laws: a session is bound to its principal, a foreign one does not exist (SES-5, SEC-5); ids are 256 random bits (SES-1);
idle sessions expire after `timeouts.session_idle_s`; the session of an open connection is in use; who gives way when
all places are taken is one rule (`storage.session_records`). No session that may exist is called unknown while the
store is away. That a session was used is written down at the next look, not with each request.

Sources: MCP 2025-11-25 lifecycle and transports; INI-1..7, SES-1..7, STR-6, PUB-1, section 3.8.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from msgspec import structs

from mcpd.config import Limits, Timeouts
from mcpd.errors import InvalidRequest, Overloaded, Reason
from mcpd.events import Bus, Changed
from mcpd.messages.inflight import InFlight
from mcpd.messages.interprocess import Interprocess
from mcpd.messages.kept_replies import KEEP_REPLIES_S, KeptReplies
from mcpd.messages.methods import SessionMethods
from mcpd.messages.peer import Peer
from mcpd.messages.recent import RecentEvents
from mcpd.messages.records import Endings, belongs, record_of, state_of
from mcpd.messages.replays import Replays
from mcpd.messages.session import Session
from mcpd.messages.streams import EventStream
from mcpd.monitoring.metrics import Metrics
from mcpd.service import McpService
from mcpd.storage.documents import StorageError
from mcpd.storage.inbox import Inbox
from mcpd.storage.refusals import SESSIONS, answering, refusal
from mcpd.storage.session_records import NoSessionRoom, Place, SessionRecord, SessionRoom, Use, giving_way
from mcpd.storage.shared import SessionStore
from mcpd.wire.call import Call, Principal
from mcpd.wire.jsonrpc import Response
from mcpd.wire.session import SessionState

LOOK_S = 20.0
"""At the longest between two looks at all sessions: as late the store may learn of a use."""

BUSY_LOOKS = 3
"""For how many looks the store believes that a session is in use: until then its process has died."""

_ANYTHING = (Changed("tools"), Changed("prompts"), Changed("resources"), Changed("resource"))
"""What the client of a session that was elsewhere is told: nobody knows what it has heard."""

_log = logging.getLogger(__name__)


class Sessions:
    """The sessions of this process, and how to come by those of others."""

    def __init__(
        self,
        service: McpService,
        bus: Bus,
        store: SessionStore,
        inbox: Inbox,
        *,
        limits: Limits,
        timeouts: Timeouts,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self.inbox = inbox
        self._limits = limits
        self._timeouts = timeouts
        self._metrics = metrics
        self._by_key: dict[str, Session] = {}
        self._endings = Endings(store)
        self._ends = 0
        """How many sessions have left `_by_key`."""
        self.address = inbox.address
        """In what clients are given, so that it is known where it came from."""
        self._replays = Replays(partial(metrics.dropped, "unread"))
        self.kept = KeptReplies(store.replies, partial(metrics.dropped, "unkept"))
        bus.subscribe(self._on_event)
        metrics.watch("sessions", lambda: len(self._by_key))
        self._recent = RecentEvents()
        self._others = Interprocess(inbox, self._by_key, self._recent, self._unload)
        self._methods = SessionMethods(service, store, self._others, max_uris=limits.max_subscription_uris)

    def open(
        self,
        state: SessionState,
        principal: Principal,
        *,
        calls: InFlight | None = None,
        hang_up: Callable[[], None] | None = None,
    ) -> Session:
        """Enter the session of a connection, which has its `calls`; the transport tells its `notices`.

        Raises: Overloaded when all places are in use.
        """
        places = [Place(one.key, one.principal.share, one.last_used, one.in_use) for one in self._by_key.values()]
        try:
            gone = giving_way(places, principal.share, self._room())
        except NoSessionRoom as error:
            raise self._full(error) from None
        for key in gone:
            self.close(self._by_key[key], "admin")
        session = self.begin(state, principal)
        session.hang_up = hang_up
        if calls is not None:
            session.calls = calls
        return session

    def begin(self, state: SessionState, principal: Principal) -> Session:
        """Enter a session over HTTP whose `initialize` has still to be served; unless it is, `discard` follows."""
        return self._enter(secrets.token_urlsafe(32), state, principal)

    def _enter(self, key: str, state: SessionState, principal: Principal) -> Session:
        peer = Peer(input_s=self._timeouts.input_s, cleanup_s=self._timeouts.cleanup_s, origin=self.address)
        session = self._by_key[key] = Session(key, state, principal, peer)
        early = partial(self._others.early.take, key)
        session.calls = InFlight(max_items=self._limits.max_calls_per_connection, cancelled=early)
        return session

    async def keep(self, session: Session) -> None:
        """Commit a session: from now on its client may be told its id.

        Raises: Overloaded when all places are in use; StoreUnavailable.
        """
        record = record_of(session.key, session.state, session.principal, rev=1)
        try:
            gone = await self._store.create(record, Use(0.0, self._timeouts.session_idle_s), self._room())
        except NoSessionRoom as error:
            raise self._full(error) from None
        except StorageError as error:
            raise refusal(error, SESSIONS) from error
        for key in gone:
            if key in self._by_key:
                self._unload(self._by_key[key], "admin")
        session.record = record
        await self._others.ended(gone, "admin")
        if session.ended:
            self._endings.add(session.key)
            raise InvalidRequest("This session has ended; initialize again")

    def _full(self, error: NoSessionRoom) -> Overloaded:
        self._metrics.rejected("sessions")
        return Overloaded(str(error))

    def _room(self) -> SessionRoom:
        """Say how many sessions there may be, and what a store does not know of those here."""
        now, here = trio.current_time(), self._by_key.values()
        return SessionRoom(
            self._limits.max_sessions,
            self._limits.max_sessions_per_principal,
            busy=frozenset(one.key for one in here if one.in_use),
            idle=frozenset(one.key for one in here if one.told_busy > now and not one.in_use),
            others=tuple(
                Place(one.key, one.principal.share, one.last_used - now, busy=True)
                for one in here
                if one.hang_up is not None
            ),
        )

    def open_stream(self, session: Session, name: str) -> EventStream:
        """Make a resumable stream. Raises: Overloaded when the session's streams are all in use."""
        finished = [key for key, stream in session.streams.items() if stream.finished and not stream.attended]
        while len(session.streams) >= self._limits.max_streams_per_session and finished:
            self.drop_stream(session, finished.pop(0))
        if len(session.streams) >= self._limits.max_streams_per_session:
            raise Overloaded(
                f"This session has too many replies under way ({len(session.streams)}); wait for one to end"
            )
        stream = EventStream(
            name,
            max_events=self._limits.max_stream_events,
            max_bytes=self._limits.max_stream_bytes,
            on_drop=lambda: self._metrics.dropped("oldest"),
        )
        stream.owner, stream.share, stream.on_change = session.key, session.principal.share, self._replays.update
        session.streams[name] = stream
        return stream

    def drop_stream(self, session: Session, name: str) -> None:
        """Forget a stream and all that it holds. Idempotent; not a checkpoint."""
        stream = session.streams.pop(name, None)
        if stream is not None:
            self._replays.forget(stream)
            stream.on_change = _ignore

    def here(self, key: str) -> Session | None:
        """Return a session that this process knows, whoever asks."""
        return self._by_key.get(key)

    async def find(self, key: str, principal: Principal) -> Session | None:
        """Return the session `key` if it is this principal's, and note that it is in use.

        Raises: StoreUnavailable when there is no telling whether there is one.
        """
        session = await self._look_up(key, principal)
        if session is None or session.principal.id != principal.id:
            return None
        session.last_used = trio.current_time()
        return session

    async def _look_up(self, key: str, principal: Principal) -> Session | None:
        while key not in self._endings:
            session, ends = self._by_key.get(key), self._ends
            if session is not None and session.record is None:
                return session
            try:
                record = await self._store.get(key)
            except StorageError as error:
                if key in self._by_key:
                    return self._by_key[key]
                raise refusal(error, SESSIONS) from error
            if ends == self._ends and not self._others.outdates(record):
                return self._adopt(key, record, principal)
        return None

    def _adopt(self, key: str, record: SessionRecord | None, principal: Principal) -> Session | None:
        """Return the session as the store has it, made here if need be; one that is not there has ended here, too."""
        session = self._by_key.get(key)
        if record is None:
            if session is not None:
                self._unload(session, "admin")
            return None
        if session is None and belongs(record, principal):
            session = self._restore(record, principal)
        if session is not None:
            for uri in session.take(record).values():
                session.tell(Changed("resource", uri))
        return session

    def _restore(self, record: SessionRecord, principal: Principal) -> Session:
        held = principal if principal.id else structs.replace(principal, address=record.share)
        session = self._enter(record.key, state_of(record), held)
        session.record, session.renewed = record, -math.inf
        if record.initialized:
            session.initialized()
        for event in _ANYTHING:
            session.tell(event)
        return session

    async def end(self, session: Session) -> None:
        """End a session for good, as its client wishes. Raises: StoreUnavailable, and the session goes on."""
        with answering(SESSIONS):
            await self._store.remove([session.key])
        self._unload(session, "explicit")
        await self._others.ended([session.key], "explicit")

    async def cancel(self, session: Session, request_id: Any) -> None:
        """Cancel a call of this session, here or elsewhere; what names none is ignored. Raises: StoreUnavailable."""
        if not session.calls.cancel(request_id):
            await self._others.cancel(session, request_id)

    async def answer(self, session: Session, response: Response) -> None:
        """Take the client's answer to a question, for whoever asked; another is ignored. Raises: StoreUnavailable."""
        if not session.peer.answer(response):
            await self._others.answer(session, response)

    def close(self, session: Session, reason: Reason) -> None:
        """End a session for good; the store is told soon. Idempotent; not a checkpoint."""
        if self._unload(session, reason) and session.record is not None:
            self._endings.add(session.key)

    def _unload(self, session: Session, reason: Reason) -> bool:
        """End what a session has here; False when it had ended. Its record, if it has one, stays."""
        if self._by_key.pop(session.key, None) is None:
            return False
        self._ends += 1
        session.end(reason)
        self._forget(session)
        return True

    def discard(self, session: Session) -> None:
        """Take back a session whose `initialize` was refused; what else its client asked for goes on."""
        if self._by_key.pop(session.key, None) is not None:
            self._ends += 1
            session.ended = True
            session.peer.leave()
            self._forget(session)
            if session.hang_up is None:
                self._endings.add(session.key)

    def _forget(self, session: Session) -> None:
        for name in list(session.streams):
            self.drop_stream(session, name)

    def leave_all(self, reason: Reason) -> None:
        """End what all sessions have here; those over HTTP are known to the next process. Not a checkpoint."""
        for session in list(self._by_key.values()):
            self._unload(session, reason)

    def close_of(self, gone: Callable[[Principal], bool]) -> None:
        """End the sessions of those principals that are gone. Not a checkpoint."""
        for session in list(self._by_key.values()):
            if gone(session.principal):
                self.close(session, "admin")

    def _on_event(self, event: Changed) -> None:
        self._recent.add(event)
        for session in list(self._by_key.values()):
            session.tell(event)

    async def expire(self) -> None:
        """Forget idle sessions and tell the store what has ended or been used here, until cancelled."""
        while True:
            with trio.move_on_after(self._look_s):
                while True:
                    await self._endings.wait()
                    await self._settle(self._tell_ended)
            await self.flush()
            await self._settle(self._store.purge)
            self._look()

    @property
    def _look_s(self) -> float:
        return min(LOOK_S, self._timeouts.session_idle_s / 4)

    async def flush(self) -> None:
        """Tell the store what has ended or been used here. Raises nothing; what fails is told at the next look."""
        await self._settle(self._tell_ended)
        await self._settle(self._renew)
        await self.kept.flush()

    async def _settle(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except StorageError as error:
            _log.error("sessions could not be looked after, trying again in %g s: %s", self._look_s, error)

    async def _tell_ended(self) -> None:
        await self._others.ended(await self._endings.tell(), "admin")

    async def _renew(self) -> None:
        """Write down which sessions were used since the last time or are in use, and end those that are gone."""
        now, uses = trio.current_time(), {}
        for session in self._by_key.values():
            if session.record is not None and session.note_use(now):
                busy_s = BUSY_LOOKS * self._look_s if session.in_use else 0.0
                uses[session] = Use(now - session.last_used, self._timeouts.session_idle_s, busy_s)
        if not uses:
            return
        gone = await self._store.renew({session.key: use for session, use in uses.items()})
        for session, use in uses.items():
            session.renewed = now - use.ago_s
            session.told_busy = max(session.told_busy, now + use.busy_s)
            if session.key in gone:
                self._unload(session, "admin")

    def _look(self) -> None:
        horizon = trio.current_time() - self._timeouts.session_idle_s
        for session in list(self._by_key.values()):
            if session.last_used < horizon and not session.in_use:
                self._unload(session, "admin")
            self._forget_replies(session)

    def _forget_replies(self, session: Session) -> None:
        horizon = trio.current_time() - KEEP_REPLIES_S
        for name, stream in list(session.streams.items()):
            if stream.finished and stream.finished_at < horizon and not stream.attended:
                self.drop_stream(session, name)

    async def apply(self, call: Call) -> dict[str, Any]:
        """Serve a method that only concerns its session; what it changes is committed, and so is a new one over HTTP.

        Raises: InvalidParams, InvalidRequest, Overloaded, ResourceNotFound, StoreUnavailable.
        """
        if call.method == "ping":
            return {}
        session = self._by_key.get(call.session or "")
        if session is None:
            raise InvalidRequest("This session has ended; initialize again")
        result = await self._methods.serve(call, session)
        if call.method == "initialize" and call.transport == "http":
            await self.keep(session)
        return result

    async def initialized(self, session: Session) -> None:
        """Take `notifications/initialized`. Raises: InvalidRequest, StoreUnavailable."""
        await self._methods.initialized(session)


def _ignore(_stream: EventStream) -> None:
    """Stands where a stream that is no more would be counted."""
