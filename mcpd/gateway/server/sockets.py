"""The sockets that a server listens on: TCP, a Unix socket, or one that was inherited.

Called by: `app` for a server of one process, `supervisor` for one of several; this file loads no server, so that a
supervisor stays small. Deliberately not: accepting, and TLS, which is the connection's.

Laws: one peer that stops reading cannot hold the shutdown (TCP_USER_TIMEOUT, inherited by accepted sockets); the socket
file of a living server is never taken from it.

Sources: tcp(7); unix(7); architecture trap 5.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mcpd.config import Server, Timeouts
from mcpd.errors import ConfigurationError

BACKLOG: Final = 512


def open_sockets(server: Server, timeouts: Timeouts) -> list[socket.socket]:
    """Bind and listen as `server` says. Raises: ConfigurationError. Resources: the caller closes them."""
    bind = server.bind
    try:
        if bind is not None and bind.startswith("unix:"):
            return [_unix_socket(bind.removeprefix("unix:"))]
        if bind is not None and bind.startswith("fd://"):
            return [_tuned(socket.socket(fileno=os.dup(int(bind.removeprefix("fd://")))), timeouts)]
        return [_tuned(_tcp_socket(server.host, server.port), timeouts)]
    except OSError as error:
        host = f"[{server.host}]" if ":" in server.host else server.host
        place = bind or f"{host}:{server.port}"
        raise ConfigurationError(
            f"Cannot listen on {place}: {error.strerror or error}; choose another --{'bind' if bind else 'port'}"
        ) from error


def open_metrics_sockets(server: Server, timeouts: Timeouts) -> list[socket.socket]:
    """Bind and listen where scrapes go, if that is a place of its own. Raises and resources: as `open_sockets`."""
    if server.metrics_bind is None:
        return []
    host, _, port = server.metrics_bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return open_sockets(replace(server, host=host, port=int(port), bind=None), timeouts)


def _tcp_socket(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _tuned(sock: socket.socket, timeouts: Timeouts) -> socket.socket:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeouts.write_s * 1000))
    sock.listen(BACKLOG)
    return sock


def _unix_socket(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o077)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    sock.listen(BACKLOG)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that has gone; whatever else is there stays, and binding then fails.

    Only a refusal says that nobody listens: other sockets are of another type, of another user, or busy.
    """
    place = Path(path)
    if not place.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            place.unlink()
        except OSError:
            return


def listening_ports(sockets: Sequence[socket.socket]) -> list[int]:
    """Return the TCP ports really bound."""
    return [sock.getsockname()[1] for sock in sockets if sock.family != socket.AF_UNIX]
