"""What signals mean to a server or a command: the first asks it to stop in order, the second ends it at once.

An orderly stop has bounds everywhere; should one of them fail (a tool that holds the event loop, a peer that does not
read), a watchdog thread ends the process. It and the second signal need no event loop, since that may be what hangs.

Called by: `app` for servers; `commands` for what ends by itself. Deliberately not: the order of stopping,
which is `app`'s.

Laws: after the first signal the process ends within `patience_s`, whatever its tools and peers do.

Sources: issue "A second Ctrl-C exits at once"; architecture "Nurseries and shutdown", trap 5.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TypeVar

import trio

from mcpd.errors import McpdError

T = TypeVar("T")

INTERRUPTED = 130
_STOP = (signal.SIGINT, signal.SIGTERM)
_HANGUP = getattr(signal, "SIGHUP", None)


async def handle_signals(stopping: trio.Event, reload: Callable[[], None], *, patience_s: float) -> None:
    """Set `stopping` at the first SIGINT or SIGTERM, end the process at the second; `reload` at each SIGHUP.

    Cancellation: safe; the old handlers come back. After the first signal nobody but the end of the process follows.
    """
    numbers = _STOP if _HANGUP is None else (*_STOP, _HANGUP)
    with trio.open_signal_receiver(*numbers) as arriving:
        async for number in arriving:
            if number == _HANGUP:
                reload()
            elif not stopping.is_set():
                _end_at_the_next()
                _start_watchdog(patience_s)
                stopping.set()


class Interrupted(Exception):
    """A command's work was ended by a signal."""


def run_until_interrupted(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's work in Trio and return its result; the first signal cancels it, the second ends the process.

    Raises: Interrupted; what the work raises of ours, as it is.
    """
    results: list[T] = []
    trio.run(_until_interrupted, work, results.append)
    if not results:
        raise Interrupted
    return results[0]


async def _until_interrupted(work: Callable[[], Awaitable[T]], deliver: Callable[[T], None]) -> None:
    failure: McpdError | None = None
    working = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_at_the_first, working)
        with working:
            try:
                deliver(await work())
            except McpdError as error:
                failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _cancel_at_the_first(
    working: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(*_STOP) as arriving:
        task_status.started()
        async for _ in arriving:
            _end_at_the_next()
            working.cancel(reason="interrupted")


def _end_at_the_next() -> None:
    for stop in _STOP:
        signal.signal(stop, _end_now)


def _end_now(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _start_watchdog(patience_s: float) -> None:
    def give_up() -> None:
        os.write(2, b"mcpd: something would not stop; exiting now\n")
        os._exit(1)

    timer = threading.Timer(patience_s, give_up)
    timer.daemon = True
    timer.start()
