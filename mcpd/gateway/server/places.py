"""Places for connections: how many there may be, how many of one address, and which gives way.

Counted as soon as a connection is accepted, before anything is read from it, keys or TLS included.

Called by: `gateway.server.hypercorn`. Calls: `gateway.server.http11` (idle connections), `descriptors`. Deliberately
not: calls, sessions and streams, which have limits of their own.

Laws: one address cannot take all (trusted proxies, which stand for many, may); an idle connection gives way to a new
one, first one of the same address, else one of the address that has most; the last descriptors are never taken by
connections, so that files and stores can still be opened.

Sources: SEC-4; getrlimit(2); accept(2).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import trio

from mcpd.config import Limits
from mcpd.gateway.server.descriptors import count_for_connections
from mcpd.gateway.server.http11 import Front
from mcpd.gateway.server.streams import address_of, socket_of


class Place(NamedTuple):
    """What a connection gives back when it ends."""

    address: str | None


class Places:
    """All places of one server."""

    def __init__(self, limits: Limits, trusted: Sequence[str], front: Front) -> None:
        self._max = limits.max_connections
        self._max_each = limits.max_connections_per_address
        self._trusted = [ipaddress.ip_network(entry, strict=False) for entry in trusted]
        self._front = front
        self._of_address: Counter[str | None] = Counter()
        self.taken = 0

    def take(self, stream: trio.abc.Stream) -> Place | None:
        """Return a place for a connection that was accepted, None when there is none. Not a checkpoint."""
        address = address_of(stream)
        if self._is_full_of(address):
            if not self._evict([address]):
                return None
        elif (self.taken >= self._max or self._descriptors_run_out(stream)) and not self._evict(self._by_size()):
            return None
        self.taken += 1
        self._of_address[address] += 1
        return Place(address)

    def leave(self, place: Place) -> None:
        """Give a place back."""
        self.taken -= 1
        self._of_address[place.address] -= 1
        if not self._of_address[place.address]:
            del self._of_address[place.address]

    def _is_full_of(self, address: str | None) -> bool:
        return address is not None and self._of_address[address] >= self._max_each and not self._trusts(address)

    def _trusts(self, address: str) -> bool:
        network = ipaddress.ip_network(address)
        return any(network.version == other.version and network.overlaps(other) for other in self._trusted)

    def _descriptors_run_out(self, stream: trio.abc.Stream) -> bool:
        sock = socket_of(stream)
        return sock is not None and sock.fileno() >= count_for_connections()

    def _by_size(self) -> Iterable[str | None]:
        return (address for address, _ in self._of_address.most_common())

    def _evict(self, addresses: Iterable[str | None]) -> bool:
        """End the connection that has been idle longest, of the first address that has one."""
        idle = self._front.idle
        waiting = set(idle.values())
        for address in addresses:
            if address in waiting:
                scope = next(scope for scope, other in idle.items() if other == address)
                del idle[scope]
                scope.cancel()
                return True
        return False
