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
from mcpd.errors import InvalidRequest, Retryable, WireError, facing
from mcpd.gateway.asgi import Responder
from mcpd.gateway.exchanges import StreamExchange, retry_after
from mcpd.gateway.quotas import Quotas
from mcpd.gateway.readers import Post, Reader
from mcpd.messages.batches import BatchBound
from mcpd.messages.flight import Done, Failed, Flight, Outcome, Stopped, answer_to, encode_outcome, unheard
from mcpd.messages.kept_replies import KeptReplies
from mcpd.messages.manager import MessageManager
from mcpd.messages.recorder import Asked
from mcpd.messages.remote_streams import UnknownStream
from mcpd.messages.resumption import Resumption
from mcpd.messages.session import Session
from mcpd.messages.sessions import Sessions
from mcpd.messages.stream_names import reply_name
from mcpd.messages.streams import EventStream
from mcpd.wire import jsonrpc, sse
from mcpd.wire.call import Call
from mcpd.wire.session import SessionState, parse_batch
from mcpd.wire.versions import HEADERLESS, STATELESS, can

_SESSION = b"mcp-session-id"

_NO_SESSION = (
    "This request needs the header Mcp-Session-Id: initialize first, or go without a session and send"
    f" MCP-Protocol-Version: {STATELESS}"
)


_NO_STREAM = "This Last-Event-ID is unknown or its events are no longer kept; send the call again"


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
        self._resumption = Resumption(sessions, max_remote=limits.max_streams_per_session, nursery=nursery)
        self._process = sessions.address
        """In the names of all streams, so that no event of another process is taken for one of here."""
        self._stream_names = count(1)

    async def post(self, message: jsonrpc.Request | jsonrpc.Notification, post: Post) -> None:
        """Serve a stateful request or notification."""
        try:
            if isinstance(message, jsonrpc.Notification):
                await self._notice(message, await self._session(post))
                await post.responder.whole(202)
            elif message.method == "initialize":
                await self._initialize(message, post)
            else:
                await self._run([message], await self._session(post), post, batch=False)
        except (_NoSession, WireError) as error:
            await self._turn_away(error, post, message)

    async def response(self, response: jsonrpc.Response, post: Post) -> None:
        """Take the client's answer to a question of ours (S2C-2); an unknown one is ignored."""
        try:
            await self._sessions.answer(await self._session(post), response)
        except (_NoSession, WireError) as error:
            await self._turn_away(error, post)
            return
        await post.responder.whole(202)

    async def batch(self, value: list[Any], post: Post) -> None:
        """Serve an array of messages: only where 2025-03-26 was negotiated (BAT-1, BAT-3)."""
        try:
            session = await self._session(post)
            if not can(session.state.version, "batch"):
                raise InvalidRequest(f"Batches exist only in revision {HEADERLESS}; send one message at a time")
            messages = parse_batch(value, max_items=self._limits.max_batch_items)
            await self._run(messages, session, post, batch=True)
        except _NoSession as missing:
            text = f"{missing}; and batches exist only in revision {HEADERLESS}"
            await self._refuse(InvalidRequest(text), post, None, missing.status)
        except WireError as error:
            await self._turn_away(error, post)

    async def get(self, post: Post) -> None:
        """Open the standalone stream, or resume a stream behind `Last-Event-ID` (STR-4, RSM-2).

        Without a session it is 405: clients that ask for a stream before they initialize give up at anything else.
        """
        if post.headers.session_id is None:
            post.responder.add([(b"allow", b"POST")])
            await self._refuse(
                InvalidRequest("There is no stream outside of a session; initialize first"), post, None, 405
            )
            return
        if not post.head.takes_events:
            await self._refuse(InvalidRequest("Accept text/event-stream"), post, None, 406)
            return
        try:
            session = await self._session(post)
            async with self._resumption.stream(session, post.headers.last_event_id) as (stream, after):
                try:
                    await Reader(stream, post, session, self._timeouts.ping_s).follow(after)
                finally:
                    self._sessions.kept.want(stream)
        except UnknownStream:
            await self._refuse(InvalidRequest(_NO_STREAM), post, None, 400)
        except (_NoSession, WireError) as error:
            await self._turn_away(error, post)

    async def delete(self, post: Post) -> None:
        """End a session and everything in it (SES-4)."""
        try:
            await self._sessions.end(await self._session(post))
        except (_NoSession, WireError) as error:
            await self._turn_away(error, post)
            return
        await post.responder.whole(204)

    async def _session(self, post: Post) -> Session:
        key = post.headers.session_id
        if key is None:
            raise _NoSession(400, _NO_SESSION)
        session = await self._sessions.find(key, post.principal)
        if session is None:
            raise _NoSession(404, "There is no such session; initialize again, without the header Mcp-Session-Id")
        post.responder.add([(_SESSION, key.encode("latin-1"))])
        return session

    async def _turn_away(self, error: _NoSession | WireError, post: Post, message: Any = None) -> None:
        if isinstance(error, _NoSession):
            await self._refuse(InvalidRequest(str(error)), post, message, error.status)
        else:
            await self._refuse(error, post, message, 503 if isinstance(error, Retryable) else 400)

    async def _refuse(self, error: WireError, post: Post, message: Any, status: int) -> None:
        request_id = message.id if isinstance(message, jsonrpc.Request) else None
        method, params = jsonrpc.asked_by(message)
        self._manager.refuse(error, post.responder.line(status, method), Asked(post.principal, params))
        await post.responder.whole(status, jsonrpc.failure_of(error, request_id, stateless=False), retry_after(error))

    async def _notice(self, notification: jsonrpc.Notification, session: Session) -> None:
        if notification.method == "notifications/initialized":
            await self._sessions.initialized(session)
        elif notification.method == "notifications/cancelled":
            await self._sessions.cancel(session, notification.params.get("requestId"))

    async def _initialize(self, request: jsonrpc.Request, post: Post) -> None:
        key = post.headers.session_id
        if key is not None and await self._sessions.find(key, post.principal) is not None:
            raise InvalidRequest("This session is already initialized")
        session = self._sessions.begin(SessionState(request.params), post.principal)
        kept = False
        try:
            call = self._call(request, session, post.responder.request_id)
            exchange = StreamExchange(session.peer, self._resumption.standalone(session), may_release=False)
            outcome = await self._manager.serve(Flight(call, exchange, post.responder.client))
            kept = isinstance(outcome, Done)
        finally:
            if not kept:
                self._sessions.discard(session)
        if isinstance(outcome, Done):
            post.responder.add([(_SESSION, session.key.encode("ascii"))])
        answer = _encode(call, outcome)
        if isinstance(outcome, Failed) and isinstance(outcome.error, Retryable):
            await post.responder.whole(facing(outcome.error).mcp_status, answer or b"", retry_after(outcome.error))
        elif answer is not None and post.head.takes_json:
            await post.responder.whole(200, answer)
        elif answer is not None:
            await post.responder.chunk(sse.event(answer))
            await post.responder.end()

    def _call(self, request: jsonrpc.Request, session: Session, request_id: str) -> Call:
        return session.state.open_call(
            request, "http", principal=session.principal, request_id=request_id, session=session.key
        )

    async def _run(self, messages: list[jsonrpc.Message], session: Session, post: Post, *, batch: bool) -> None:
        """Start the calls in `messages` and answer with their stream; 202 when there are none."""
        requests = [message for message in messages if isinstance(message, jsonrpc.Request | jsonrpc.Malformed)]
        for message in messages:
            await self._take(message, session)
        if not requests:
            await post.responder.whole(202)
            return
        only = requests[0].id if len(requests) == 1 else None
        name = reply_name(self._process, next(self._stream_names), only)
        stream = self._sessions.open_stream(session, name)
        bound, kept = BatchBound(self._limits.max_result_bytes), self._sessions.kept
        reply = _Reply(stream, len(requests), post.responder, kept, bound, streams=post.head.takes_events)
        for number, message in enumerate(requests):
            self._launch(message, session, reply, f"{post.responder.request_id}{f'.{number}' if number else ''}")
        reader = Reader(stream, post, session, self._timeouts.ping_s)
        try:
            await reader.answer(requests, batch=batch)
        finally:
            self._let_go(session, stream)

    def _let_go(self, session: Session, stream: EventStream) -> None:
        """Forget a reply that nobody can ask for; keep what is left of one that its client has not got."""
        if stream.finished and stream.quiet and (stream.fetched or not stream.named):
            self._sessions.drop_stream(session, stream.name)
        else:
            self._sessions.kept.want(stream)

    async def _take(self, message: jsonrpc.Message, session: Session) -> None:
        if isinstance(message, jsonrpc.Notification):
            await self._notice(message, session)
        elif isinstance(message, jsonrpc.Response):
            await self._sessions.answer(session, message)

    def _launch(
        self, message: jsonrpc.Request | jsonrpc.Malformed, session: Session, reply: _Reply, request_id: str
    ) -> None:
        try:
            if isinstance(message, jsonrpc.Malformed):
                raise message.error
            session.calls.check(message.id)
            call = self._call(message, session, request_id)
            releases = reply.streams and can(session.state.version, "priming")
            exchange = StreamExchange(session.peer, reply.stream, may_release=releases, may_notify=reply.streams)
            flight = exchange.flight = Flight(call, exchange, reply.line.client)
            flight.tell_quotas = reply.tell_quotas
            session.calls.enter(flight)
        except WireError as error:
            method, params = jsonrpc.asked_by(message)
            line = reply.line._replace(request_id=request_id, method=method or reply.line.method)
            self._manager.refuse(error, line, Asked(session.principal, params))
            reply.close(jsonrpc.failure_of(error, message.id, stateless=False))
            return
        self._nursery.start_soon(self._serve, flight, session, reply)

    async def _serve(self, flight: Flight, session: Session, reply: _Reply) -> None:
        try:
            outcome = await self._manager.serve(flight)
        finally:
            session.calls.leave(flight)
        answer = _encode(flight.call, outcome)
        reply.close(None if answer is None else reply.bound.fitted(answer, flight.call.id))


def _encode(call: Call, outcome: Outcome) -> bytes | None:
    """Return the response, or None where a cancelled call has none."""
    if not isinstance(outcome, Stopped):
        return encode_outcome(call, outcome)
    error = answer_to(outcome)
    return None if error is None else jsonrpc.failure_of(error, call.id, stateless=False)


class _Reply:
    """The responses that one POST still waits for."""

    def __init__(
        self,
        stream: EventStream,
        expected: int,
        responder: Responder,
        kept: KeptReplies,
        bound: BatchBound,
        *,
        streams: bool,
    ) -> None:
        self.stream = stream
        self._kept = kept
        self.line = responder.line(200)
        """What the log says of each of its messages."""
        self.tell_quotas = Quotas(responder, with_wait=True).tell if expected == 1 else unheard
        self.streams = streams
        """True when the client takes an event stream."""
        self.bound = bound
        self._expected = expected

    def close(self, answer: bytes | None) -> None:
        """Write one response, or none for a cancelled call; the last one finishes the stream."""
        if answer is not None:
            self.stream.append(answer, final=True)
        self._expected -= 1
        if self._expected == 0:
            self.stream.finish()
            self._kept.want(self.stream)
