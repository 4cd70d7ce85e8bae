"""The API gateway: one ASGI application with every HTTP transport behind it.

A Quart-Trio application serves the operations routes (and later REST and GraphQL); the MCP transports are plain ASGI
and stand in front of it through its `asgi_app` hook, because a Quart route costs as much as the rest of a request
together.

Called by: `app`. Calls: the transports. Deliberately not: a server (`gateway.server.hypercorn`) and no MCP.

Laws: Quart's own limits are set from ours, since its defaults end a stream after 60 s without a word (trap 1).

Sources: Quart documentation on middleware; ASGI.
"""

from __future__ import annotations

from typing import Any

import trio
from quart_trio import QuartTrio

from mcpd.config import Config
from mcpd.gateway.access import Access
from mcpd.gateway.asgi import Event, Head, Receive, RequestNames, Scope, Send
from mcpd.gateway.operations import health_routes, metrics_routes
from mcpd.gateway.stateful_http import StatefulHttp
from mcpd.gateway.streamable_http import StreamableHttp
from mcpd.gateway.websocket import WebSocketDoor
from mcpd.messages.manager import MessageManager
from mcpd.messages.sessions import Sessions
from mcpd.monitoring.health import Health
from mcpd.monitoring.metrics import Metrics


class _Doors:
    """Routes by path; what is not MCP goes on to Quart."""

    def __init__(self, mcp: StreamableHttp, websocket: WebSocketDoor, rest: Any) -> None:
        self._mcp = mcp
        self._websocket = websocket
        self._rest = rest
        self._names = RequestNames()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if path == "/mcp" and scope["type"] == "http":
            await self._mcp(scope, receive, send)
        elif path == "/ws" and scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._rest(scope, receive, self._naming(scope, send))
        else:
            await self._rest(scope, receive, send)

    def _naming(self, scope: Scope, send: Send) -> Send:
        """Put `X-Request-Id` on a reply of Quart's."""
        name = (b"x-request-id", self._names.of(Head(scope).request_id).encode())

        async def send_named(event: Event) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event["headers"], name]
            await send(event)

        return send_named


def make_app(
    config: Config,
    manager: MessageManager,
    sessions: Sessions,
    access: Access,
    *,
    watch: tuple[Metrics, Health],
    nursery: trio.Nursery,
) -> QuartTrio:
    """Return the application. Its background tasks run in `nursery`."""
    metrics, health = watch
    limits, timeouts = config.limits, config.timeouts
    app = QuartTrio("mcpd")
    app.config["MAX_CONTENT_LENGTH"] = limits.max_body_bytes
    app.config["BODY_TIMEOUT"] = timeouts.body_s
    app.config["RESPONSE_TIMEOUT"] = None
    app.register_blueprint(health_routes(health))
    if config.server.metrics_bind is None:
        app.register_blueprint(metrics_routes(metrics, access))
    stateful = StatefulHttp(manager, sessions, limits=limits, timeouts=timeouts, nursery=nursery)
    mcp = StreamableHttp(manager, stateful, access, limits=limits, timeouts=timeouts, metrics=metrics, nursery=nursery)
    websocket = WebSocketDoor(manager, sessions, access, limits=limits, metrics=metrics)
    app.asgi_app = _Doors(mcp, websocket, app.asgi_app)  # type: ignore[method-assign, assignment]
    return app


def make_metrics_app(metrics: Metrics) -> QuartTrio:
    """Return the application of a listener that serves scrapes alone (`server.metrics_bind`)."""
    app = QuartTrio("mcpd.metrics")
    app.register_blueprint(metrics_routes(metrics, None))
    return app
