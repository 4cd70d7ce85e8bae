"""A watch on the event loop: how long one pass of it keeps everybody else waiting, and who was running when it did.

An `async` function that computes, sleeps or reads a file without awaiting holds the loop, and with it every call,
connection and signal of the server. The watch cannot end that; it says so: in the log while it lasts and when it is
over, and as two metrics.

Called by: `app`. Calls `monitoring.metrics` and the log. Built on Trio's instruments: two calls for each pass of the
loop, about a microsecond, and none while it waits. A daemon thread looks twice a second, since a held loop cannot
speak for itself; when a C call holds the GIL it speaks as soon as that has ended.

Deliberately not: a profiler. The names are those of all calls in flight; the place in the code is exact.

Sources: surfaces "Metrics" (`mcpd_loop_stalls_total`, `mcpd_loop_lag_seconds`).
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import PurePath
from time import perf_counter

import trio

from mcpd.monitoring.metrics import Metrics

STALL_S = 0.5
"""A pass that takes longer is a stall: a person notices, and health checks begin to fail."""
LOOK_S = 0.5
_NAMES_ITEMS = 8
_FRAMES_ITEMS = 3
_log = logging.getLogger(__name__)


class LoopWatch(trio.abc.Instrument):
    """Watches the loop that `run` runs in. `running` names the calls in flight; it is asked in another thread, too."""

    def __init__(self, metrics: Metrics, running: Callable[[], Iterable[str]]) -> None:
        self._running = running
        self._lag = metrics.loop_lag.of()
        self._stalls = metrics.loop_stalls.of()
        self._since = 0.0
        """When this pass began, on the clock of `perf_counter`; 0 while the loop waits for events."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled. Resources: the thread ends soon after."""
        over = threading.Event()
        looking = threading.Thread(
            target=self._look, args=(threading.get_ident(), over), name="mcpd-loop-watch", daemon=True
        )
        looking.start()
        trio.lowlevel.add_instrument(self)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)
            over.set()

    def after_io_wait(self, _wait_s: float) -> None:
        """Note that the loop has begun a pass."""
        self._since = perf_counter()

    def before_io_wait(self, _wait_s: float) -> None:
        """Note that the loop has ended a pass."""
        since, self._since = self._since, 0.0
        if since:
            held = perf_counter() - since
            self._lag.observe(held)
            if held > STALL_S:
                self._stalls.value += 1
                _log.warning("the event loop was held for %.2f s; calls in flight now: %s", held, self._names())

    def _look(self, thread: int, over: threading.Event) -> None:
        told = 0.0
        while not over.wait(LOOK_S):
            since = self._since
            if since not in (0.0, told) and perf_counter() - since > STALL_S:
                told = since
                names, place = self._names(), _place(thread)
                _log.warning("the event loop is held at %s; calls in flight: %s", place, names)

    def _names(self) -> str:
        return ", ".join(islice(self._running(), _NAMES_ITEMS)) or "none"


def _place(thread: int) -> str:
    """Return the innermost frames of a thread, outermost first. Reads no source: that would take a while."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to see another thread's stack
    found = [
        f"{PurePath(inner.f_code.co_filename).name}:{line} {inner.f_code.co_name}"
        for inner, line in islice(traceback.walk_stack(frame), _FRAMES_ITEMS)
    ]
    return " > ".join(reversed(found))
