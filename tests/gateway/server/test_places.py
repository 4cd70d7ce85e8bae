"""Places for connections, in the whole server on loopback: which has several addresses on Linux."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.in_process import WAIT_S, Running, eventually, http_server, server_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loopback has one address elsewhere")
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ME, OTHER, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@asynccontextmanager
async def serving(folder: Path, trusted: tuple[str, ...] = (), **limits: int) -> AsyncIterator[Clients]:
    config = server_config(folder, limits=limits)
    config = replace(config, server=replace(config.server, trusted_proxies=trusted))
    with trio.fail_after(2 * WAIT_S):
        async with http_server(config) as running:
            clients = Clients(running)
            try:
                yield clients
            finally:
                clients.close()


class Clients:
    """Connections from chosen addresses, all closed in the end."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._opened: list[trio.SocketStream] = []

    def open(self) -> float:
        """Return how many the server has."""
        return self._running.metric("mcpd_connections", transport="http")

    def _arrived(self) -> float:
        return self.open() + self.refused()

    def refused(self) -> float:
        """Return how many were turned away."""
        return self._running.metric("mcpd_rejected_total", reason="connections")

    async def connect(self, address: str, *, full: bool = False) -> trio.SocketStream:
        """Connect, and wait until the server has seen it; `full` when another has to go for it."""
        before = self._arrived()
        sock = trio.socket.socket()
        self._opened.append(trio.SocketStream(sock))
        await sock.bind((address, 0))
        await sock.connect(("127.0.0.1", self._running.port))
        if not full:
            await eventually(lambda: self._arrived() > before, "the connection is accepted")
        return self._opened[-1]

    def close(self) -> None:
        """Close all."""
        for stream in self._opened:
            stream.socket.close()


async def served(stream: trio.SocketStream) -> bool:
    """True when a request is answered, False when the connection is turned away or closed."""
    try:
        await stream.send_all(GET)
        return (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    except trio.BrokenResourceError:
        return False


async def test_one_address_cannot_take_all_and_its_idle_connections_give_way(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=10, max_connections_per_address=3) as clients:
        mine = [await clients.connect(ME) for _ in range(3)]
        assert await served(mine[0]), "now the second has been idle longest"
        other = await clients.connect(OTHER)
        fourth = await clients.connect(ME, full=True)
        assert [await served(stream) for stream in (mine[0], fourth, mine[2], mine[1])] == [True, True, True, False]
        assert await served(other)


async def test_a_connection_in_use_does_not_give_way(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=10, max_connections_per_address=2) as clients:
        mine = [await clients.connect(ME) for _ in range(2)]
        for stream in mine:
            await stream.send_all(GET[:5])
        refused = await clients.connect(ME)
        assert (await refused.receive_some()).startswith(b"HTTP/1.1 503")
        for stream in mine:
            await stream.send_all(GET[5:])
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        assert clients.refused() == 1


async def test_when_all_places_are_taken_the_address_that_has_most_makes_room(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=5, max_connections_per_address=4) as clients:
        other = await clients.connect(OTHER)
        mine = [await clients.connect(ME) for _ in range(4)]
        third = await clients.connect(THIRD, full=True)
        assert [await served(stream) for stream in (third, other, mine[0], mine[1])] == [True, True, False, True]


@pytest.mark.parametrize("trusted", ["127.0.0.2", "127.0.0.0/8"])
async def test_a_trusted_proxy_stands_for_many(trusted: str, tmp_path: Path) -> None:
    async with serving(tmp_path, (trusted, "2001:db8::/32"), max_connections_per_address=2) as clients:
        mine = [await clients.connect(ME) for _ in range(4)]
        assert [await served(stream) for stream in mine] == [True] * 4


async def test_places_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections_per_address=2) as clients:
        for _ in range(5):
            stream = await clients.connect(ME)
            assert await served(stream)
            await stream.aclose()
            await eventually(lambda: not clients.open(), "it has ended")
