"""Listen streams: a `subscriptions/listen` call that runs until its client goes or the server ends it.

A listen is a call like any other, so cancellation, metrics and the in-flight table need nothing special: its handler
acknowledges, tells of events through the call's `Exchange`, and returns the final result when it is asked to end.
Subscriptions are keyed by the call itself, never by its JSON-RPC id (SUB-7).

Called by: `messages.manager`. Calls: the event bus, `wire.subscriptions`. Deliberately not: stateful sessions' notices
(`messages.sessions`).

Laws: registered on the bus before the acknowledgement is written (SUB-6); a slow reader delays only itself.
"""

from __future__ import annotations

from typing import Any

import trio

from mcpd.config import Limits
from mcpd.errors import Overloaded
from mcpd.events import Changed, LocalBus
from mcpd.monitoring.metrics import Metrics
from mcpd.service import Exchange, McpService
from mcpd.wire.call import Call
from mcpd.wire.envelope import SUBSCRIPTION_KEY
from mcpd.wire.subscriptions import Filter, Pending, notification, tag


class Listens:
    """Runs and ends the listen streams of this process."""

    def __init__(self, service: McpService, bus: LocalBus, *, limits: Limits, metrics: Metrics) -> None:
        self._service = service
        self._bus = bus
        self._limits = limits
        self._streams: set[_Stream] = set()
        metrics.watch("subscriptions", self._count)

    def _count(self) -> int:
        return len(self._streams)

    async def run(self, call: Call, exchange: Exchange) -> dict[str, Any]:
        """Serve one listen until `end_all`; returns its final result.

        Raises: InvalidParams for a bad filter, Overloaded when there are `limits.max_listen_streams` already.
        Cancellation: unsubscribes and sends nothing more.
        """
        if len(self._streams) >= self._limits.max_listen_streams:
            raise Overloaded(f"{self._limits.max_listen_streams} listen streams are open; try again later")
        wanted = Filter.read(
            call.params,
            permits=lambda uri: self._service.watchable(uri, call),
            max_uris=self._limits.max_subscription_uris,
        )
        stream = _Stream(Pending(wanted))
        subscription = self._bus.subscribe(stream.offer)
        self._streams.add(stream)
        try:
            acknowledged = tag({"notifications": wanted.honoured()}, call.id)
            await exchange.notify("notifications/subscriptions/acknowledged", acknowledged)
            await stream.tell(call, exchange)
        finally:
            subscription.close()
            self._streams.discard(stream)
        return {"_meta": {SUBSCRIPTION_KEY: call.id}}

    def end_all(self) -> None:
        """Ask every stream to end with its final result. Not a checkpoint."""
        for stream in self._streams:
            stream.end()


class _Stream:
    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self._news = trio.Event()
        self._ending = False

    def offer(self, event: Changed) -> None:
        if self._pending.offer(event.kind, event.uri):
            self._news.set()

    def end(self) -> None:
        self._ending = True
        self._news.set()

    async def tell(self, call: Call, exchange: Exchange) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            for kind, uri in self._pending.take():
                method, params = notification(kind, uri)
                await exchange.notify(method, tag(params, call.id))
            if self._ending:
                return
