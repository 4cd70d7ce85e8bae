"""Hypercorn as we run it: its configuration from ours, the sockets it listens on, and what it lacks.

It listens and accepts, and HTTP/2 is its own; HTTP/1.1 and the WebSockets on it go the lean path
(`gateway.server.http11`) to the same ASGI application. Added: places for connections (`gateway.server.places`), a
kernel timeout for peers that have vanished, and a boundary: what goes wrong in one connection ends that connection and
is logged (Hypercorn would let it end the server).

Called by: `app`. Deliberately not: ASGI applications.

Laws: HTTP/2 is offered on TLS alone, by ALPN, and only with `server.http2`; one peer that stops reading cannot hold the
shutdown (TCP_USER_TIMEOUT, inherited by accepted sockets).

Sources: Hypercorn 0.18 documentation and `hypercorn.trio`; tcp(7); architecture traps 5, 9, 13.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hypercorn.protocol
import hypercorn.trio.run
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig

from mcpd.config import Config, Limits, Server, Timeouts
from mcpd.errors import ConfigurationError
from mcpd.gateway.server.http2 import MAX_STREAMS, Http2Connection, PlainHttp2
from mcpd.gateway.server.http11 import Connection, Front
from mcpd.gateway.server.places import Places
from mcpd.gateway.server.refusals import Refusals, known_of
from mcpd.gateway.server.sockets import BACKLOG
from mcpd.gateway.server.streams import base_scope
from mcpd.monitoring.logs import RequestLine
from mcpd.monitoring.metrics import Metrics

_BUSY_S = 1.0
"""How long a client that is turned away may take to read why."""

HYPERCORN_VERSION = "0.18.0"
"""What the replacements in `serve_http` and `gateway.server.http2` were checked against."""
_log = logging.getLogger(__name__)
_QUIET_S = 10.0
_ENDLESS = 2**62
"""Requests on one connection; Hypercorn would end it after 1,000, whatever else is under way there."""
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close"


def check_certificate(server: Server) -> None:
    """Load certificate and key as the listener will; blocks on the disk. Raises: ConfigurationError if it could not."""
    if server.tls_cert is None or server.tls_key is None:
        return
    for setting, path in (("tls_cert", server.tls_cert), ("tls_key", server.tls_key)):
        if not path.is_file():
            raise ConfigurationError(f"server.{setting}: {path}: there is no such file")
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(server.tls_cert, server.tls_key, password=partial(_refuse_encrypted, server.tls_key))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"server.tls_cert {server.tls_cert}, server.tls_key {server.tls_key}: {reason}"
        ) from error


def _refuse_encrypted(key: Path) -> NoReturn:
    raise ConfigurationError(
        f"server.tls_key {key} is encrypted, and nobody is there to type its pass phrase; give one that is not:"
        f" openssl pkey -in {key} -out FILE"
    )


def hypercorn_config(config: Config, sockets: Sequence[socket.socket]) -> HypercornConfig:
    """Return Hypercorn's configuration; every bound comes from ours."""
    limits, timeouts, server = config.limits, config.timeouts, config.server
    ours = HypercornConfig()
    ours.bind = [f"fd://{os.dup(sock.fileno())}" for sock in sockets]
    ours.backlog = BACKLOG
    ours.accesslog = None
    ours.errorlog = None
    ours.include_server_header = False
    ours.keep_alive_timeout = timeouts.keep_alive_s
    ours.keep_alive_max_requests = _ENDLESS
    ours.graceful_timeout = timeouts.cleanup_s
    ours.ssl_handshake_timeout = timeouts.header_s
    ours.alpn_protocols = ["h2", "http/1.1"] if server.http2 else ["http/1.1"]
    ours.h2_max_concurrent_streams = MAX_STREAMS
    ours.h2_max_header_list_size = limits.max_header_bytes
    ours.websocket_max_message_size = limits.max_message_bytes
    ours.websocket_ping_interval = timeouts.ping_s
    if server.tls_cert is not None and server.tls_key is not None:
        ours.certfile, ours.keyfile = str(server.tls_cert), str(server.tls_key)
    return ours


class Connections:
    """Runs each accepted connection, if there is a place for it."""

    def __init__(
        self,
        limits: Limits,
        timeouts: Timeouts,
        metrics: Metrics,
        *,
        trusted: Sequence[str] = (),
        log: Callable[[RequestLine], None],
    ) -> None:
        """`log` is told of requests that are refused before the application has seen them."""
        self._metrics = metrics
        self.front = Front(limits, timeouts, Refusals(log, trusted))
        self._places = Places(limits, trusted, self.front)
        metrics.watch("connections", lambda: self._places.taken, "http")

    async def serve(self, wrapper: ASGIWrapper, config: HypercornConfig, *arguments: Any) -> None:
        """Serve one connection; the arguments are those of Hypercorn's TCPServer, the stream last."""
        stream = arguments[-1]
        place = self._places.take(stream)
        if place is None:
            self._metrics.rejected("connections")
            await self._turn_away(stream)
            return
        try:
            await self._serve(wrapper, config, *arguments)
        except* OSError:
            pass
        except* trio.Cancelled:  # noqa: ASYNC103 - one that is ours is raised; another would end the listener
            if trio.current_effective_deadline() == -math.inf:
                raise
            _log.error("a connection was cancelled by nobody")
        except* Exception:  # noqa: BLE001 - fan-out: one connection must not end the others (law 7)
            _log.exception("a connection failed")
        finally:
            self._places.leave(place)

    async def _turn_away(self, stream: trio.abc.Stream) -> None:
        try:
            scope = known_of(b"", (), base_scope(stream)["client"])
        except OSError:
            return
        headers, body = self.front.refusals.refuse(scope, 503, "There are too many connections; try again shortly")
        lines = [_BUSY, *(b"%s: %s" % header for header in headers), b"", body]
        if isinstance(stream, trio.SocketStream):
            with trio.move_on_after(_BUSY_S), contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"\r\n".join(lines))

    async def _serve(self, wrapper: ASGIWrapper, config: HypercornConfig, *arguments: Any) -> None:
        stream = arguments[-1]
        if isinstance(stream, trio.SSLStream):
            try:
                with trio.fail_after(config.ssl_handshake_timeout):
                    await stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(stream)
                return
            if stream.selected_alpn_protocol() == "h2":
                await Http2Connection(self.front.timeouts, self.front.refusals, wrapper, config, *arguments)
                return
        await Connection(wrapper.app, self.front, stream).run()


class _Seldom(logging.Filter):
    """Lets one line pass in `_QUIET_S`: Trio tries a failed accept again ten times a second, and says so each time."""

    def __init__(self) -> None:
        super().__init__()
        self._next = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        passes = record.created >= self._next
        self._next = record.created + _QUIET_S if passes else self._next
        return passes


_ACCEPTING = logging.getLogger("trio.serve_listeners")
_ACCEPTING.addFilter(_Seldom())


async def serve_http(
    application: Any,
    config: HypercornConfig,
    connections: Connections,
    *,
    stop: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `application` until `stop` returns; then wait for open connections, `graceful_timeout` at most.

    Replaces two globals of Hypercorn: the class of its connections, whose arguments `Connections.serve` takes instead,
    and that of HTTP/2 on them. Hypercorn offers no other way in. Checked against the version in
    `HYPERCORN_VERSION`; `tests/gateway/server/test_hypercorn.py` fails with another, and when what is replaced has
    changed.
    """

    async def wait_stop() -> None:
        await stop()
        connections.front.close()

    hypercorn.protocol.H2Protocol = PlainHttp2  # type: ignore[attr-defined, assignment]
    hypercorn.trio.run.TCPServer = connections.serve  # type: ignore[attr-defined, assignment]
    await hypercorn.trio.serve(application, config, shutdown_trigger=wait_stop, mode="asgi", task_status=task_status)
