"""One worker as its supervisor sees it: start, talk without ever waiting, signal, reap.

Called by: `supervisor`. Runs `mcpd worker`, a hidden command, by this interpreter and with its import path.
Deliberately not: a decision; when there is a worker and when it ends is the supervisor's.

The worker leads a process group of its own: Ctrl-C in a terminal reaches the supervisor alone, which passes it on once;
a worker that got both would take the second for the wish to end at once.

Laws: only a process that was started here, and has not been reaped, is ever sent a signal (Popen sees to that).
"""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from mcpd.monitoring.merging import Family
from mcpd.supervision.messages import Ask, Frames, Merged, Message, Setup, encode, frame

MAX_ASKS_ITEMS: Final = 64
"""Asked and not answered; a worker that hangs is not asked more."""
_READ_BYTES: Final = 256 * 1024
_START: Final = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from mcpd.cli import main; main()"
"""Not `-m`, which would put the working folder into the import path, where its files could stand for our modules."""


class Child:
    """One process; `report` is the last that it said of its metrics."""

    def __init__(self, setup: Setup) -> None:
        """Start the process. Raises: OSError."""
        self.number = setup.number
        self.ready = False
        self.reload_wanted = False
        self.asks = self.reports = 0
        """How often it was asked for its metrics, and has answered."""
        self.report: Sequence[Family] = ()
        self.started_s = time.monotonic()
        self.channel, theirs = socket.socketpair()
        self.outgoing = bytearray()
        self._frames = Frames()
        with theirs:
            self.process = _start(theirs.fileno(), setup)
        self.channel.setblocking(False)
        self.outgoing += frame(pickle.dumps(setup))
        self.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def ask(self) -> int:
        """Ask for its metrics as they are now; returns what `reports` is to be when it has answered."""
        if self.ready and self.asks - self.reports < MAX_ASKS_ITEMS:
            self.asks += 1
            self.say(Ask())
        return self.asks

    def take(self, families: Sequence[Family]) -> None:
        """Take a report."""
        self.report = families
        self.reports += 1

    def say(self, message: Ask | Merged) -> None:
        """Send a message, now or when there is room."""
        self.outgoing += encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what there is room for; a worker that has died is noticed elsewhere."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self.outgoing:
                del self.outgoing[: self.channel.send(self.outgoing)]

    def receive(self) -> list[Message] | None:
        """Return what it has said; None when it says no more."""
        try:
            data = self.channel.recv(_READ_BYTES)
            return self._frames.feed(data) if data else None
        except BlockingIOError:
            return []
        except (OSError, ValueError):
            return None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it is still there."""
        self.process.send_signal(number)

    def close(self) -> None:
        """Let go of its channel."""
        self.channel.close()


def _start(channel: int, setup: Setup) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-P", "-c", _START, json.dumps(sys.path), "worker", str(channel)],
        stdin=subprocess.DEVNULL,
        pass_fds=[channel, setup.lifeline, *setup.sockets, *setup.metrics_sockets],
        process_group=0,
    )
