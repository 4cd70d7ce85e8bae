"""The stdio transport: one JSON-RPC message per line on stdin and stdout, for clients that start mcpd as a subprocess.

File descriptor 1 is moved away before anything else runs and points at stderr from then on, so that no `print` of a
tool and no child process can write into the protocol (IO-1).

Called by: `app`. Skin around `messages.duplex`. Deliberately not: authentication; whoever started us owns both ends.

Laws: a line has a length (`limits.max_message_bytes`); one that is longer is answered with a parse error and skipped to
its end (IO-9); end of input cancels what is in flight and ends the server (IO-3).

Sources: MCP basic/transports "stdio"; IO-1..9.
"""

from __future__ import annotations

import logging
import os

import trio

from mcpd.config import Limits
from mcpd.gateway.asgi import RequestNames
from mcpd.messages.duplex import Duplex
from mcpd.messages.manager import MessageManager
from mcpd.messages.sessions import Sessions
from mcpd.wire.call import ANONYMOUS

_READ_BYTES = 65536
_log = logging.getLogger(__name__)


def claim_stdout() -> int:
    """Take stdout for the protocol: returns a private descriptor for it and points fd 1 at stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return private


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


class StdioTransport:
    """Serves one client on two file descriptors."""

    def __init__(self, manager: MessageManager, sessions: Sessions, *, limits: Limits) -> None:
        self._limits = limits
        self._lines = Lines(limits.max_message_bytes)
        self._ready: list[bytes | None] = []
        self._duplex = Duplex(
            manager, sessions, limits=limits, transport="stdio", principal=ANONYMOUS, name_request=RequestNames()
        )

    async def run(self, stdin_fd: int, stdout_fd: int) -> None:
        """Serve until end of input. Resources: both descriptors are closed."""
        async with trio.lowlevel.FdStream(stdin_fd) as source, trio.lowlevel.FdStream(stdout_fd) as sink:

            async def write(data: bytes) -> None:
                await sink.send_all(data + b"\n")

            try:
                await self._duplex.run(lambda: self._next_line(source), write)
            except* trio.BrokenResourceError:
                _log.info("the client has closed its end of stdout")

    async def flush(self) -> None:
        """Wait until everything said so far is written; nothing is before `run`. Cancellation: safe."""
        await self._duplex.flush()

    async def _next_line(self, source: trio.abc.ReceiveStream) -> bytes | None:
        while True:
            while self._ready:
                line = self._ready.pop(0)
                if line is None:
                    self._duplex.refuse_oversized()
                elif line.strip():
                    return line
            data = await source.receive_some(_READ_BYTES)
            if not data:
                return None
            self._ready = self._lines.feed(bytes(data))
