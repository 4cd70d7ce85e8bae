"""Stateful sessions: who has initialized, what each has asked to be told, and the calls each has in flight.

A `Session` is made by a transport when a client initializes: with an id and streams on HTTP, without on a duplex
connection. `Sessions` is the registry: it caps and expires them, serves the methods that only change a session, and
passes change events on to those that listen.

Called by: `messages.manager` (session methods), `messages.duplex`, `gateway.stateful_http`. Calls: the event bus,
`wire.session`. Deliberately not: the shared store; these sessions live in one process and end with it (law 11).

Laws: a session is bound to its principal, a foreign one does not exist (SES-5, SEC-5); ids are 256 random bits (SES-1);
idle sessions expire after `timeouts.session_idle_s`; the session of an open connection is in use; when all places are
taken, an idle session of whoever has most gives way, then one in use if the newcomer's share is smaller by two.

Sources: MCP 2025-11-25 lifecycle and transports; INI-1..7, SES-1..7, STR-6, PUB-1, section 3.8.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import trio

from mcpd.config import Limits, Timeouts
from mcpd.errors import InvalidRequest, Overloaded, Reason, ResourceNotFound
from mcpd.events import Bus, Changed
from mcpd.messages.inflight import InFlight
from mcpd.messages.notices import Notices
from mcpd.messages.peer import Peer
from mcpd.messages.replays import Replays
from mcpd.messages.streams import EventStream
from mcpd.monitoring.metrics import Metrics
from mcpd.service import McpService
from mcpd.wire.call import Call, Principal
from mcpd.wire.session import SessionState, read_uri
from mcpd.wire.subscriptions import Pending

_LOOK_S = 60.0
"""At the longest between two looks for idle sessions."""

KEEP_REPLIES_S = 300.0
"""How long a finished reply waits for a client that lost its connection."""

_KINDS = frozenset(("tools", "prompts", "resources"))


class Session:
    """One client that has initialized."""

    def __init__(self, key: str, state: SessionState, principal: Principal, peer: Peer) -> None:
        self.key = key
        self.state = state
        self.principal = principal
        self.peer = peer
        self.notices = Notices(Pending(_KINDS, state.subscriptions))
        """Changes to be told; the transport runs `tell`."""
        self.calls = InFlight(max_items=0)
        self.hang_up: Callable[[], None] | None = None
        """Ends the connection that carries the session; None where sessions outlive connections (HTTP)."""
        self.streams: dict[str, EventStream] = {}
        self.last_used = trio.current_time()
        self.ended = False

    def initialized(self) -> None:
        """Take `notifications/initialized`. Not a checkpoint."""
        self.state.initialized = True
        self.peer.ready.set()

    @property
    def in_use(self) -> bool:
        """True while its connection is open, a call runs or somebody reads a stream."""
        return self.hang_up is not None or len(self.calls) > 0 or any(s.attended for s in self.streams.values())

    def tell(self, event: Changed) -> None:
        """Pass a change event on if this client asked for it. Not a checkpoint."""
        if event.kind == "resource" or self.state.initialized:
            self.notices.offer(event)

    def end(self, reason: Reason) -> None:
        """Cancel everything this session has in flight and release whoever waits for its client."""
        self.ended = True
        self.calls.end(reason)
        self.peer.leave()
        for stream in self.streams.values():
            stream.finish()
        if self.hang_up is not None and reason == "admin":
            self.hang_up()


class Sessions:
    """The sessions of this process."""

    def __init__(self, service: McpService, bus: Bus, *, limits: Limits, timeouts: Timeouts, metrics: Metrics) -> None:
        self._service = service
        self._limits = limits
        self._timeouts = timeouts
        self._metrics = metrics
        self._by_key: dict[str, Session] = {}
        self._replays = Replays(partial(metrics.dropped, "unread"))
        bus.subscribe(self._on_event)
        metrics.watch("sessions", lambda: len(self._by_key))
        self._methods: dict[str, Callable[[Call, Session], dict[str, Any]]] = {
            "initialize": self._initialize,
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }

    def open(
        self,
        state: SessionState,
        principal: Principal,
        *,
        calls: InFlight | None = None,
        hang_up: Callable[[], None] | None = None,
    ) -> Session:
        """Enter a new session; its transport tells its `notices`. A connection's session has the connection's `calls`.

        Raises: Overloaded when all places are in use.
        """
        self._make_room(principal)
        peer = Peer(input_s=self._timeouts.input_s, cleanup_s=self._timeouts.cleanup_s)
        session = Session(secrets.token_urlsafe(32), state, principal, peer)
        session.calls = calls or InFlight(max_items=self._limits.max_calls_per_connection)
        session.hang_up = hang_up
        self._by_key[session.key] = session
        return session

    def open_stream(self, session: Session, name: str) -> EventStream:
        """Make a resumable stream. Raises: Overloaded when the session's streams are all in use."""
        finished = [key for key, stream in session.streams.items() if stream.finished and not stream.attended]
        while len(session.streams) >= self._limits.max_streams_per_session and finished:
            self.drop_stream(session, finished.pop(0))
        if len(session.streams) >= self._limits.max_streams_per_session:
            raise Overloaded(f"This session has {len(session.streams)} replies under way; wait for one to end")
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

    def _make_room(self, principal: Principal) -> None:
        mine = [session for session in self._by_key.values() if session.principal.share == principal.share]
        if len(mine) >= self._limits.max_sessions_per_principal:
            self._evict(_idle(mine))
        elif len(self._by_key) >= self._limits.max_sessions:
            self._evict(self._of_larger(len(mine)) or _idle(mine))

    def _of_larger(self, mine: int) -> list[Session]:
        """The sessions that give way to a caller with `mine`: of whoever has most, idle ones before those in use."""
        shares: dict[str, list[Session]] = {}
        for session in self._by_key.values():
            shares.setdefault(session.principal.share, []).append(session)
        larger = sorted((held for held in shares.values() if len(held) > mine), key=len, reverse=True)
        idle = next(filter(None, map(_idle, larger)), [])
        return idle or [session for held in larger[:1] if len(held) > mine + 1 for session in held]

    def _evict(self, candidates: Collection[Session]) -> None:
        if not candidates:
            self._metrics.rejected("sessions")
            raise Overloaded("Too many sessions are open; end one with DELETE or try again later")
        self.close(min(candidates, key=lambda s: s.last_used), "admin")

    def get(self, key: str, principal: Principal) -> Session | None:
        """Return the session `key` if it is this principal's, and note that it is in use."""
        session = self._by_key.get(key)
        if session is None or session.principal.id != principal.id:
            return None
        session.last_used = trio.current_time()
        return session

    def close(self, session: Session, reason: Reason) -> None:
        """End a session and forget it. Idempotent; not a checkpoint."""
        if self._by_key.pop(session.key, None) is not None:
            session.end(reason)
            self._forget(session)

    def discard(self, session: Session) -> None:
        """Take back a session whose `initialize` was refused; what else its client asked for goes on."""
        if self._by_key.pop(session.key, None) is not None:
            session.ended = True
            session.peer.leave()
            self._forget(session)

    def _forget(self, session: Session) -> None:
        for name in list(session.streams):
            self.drop_stream(session, name)

    def close_all(self, reason: Reason) -> None:
        """End every session."""
        for session in list(self._by_key.values()):
            self.close(session, reason)

    def close_of(self, gone: Callable[[Principal], bool]) -> None:
        """End the sessions of those principals that are gone. Not a checkpoint."""
        for session in list(self._by_key.values()):
            if gone(session.principal):
                self.close(session, "admin")

    def _on_event(self, event: Changed) -> None:
        for session in list(self._by_key.values()):
            session.tell(event)

    async def expire(self) -> None:
        """Forget idle sessions, until cancelled."""
        while True:
            await trio.sleep(min(_LOOK_S, self._timeouts.session_idle_s / 4))
            horizon = trio.current_time() - self._timeouts.session_idle_s
            for session in list(self._by_key.values()):
                if session.last_used < horizon and not session.in_use:
                    self.close(session, "admin")
                self._forget_replies(session)

    def _forget_replies(self, session: Session) -> None:
        horizon = trio.current_time() - KEEP_REPLIES_S
        for name, stream in list(session.streams.items()):
            if stream.finished and stream.finished_at < horizon and not stream.attended:
                self.drop_stream(session, name)

    def apply(self, call: Call) -> dict[str, Any]:
        """Serve a method that only concerns its session. Raises: InvalidParams, InvalidRequest, ResourceNotFound."""
        if call.method == "ping":
            return {}
        session = self._by_key.get(call.session or "")
        if session is None:
            raise InvalidRequest("This session has ended; initialize again")
        return self._methods[call.method](call, session)

    def _initialize(self, call: Call, _session: Session) -> dict[str, Any]:
        return self._service.initialize(call.version)

    def _set_level(self, call: Call, session: Session) -> dict[str, Any]:
        session.state.set_level(call.params)
        return {}

    def _subscribe(self, call: Call, session: Session) -> dict[str, Any]:
        uri = read_uri(call.params)
        if not self._service.watchable(uri, call):
            raise ResourceNotFound(uri)
        session.state.subscribe(call.params, max_uris=self._limits.max_subscription_uris)
        return {}

    def _unsubscribe(self, call: Call, session: Session) -> dict[str, Any]:
        session.state.unsubscribe(call.params)
        return {}


def _ignore(_stream: EventStream) -> None:
    """Stands where a stream that is no more would be counted."""


def _idle(sessions: Iterable[Session]) -> list[Session]:
    return [session for session in sessions if not session.in_use]
