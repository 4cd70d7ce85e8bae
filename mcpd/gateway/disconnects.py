"""Notices that an HTTP client has gone while its call runs, without paying for it on calls that are done at once.

A call is put on a list (one append). Only when it has run for `PATIENCE_S` does a task start to wait for the client's
going; most calls are over by then. The tasks live in one nursery of the gateway and end with their call.

Called by: `gateway.streamable_http`. Deliberately not: stateful calls, which outlive their connection (STR-3).

Laws: idle means asleep: with no call on the list the watcher waits for an event, not for a clock.

Sources: CAN-1, CAN-2; a nursery for each request costs as much as the call itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from mcpd.gateway.asgi import Receive, wait_disconnect
from mcpd.messages.flight import Flight

PATIENCE_S = 0.005


class Guard:
    """The watch over one call. `release` when the call is over."""

    __slots__ = ("_done", "_due", "_flight", "_on_quiet", "_quiet_at", "_receive", "_scope")

    def __init__(self, receive: Receive, flight: Flight, on_quiet: Callable[[], None], quiet_s: float) -> None:
        now = flight.started
        self._receive = receive
        self._flight = flight
        self._on_quiet = on_quiet
        self._due = now + PATIENCE_S
        self._quiet_at = now + quiet_s
        self._scope: trio.CancelScope | None = None
        self._done = False

    def release(self) -> None:
        """End the watch and let go of the call, which the list would keep for a while. Not a checkpoint."""
        self._done = True
        del self._receive, self._flight, self._on_quiet
        if self._scope is not None:
            self._scope.cancel()

    async def _watch(self) -> None:
        if self._done:
            return
        receive, flight, on_quiet = self._receive, self._flight, self._on_quiet
        with trio.CancelScope() as self._scope:
            with trio.move_on_at(self._quiet_at):
                await _wait_gone(receive, flight)
                return
            on_quiet()
            await _wait_gone(receive, flight)


async def _wait_gone(receive: Receive, flight: Flight) -> None:
    await wait_disconnect(receive)
    flight.cancel("client_gone")


class Disconnects:
    """All watches of one server. `run` must be running."""

    def __init__(self) -> None:
        self._young: deque[Guard] = deque()
        self._news = trio.Event()

    def watch(self, receive: Receive, flight: Flight, *, on_quiet: Callable[[], None], quiet_s: float) -> Guard:
        """Cancel `flight` when its client goes; call `on_quiet` when `quiet_s` have passed. Not a checkpoint."""
        guard = Guard(receive, flight, on_quiet, quiet_s)
        self._young.append(guard)
        if len(self._young) == 1:
            self._news.set()
        return guard

    async def run(self) -> None:
        """Start the watches that are due, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                while self._young:
                    await trio.sleep_until(self._young[0]._due)  # noqa: SLF001 - one thing in two classes
                    self._start_due(nursery)

    def _start_due(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        while self._young and (self._young[0]._done or self._young[0]._due <= now):  # noqa: SLF001
            guard = self._young.popleft()
            if not guard._done:  # noqa: SLF001
                nursery.start_soon(guard._watch)  # noqa: SLF001
