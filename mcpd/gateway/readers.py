"""Reading from the stream of a stateful HTTP session: a POST's own reply, or what a GET asks for.

A `Reader` is one exchange that reads from an `EventStream`, until that ends or somebody else comes to read it. It
answers a POST with JSON if the responses are all there is to say, else with events; a GET always with events. `Post` is
what it has of the request.

Called by: `gateway.stateful_http`. Deliberately not: writing into streams, which calls do, or finding them.

Laws: the newest reader has the stream, and the one before ends; a client that goes only stops reading (STR-3).

Sources: MCP 2025-11-25 transports; STR-1..5, RSM-1..4.
"""

from __future__ import annotations

import math
from typing import Any

import trio

from mcpd.errors import CallCancelled
from mcpd.gateway.asgi import Head, Receive, Responder, wait_disconnect
from mcpd.messages.session import Session
from mcpd.messages.stream_names import STANDALONE
from mcpd.messages.streams import EventStream
from mcpd.wire import jsonrpc, sse
from mcpd.wire.call import Principal
from mcpd.wire.headers import RoutingHeaders
from mcpd.wire.versions import can


def is_standalone(stream: EventStream) -> bool:
    """True for the stream of messages that belong to no call."""
    return stream.name.endswith(STANDALONE)


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


class Reader:
    """One HTTP exchange that reads from a stream, until it ends or somebody else comes to read it."""

    def __init__(self, stream: EventStream, post: Post, session: Session, ping_s: float) -> None:
        self._stream = stream
        self._session = session
        self._responder = post.responder
        self._receive = post.receive
        self._primes = can(session.state.version, "priming")
        self._ping_s = ping_s
        self._head = post.head

    async def answer(self, requests: list[Any], *, batch: bool) -> None:
        """Answer a POST: JSON if the responses are all there is, else events."""
        async with trio.open_nursery() as nursery:
            self._attend(nursery)
            try:
                if await self._can_be_whole():
                    await self._whole(requests, batch=batch)
                elif not self._replaced():
                    await self._events(0)
            finally:
                self._stream.leave(self)
            nursery.cancel_scope.cancel()

    async def _can_be_whole(self) -> bool:
        """Wait for the responses, for ever if the client takes only JSON; True when they are all there is to send."""
        stream = self._stream
        if not self._head.takes_json:
            return False
        with trio.move_on_after(self._ping_s if self._head.takes_events else math.inf):
            while stream.quiet and not stream.finished and not self._replaced():
                await stream.wait_news()
        return stream.finished and stream.quiet and not self._replaced()

    async def follow(self, after: int) -> None:
        """Answer a GET: the events behind `after`, then whatever comes."""
        async with trio.open_nursery() as nursery:
            self._attend(nursery)
            if is_standalone(self._stream):
                nursery.start_soon(self._session.notices.tell, self._tell)
            nursery.start_soon(self._stream.run)
            try:
                await self._events(after)
            finally:
                self._stream.leave(self)
            nursery.cancel_scope.cancel()

    def _attend(self, nursery: trio.Nursery) -> None:
        self._stream.take_over(self)
        nursery.start_soon(self._watch, nursery.cancel_scope)

    async def _watch(self, scope: trio.CancelScope) -> None:
        await wait_disconnect(self._receive)
        scope.cancel()

    async def _tell(self, method: str, params: dict[str, Any]) -> None:
        number = self._stream.append(jsonrpc.notification(method, params))
        await self._stream.wait_sent(number)

    def _replaced(self) -> bool:
        return self._stream.reader is not self

    async def _whole(self, requests: list[Any], *, batch: bool) -> None:
        answers = [data for _, data in self._stream.since(0)]
        if not answers:
            error = CallCancelled(self._session.end_reason)
            answers = [jsonrpc.failure_of(error, request.id, stateless=False) for request in requests]
        body = b"[" + b",".join(answers) + b"]" if batch else answers[0]
        await self._responder.whole(200, body)
        self._stream.fetched = True

    async def _events(self, after: int) -> None:
        stream, responder = self._stream, self._responder
        await responder.start_events()
        stream.named = stream.named or not is_standalone(stream)
        if self._primes and after == 0 and not is_standalone(stream):
            await responder.chunk(sse.prime(stream.event_id(0)))
        while not self._replaced():
            events = stream.since(after)
            for number, data in events:
                await responder.chunk(sse.event(data, id=stream.event_id(number)))
                after = number
                if self._replaced():
                    break
                stream.sent(number)
            if events:
                continue
            if stream.finished or stream.retry_ms is not None:
                break
            with trio.move_on_after(self._ping_s) as quiet:
                await stream.wait_news()
            if quiet.cancelled_caught:
                await responder.chunk(sse.PING)
        if stream.retry_ms is not None and not stream.finished and not self._replaced():
            await responder.chunk(b"retry: %d\n\n" % stream.retry_ms)
        await responder.end()
        stream.fetched = stream.fetched or (stream.finished and not self._replaced())
