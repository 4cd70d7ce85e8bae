"""A real HTTP/1.1 server that a test tells what to answer, request by request, and that knows when its client leaves.

`serving(answer)` listens on a loopback port; `answer` is an async function from what was asked to what is said: an
`Answer`, `Raw` bytes (sent as they are, then the connection closes), or `HOLD` (nothing, until the client goes).
Used by the tests of HTTP clients: `tests/drivers`, `tests/search`. Deliberately not: assertions.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final, NamedTuple

import h11
import trio


class Asked(NamedTuple):
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """One reply; `pieces` other than None are sent chunked, one after the other, each when the one before is out."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    pieces: Iterable[bytes] | None = None
    pause_s: float = 0.0


class Raw(NamedTuple):
    """Bytes that need not be HTTP."""

    data: bytes


class Silence(Enum):
    """The server hears and says nothing."""

    HOLD = "hold"


HOLD: Final = Silence.HOLD
Script = Callable[[Asked], Awaitable[Answer | Raw | Silence]]


class Scripted:
    """The server: its address, what it was asked, how many connections it saw come and go."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.url = ""
        self.asked: list[Asked] = []
        self.opened = 0
        self.closed = 0
        self._changed = trio.Event()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_asked(self, count: int) -> None:
        """Return when so many requests have come."""
        while len(self.asked) < count:
            await self._changed.wait()

    async def wait_closed(self, count: int) -> None:
        """Return when so many connections have been closed by their clients, or for them."""
        while self.closed < count:
            await self._changed.wait()

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection."""
        self.opened += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass
        finally:
            self.closed += 1
            self._change()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            asked = await _read(connection, stream)
            if asked is None:
                return
            self.asked.append(asked)
            self._change()
            said = await self._script(asked)
            if isinstance(said, Answer):
                await _say(connection, stream, said)
                connection.start_next_cycle()
                continue
            if isinstance(said, Raw):
                await stream.send_all(said.data)
            else:
                await stream.receive_some()
            return


async def _read(connection: h11.Connection, stream: trio.abc.Stream) -> Asked | None:
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            headers = {name.decode(): value.decode() for name, value in request.headers}
            return Asked(request.method.decode(), request.target.decode(), headers, body)
        else:
            return None


async def _say(connection: h11.Connection, stream: trio.abc.Stream, answer: Answer) -> None:
    length = (
        ("transfer-encoding", "chunked") if answer.pieces is not None else ("content-length", str(len(answer.body)))
    )
    named = {name.lower() for name, _ in answer.headers}
    headers = list(answer.headers) + ([length] if length[0] not in named else [])
    data = connection.send(h11.Response(status_code=answer.status, headers=headers))
    assert data is not None
    await stream.send_all(data)
    for piece in [answer.body] if answer.pieces is None else answer.pieces:
        await stream.send_all(connection.send(h11.Data(data=piece)) or b"")
        await trio.sleep(answer.pause_s)
    await stream.send_all(connection.send(h11.EndOfMessage()) or b"")


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Scripted]:
    """Give a listening server, gone on leaving. With `tls` it is an https one, at `localhost`."""
    server = Scripted(script)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        if tls is None:
            await nursery.start(trio.serve_listeners, server.handle, listeners)
        else:
            server.url = server.url.replace("http://127.0.0.1", "https://localhost")
            secure = [trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners]
            await nursery.start(trio.serve_listeners, server.handle, secure)
        yield server
        nursery.cancel_scope.cancel()
