"""Who a request comes from when a proxy of ours has passed it on.

A proxy appends the address of its peer to `X-Forwarded-For` (or to `Forwarded`), so the list is read from its end, and
only as far as proxies of ours have written it: what stands before that is the client's own word. Nothing else that such
headers say (host, scheme) is believed from anybody; Host and Origin are judged as they come.

Called by: `gateway.app`, before a transport sees the request, and `gateway.access` at start. Deliberately not: a
judgement on who may call.

Laws: without `server.trusted_proxies` the peer is the client; a proxy that writes only `Forwarded` has to remove any
`X-Forwarded-For` that it is sent, because that one is read first.

Sources: RFC 7239; the documentation of nginx, HAProxy and Envoy on X-Forwarded-For.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import islice
from typing import Any

from mcpd.errors import ConfigurationError

_LISTED = re.compile(r"([^,]+)")
_FORWARDED = re.compile(r'(?i)(?:^|[;,])\s*for=("[^"]*"|[^;,]*)')
_HOP = re.compile(r"\[([0-9a-fA-F:.]+)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?|([0-9a-fA-F:.]+)")
_MAX_HOPS = 16
"""Proxies of ours in one chain; what is said beyond them is not looked at."""
_UNIX = "unix"


class Proxies:
    """Which peers are proxies of ours, and so whom `X-Forwarded-For` or `Forwarded` may be believed from.

    An entry is an address, a network, or `unix`: whoever connects to our Unix socket.

    Raises: ConfigurationError if an entry of `server.trusted_proxies` is none of these.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        try:
            self._networks = [ipaddress.ip_network(entry, strict=False) for entry in trusted if entry != _UNIX]
        except ValueError as error:
            raise ConfigurationError(f"server.trusted_proxies: {error}, nor {_UNIX!r}") from error
        self._trusts_socket = _UNIX in trusted

    def resolve(self, scope: MutableMapping[str, Any]) -> None:
        """Make `scope["client"]` the client, where a proxy of ours names one; its port is not known then."""
        if self._networks or self._trusts_socket:
            address = self.client_of(scope)
            if address and address != _peer(scope):
                scope["client"] = (address, 0)

    def client_of(self, scope: Mapping[str, Any]) -> str:
        """Return the client's address: that of the nearest hop that is no proxy of ours; "" when unknown.

        A hop that is no address ends the search, and the proxy that named it stands for the client.
        """
        address = _peer(scope)
        if not (self._trusts(address) if address else self._trusts_socket):
            return address
        for hop in islice(_hops(scope["headers"]), _MAX_HOPS):
            named = _address(hop)
            if named is None:
                break
            address = named
            if not self._trusts(address):
                break
        return address

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _peer(scope: Mapping[str, Any]) -> str:
    peer: str = (scope.get("client") or ("",))[0]
    return peer if ":" not in peer else _address(peer) or peer


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """Yield what proxies say of their peers, the nearest first; of two headers the one that proxies use by default."""
    given = list(headers)
    for header, pattern in ((b"x-forwarded-for", _LISTED), (b"forwarded", _FORWARDED)):
        text = ",".join(value.decode("latin-1") for name, value in given if name == header)
        if text:
            yield from (found[1].strip() for found in reversed(list(pattern.finditer(text))))
            return


def _address(hop: str) -> str | None:
    """Return the address in `address`, `address:port` or `[address]:port`, quoted or not; None when there is none."""
    match = _HOP.fullmatch(hop.strip('"'))
    if match is None:
        return None
    try:
        parsed = ipaddress.ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
