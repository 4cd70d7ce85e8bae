"""MCP on a connection that carries messages both ways: stdio and WebSocket are thin skins around this.

One task reads; each request runs in a task of its own in the connection's nursery; an `Outbox` writes. The era lock
(`wire.session.Lifecycle`) says what a request may do. When the peer goes, everything it has in flight is cancelled
(`client_gone`) and the connection's nursery closes.

Called by: `gateway.websocket`, `gateway.stdio`. Calls: `messages.manager`, `messages.sessions`. Deliberately not:
frames, lines, HTTP.

Laws: ids are unique among this connection's requests in flight (RPC-5); nothing is sent for a call that its client
cancelled (CAN-3, IO-7); the reader never waits for a writer, so that a cancellation is always heard (IO-8); a peer
that asks on without reading gets no more calls once its outbox is full (law 8), one that reads may ask as fast as it
can.

Sources: MCP 2026-07-28 stdio and custom transports; IO-1..9, WS-1..5, BAT-1..4, SUB-11.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mcpd.config import Limits
from mcpd.errors import InvalidRequest, Overloaded, ParseError, WireError
from mcpd.messages.batches import BatchBound
from mcpd.messages.flight import Done, Flight, Stopped, answer_to, encode_outcome
from mcpd.messages.inflight import InFlight
from mcpd.messages.manager import MessageManager
from mcpd.messages.outbox import Outbox
from mcpd.messages.recorder import Asked
from mcpd.messages.session import Session
from mcpd.messages.sessions import Sessions
from mcpd.monitoring.logs import RequestLine
from mcpd.wire import jsonrpc
from mcpd.wire.call import Call, Principal
from mcpd.wire.envelope import open_message
from mcpd.wire.session import Action, Lifecycle, SessionState, parse_batch
from mcpd.wire.versions import HEADERLESS, can

Receive = Callable[[], Awaitable[bytes | str | None]]
Send = Callable[[bytes], Awaitable[None]]


class Duplex:
    """One connection."""

    def __init__(
        self,
        manager: MessageManager,
        sessions: Sessions,
        *,
        limits: Limits,
        transport: str,
        principal: Principal,
        name_request: Callable[[], str],
    ) -> None:
        self._manager = manager
        self._sessions = sessions
        self._limits = limits
        self._transport = transport
        self._principal = principal
        self._name_request = name_request
        self.client = ""
        """Address of the peer, for the log."""
        self._lifecycle = Lifecycle()
        self._outbox = Outbox(_unsent, max_items=limits.max_outbox_items)
        self._session: Session | None = None
        self._opened = trio.Event()
        self._calls = InFlight(max_items=limits.max_calls_per_connection)
        self._reading = trio.CancelScope()
        self.hung_up = False
        """True when the connection was ended from this side."""

    async def run(self, receive: Receive, send: Send, *, linger_s: float = 0.0) -> None:
        """Serve the connection until `receive` returns None, then cancel what is in flight.

        A peer that may still read after its last word gets `linger_s` for the answers that are on their way.
        Cancellation: safe; calls in flight end as `client_gone`. Resources: the caller closes the connection.
        """
        self._outbox = Outbox(send, max_items=self._limits.max_outbox_items)
        async with trio.open_nursery() as writer:
            writer.start_soon(self._outbox.run)
            writer.start_soon(self._tell_changes)
            try:
                with trio.CancelScope() as lingering:
                    async with trio.open_nursery() as calls:
                        await self._hear(receive, calls)
                        if linger_s and not self.hung_up:
                            self._expect_no_more()
                            writer.start_soon(self._hang_up_after, linger_s, lingering)  # noqa: ASYNC111 - it may be cancelled late
                        else:
                            self._end()
                    await self._outbox.flush()
            finally:
                self._end()
            writer.cancel_scope.cancel()

    async def _hear(self, receive: Receive, calls: trio.Nursery) -> None:
        try:
            with self._reading:
                while (data := await receive()) is not None:
                    self._receive(data, calls)
                    await self._outbox.catch_up()
        except BaseException:
            self._end()
            raise

    def _expect_no_more(self) -> None:
        """Nothing more will be heard: end what only its client could end, and whoever waits for an answer of it."""
        if self._session is not None:
            self._session.peer.leave()
        self._calls.end("client_gone", only="subscriptions/listen")

    async def _hang_up_after(self, linger_s: float, lingering: trio.CancelScope) -> None:
        await trio.sleep(linger_s)
        self._end()
        lingering.cancel(reason="client_gone")

    async def _tell_changes(self) -> None:
        while True:
            await self._opened.wait()
            self._opened = trio.Event()
            if self._session is not None:
                await self._session.notices.tell(self._say)

    async def _say(self, method: str, params: dict[str, Any]) -> None:
        await self._outbox.put(jsonrpc.notification(method, params))

    async def flush(self) -> None:
        """Wait until everything said so far is written; nothing is before `run`. Cancellation: safe."""
        await self._outbox.flush()

    def _end(self) -> None:
        self._outbox.close()
        if self._session is not None:
            self._sessions.close(self._session, "client_gone")
        self._calls.end("client_gone")

    def hang_up(self) -> None:
        """End the connection from this side: as if the client had gone. Idempotent; not a checkpoint."""
        self.hung_up = True
        self._reading.cancel()

    def _receive(self, data: bytes | str, calls: trio.Nursery) -> None:
        try:
            value = jsonrpc.decode(data, max_depth=self._limits.max_depth)
            messages = self._batch(value) if isinstance(value, list) else None
        except WireError as error:
            self._outbox.offer(self._refuse(error))
            return
        if messages is not None:
            calls.start_soon(self._serve_batch, messages)
            return
        accepted = self._accept(jsonrpc.parse(value))
        if isinstance(accepted, Flight):
            calls.start_soon(self._serve, accepted)
        elif accepted is not None:
            self._outbox.offer(accepted)

    def refuse_oversized(self) -> None:
        """Answer a message that was too long to be read (IO-9)."""
        error = ParseError(f"A message may have {self._limits.max_message_bytes} bytes")
        self._outbox.offer(self._refuse(error))

    def _batch(self, value: list[Any]) -> list[jsonrpc.Message]:
        if self._session is None or not can(self._session.state.version, "batch"):
            raise InvalidRequest(f"Batches exist only in revision {HEADERLESS}; send one message at a time")
        self._check_reader()
        return parse_batch(value, max_items=self._limits.max_batch_items)

    def _check_reader(self) -> None:
        if self._outbox.full:
            raise Overloaded(
                f"Too many messages wait for you ({self._limits.max_outbox_items}); read them before you ask on"
            )

    def _accept(self, message: jsonrpc.Message) -> Flight | bytes | None:
        """Take one message in: a request becomes a flight, or a refusal ready to be sent, like what is malformed."""
        if isinstance(message, jsonrpc.Request):
            try:
                return self._launch(message)
            except WireError as error:
                return self._refuse(error, message)
        elif isinstance(message, jsonrpc.Notification):
            self._notice(message)
        elif isinstance(message, jsonrpc.Response):
            if self._session is not None:
                self._session.peer.answer(message)
        else:
            return self._refuse(message.error, message)
        return None

    def _launch(self, request: jsonrpc.Request) -> Flight:
        self._calls.check(request.id)
        self._check_reader()
        call = self._open(request, self._name_request())
        exchange = _DuplexExchange(self._outbox, self._session)
        flight = exchange.flight = Flight(call, exchange, self.client)
        self._calls.enter(flight)
        return flight

    def _open(self, request: jsonrpc.Request, request_id: str) -> Call:
        action = self._lifecycle.receive(request)
        if action is Action.SERVE_STATELESS:
            return open_message(request, self._transport, principal=self._principal, request_id=request_id)
        if action is Action.OPEN_SESSION:
            self._open_session(request)
        session = self._session
        if session is None:
            return Call(method=request.method, params={}, version=HEADERLESS, transport=self._transport, id=request.id)
        return session.state.open_call(
            request, self._transport, principal=self._principal, request_id=request_id, session=session.key
        )

    def _open_session(self, request: jsonrpc.Request) -> None:
        try:
            state = SessionState(request.params)
            self._session = self._sessions.open(state, self._principal, calls=self._calls, hang_up=self.hang_up)
        except WireError:
            self._lifecycle.reopen()
            raise
        self._opened.set()

    def _take_back(self) -> None:
        if self._session is not None:
            self._sessions.discard(self._session)
            self._session.notices.end()
            self._session, self._lifecycle = None, Lifecycle()

    def _notice(self, notification: jsonrpc.Notification) -> None:
        if notification.method == "notifications/cancelled":
            self._calls.cancel(notification.params.get("requestId"))
        elif notification.method == "notifications/initialized" and self._session is not None:
            self._session.initialized()

    async def _serve(self, flight: Flight) -> None:
        answer = await self._answer(flight)
        if answer is not None:
            await self._outbox.deliver(answer)

    async def _answer(self, flight: Flight) -> bytes | None:
        call = flight.call
        try:
            outcome = await self._manager.serve(flight)
        finally:
            self._calls.leave(flight)
        if call.method == "initialize" and not isinstance(outcome, Done):
            self._take_back()
        if isinstance(outcome, Stopped):
            error = answer_to(outcome)
            return None if error is None else jsonrpc.failure_of(error, call.id, stateless=call.stateless)
        data = encode_outcome(call, outcome)
        if call.method == "subscriptions/listen" and isinstance(outcome, Done):
            await self._outbox.put(data)
            return jsonrpc.notification("notifications/cancelled", {"requestId": call.id})
        return data

    async def _serve_batch(self, messages: list[jsonrpc.Message]) -> None:
        answers: list[bytes] = []
        bound = BatchBound(self._limits.max_result_bytes)

        async def collect(flight: Flight) -> None:
            answer = await self._answer(flight)
            if answer is not None:
                answers.append(bound.fitted(answer, flight.call.id))

        async with trio.open_nursery() as nursery:
            for message in messages:
                accepted = self._accept(message)
                if isinstance(accepted, Flight):
                    nursery.start_soon(collect, accepted)
                elif accepted is not None:
                    answers.append(accepted)
        if answers:
            await self._outbox.deliver(b"[" + b",".join(answers) + b"]")

    def _refuse(self, error: WireError, message: jsonrpc.Request | jsonrpc.Malformed | None = None) -> bytes:
        method, params = jsonrpc.asked_by(message)
        request_id = None if message is None else message.id
        line = RequestLine(self._name_request(), self._transport, method, "", 0.0, client=self.client)
        self._manager.refuse(error, line, Asked(self._principal, params))
        return jsonrpc.failure_of(error, request_id, stateless=self._session is None)


async def _unsent(_data: bytes) -> None:
    raise AssertionError("nothing is said before run")


class _DuplexExchange:
    """The way back of one call on a duplex connection."""

    __slots__ = ("_outbox", "_session", "flight")

    def __init__(self, outbox: Outbox, session: Session | None) -> None:
        self.flight: Flight | None = None
        self._outbox = outbox
        self._session = session

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        await self._outbox.put(jsonrpc.notification(method, params))

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        assert self._session is not None, "only a stateful call asks live"
        assert self.flight is not None
        async with self.flight.waiting_for_client():
            return await self._session.peer.ask(requests, self._outbox.put)

    def release(self, retry_ms: int) -> None:
        """A duplex connection has no stream to give up."""
