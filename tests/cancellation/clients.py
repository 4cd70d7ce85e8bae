"""Clients that can be cut off: one call at a time, and everything the server ever said about it.

`heard` holds what has come for the call, in order; `settle` returns when all that the server has sent is in it. `leave`
is the client's end as the server sees it (end of file) while this side goes on listening, so that a word sent too late
is heard. Used by `trial.py` for all transports and by the tests of this folder. Deliberately not: assertions about
calls.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import h11
import trio
import trio_websocket

from mcpd.wire.versions import STATELESS
from tests.in_process import Running, eventually
from tests.served import CLIENT, WAIT_S, ReplyReader, opened, stateless

Message = dict[str, Any]
TOKEN = "token"
LIMIT_MS = 30_000
"""The limit of every call: far away, so that it ends a call only when a test lets it."""


class Served(Protocol):
    """A server on a port of this machine, be it a server or a program."""

    port: int


class Client(Protocol):
    """What the clients have in common."""

    heard: list[Message]

    async def call(self, tool: str, arguments: Message, *, number: int = 1, progress: bool = True) -> None:
        """Send a `tools/call` and listen from now on to what is said about it."""

    async def cancel(self, number: int = 1) -> None:
        """Send `notifications/cancelled`."""

    async def leave(self) -> None:
        """Be gone, as the server sees it."""

    async def settle(self, *, ended: bool) -> None:
        """Return when everything that the server has sent so far is in `heard`; `ended`: it will close the connection.

        Messages of one connection come in order: behind its end, or the answer to a question, nothing is missing.
        """

    async def probe(self, tool: str) -> Any:
        """Make another, quick call and return its text."""


def tool_call(tool: str, arguments: Message, *, progress: bool = True) -> tuple[Message, Message]:
    """Return the params of a call and their `_meta`."""
    meta: Message = {"dev.mcpd/timeoutMs": LIMIT_MS}
    if progress:
        meta["progressToken"] = TOKEN
    return {"name": tool, "arguments": arguments}, meta


class HttpClient:
    """Each message on a connection of its own; a session if the revision has them."""

    def __init__(self, port: int, version: str, nursery: trio.Nursery) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.heard: list[Message] = []
        self.status = 0
        self._port = port
        self._version = version
        self._nursery = nursery
        self._headers: dict[str, str] = {}
        self._over = trio.Event()
        self._last_event_id = ""

    async def open(self) -> None:
        """Open a session, if the revision has them."""
        if self._version != STATELESS:
            params = {"protocolVersion": self._version, "capabilities": {}, "clientInfo": CLIENT}
            _, headers, _ = await self.post("initialize", params, number=0)
            self._headers = {"mcp-session-id": headers["mcp-session-id"]}
            assert (await self.post("notifications/initialized", {}))[0] == 202

    def encode(
        self, method: str, params: Message, number: int | None, meta: Message | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a message; no number makes it a notification."""
        if self._version == STATELESS:
            body, headers = stateless(method, params, request_id=number, meta=meta)
        else:
            body = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": meta or {}}}
            headers = self._headers
        if number is None:
            del body["id"]
        return json.dumps(body).encode(), headers

    async def post(self, method: str, params: Message, number: int | None = None) -> tuple[int, dict[str, str], str]:
        """Send one message and return status, headers and text of the whole reply."""
        content, headers = self.encode(method, params, number)
        async with opened(self.url, "POST", content, headers) as reader:
            return reader.status, reader.headers, await reader.whole()

    async def call(self, tool: str, arguments: Message, *, number: int = 1, progress: bool = True) -> None:
        params, meta = tool_call(tool, arguments, progress=progress)
        await self.exchange(*self.encode("tools/call", params, number, meta))

    async def exchange(self, content: bytes, headers: dict[str, str]) -> None:
        """Post `content` and listen from now on to the reply."""
        self.stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        self.heard, self._over = [], trio.Event()
        await self._nursery.start(self._listen, content, {**USUAL, **headers, "host": f"127.0.0.1:{self._port}"})

    async def _listen(self, content: bytes, headers: dict[str, str], *, task_status: trio.TaskStatus[None]) -> None:
        over, reader = self._over, ReplyReader(self.stream)
        task_status.started()
        with contextlib.suppress(h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with self.stream:
                await reader.start("POST", content, {**headers, "content-length": str(len(content))})
                await self._take(reader)
        over.set()

    async def _take(self, reader: ReplyReader) -> None:
        self.status = reader.status
        if not reader.streamed:
            self.heard.append(json.loads(await reader.whole()))
            return
        while (event := await reader.event()) is not None:
            self._last_event_id = event.get("id", self._last_event_id)
            if event.get("data"):
                self.heard.append(json.loads(event["data"]))

    async def cancel(self, number: int = 1) -> None:
        assert (await self.post("notifications/cancelled", {"requestId": number}))[0] == 202

    async def leave(self) -> None:
        await self.stream.send_eof()

    async def vanish(self) -> None:
        """Be gone on both sides: nothing more can be heard."""
        await self.stream.aclose()

    async def settle(self, *, ended: bool) -> None:
        with trio.fail_after(WAIT_S):
            await self._over.wait()

    async def resume(self) -> list[Message]:
        """Take up the call's stream behind what was heard, on a new connection; return the rest of it."""
        heard, self.heard = self.heard, []
        headers = {**self._headers, "accept": "text/event-stream", "last-event-id": self._last_event_id}
        async with opened(self.url, "GET", b"", headers) as reader:
            assert reader.streamed, (reader.status, await reader.whole())
            await self._take(reader)
        heard, self.heard = self.heard, heard
        return heard

    async def probe(self, tool: str) -> Any:
        status, _, text = await self.post("tools/call", {"name": tool, "arguments": {"text": "probe"}}, number=99)
        assert status == 200, text
        return json.loads(text)["result"]["content"][0]["text"]


USUAL = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


class LineClient:
    """Messages both ways on one connection: WebSocket and stdio. `read` returns None at the end."""

    def __init__(
        self,
        version: str,
        write: Callable[[str], Awaitable[None]],
        read: Callable[[], Awaitable[str | None]],
        hang_up: Callable[[], Awaitable[None]],
    ) -> None:
        self.heard: list[Message] = []
        self._version = version
        self._write = write
        self._read = read
        self._hang_up = hang_up
        self._answers: dict[str, Message] = {}
        self._over = trio.Event()

    async def open(self) -> None:
        """Initialize, if the revision has sessions."""
        if self._version != STATELESS:
            params = {"protocolVersion": self._version, "capabilities": {}, "clientInfo": CLIENT}
            await self._ask("initialize", params)
            await self._send({"method": "notifications/initialized"})

    async def listen(self) -> None:
        """Read until the server's end."""
        while (text := await self._read()) is not None:
            message = json.loads(text)
            if str(message.get("id", "")).startswith("probe"):
                self._answers[message["id"]] = message
            else:
                self.heard.append(message)
        self._over.set()

    async def _send(self, message: Message) -> None:
        await self._write(json.dumps({"jsonrpc": "2.0", **message}))

    async def _request(self, method: str, params: Message, number: int | str, meta: Message | None = None) -> None:
        if self._version == STATELESS:
            body, _ = stateless(method, params, request_id=number, meta=meta)
        else:
            body = {"id": number, "method": method, "params": {**params, "_meta": meta or {}}}
        await self._send(body)

    async def _ask(self, method: str, params: Message) -> Message:
        name = f"probe-{len(self._answers)}"
        await self._request(method, params, name)
        await eventually(lambda: name in self._answers, f"{method} is answered")
        answer: Message = self._answers[name]["result"]
        return answer

    async def call(self, tool: str, arguments: Message, *, number: int = 1, progress: bool = True) -> None:
        params, meta = tool_call(tool, arguments, progress=progress)
        await self._request("tools/call", params, number, meta)

    async def cancel(self, number: int = 1) -> None:
        await self._send({"method": "notifications/cancelled", "params": {"requestId": number}})

    async def leave(self) -> None:
        await self._hang_up()

    async def settle(self, *, ended: bool) -> None:
        if ended:
            with trio.fail_after(WAIT_S):
                await self._over.wait()
        else:
            await self._ask("tools/list", {})

    async def probe(self, tool: str) -> Any:
        result = await self._ask("tools/call", {"name": tool, "arguments": {"text": "probe"}})
        return result["content"][0]["text"]


@asynccontextmanager
async def http_client(running: Served, version: str) -> AsyncIterator[HttpClient]:
    """A client of `/mcp`. Leaving closes its connections."""
    async with trio.open_nursery() as nursery:
        client = HttpClient(running.port, version, nursery)
        await client.open()
        yield client
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def websocket_client(running: Served, version: str) -> AsyncIterator[LineClient]:
    """A client of `/ws`. Leaving closes its connection."""
    url = f"ws://127.0.0.1:{running.port}/ws"
    async with trio_websocket.open_websocket_url(url, subprotocols=["mcp"], message_queue_size=100) as socket:

        async def read() -> str | None:
            try:
                return str(await socket.get_message())
            except trio_websocket.ConnectionClosed:
                return None

        stream = socket._stream
        assert isinstance(stream, trio.SocketStream)
        async with stream, _listening(LineClient(version, socket.send_message, read, stream.send_eof)) as client:
            yield client


@asynccontextmanager
async def stdio_client(running: Running, version: str) -> AsyncIterator[LineClient]:
    """The client at the other ends of the pipes. Leaving closes them."""
    async with trio.lowlevel.FdStream(running.stdin_fd) as sink, trio.lowlevel.FdStream(running.stdout_fd) as source:
        buffer = bytearray()

        async def read() -> str | None:
            while b"\n" not in buffer:
                data = await source.receive_some()
                if not data:
                    return None
                buffer.extend(data)
            line, _, rest = bytes(buffer).partition(b"\n")
            buffer[:] = rest
            return line.decode()

        async def write(text: str) -> None:
            await sink.send_all(text.encode() + b"\n")

        async with _listening(LineClient(version, write, read, sink.aclose)) as client:
            yield client


@asynccontextmanager
async def _listening(client: LineClient) -> AsyncIterator[LineClient]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.listen)
        await client.open()
        yield client
        nursery.cancel_scope.cancel()


OPEN: dict[str, Callable[[Running, str], Any]] = {
    "http": http_client,
    "websocket": websocket_client,
    "stdio": stdio_client,
}
