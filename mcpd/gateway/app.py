"""The API gateway: one ASGI application with every HTTP transport behind it.

A Quart-Trio application serves the operations routes (and later GraphQL); the MCP transports and REST are plain ASGI
and stand in front of it through its `asgi_app` hook, because a Quart route costs as much as the rest of a request
together.

Called by: `app`. Calls: the transports. Deliberately not: a server (`gateway.server.hypercorn`) and no MCP.

Laws: every request gets its `X-Request-Id` and its client's address into the scope, before anybody judges it, and one
line in the log; Quart's own limits are set from ours, since its defaults end a stream after 60 s without a word
(trap 1).

Sources: Quart documentation on middleware; ASGI.
"""

from __future__ import annotations

import json
from typing import Any

import trio
from quart import Response
from quart_trio import QuartTrio

from mcpd.config import Config
from mcpd.gateway.access import Access
from mcpd.gateway.asgi import (
    REASON,
    REFUSED,
    REQUEST_ID,
    Event,
    Head,
    Receive,
    RequestNames,
    Scope,
    Send,
    client_address,
)
from mcpd.gateway.operations import health_routes, metrics_routes
from mcpd.gateway.proxies import Proxies
from mcpd.gateway.rest.api import RestApi
from mcpd.gateway.rest.routes import PREFIX
from mcpd.gateway.stateful_http import StatefulHttp
from mcpd.gateway.streamable_http import StreamableHttp
from mcpd.gateway.websocket import WebSocketDoor
from mcpd.messages.manager import MessageManager
from mcpd.messages.sessions import Sessions
from mcpd.monitoring.health import Health
from mcpd.monitoring.logs import Logs, RequestLine
from mcpd.monitoring.metrics import Metrics


class _Routes:
    """Names each request, finds out its client, and routes it by path; what is not MCP goes on to Quart."""

    def __init__(
        self, mcp: StreamableHttp, websocket: WebSocketDoor, rest: RestApi, operations: Operations, proxies: Proxies
    ) -> None:
        self._mcp = mcp
        self._websocket = websocket
        self._rest = rest
        self._operations = operations
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        self._proxies.resolve(scope)
        if path in _MCP and scope["type"] == "http":
            await self._mcp(scope, receive, send)
        elif path == "/ws" and scope["type"] == "websocket":
            self._operations.name(scope)
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http" and f"{path}/".startswith(f"{PREFIX}/"):
            await self._rest(scope, receive, send)
        else:
            await self._operations(scope, receive, send)


_MCP = ("/mcp", "/mcp/")


class Operations:
    """Stands before Quart: puts `X-Request-Id` on its replies, and a line about each into the log."""

    def __init__(self, application: Any, logs: Logs) -> None:
        self._application = application
        self._logs = logs
        self._names = RequestNames()

    def name(self, scope: Scope) -> str:
        """Give the request its id and return it."""
        return self._names.name(scope, Head(scope).named.get(b"x-request-id"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of any kind."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        name, started, status = self.name(scope), trio.current_time(), 0

        async def send_named(event: Event) -> None:
            nonlocal status
            if event["type"].endswith(".response.start"):
                status = event["status"]
                event["headers"] = [*event["headers"], (b"x-request-id", name.encode())]
            await send(event)

        try:
            if scope["type"] == "http":
                await self._application(scope, receive, send_named)
            else:
                await _no_such_socket(receive, send_named)
        finally:
            if REFUSED not in scope:
                self._log(scope, status, trio.current_time() - started)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        transport, method = scope["type"], scope.get("method", "")
        line = RequestLine(scope[REQUEST_ID], transport, method, _outcome(status), seconds, target=scope["path"])
        told, why = (str(status), scope.get(REASON, "")) if status else ("", "no reply")
        self._logs.request(line._replace(client=client_address(scope), status=told, detail=why))


_GOOD, _REFUSED = range(200, 400), range(400, 500)


def _outcome(status: int) -> str:
    """Say how a request ended. Only one whose client has gone, or the server, ends without a status."""
    if status == 0:
        return "cancelled"
    return "ok" if status in _GOOD else "protocol_error" if status in _REFUSED else "internal_error"


async def _no_such_socket(receive: Receive, send: Send) -> None:
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_NOT_HERE))]
    await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": _NOT_HERE})


_NOT_HERE = b'{"detail": "There is no WebSocket here; it is at /ws"}'


def make_app(
    config: Config,
    manager: MessageManager,
    sessions: Sessions,
    access: Access,
    *,
    watch: tuple[Metrics, Health, Logs],
    nursery: trio.Nursery,
) -> QuartTrio:
    """Return the application. Its background tasks run in `nursery`."""
    metrics, health, logs = watch
    limits, timeouts = config.limits, config.timeouts
    app = QuartTrio("mcpd")
    app.config["MAX_CONTENT_LENGTH"] = limits.max_body_bytes
    app.config["BODY_TIMEOUT"] = timeouts.body_s
    app.config["RESPONSE_TIMEOUT"] = None
    _refuse_in_json(app, "MCP is served at /mcp, over WebSocket at /ws")
    _refuse_without_upgrade(app)
    app.register_blueprint(health_routes(health))
    if config.server.metrics_bind is None:
        app.register_blueprint(metrics_routes(metrics, access))
    stateful = StatefulHttp(manager, sessions, limits=limits, timeouts=timeouts, nursery=nursery)
    mcp = StreamableHttp(manager, stateful, access, limits=limits, timeouts=timeouts, metrics=metrics, nursery=nursery)
    websocket = WebSocketDoor(manager, sessions, access, limits=limits, metrics=metrics)
    access.watch(websocket.end_revoked)
    proxies = Proxies(config.server.trusted_proxies)
    rest, operations = RestApi(manager, access, metrics, nursery), Operations(app.asgi_app, logs)
    app.asgi_app = _Routes(mcp, websocket, rest, operations, proxies)  # type: ignore[method-assign, assignment]
    return app


def _refuse_in_json(app: QuartTrio, served: str) -> None:
    """Say in JSON, as every other refusal does, what is wrong with a request that no route takes."""

    async def refuse(error: Any) -> Response:
        detail = f"There is nothing at this path; {served}" if error.code == 404 else error.description
        response = Response(json.dumps({"detail": detail}), error.code, content_type="application/json")
        response.headers.extend({name: value for name, value in error.get_headers() if name.lower() == "allow"})
        return response

    for status in (404, 405):
        app.register_error_handler(status, refuse)


def _refuse_without_upgrade(app: QuartTrio) -> None:
    """Say what a plain request for the WebSocket lacks: proxies leave it out unless they are told to pass it on."""

    async def refuse() -> Response:
        return Response(_NO_UPGRADE, 426, {"Upgrade": "websocket"}, content_type="application/json")

    app.add_url_rule("/ws", "websocket", refuse)


_NO_UPGRADE = json.dumps(
    {"detail": "This is a WebSocket; a proxy in front of it has to pass the headers Upgrade and Connection on"}
)


def make_metrics_app(metrics: Metrics, logs: Logs) -> QuartTrio:
    """Return the application of a listener that serves scrapes alone (`server.metrics_bind`)."""
    app = QuartTrio("mcpd.metrics")
    _refuse_in_json(app, "metrics are at /metrics")
    app.register_blueprint(metrics_routes(metrics, None))
    app.asgi_app = Operations(app.asgi_app, logs)  # type: ignore[method-assign, assignment]
    return app
