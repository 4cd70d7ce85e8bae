"""Listen streams: a `subscriptions/listen` call that runs until its client goes or the server ends it.

A listen is a call like any other, so cancellation, metrics and the in-flight table need nothing special: its handler
acknowledges, tells of events through the call's `Exchange`, and returns the final result when it is asked to end.
Subscriptions are keyed by the call itself, never by its JSON-RPC id (SUB-7).

Called by: `messages.manager`. Calls: the event bus, `wire.subscriptions`. Deliberately not: stateful sessions' notices
(`messages.sessions`).

Laws: registered on the bus before the acknowledgement is written (SUB-6); a slow reader delays only itself; nothing of
the request is kept but what is used; places are shared by principal, by address without keys.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from msgspec import structs

from mcpd.config import Limits
from mcpd.errors import InvalidParams, Overloaded
from mcpd.events import Bus, Changed
from mcpd.messages.notices import Notices
from mcpd.monitoring.metrics import Metrics
from mcpd.service import Exchange, McpService
from mcpd.wire.call import Call
from mcpd.wire.envelope import SUBSCRIPTION_KEY
from mcpd.wire.subscriptions import TASK_NOTICE, Filter, Pending, tag
from mcpd.wire.tasks import read_watched
from mcpd.wire.uris import normalise

MAX_ID_CHARACTERS = 256
"""Of a listen's id, which is kept and stands in every notification."""


class Listens:
    """Runs and ends the listen streams of this process."""

    def __init__(self, service: McpService, bus: Bus, *, limits: Limits, metrics: Metrics) -> None:
        self._service = service
        self._bus = bus
        self._limits = limits
        self._metrics = metrics
        self._streams: dict[_Stream, None] = {}
        metrics.watch("subscriptions", self._count)

    def _count(self) -> int:
        return len(self._streams)

    async def run(self, call: Call, exchange: Exchange) -> dict[str, Any]:
        """Serve one listen until `end_all`; returns its final result.

        Raises: InvalidParams for a bad filter, MissingCapability for tasks that are not declared, StoreUnavailable,
        Overloaded when there are `limits.max_listen_streams` already and nobody
        holds more than the caller would.
        Cancellation: unsubscribes and sends nothing more.
        """
        wanted = Filter.read(
            call.params,
            permits=lambda uri: self._service.watchable(uri, call),
            max_uris=self._limits.max_subscription_uris,
        )
        wanted = await self._with_tasks(wanted, call)
        _let_go(call)
        self._make_room(call.principal.share)
        uris = {normalise(uri): uri for uri in wanted.uris}
        stream = _Stream(call.principal.share, Pending(wanted.kinds, uris, wanted.tasks))
        subscriptions = [bus.subscribe(stream.notices.offer) for bus in self._buses(wanted)]
        self._streams[stream] = None
        try:
            acknowledged = tag({"notifications": wanted.honoured()}, call.id)
            await exchange.notify("notifications/subscriptions/acknowledged", acknowledged)
            for task_id in wanted.tasks:
                stream.notices.offer(Changed("task", task_id))
            await stream.notices.tell(partial(self._tell, call, exchange))
        finally:
            for subscription in subscriptions:
                subscription.close()
            self._streams.pop(stream, None)
        return {"_meta": {SUBSCRIPTION_KEY: call.id}}

    async def _with_tasks(self, wanted: Filter, call: Call) -> Filter:
        tasks = self._service.tasks
        ids = read_watched(call.params)
        return wanted if tasks is None else structs.replace(wanted, tasks=await tasks.watchable(call, ids))

    def _buses(self, wanted: Filter) -> list[Bus]:
        tasks = self._service.tasks
        return [self._bus] if tasks is None or not wanted.tasks else [self._bus, tasks.bus]

    async def _tell(self, call: Call, exchange: Exchange, method: str, params: dict[str, Any]) -> None:
        """Say one thing; a task is told as it is by then (TSK-10)."""
        if method == TASK_NOTICE:
            tasks = self._service.tasks
            found = None if tasks is None else await tasks.notice(params["taskId"], call.principal)
            if found is None:
                return
            params = found
        await exchange.notify(method, tag(params, call.id))

    def end_all(self) -> None:
        """Ask every stream to end with its final result. Not a checkpoint."""
        for stream in self._streams:
            stream.notices.end()

    def _make_room(self, share: str) -> None:
        """When all places are taken, the oldest stream of whoever has most ends for a caller with less."""
        if len(self._streams) < self._limits.max_listen_streams:
            return
        counts = Counter(stream.share for stream in self._streams)
        (largest, most), *_ = counts.most_common(1)
        self._metrics.rejected("listens")
        if most <= counts[share] + 1:
            raise Overloaded(f"{self._limits.max_listen_streams} listen streams are open; try again later")
        oldest = next(stream for stream in self._streams if stream.share == largest)
        del self._streams[oldest]
        oldest.notices.end()


class _Stream:
    def __init__(self, share: str, pending: Pending) -> None:
        self.share = share
        self.notices = Notices(pending)


def _let_go(call: Call) -> None:
    """Forget what the client sent: a listen lives for days, and its parameters and capabilities are read.

    Emptied rather than dropped, because the frames of the transport that wait for this call hold them, too.

    Raises: InvalidParams for what would be kept all the same: an id or a progress token of absurd length.
    """
    if any(len(str(name)) > MAX_ID_CHARACTERS for name in (call.id, call.progress_token)):
        raise InvalidParams(f"The id and the progress token of a listen may have {MAX_ID_CHARACTERS} characters")
    call.params.clear()
    call.capabilities.clear()
