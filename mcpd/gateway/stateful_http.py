"""Stateful MCP over HTTP: sessions by header, resumable streams, batches, polling (revisions up to 2025-11-25).

A stateful call belongs to its session, not to the POST that brought it: it runs in the gateway's nursery and writes
into an `EventStream`; the POST, or a later GET with `Last-Event-ID`, only reads from that stream. So a lost connection
costs nothing (STR-3), and `notifications/cancelled` is what cancels.

Called by: `gateway.streamable_http`, which has done step 0. Calls: `messages.sessions`, `messages.manager`.
Deliberately not: the stateless era.

Laws: a foreign or ended session does not exist (404, SES-3, SES-5); no refusal here carries a code that a client takes
for the stateless era (ERA-10); the status of a served request is 200 whatever its JSON-RPC error (section 3.8).

Sources: MCP 2025-11-25 and 2025-03-26 transports; INI-5, SES-1..8, STR-1..7, RSM-1..5, S2C-1..3, BAT-1..4.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import trio

from mcpd.config import Limits, Timeouts
from mcpd.errors import CallCancelled, InvalidRequest, Retryable, WireError
from mcpd.gateway.asgi import Head, Headers, Receive, Responder, wait_disconnect
from mcpd.messages.flight import Flight, Stopped, answer_to, encode_outcome
from mcpd.messages.manager import MessageManager
from mcpd.messages.sessions import Session, Sessions
from mcpd.messages.streams import EventStream
from mcpd.wire import jsonrpc, sse
from mcpd.wire.call import Principal
from mcpd.wire.headers import RoutingHeaders
from mcpd.wire.session import SessionState, parse_batch
from mcpd.wire.versions import HEADERLESS, can

STANDALONE = "s"
"""Name of the stream of messages that belong to no call."""
_SESSION = b"mcp-session-id"
_MAX_DIGITS = 16
"""Of an event's number; no session has more events."""


class Post:
    """One HTTP request that has passed step 0, whatever its method."""

    __slots__ = ("head", "headers", "principal", "receive", "responder")

    def __init__(
        self, head: Head, headers: RoutingHeaders, principal: Principal, responder: Responder, receive: Receive
    ) -> None:
        self.head = head
        self.headers = headers
        self.principal = principal
        self.responder = responder
        self.receive = receive


def retry_after(error: WireError) -> Headers:
    """Return the header that tells when a refused request may be sent again; none for other errors."""
    if isinstance(error, Retryable):
        return [(b"retry-after", b"%d" % max(1, -(-error.retry_after_ms // 1000)))]
    return []


class _NoSession(Exception):
    """The request names no session that exists for its caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StatefulHttp:
    """Serves what belongs to a session."""

    def __init__(
        self,
        manager: MessageManager,
        sessions: Sessions,
        *,
        limits: Limits,
        timeouts: Timeouts,
        nursery: trio.Nursery,
    ) -> None:
        self._manager = manager
        self._sessions = sessions
        self._limits = limits
        self._timeouts = timeouts
        self._nursery = nursery
        self._stream_names = count(1)

    async def post(self, message: jsonrpc.Request | jsonrpc.Notification, post: Post) -> None:
        """Serve a stateful request or notification."""
        try:
            if isinstance(message, jsonrpc.Notification):
                self._notice(message, self._session(post))
                await post.responder.whole(202)
            elif message.method == "initialize":
                await self._initialize(message, post)
            else:
                await self._run([message], self._session(post), post, batch=False)
        except _NoSession as missing:
            await self._refuse(InvalidRequest(str(missing)), post, message, missing.status)
        except WireError as error:
            await self._refuse(error, post, message, 503 if isinstance(error, Retryable) else 400)

    async def response(self, response: jsonrpc.Response, post: Post) -> None:
        """Take the client's answer to a question of ours (S2C-2); an unknown one is ignored."""
        try:
            self._session(post).peer.answer(response)
        except _NoSession as missing:
            await self._refuse(InvalidRequest(str(missing)), post, None, missing.status)
            return
        await post.responder.whole(202)

    async def batch(self, value: list[Any], post: Post) -> None:
        """Serve an array of messages: only where 2025-03-26 was negotiated (BAT-1, BAT-3)."""
        try:
            session = self._session(post)
            if not can(session.state.version, "batch"):
                raise InvalidRequest(f"Batches exist only in revision {HEADERLESS}; send one message at a time")
            messages = parse_batch(value, max_items=self._limits.max_batch_items)
            await self._run(messages, session, post, batch=True)
        except _NoSession as missing:
            text = f"{missing}; and batches exist only in revision {HEADERLESS}"
            await self._refuse(InvalidRequest(text), post, None, missing.status)
        except WireError as error:
            await self._refuse(error, post, None, 503 if isinstance(error, Retryable) else 400)

    async def get(self, post: Post) -> None:
        """Open the standalone stream, or resume a stream behind `Last-Event-ID` (STR-4, RSM-2)."""
        if not post.head.takes(b"text/event-stream"):
            await self._refuse(InvalidRequest("Accept text/event-stream"), post, None, 406)
            return
        try:
            session = self._session(post)
            stream, after = self._find(session, post.headers.last_event_id)
        except _NoSession as missing:
            await self._refuse(InvalidRequest(str(missing)), post, None, missing.status)
            return
        await _Reader(stream, post, session, self._timeouts.ping_s).follow(after)

    async def delete(self, post: Post) -> None:
        """End a session and everything in it (SES-4)."""
        try:
            session = self._session(post)
        except _NoSession as missing:
            await self._refuse(InvalidRequest(str(missing)), post, None, missing.status)
            return
        self._sessions.close(session, "explicit")
        await post.responder.whole(204)

    def _session(self, post: Post) -> Session:
        key = post.headers.session_id
        if key is None:
            raise _NoSession(400, "This request needs the header Mcp-Session-Id; initialize first")
        session = self._sessions.get(key, post.principal)
        if session is None:
            raise _NoSession(404, "There is no such session; initialize again, without the header Mcp-Session-Id")
        post.responder.add([(_SESSION, key.encode("latin-1"))])
        return session

    def _find(self, session: Session, last_event_id: str | None) -> tuple[EventStream, int]:
        if last_event_id is None:
            stream = session.streams[STANDALONE]
            if stream.attended:
                raise _NoSession(409, "This session's standalone stream is open already")
            return stream, stream.delivered
        name, _, number = last_event_id.rpartition("-")
        found = session.streams.get(name)
        sound = number.isascii() and number.isdecimal() and len(number) < _MAX_DIGITS
        if found is None or not sound or not found.holds(int(number)):
            raise _NoSession(400, "This Last-Event-ID is unknown or its events are no longer kept; send the call again")
        return found, int(number)

    async def _refuse(self, error: WireError, post: Post, message: Any, status: int) -> None:
        request_id = message.id if isinstance(message, jsonrpc.Request) else None
        method = message.method if isinstance(message, jsonrpc.Request | jsonrpc.Notification) else ""
        name, client = post.responder.request_id, post.responder.client
        self._manager.refuse(error, transport="http", method=method, request_id=name, client=client)
        await post.responder.whole(status, jsonrpc.failure_of(error, request_id, stateless=False), retry_after(error))

    def _notice(self, notification: jsonrpc.Notification, session: Session) -> None:
        if notification.method == "notifications/initialized":
            session.initialized()
        elif notification.method == "notifications/cancelled":
            session.calls.cancel(notification.params.get("requestId"))

    async def _initialize(self, request: jsonrpc.Request, post: Post) -> None:
        key = post.headers.session_id
        if key is not None and self._sessions.get(key, post.principal) is not None:
            raise InvalidRequest("This session is already initialized")
        state = SessionState(request.params)
        session = self._sessions.open(state, post.principal)
        session.notice = self._sessions.open_stream(session, STANDALONE).append
        post.responder.add([(_SESSION, session.key.encode("ascii"))])
        await self._run([request], session, post, batch=False)

    async def _run(self, messages: list[jsonrpc.Message], session: Session, post: Post, *, batch: bool) -> None:
        """Start the calls in `messages` and answer with their stream; 202 when there are none."""
        requests = [message for message in messages if isinstance(message, jsonrpc.Request | jsonrpc.Malformed)]
        for message in messages:
            self._take(message, session)
        if not requests:
            await post.responder.whole(202)
            return
        stream = self._sessions.open_stream(session, str(next(self._stream_names)))
        reply = _Reply(stream, len(requests), post.responder.client)
        for number, message in enumerate(requests):
            self._launch(message, session, reply, f"{post.responder.request_id}{f'.{number}' if number else ''}")
        reader = _Reader(stream, post, session, self._timeouts.ping_s)
        await reader.answer(requests, batch=batch)
        if stream.finished and stream.quiet:
            session.streams.pop(stream.name, None)

    def _take(self, message: jsonrpc.Message, session: Session) -> None:
        if isinstance(message, jsonrpc.Notification):
            self._notice(message, session)
        elif isinstance(message, jsonrpc.Response):
            session.peer.answer(message)

    def _launch(
        self, message: jsonrpc.Request | jsonrpc.Malformed, session: Session, reply: _Reply, request_id: str
    ) -> None:
        try:
            if isinstance(message, jsonrpc.Malformed):
                raise message.error
            session.calls.check(message.id)
            call = session.state.open_call(
                message, "http", principal=session.principal, request_id=request_id, session=session.key
            )
            exchange = _StreamExchange(session, reply.stream)
            flight = exchange.flight = Flight(call, exchange, reply.client)
            session.calls.enter(flight)
        except WireError as error:
            method = message.method if isinstance(message, jsonrpc.Request) else ""
            self._manager.refuse(error, transport="http", method=method, request_id=request_id, client=reply.client)
            reply.close(jsonrpc.failure_of(error, message.id, stateless=False))
            return
        self._nursery.start_soon(self._serve, flight, session, reply)

    async def _serve(self, flight: Flight, session: Session, reply: _Reply) -> None:
        try:
            outcome = await self._manager.serve(flight)
        finally:
            session.calls.leave(flight)
        if isinstance(outcome, Stopped):
            error = answer_to(outcome)
            reply.close(None if error is None else jsonrpc.failure_of(error, flight.call.id, stateless=False))
        else:
            reply.close(encode_outcome(flight.call, outcome))


class _Reply:
    """The responses that one POST still waits for."""

    def __init__(self, stream: EventStream, expected: int, client: str) -> None:
        self.stream = stream
        self.client = client
        self._expected = expected

    def close(self, answer: bytes | None) -> None:
        """Write one response, or none for a cancelled call; the last one finishes the stream."""
        if answer is not None:
            self.stream.append(answer, final=True)
        self._expected -= 1
        if self._expected == 0:
            self.stream.finish()


class _StreamExchange:
    """The way back of one stateful HTTP call: into its stream."""

    __slots__ = ("_session", "_stream", "flight")

    def __init__(self, session: Session, stream: EventStream) -> None:
        self.flight: Flight | None = None
        self._session = session
        self._stream = stream

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        await self._send(jsonrpc.notification(method, params))

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        assert self.flight is not None
        with self.flight.waiting_for_client():
            return await self._session.peer.ask(requests, self._send)

    async def _send(self, data: bytes) -> None:
        self._stream.append(data)
        await trio.lowlevel.checkpoint()

    def release(self, retry_ms: int) -> None:
        if can(self._session.state.version, "priming"):
            self._stream.release(retry_ms)


class _Reader:
    """One HTTP exchange that reads from a stream."""

    def __init__(self, stream: EventStream, post: Post, session: Session, ping_s: float) -> None:
        self._stream = stream
        self._responder = post.responder
        self._receive = post.receive
        self._primes = can(session.state.version, "priming")
        self._ping_s = ping_s

    async def answer(self, requests: list[Any], *, batch: bool) -> None:
        """Answer a POST: JSON if the responses are all there is, else events."""
        async with trio.open_nursery() as nursery:
            self._attend(nursery)
            try:
                with trio.move_on_after(self._ping_s):
                    while self._stream.quiet and not self._stream.finished:
                        await self._stream.wait_news()
                if self._stream.finished and self._stream.quiet:
                    await self._whole(requests, batch=batch)
                else:
                    await self._events(0)
            finally:
                self._stream.leave(nursery.cancel_scope)
            nursery.cancel_scope.cancel()

    async def follow(self, after: int) -> None:
        """Answer a GET: the events behind `after`, then whatever comes."""
        async with trio.open_nursery() as nursery:
            self._attend(nursery)
            try:
                await self._events(after)
            finally:
                self._stream.leave(nursery.cancel_scope)
            nursery.cancel_scope.cancel()

    def _attend(self, nursery: trio.Nursery) -> None:
        self._stream.take_over(nursery.cancel_scope)
        nursery.start_soon(self._watch, nursery.cancel_scope)

    async def _watch(self, scope: trio.CancelScope) -> None:
        await wait_disconnect(self._receive)
        scope.cancel()

    async def _whole(self, requests: list[Any], *, batch: bool) -> None:
        answers = [data for _, data in self._stream.since(0)]
        if not answers:
            error = CallCancelled("explicit")
            answers = [jsonrpc.failure_of(error, request.id, stateless=False) for request in requests]
        body = b"[" + b",".join(answers) + b"]" if batch else answers[0]
        await self._responder.whole(200, body)

    async def _events(self, after: int) -> None:
        stream, responder = self._stream, self._responder
        await responder.start_events()
        if self._primes and after == 0 and stream.name != STANDALONE:
            await responder.chunk(sse.prime(stream.event_id(0)))
        while True:
            events = stream.since(after)
            for number, data in events:
                await responder.chunk(sse.event(data, id=stream.event_id(number)))
                after = stream.delivered = number
            if events:
                continue
            if stream.finished or stream.retry_ms is not None:
                break
            with trio.move_on_after(self._ping_s) as quiet:
                await stream.wait_news()
            if quiet.cancelled_caught:
                await responder.chunk(sse.PING)
        if stream.retry_ms is not None and not stream.finished:
            await responder.chunk(b"retry: %d\n\n" % stream.retry_ms)
        await responder.end()
