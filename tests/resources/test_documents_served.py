"""Documents through the whole server: what one process stores, every client of every process hears of and reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio_websocket

from mcpd.storage.documents import Document, Put, Remove
from mcpd.storage.sqlite.documents import open_documents
from mcpd.wire.versions import STATELESS
from tests.in_process import WAIT_S, Running, http_server, server_config

META = {
    "io.modelcontextprotocol/protocolVersion": STATELESS,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
URI = "docs:///notes/today.md"


def put(text: str) -> Put:
    return Put(document=Document(uri=URI, title="Today", mime_type="text/markdown", text=text, digest=text))


class Client:
    """A WebSocket that speaks the stateless revision."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self._last = 0

    async def say(self, method: str, **params: Any) -> None:
        self._last += 1
        message = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": {**params, "_meta": META}}
        await self._socket.send_message(json.dumps(message))

    async def hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self._socket.get_message())
        return message

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        await self.say(method, **params)
        return await self.hear()

    async def hear_methods(self, *wanted: str) -> None:
        """Hear until each of these notifications has come."""
        left = set(wanted)
        while left:
            left.discard((await self.hear()).get("method", ""))


@asynccontextmanager
async def connected(running: Running) -> AsyncIterator[Client]:
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{running.port}/ws") as socket:
        yield Client(socket)


async def listen(client: Client) -> None:
    await client.say(
        "subscriptions/listen", notifications={"resourcesListChanged": True, "resourceSubscriptions": [URI]}
    )
    assert (await client.hear())["method"] == "notifications/subscriptions/acknowledged"


async def text_of(client: Client) -> str:
    text: str = (await client.ask("resources/read", uri=URI))["result"]["contents"][0]["text"]
    return text


async def test_what_another_process_stores_is_told_and_read_here(tmp_path: Path) -> None:
    """PUB-1, RES-5: `mcpd ingest` beside a running `mcpd serve`. The store is opened a second time, as it would be."""
    with trio.fail_after(WAIT_S):
        async with (
            http_server(server_config(tmp_path)) as running,
            open_documents(tmp_path / "data") as elsewhere,
            connected(running) as listener,
            connected(running) as reader,
        ):
            await listen(listener)
            await elsewhere.write([put("one")])
            await listener.hear_methods("notifications/resources/updated", "notifications/resources/list_changed")
            assert await text_of(reader) == "one"
            assert await text_of(reader) == "one"
            assert running.metric("mcpd_cache_requests_total", cache="resources", result="hit") == 1
            listed = (await reader.ask("resources/list"))["result"]["resources"]
            assert [entry["uri"] for entry in listed] == [URI]

            await elsewhere.write([put("two")])
            await listener.hear_methods("notifications/resources/updated")
            assert await text_of(reader) == "two"

            await elsewhere.write([Remove(uri=URI)])
            await listener.hear_methods("notifications/resources/updated", "notifications/resources/list_changed")
            gone = await reader.ask("resources/read", uri=URI)
            assert gone["error"]["data"] == {"uri": URI}


async def test_documents_survive_a_restart(tmp_path: Path) -> None:
    """Law 12."""
    with trio.fail_after(WAIT_S):
        async with http_server(server_config(tmp_path)) as running:
            assert running.parts.documents is not None
            await running.parts.documents.write([put("kept")])
        async with http_server(server_config(tmp_path)) as running, connected(running) as client:
            assert await text_of(client) == "kept"
