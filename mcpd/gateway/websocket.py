"""The `/ws` transport: MCP over WebSocket, a binding of our own (custom transport).

Plain ASGI skin around `messages.duplex`: one JSON-RPC message per text frame, ids run concurrently, closing the socket
cancels everything on it. Subprotocol `mcp` is selected when offered; none offered is accepted; only others is refused.

Called by: `gateway.app`. Deliberately not: `Mcp-*` headers, `Mcp-Session-Id`, resumability.

Laws: Host, Origin and key are checked at the upgrade, with the same answers as `/mcp` (WS-3); a binary frame closes the
connection with 1003 (WS-2), the end of its key with 1008, a frame over `limits.max_message_bytes` with 1009, by the
server underneath.

Sources: RFC 6455; ASGI WebSocket messages; WS-1..5.
"""

from __future__ import annotations

from mcpd.config import Limits
from mcpd.errors import InvalidRequest
from mcpd.gateway.access import Access, Refusal
from mcpd.gateway.asgi import REQUEST_ID, Head, Receive, RequestNames, Scope, Send, client_address
from mcpd.messages.duplex import Duplex
from mcpd.messages.manager import MessageManager
from mcpd.messages.recorder import Asked
from mcpd.messages.sessions import Sessions
from mcpd.monitoring.logs import RequestLine
from mcpd.monitoring.metrics import Metrics
from mcpd.wire import jsonrpc
from mcpd.wire.call import Principal

SUBPROTOCOL = "mcp"
_UNSUPPORTED_DATA = 1003
_POLICY = 1008


class WebSocketDoor:
    """The ASGI application at `/ws`."""

    def __init__(
        self, manager: MessageManager, sessions: Sessions, access: Access, *, limits: Limits, metrics: Metrics
    ) -> None:
        self._manager = manager
        self._sessions = sessions
        self._access = access
        self._limits = limits
        self._metrics = metrics
        self._names = RequestNames()
        self._open: dict[Duplex, Principal] = {}
        metrics.watch("connections", lambda: len(self._open), "websocket")

    def end_revoked(self) -> None:
        """Close the connections of keys that are gone or changed (code 1008). Not a checkpoint."""
        for duplex, principal in list(self._open.items()):
            if not self._access.stands(principal):
                duplex.hang_up()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection from upgrade to close."""
        await receive()
        head = Head(scope)
        admitted = self._access.admit(head)
        if isinstance(admitted, Refusal):
            await self._refuse(scope, send, admitted)
            return
        offered = scope.get("subprotocols") or []
        if offered and SUBPROTOCOL not in offered:
            refusal = Refusal(400, "subprotocol", f"Offer the subprotocol {SUBPROTOCOL!r}, or none")
            await self._refuse(scope, send, refusal)
            return
        chosen, headers = SUBPROTOCOL if offered else None, [(b"x-request-id", scope[REQUEST_ID].encode())]
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
        duplex = Duplex(
            self._manager,
            self._sessions,
            limits=self._limits,
            transport="websocket",
            principal=admitted,
            name_request=self._names,
        )
        duplex.client = head.client
        self._open[duplex] = admitted
        try:
            await self._serve(duplex, receive, send)
        finally:
            del self._open[duplex]

    async def _serve(self, duplex: Duplex, receive: Receive, send: Send) -> None:
        async def read() -> str | None:
            event = await receive()
            if event["type"] != "websocket.receive":
                return None
            if not self._access.stands(self._open[duplex]):
                duplex.hang_up()
                return None
            text: str | None = event.get("text")
            if text is None:
                await send({"type": "websocket.close", "code": _UNSUPPORTED_DATA, "reason": "text frames only"})
            return text

        async def write(data: bytes) -> None:
            await send({"type": "websocket.send", "text": data.decode()})

        await duplex.run(read, write)
        if duplex.hung_up:
            await send({"type": "websocket.close", "code": _POLICY, "reason": "not served any longer; connect again"})

    async def _refuse(self, scope: Scope, send: Send, refusal: Refusal) -> None:
        error = InvalidRequest(refusal.message)
        self._metrics.rejected(refusal.reason)
        name, client = scope[REQUEST_ID], client_address(scope)
        line = RequestLine(name, "websocket", scope.get("method", "GET"), "", 0.0, target=scope["path"], client=client)
        line = line._replace(status=str(refusal.status), detail=refusal.logged)
        self._manager.refuse(error, line, Asked(reason=refusal.reason))
        body = jsonrpc.failure_of(error, None, stateless=True)
        headers = [(b"content-type", b"application/json"), (b"x-request-id", name.encode()), *refusal.headers]
        await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
