"""A plain TCP balancer for tests: every connection goes to the next server, in turn, and it knows nothing of HTTP.

`balancing` stands in front of servers until its body is done; `dealt` says how many connections each has got. What one
side ends is ended on the other, a half-closed connection passes on as such, and a connection that breaks is broken for
both. Deliberately not: health checks, or a second try unless a test wants `tries`, so that a server that is gone is
noticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count

import trio


class Balancer:
    """Where it listens, and how many connections each server has got, in the order of the servers.

    A test may change `ports` at any time. A connection is offered to `tries` servers before it is turned away.
    """

    def __init__(self, ports: Sequence[int], tries: int = 1) -> None:
        self.ports = list(ports)
        self._tries = tries
        self._turn = count()
        self.dealt = [0] * len(ports)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    async def serve(self, client: trio.SocketStream) -> None:
        try:
            async with client, await self._connect() as server, trio.open_nursery() as both:
                both.start_soon(_forward, client, server)
                both.start_soon(_forward, server, client)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass

    async def _connect(self) -> trio.SocketStream:
        first = next(self._turn)
        for further in range(self._tries - 1):
            with suppress(OSError):
                return await self._open((first + further) % len(self.ports))
        return await self._open((first + self._tries - 1) % len(self.ports))

    async def _open(self, number: int) -> trio.SocketStream:
        self.dealt[number] += 1
        return await trio.open_tcp_stream("127.0.0.1", self.ports[number])


async def _forward(source: trio.SocketStream, target: trio.SocketStream) -> None:
    while data := await source.receive_some():
        await target.send_all(data)
    await target.send_eof()


@asynccontextmanager
async def balancing(*servers: int, port: int = 0, tries: int = 1) -> AsyncIterator[Balancer]:
    """Stand at `port` (0: a free one) in front of the servers at these ports of 127.0.0.1."""
    balancer = Balancer(servers, tries)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        balancer.port = listeners[0].socket.getsockname()[1]
        await nursery.start(partial(trio.serve_listeners, balancer.serve, listeners))
        yield balancer
        nursery.cancel_scope.cancel()
