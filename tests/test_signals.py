"""What is left of the signal handlers when a server has ended or is about to.

How a server stops is seen from outside, in `tests/cancellation/`. Here: the moment after the handlers have gone, which
from outside is too short to be met each time.
"""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import trio
import trio.testing

from mcpd.signals import handle_signals


@pytest.mark.parametrize("stopping", [True, False])
async def test_a_hangup_does_not_kill_a_server_that_is_about_to_end(stopping: bool) -> None:
    """SIGHUP means to read the keys again; a server that stops has nothing to read, and its exit code stays 0."""
    before, stop = signal.getsignal(signal.SIGHUP), trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(handle_signals, stop, lambda: None, patience_s=60))
            await trio.testing.wait_all_tasks_blocked()
            if stopping:
                stop.set()
            nursery.cancel_scope.cancel()
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if stopping else before)
        if stopping:
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
