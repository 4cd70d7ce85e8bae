"""What signals mean to a server: the first asks it to stop in order, the second ends it at once.

An orderly stop has bounds everywhere; should one of them fail (a tool that holds the event loop, a peer that does not
read), a watchdog thread ends the process. It and the second signal need no event loop, since that may be what hangs.

Called by: `app`. Calls nothing of ours. Deliberately not: the order of stopping, which is `app`'s.

Laws: after the first signal the process ends within `patience_s`, whatever its tools and peers do.

Sources: issue "A second Ctrl-C exits at once"; architecture "Nurseries and shutdown", trap 5.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import trio

INTERRUPTED = 130
_STOP = (signal.SIGINT, signal.SIGTERM)
_HANGUP = getattr(signal, "SIGHUP", None)


async def heed_signals(stopping: trio.Event, reload: Callable[[], None], *, patience_s: float) -> None:
    """Set `stopping` at the first SIGINT or SIGTERM, end the process at the second; `reload` at each SIGHUP.

    Cancellation: safe; the old handlers come back. After the first signal nobody but the end of the process follows.
    """
    numbers = _STOP if _HANGUP is None else (*_STOP, _HANGUP)
    with trio.open_signal_receiver(*numbers) as arriving:
        async for number in arriving:
            if number == _HANGUP:
                reload()
            elif not stopping.is_set():
                for stop in _STOP:
                    signal.signal(stop, _end_now)
                _start_watchdog(patience_s)
                stopping.set()


def _end_now(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _start_watchdog(patience_s: float) -> None:
    def give_up() -> None:
        os.write(2, b"mcpd: something would not stop; exiting now\n")
        os._exit(1)

    timer = threading.Timer(patience_s, give_up)
    timer.daemon = True
    timer.start()
