"""A worker's end of its supervisor: what it is told at the start, what it reports, and its end when that one is gone.

A thread waits for the end of a pipe that the supervisor alone holds open, so that a supervisor killed with SIGKILL
leaves nobody behind, not even a worker whose event loop hangs: that thread starts the watchdog, then asks the process
to stop as SIGTERM would.

Called by: `commands.serve` (`join`), `app` (the rest). Deliberately not: a way to ask another worker anything.

Cancellation of `run` is safe. Not PR_SET_PDEATHSIG: it kills without an orderly stop, and only on Linux.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Final

import trio

from mcpd.monitoring.merging import Family
from mcpd.signals import start_watchdog
from mcpd.supervision.messages import (
    HEADER_BYTES,
    Ask,
    Frames,
    Merged,
    Message,
    Ready,
    Reloaded,
    Report,
    Scrape,
    Setup,
    encode,
)

SCRAPE_S: Final = 2.0
"""How long a scrape waits for the supervisor, which waits for the other workers for less."""
MAX_WAITING_ITEMS: Final = 256
"""Messages to the supervisor, which always reads."""
_READ_BYTES: Final = 64 * 1024


class Link:
    """The connection of this process with its supervisor."""

    def __init__(self, channel: socket.socket, setup: Setup) -> None:
        self.config = setup.config
        self.sockets = _inherited(setup.sockets)
        self.metrics_sockets = _inherited(setup.metrics_sockets)
        self._lifeline = setup.lifeline
        self._channel = channel
        self._outgoing, self._waiting = trio.open_memory_channel[Message](MAX_WAITING_ITEMS)
        self._scrapes = count(1)
        self._answers: dict[int, Sequence[Family]] = {}
        self._asked: dict[int, trio.Event] = {}

    def follow_end(self, patience_s: float) -> None:
        """End this process in order, and in `patience_s` at most, when its supervisor has ended. Starts a thread."""
        threading.Thread(target=self._await_end, args=(patience_s,), name="mcpd-lifeline", daemon=True).start()

    def _await_end(self, patience_s: float) -> None:
        os.read(self._lifeline, 1)
        start_watchdog(patience_s)
        os.kill(os.getpid(), signal.SIGTERM)

    def ready(self, banner: Iterable[str]) -> None:
        """Say that clients are served. Not a checkpoint."""
        self._outgoing.send_nowait(Ready(tuple(banner)))

    def reloaded(self) -> None:
        """Say that SIGHUP has been obeyed. Not a checkpoint."""
        self._outgoing.send_nowait(Reloaded())

    async def gather(self) -> Sequence[Family] | None:
        """Return the metrics of all workers; None when the supervisor does not answer. Cancellation: safe."""
        number, answered = next(self._scrapes), trio.Event()
        self._asked[number] = answered
        try:
            with trio.move_on_after(SCRAPE_S):
                await self._outgoing.send(Scrape(number))
                await answered.wait()
            return self._answers.pop(number, None)
        finally:
            del self._asked[number]

    async def run(
        self, report: Callable[[], Iterable[Family]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Talk to the supervisor until cancelled, or it has ended; `report` gives the metrics of this process."""
        async with trio.SocketStream(trio.socket.from_stdlib_socket(self._channel)) as stream:
            task_status.started()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream)
                    await self._receive(stream, report)
                    nursery.cancel_scope.cancel()
            except* trio.BrokenResourceError:
                pass

    async def _send(self, stream: trio.SocketStream) -> None:
        async for message in self._waiting:
            await stream.send_all(encode(message))

    async def _receive(self, stream: trio.SocketStream, report: Callable[[], Iterable[Family]]) -> None:
        frames = Frames()
        while data := await stream.receive_some(_READ_BYTES):
            for message in frames.feed(bytes(data)):
                if isinstance(message, Ask):
                    await self._outgoing.send(Report(tuple(report())))
                elif isinstance(message, Merged) and message.number in self._asked:
                    self._answers[message.number] = message.families
                    self._asked[message.number].set()


def join(descriptor: int) -> Link:
    """Become a worker: read what the supervisor says first on the inherited socket `descriptor`. Blocks."""
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor)
    length = int.from_bytes(_exactly(channel, HEADER_BYTES), "big")
    setup = pickle.loads(_exactly(channel, length))  # noqa: S301 - from our own parent, on a socket of its own
    os.set_inheritable(setup.lifeline, False)
    return Link(channel, setup)


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = channel.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise SystemExit(1)
    return data


def _inherited(numbers: Iterable[int]) -> list[socket.socket]:
    sockets = [socket.socket(fileno=number) for number in numbers]
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets
