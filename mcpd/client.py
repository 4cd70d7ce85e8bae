"""A small MCP client over WebSocket, for `mcpd call`.

It speaks 2026-07-28 only: no handshake, each request carries its own `_meta`. It declares no client capabilities, so a
server never asks it anything back. There is no background task: whoever waits for an answer reads the socket for all
who wait.

Called by: `commands`. Calls trio-websocket, which no other file of ours imports. Deliberately not: a general SDK;
there are good ones.

Laws: the key travels only in the `Authorization` header; a request whose caller is cancelled is cancelled on the
server too, before the socket closes; every wait has a bound.

Sources: protocol WS-2, WS-4, IO-7, CAN-3, PRG-1; surfaces "Command line", "Access".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import trio
import trio_websocket

from mcpd.deadlines import bounded_shield
from mcpd.errors import ConfigurationError, McpdError
from mcpd.wire import jsonrpc
from mcpd.wire.envelope import CAPABILITIES_KEY, CLIENT_KEY, TIMEOUT_KEY, VERSION_KEY
from mcpd.wire.versions import STATELESS

OnProgress = Callable[[dict[str, Any]], None]
"""Gets the parameters of each progress notification: `progress`, and maybe `total` and `message`."""

CONNECT_S = 10.0
CLOSE_S = 2.0
PATIENCE_S = 5.0
"""How much longer than a call's own limit an answer may take, since the server is the one that stops the call."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_CLIENT = {"name": "mcpd-call", "version": "1"}

_REJECTIONS = {
    400: "the server does not take this WebSocket request; the address usually ends in /ws",
    403: "the server does not allow this caller (origin, or the key's scopes)",
    404: "there is no MCP WebSocket at this address; it usually ends in /ws",
    421: "the server does not answer to this host name; it must be listed in server.allowed_hosts",
    426: "the request reached the server as a plain one; a proxy has to pass the headers Upgrade and Connection on",
    503: "the server has no room for another connection, or is stopping; try again",
}


class ConnectionFailed(McpdError):
    """No connection to the server, or it broke; the text says what to do."""


class RequestFailed(McpdError):
    """The server answered with a JSON-RPC error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", "the server gave no reason")))
        self.code = error.get("code")
        self.data = error.get("data")


class _Waiting:
    """One request without an answer yet."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.on_progress = on_progress
        self.answer: dict[str, Any] | None = None


class Client:
    """An open connection; made by `open_client`. Requests may run concurrently."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._reading = trio.Lock()

    async def request(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Send a request and return its result.

        `timeout_s` asks the server for a limit of the call; without an answer some seconds later we give up.

        Raises: RequestFailed, ConnectionFailed. Cancellation: safe; the server is told, within `CLOSE_S`.
        """
        request_id = next(self._ids)
        waiting = self._waiting[request_id] = _Waiting(on_progress)
        meta = _meta(request_id if on_progress else None, timeout_s)
        try:
            with trio.move_on_after(math.inf if timeout_s is None else timeout_s + PATIENCE_S):
                await self._send(jsonrpc.request(request_id, method, {**(params or {}), "_meta": meta}))
                return _result(await self._answer(waiting))
            raise ConnectionFailed(f"no answer within {timeout_s} s and {PATIENCE_S:g} s of patience")
        finally:
            with bounded_shield(CLOSE_S):
                await self._forget(request_id)  # noqa: ASYNC102 - in a bounded shield

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Call a tool and return its `CallToolResult`; `isError` in it is the tool's own failure.

        Raises and cancellation: as `request`.
        """
        params = {"name": name, "arguments": arguments}
        return await self.request("tools/call", params, on_progress=on_progress, timeout_s=timeout_s)

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return all tools, from all pages. Raises: as `request`."""
        tools: list[dict[str, Any]] = []
        params: dict[str, Any] = {}
        while True:
            page = await self.request("tools/list", params)
            if not isinstance(page.get("tools"), list):
                raise ConnectionFailed("the server sent a list of tools that is none")
            tools += page["tools"]
            if page.get("nextCursor") is None:
                return tools
            params = {"cursor": page["nextCursor"]}

    async def _answer(self, waiting: _Waiting) -> dict[str, Any]:
        while waiting.answer is None:
            async with self._reading:
                if waiting.answer is None:
                    self._sort(await self._receive())
        return waiting.answer

    def _sort(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        if message.get("method") == "notifications/progress":
            given = message.get("params")
            params: dict[str, Any] = given if isinstance(given, dict) else {}
            waiting = self._waiting_for(params.get("progressToken"))
            if waiting is not None and waiting.on_progress is not None:
                waiting.on_progress(params)
        elif "method" not in message:
            self._settle(message)

    def _settle(self, message: dict[str, Any]) -> None:
        error = message.get("error")
        if message.get("id") is not None:
            waiting = self._waiting_for(message["id"])
            if waiting is not None:
                waiting.answer = message
        elif isinstance(error, dict):
            raise RequestFailed(error)

    def _waiting_for(self, name: object) -> _Waiting | None:
        """Return the request of this id or progress token, which can be any JSON."""
        return self._waiting.get(name) if isinstance(name, int) else None

    async def _send(self, message: bytes) -> None:
        try:
            await self._connection.send_message(message.decode())
        except trio_websocket.ConnectionClosed as error:
            raise _closed(error) from error

    async def _receive(self) -> Any:
        try:
            return msgspec.json.decode(await self._connection.get_message())
        except trio_websocket.ConnectionClosed as error:
            raise _closed(error) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConnectionFailed(f"the server sent something that is not JSON: {error}") from error

    async def _forget(self, request_id: int) -> None:
        if self._waiting.pop(request_id).answer is not None:
            return
        try:
            await self._send(jsonrpc.notification("notifications/cancelled", {"requestId": request_id}))
        except ConnectionFailed:
            return  # closing the socket cancels its calls as well (WS-4)


@asynccontextmanager
async def open_client(url: str, *, key: str | None = None) -> AsyncIterator[Client]:
    """Connect to `url` (`ws://host:port/ws`; http and https addresses and a bare host work too) and close in the end.

    Raises: ConfigurationError for an impossible address or key, ConnectionFailed with the reason otherwise.
    """
    headers = [(b"Authorization", b"Bearer " + _key_bytes(key))] if key else []
    address = websocket_url(url)
    opened, failure = False, None
    line = await _open_line(address)
    try:
        async with trio.open_nursery() as nursery:
            connection = await _shake_hands(nursery, line, address, headers)
            opened = True
            yield Client(connection)
            with trio.move_on_after(CLOSE_S):
                await connection.aclose()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = group.exceptions[0] if len(group.exceptions) == 1 else group
    finally:
        await trio.aclose_forcefully(line)
    if isinstance(failure, trio_websocket.HandshakeError) and not opened:
        raise ConnectionFailed(f"{address}: {_reason(failure, with_key=bool(key))}") from failure
    if failure is not None:
        raise failure


class _Line(trio.abc.Stream):
    """A byte stream that cancels `handshake` when its reading side ends.

    trio-websocket by itself goes on waiting for the handshake when the peer hangs up, and leaves the socket open.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.handshake = trio.CancelScope()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self.handshake.cancel(reason="the peer hung up")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _open_line(address: str) -> _Line:
    target = urlsplit(address)
    host, secure = target.hostname or "", target.scheme == "wss"
    try:
        with trio.fail_after(CONNECT_S):
            if not secure:
                return _Line(await trio.open_tcp_stream(host, target.port or 80))
            stream = await trio.open_ssl_over_tcp_stream(host, target.port or 443, https_compatible=True)
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return _Line(stream)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        raise ConnectionFailed(f"{address}: {_network_reason(error)}") from error


async def _shake_hands(
    nursery: trio.Nursery, line: _Line, address: str, headers: list[tuple[bytes, bytes]]
) -> trio_websocket.WebSocketConnection:
    target = urlsplit(address)
    line.handshake.deadline = trio.current_time() + CONNECT_S
    with line.handshake:
        return await trio_websocket.wrap_client_stream(
            nursery,
            cast(Any, line),
            target.netloc,
            target.path,
            subprotocols=["mcp"],
            extra_headers=headers,
            max_message_size=MAX_MESSAGE_BYTES,
        )
    if trio.current_time() >= line.handshake.deadline:
        raise trio_websocket.ConnectionTimeout
    raise trio_websocket.HandshakeError


def websocket_url(text: str) -> str:
    """Complete an address: `ws` unless said otherwise, path `/ws` unless given.

    Raises: ConfigurationError when it cannot be an address of a server.
    """
    found = _websocket_url(text if "://" in text else f"ws://{text}")
    if found is None:
        raise ConfigurationError(f"{text!r} is not a server's address; write it like ws://127.0.0.1:8000/ws")
    return found


def _websocket_url(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        scheme = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}.get(parts.scheme)
        host = (parts.hostname or "").encode("idna")
        if scheme is None or not host or parts.port == 0 or parts.username or parts.query:
            return None
    except ValueError:
        return None
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/') or '/ws'}"


def _meta(progress_token: int | None, timeout_s: float | None) -> dict[str, Any]:
    meta: dict[str, Any] = {VERSION_KEY: STATELESS, CAPABILITIES_KEY: {}, CLIENT_KEY: _CLIENT}
    if progress_token is not None:
        meta["progressToken"] = progress_token
    if timeout_s is not None:
        meta[TIMEOUT_KEY] = max(1, round(timeout_s * 1000))
    return meta


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    error, result = answer.get("error"), answer.get("result")
    if isinstance(error, dict):
        raise RequestFailed(error)
    if not isinstance(result, dict):
        raise ConnectionFailed("the server sent an answer without a result")
    return result


def _key_bytes(key: str) -> bytes:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("the API key contains characters that no key has; was it copied whole?")
    return key.encode("ascii")


def _closed(error: trio_websocket.ConnectionClosed) -> ConnectionFailed:
    reason = error.reason
    if reason is None or reason.code == 1006:
        return ConnectionFailed("the server closed the connection without a word; its log may say why")
    said = reason.reason or reason.name
    return ConnectionFailed(f"the server closed the connection: {said} ({reason.code})")


def _reason(error: trio_websocket.HandshakeError, *, with_key: bool) -> str:
    if isinstance(error, trio_websocket.ConnectionTimeout):
        return f"no answer within {CONNECT_S:g} s"
    if not isinstance(error, trio_websocket.ConnectionRejected):
        return "what answers there is not a WebSocket server (with TLS it is wss://), or it has no room"
    if error.status_code == 401:
        given = "does not know this API key" if with_key else "wants an API key: pass --key or set MCPD_API_KEY"
        return f"the server {given}"
    return _REJECTIONS.get(error.status_code, f"the server refused with HTTP status {error.status_code}")


def _network_reason(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_S:g} s"
    causes = list(_os_errors(error))
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "nobody listens there; is the server running? Start one with: mcpd serve"
    return (causes[-1].strerror or str(causes[-1])) if causes else "the connection broke while it was being opened"


def _os_errors(error: BaseException | None) -> Iterator[OSError]:
    while error is not None:
        if isinstance(error, OSError):
            yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _os_errors(inner)
        error = error.__cause__
