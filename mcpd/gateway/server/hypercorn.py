"""Hypercorn as we run it: its configuration from ours, the sockets it listens on, and what it lacks.

Everything that knows Hypercorn is here. It listens and serves HTTP/2; HTTP/1.1 and the WebSockets on it go the lean
path (`gateway.server.http11`) to the same ASGI application. Added: a limit of connections, a kernel timeout for peers
that stop reading, an end for connections whose client has gone, no WebSocket compression, and a wall: what goes wrong
in one connection ends that connection and is logged (Hypercorn would let it end the server).

Called by: `app`. Deliberately not: ASGI applications.

Laws: one peer that stops reading cannot hold the shutdown (TCP_USER_TIMEOUT, inherited by accepted sockets); frames are
never inflated (a 200 KB frame can hold 300 MB).

Sources: Hypercorn 0.18 documentation and `hypercorn.trio`; tcp(7); RFC 7692; architecture traps 5, 13, 14.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import hypercorn.protocol.ws_stream
import hypercorn.trio.run
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer

from mcpd.config import Config, Limits, Server, Timeouts
from mcpd.errors import ConfigurationError
from mcpd.gateway.server.http11 import Connection as Http11Connection
from mcpd.gateway.server.http11 import Front
from mcpd.monitoring.metrics import Metrics

_log = logging.getLogger(__name__)
_BACKLOG = 512
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


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
        place = bind or f"{server.host}:{server.port}"
        raise ConfigurationError(
            f"Cannot listen on {place}: {error.strerror or error}; choose another --port"
        ) from error


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
    sock.listen(_BACKLOG)
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
    sock.listen(_BACKLOG)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that has gone; one that answers stays, and binding then fails."""
    place = Path(path)
    if not place.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            place.unlink()


def listening_ports(sockets: Sequence[socket.socket]) -> list[int]:
    """Return the TCP ports really bound."""
    return [sock.getsockname()[1] for sock in sockets if sock.family != socket.AF_UNIX]


def hypercorn_config(config: Config, sockets: Sequence[socket.socket]) -> HypercornConfig:
    """Return Hypercorn's configuration; every bound comes from ours."""
    limits, timeouts, server = config.limits, config.timeouts, config.server
    ours = HypercornConfig()
    ours.bind = [f"fd://{os.dup(sock.fileno())}" for sock in sockets]
    ours.backlog = _BACKLOG
    ours.accesslog = None
    ours.errorlog = None
    ours.include_server_header = False
    ours.keep_alive_timeout = timeouts.keep_alive_s
    ours.keep_alive_max_requests = limits.max_requests_per_connection
    ours.graceful_timeout = timeouts.cleanup_s
    ours.h11_max_incomplete_size = limits.max_header_bytes
    ours.h2_max_header_list_size = limits.max_header_bytes
    ours.websocket_max_message_size = limits.max_message_bytes
    ours.websocket_ping_interval = timeouts.ping_s
    if server.tls_cert is not None and server.tls_key is not None:
        ours.certfile, ours.keyfile = str(server.tls_cert), str(server.tls_key)
    return ours


class _PlainHandshake(hypercorn.protocol.ws_stream.Handshake):
    """A WebSocket handshake that never agrees on compression."""

    def __init__(self, headers: list[tuple[bytes, bytes]], http_version: str) -> None:
        super().__init__(headers, http_version)
        self.extensions = None


class _Connection(TCPServer):
    """A connection of Hypercorn's that begins with `received`, and ends when its client has gone.

    Hypercorn's own waits for the keep-alive timeout first, although nothing can come any more.
    """

    received = b""
    _gone = False

    async def _read_data(self) -> None:
        if self.received:
            await self.protocol.handle(RawData(self.received))
        await super()._read_data()
        self._gone = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if self._gone and isinstance(event, Updated):
            return
        # Closing and a ping may meet in the socket: the connection ends, so nothing is lost with the ping.
        with contextlib.suppress(trio.BusyResourceError):
            await super().protocol_send(event)


class Connections:
    """Runs each accepted connection, up to a number."""

    def __init__(self, limits: Limits, timeouts: Timeouts, metrics: Metrics) -> None:
        self._max = limits.max_connections
        self._metrics = metrics
        self._open = 0
        self.front = Front(limits, timeouts)
        metrics.watch("connections", lambda: self._open, "http")

    async def serve(self, wrapper: ASGIWrapper, config: HypercornConfig, *arguments: Any) -> None:
        """Serve one connection; the arguments are those of Hypercorn's TCPServer, the stream last."""
        stream = arguments[-1]
        if self._open >= self._max:
            self._metrics.rejected("connections")
            await _turn_away(stream)
            return
        self._open += 1
        try:
            received = await self._serve_http11(wrapper, config, stream)
            if received is not None:
                connection = _Connection(wrapper, config, *arguments)
                connection.received = received
                await connection
        except* OSError:
            pass
        except* Exception:  # noqa: BLE001 - fan-out: one connection must not end the others (law 7)
            _log.exception("a connection failed")
        finally:
            self._open -= 1

    async def _serve_http11(self, wrapper: ASGIWrapper, config: HypercornConfig, stream: Any) -> bytes | None:
        """Return None when the connection is over, else the bytes that Hypercorn shall begin with."""
        if isinstance(stream, trio.SSLStream):
            try:
                with trio.fail_after(config.ssl_handshake_timeout):
                    await stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(stream)
                return None
            if stream.selected_alpn_protocol() == "h2":
                return b""
        return await Http11Connection(wrapper.app, self.front, stream).run()


async def _turn_away(stream: trio.abc.Stream) -> None:
    if isinstance(stream, trio.SocketStream):
        with trio.move_on_after(1), contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(_BUSY)


async def serve_http(
    application: Any,
    config: HypercornConfig,
    connections: Connections,
    *,
    stop: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `application` until `stop` returns; then wait for open connections, `graceful_timeout` at most."""

    async def wait_stop() -> None:
        await stop()
        connections.front.close()

    hypercorn.protocol.ws_stream.Handshake = _PlainHandshake  # type: ignore[misc]
    hypercorn.trio.run.TCPServer = connections.serve  # type: ignore[attr-defined, assignment]
    await hypercorn.trio.serve(application, config, shutdown_trigger=wait_stop, mode="asgi", task_status=task_status)
