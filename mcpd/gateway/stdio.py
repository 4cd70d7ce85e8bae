"""The stdio transport: one JSON-RPC message per line on stdin and stdout, for clients that start mcpd as a subprocess.

The descriptors are private ones (`mcpd.descriptors`), so that no `print` of a tool and no child process can write into
the protocol or read from it (IO-1).

Called by: `app`. Skin around `messages.duplex`. Deliberately not: authentication; whoever started us owns both ends.

Laws: a line has a length (`limits.max_message_bytes`); one that is longer is answered with a parse error and skipped to
its end (IO-9); end of input ends the server, after the calls in flight have had `END_OF_INPUT_S` to finish (IO-3).
Every message lets the others run before it is taken: one read may bring thousands, and their answers want to leave.

Sources: MCP basic/transports "stdio"; IO-1..9.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import trio

from mcpd.config import Limits
from mcpd.gateway.asgi import RequestNames
from mcpd.messages.duplex import Duplex
from mcpd.messages.manager import MessageManager
from mcpd.messages.sessions import Sessions
from mcpd.wire.call import ANONYMOUS

END_OF_INPUT_S = 1.5
"""Clients of the official SDKs send SIGTERM 2 s after they have closed stdin; what is piped in wants its answers."""
_READ_BYTES = 65536
_log = logging.getLogger(__name__)


class Lines:
    """Cuts a byte stream into lines of bounded length. Pure; `feed` never fails."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """Return the lines completed by `data`, without their ends; None stands for one that was too long."""
        self._buffer += data
        lines: list[bytes | None] = []
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._scanned = 0
            if self._skipping:
                self._skipping = False
            else:
                lines.append(line if len(line) <= self._max_bytes else None)
        self._scanned = len(self._buffer)
        if self._scanned > self._max_bytes:
            self._buffer.clear()
            self._scanned = 0
            if not self._skipping:
                lines.append(None)
            self._skipping = True
        return lines

    def end(self) -> bytes:
        """Return what follows the last line's end: the last line, if its sender left the end out."""
        return b"" if self._skipping else bytes(self._buffer)


def _nothing() -> None:
    """Nobody needs to know."""


class StdioTransport:
    """Serves one client on two file descriptors; `on_end` is called when its input has ended."""

    def __init__(
        self, manager: MessageManager, sessions: Sessions, *, limits: Limits, on_end: Callable[[], None] = _nothing
    ) -> None:
        self._limits = limits
        self._on_end = on_end
        self._ended = False
        self._lines = Lines(limits.max_message_bytes)
        self._ready: deque[bytes | None] = deque()
        """Lines that have come and were not taken yet."""
        self._duplex = Duplex(
            manager, sessions, limits=limits, transport="stdio", principal=ANONYMOUS, name_request=RequestNames()
        )

    async def run(self, stdin_fd: int, stdout_fd: int) -> None:
        """Serve until end of input. Resources: both descriptors are closed."""
        async with trio.lowlevel.FdStream(stdin_fd) as source, trio.lowlevel.FdStream(stdout_fd) as sink:

            async def write(data: bytes) -> None:
                await sink.send_all(data + b"\n")

            try:
                await self._duplex.run(lambda: self._next_line(source), write, linger_s=END_OF_INPUT_S)
            except* trio.BrokenResourceError as group:
                _log.info("stdout is closed or full: %s", _cause_of(group))

    async def flush(self) -> None:
        """Wait until everything said so far is written; nothing is before `run`. Cancellation: safe."""
        await self._duplex.flush()

    async def _next_line(self, source: trio.abc.ReceiveStream) -> bytes | None:
        while not self._ended:
            while self._ready:
                line = self._ready.popleft()
                if line is None:
                    self._duplex.refuse_oversized()
                elif line.strip():
                    await trio.lowlevel.checkpoint()
                    return line
            data = await source.receive_some(_READ_BYTES)
            self._ready.extend(self._lines.feed(bytes(data)))
            if not data:
                self._ended = True
                self._on_end()
                return self._lines.end() or None
        return None


def _cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first.__cause__ or first
