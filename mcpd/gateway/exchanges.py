"""The ways back of calls over HTTP: what a running call says to its client, and how the reply ends.

`PostExchange` is a stateless call's: plain JSON if the call is done before it says anything, else an event stream from
the first notification on (deferred commit, RSP-4). `StreamExchange` is a stateful call's: it writes into a resumable
stream that some request reads. A client that takes only one of the two forms gets that one: what a call says on its way
is lost on one that takes only JSON, and a result is one event to one that takes only events.

Called by: `gateway.streamable_http`, `gateway.stateful_http`, which hand in what an exchange needs as callables.
Deliberately not: reading requests, or deciding anything about MCP.

Laws: nothing is written behind the last message; a client that left is told nothing (CAN-3).

Sources: MCP 2026-07-28 and 2025-11-25 transports; RSP-1..4, STR-1..6, RSM-4, S2C-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import trio

from mcpd.errors import Forbidden, Retryable, WireError, facing
from mcpd.gateway.asgi import Head, Headers, Responder
from mcpd.messages.flight import Failed, Flight, Outcome, Stopped, answer_to, encode_outcome
from mcpd.messages.outbox import Outbox
from mcpd.messages.peer import Peer
from mcpd.messages.streams import EventStream
from mcpd.wire import jsonrpc, sse
from mcpd.wire.call import Call

OpenEvents = Callable[[Responder, trio.CancelScope], Outbox]
"""Starts an event stream on a reply: returns the queue in front of its writer, which runs in the given scope."""


class PostExchange(msgspec.Struct, eq=False):
    """The way back of one stateless call: JSON, or an event stream from the first notification on."""

    _call: Call
    _responder: Responder
    _open_events: OpenEvents
    _head: Head
    _opened: tuple[Outbox, trio.CancelScope] | None = None
    """The event stream, once there is one: its queue, and what its writer runs in."""

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Say something before the result; it is lost on a client that takes only JSON."""
        if self._head.takes_events:
            await self._open().put(sse.event(jsonrpc.notification(method, params)))

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002 - the Protocol's
        """Never happens: a stateless client is asked by the result."""
        raise AssertionError("a stateless call is never asked live")

    def release(self, retry_ms: int) -> None:
        """A stateless stream cannot be resumed, so it is not given up (GET-2)."""

    def commit(self) -> None:
        """Start the event stream although there is nothing to say yet: a proxy would give up waiting."""
        if self._opened is None and self._head.takes_events:
            self._open().offer(sse.PING)

    def _open(self) -> Outbox:
        if self._opened is None:
            writer = trio.CancelScope()
            self._opened = self._open_events(self._responder, writer), writer
        return self._opened[0]

    async def finish(self, outcome: Outcome) -> None:
        """Send the last message, if the client is there to read it, and end the exchange."""
        if isinstance(outcome, Stopped):
            error = answer_to(outcome)
            if error is None:
                self._abandon()
                return
            outcome = Failed(error)
        body = encode_outcome(self._call, outcome)
        if not (isinstance(outcome, Failed) or self._head.takes_json):
            self._open()
        if self._opened is not None:
            await self._end_stream(*self._opened, body)
        elif isinstance(outcome, Failed):
            await self._responder.whole(facing(outcome.error).mcp_status, body, failure_headers(outcome.error))
        else:
            await self._responder.whole(200, body)

    async def _end_stream(self, outbox: Outbox, writer: trio.CancelScope, body: bytes) -> None:
        await outbox.deliver(sse.event(body))
        await outbox.flush()
        writer.cancel()
        await self._responder.end()

    def _abandon(self) -> None:
        if self._opened is not None:
            outbox, writer = self._opened
            writer.cancel()
            outbox.close()


class StreamExchange:
    """The way back of one stateful HTTP call: into its stream. `flight` is set before the call runs."""

    __slots__ = ("_may_notify", "_may_release", "_peer", "_stream", "flight")

    def __init__(self, peer: Peer, stream: EventStream, *, may_release: bool, may_notify: bool = True) -> None:
        self.flight: Flight | None = None
        self._peer = peer
        self._stream = stream
        self._may_release = may_release
        self._may_notify = may_notify

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Write a notification; it is lost on a client that takes only JSON."""
        if self._may_notify:
            await self._send(jsonrpc.notification(method, params))

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Ask the client live and wait for its answers. Raises and cancellation: as `Peer.ask`."""
        assert self.flight is not None
        async with self.flight.waiting_for_client():
            return await self._peer.ask(requests, self._send)

    async def _send(self, data: bytes) -> None:
        self._stream.append(data)
        await trio.lowlevel.checkpoint()

    def release(self, retry_ms: int) -> None:
        """Have the client come back later, where its revision knows how (RSM-4)."""
        if self._may_release:
            self._stream.release(retry_ms)


def retry_after(error: WireError) -> Headers:
    """Return the header that tells when a refused request may be sent again; none for other errors."""
    if isinstance(error, Retryable):
        return [(b"retry-after", b"%d" % max(1, -(-error.retry_after_ms // 1000)))]
    return []


def failure_headers(error: WireError) -> Headers:
    """Return the headers that go with an error: a challenge for a missing scope, or when to try again."""
    if isinstance(error, Forbidden):
        challenge = f'Bearer error="insufficient_scope", scope="{error.scope}"'
        return [(b"www-authenticate", challenge.encode("latin-1"))]
    return retry_after(error)
