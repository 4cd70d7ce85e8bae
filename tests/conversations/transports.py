"""The client's end of each transport, all with the same two verbs: `send` a message, `receive` the next one.

`HttpDoor` posts each message on a connection of its own and gathers what comes on all of them (and on the standalone
stream of a session) in the order of arrival; going away is how it cancels a stateless call. `LineDoor` is WebSocket
and stdio. Used by `test_conversations.py`. Deliberately not: `mcpd.client`, which is under test elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio
import trio_websocket

from mcpd.wire.envelope import CAPABILITIES_KEY, PREFIX, VERSION_KEY
from mcpd.wire.versions import STATELESS
from tests.in_process import Running
from tests.served import CLIENT, WAIT_S, ReplyReader, opened, stateless

Message = Any


class Transport(Protocol):
    """One client."""

    async def send(self, message: Message) -> None:
        """Send one message."""

    async def send_text(self, text: str) -> None:
        """Send a text as it is."""

    async def receive(self) -> Message:
        """Return the next message of the server."""


class LineDoor:
    """One text a message, both ways on one connection."""

    def __init__(
        self,
        version: str,
        capabilities: dict[str, Any],
        write: Callable[[str], Awaitable[None]],
        read: Callable[[], Awaitable[str | bytes]],
    ) -> None:
        self._version = version
        self._capabilities = capabilities
        self._write = write
        self._read = read

    async def send(self, message: Message) -> None:
        """Send one message."""
        if self._version == STATELESS and isinstance(message, dict) and "method" in message and "id" in message:
            message = {**message, "params": self._marked(message.get("params", {}))}
        await self._write(json.dumps(_dressed(message)))

    def _marked(self, params: dict[str, Any]) -> dict[str, Any]:
        marks = {VERSION_KEY: STATELESS, CAPABILITIES_KEY: self._capabilities, PREFIX + "clientInfo": CLIENT}
        return {**params, "_meta": {**marks, **params.get("_meta", {})}}

    async def send_text(self, text: str) -> None:
        """Send a text as it is."""
        await self._write(text)

    async def receive(self) -> Message:
        """Return the next message of the server."""
        return json.loads(await self._read())


class HttpDoor:
    """A connection for each message."""

    def __init__(self, url: str, version: str, capabilities: dict[str, Any], nursery: trio.Nursery) -> None:
        self._url = url
        self._version = version
        self._capabilities = capabilities
        self._nursery = nursery
        self._session: dict[str, str] = {}
        self._posts: dict[str | int, trio.CancelScope] = {}
        self._inbox, self._messages = trio.open_memory_channel[Message](100)

    async def send(self, message: Message) -> None:
        """Send one message; a request's replies arrive while its connection stays open."""
        method = message.get("method") if isinstance(message, dict) else None
        if method == "notifications/cancelled" and self._version == STATELESS:
            self._posts.pop(message["params"]["requestId"]).cancel()
            return
        await self._nursery.start(self._exchange, message, *self._request(message))
        if method == "notifications/initialized":
            await self._nursery.start(self._listen)

    def _request(self, message: Message) -> tuple[bytes, dict[str, str]]:
        if self._version == STATELESS and isinstance(message, dict) and "id" in message and "method" in message:
            params = message.get("params", {})
            body, headers = stateless(
                message["method"],
                {key: value for key, value in params.items() if key != "_meta"},
                request_id=message["id"],
                meta=params.get("_meta"),
                capabilities=self._capabilities,
            )
            return json.dumps(body).encode(), headers
        return json.dumps(_dressed(message)).encode(), self._session

    async def send_text(self, text: str) -> None:
        """Send a text as it is."""
        headers = {"mcp-protocol-version": STATELESS} if self._version == STATELESS else self._session
        await self._nursery.start(self._exchange, None, text.encode(), headers)

    async def _exchange(
        self,
        message: Message,
        content: bytes,
        headers: dict[str, str],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        waits = isinstance(message, dict) and "id" in message and "method" in message
        with trio.CancelScope() as scope:
            if waits:
                self._posts[message["id"]] = scope
            if waits and message["method"] != "initialize":
                task_status.started()
            async with opened(self._url, "POST", content, headers) as reader:
                await self._take(reader)
            if (waits and message["method"] == "initialize") or not waits:
                task_status.started()

    async def _take(self, reader: ReplyReader) -> None:
        if "mcp-session-id" in reader.headers:
            self._session = {"mcp-session-id": reader.headers["mcp-session-id"]}
        if reader.streamed:
            while (message := await reader.message()) is not None:
                await self._inbox.send(message)
        elif text := await reader.whole():
            await self._inbox.send(json.loads(text))

    async def _listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with opened(self._url, "GET", b"", {**self._session, "accept": "text/event-stream"}) as reader:
            task_status.started()
            await self._take(reader)

    async def receive(self) -> Message:
        """Return the next message of the server, on whichever connection it came."""
        return await self._messages.receive()


def _dressed(message: Message) -> Message:
    if isinstance(message, list):
        return [_dressed(one) for one in message]
    return {"jsonrpc": "2.0", **message} if isinstance(message, dict) else message


@asynccontextmanager
async def http_transport(running: Running, version: str, capabilities: dict[str, Any]) -> AsyncIterator[Transport]:
    """Open the HTTP transport of a running server."""
    async with trio.open_nursery() as nursery:
        yield HttpDoor(f"http://127.0.0.1:{running.port}", version, capabilities, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def websocket_transport(running: Running, version: str, capabilities: dict[str, Any]) -> AsyncIterator[Transport]:
    """Open the WebSocket transport of a running server."""
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{running.port}/ws", subprotocols=["mcp"]) as socket:
        yield LineDoor(version, capabilities, socket.send_message, socket.get_message)


@asynccontextmanager
async def stdio_transport(running: Running, version: str, capabilities: dict[str, Any]) -> AsyncIterator[Transport]:
    """Open the stdio transport of a running server."""
    async with trio.lowlevel.FdStream(running.stdin_fd) as sink, trio.lowlevel.FdStream(running.stdout_fd) as source:
        buffer = bytearray()

        async def read() -> bytes:
            while (end := buffer.find(b"\n")) < 0:
                data = await source.receive_some()
                assert data, "the server has closed its output"
                buffer.extend(data)
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            return line

        async def write(text: str) -> None:
            await sink.send_all(text.encode() + b"\n")

        yield LineDoor(version, capabilities, write, read)


OPEN = {"http": http_transport, "websocket": websocket_transport, "stdio": stdio_transport}
__all__ = ["OPEN", "WAIT_S", "Transport"]
