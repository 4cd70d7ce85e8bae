"""A plain TCP balancer for tests: every connection goes to the next server, in turn, and it knows nothing of HTTP.

`balancing` stands in front of servers until its body is done; `dealt` says how many connections each has got. What one
side ends is ended on the other, a half-closed connection passes on as such, and a connection that breaks is broken for
both. Deliberately not: health checks or a second try, so that a server that is gone is noticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import trio


class Balancer:
    """Where it listens, and how many connections each server has got, in the order of the servers."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turn = count()
        self.dealt = [0] * len(ports)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    async def serve(self, client: trio.SocketStream) -> None:
        number = next(self._turn) % len(self._ports)
        self.dealt[number] += 1
        try:
            async with (
                client,
                await trio.open_tcp_stream("127.0.0.1", self._ports[number]) as server,
                trio.open_nursery() as both,
            ):
                both.start_soon(_forward, client, server)
                both.start_soon(_forward, server, client)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass


async def _forward(source: trio.SocketStream, target: trio.SocketStream) -> None:
    while data := await source.receive_some():
        await target.send_all(data)
    await target.send_eof()


@asynccontextmanager
async def balancing(*servers: int, port: int = 0) -> AsyncIterator[Balancer]:
    """Stand at `port` (0: a free one) in front of the servers at these ports of 127.0.0.1."""
    balancer = Balancer(servers)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        balancer.port = listeners[0].socket.getsockname()[1]
        await nursery.start(partial(trio.serve_listeners, balancer.serve, listeners))
        yield balancer
        nursery.cancel_scope.cancel()
