"""The WebSocket lane: a client of its own on trio-websocket, which speaks both eras and takes the same rows.

No official client speaks MCP over WebSocket in 2026-07-28, so this one writes the messages itself: what goes over the
wire is to be read here. Called by: `lanes`. Deliberately not: `mcpd.client`, which is a part of what is tested.

Laws: it takes the rows of the other lanes and answers them in the same words; a row that fails is reported with its
traceback.
"""

from __future__ import annotations

import itertools
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import trio
import trio_websocket

NOTE = "notes://today"
PREFIX = "io.modelcontextprotocol/"
STATELESS, STATEFUL = "2026-07-28", "2025-11-25"
ANSWER = {"action": "accept", "content": {"name": "Ada"}}
ROW_S = 15
Ask = Callable[[str, str], Awaitable[dict[str, Any]]]
Params = dict[str, Any]


class Messages(Protocol):
    """What carries messages both ways: a WebSocket, or pipes."""

    async def get_message(self) -> str | bytes:
        """Wait for the next message."""

    async def send_message(self, message: str, /) -> None:
        """Send a message."""


class Peer:
    """One connection: requests by id, notifications by method."""

    def __init__(self, socket: Messages, *, stateless: bool) -> None:
        self.socket = socket
        self.stateless = stateless
        self.ids = itertools.count(1)
        self.results: dict[int, Params] = {}
        self.notes: list[Params] = []
        self.arrived = trio.Condition()

    async def read(self) -> None:
        """Sort what arrives, until the socket closes; answer the server's own requests."""
        while True:
            message = json.loads(await self.socket.get_message())
            if "method" in message and "id" in message:
                assert message["method"] == "elicitation/create", message
                await self.send({"id": message["id"], "result": ANSWER})
                continue
            async with self.arrived:
                if "method" in message:
                    self.notes.append(message)
                else:
                    self.results[message["id"]] = message
                self.arrived.notify_all()

    async def send(self, message: Params) -> None:
        await self.socket.send_message(json.dumps({"jsonrpc": "2.0", **message}))

    async def start(self, method: str, params: Params, **meta: Any) -> int:
        """Send a request; return its id."""
        if self.stateless:
            client = {"clientCapabilities": {"elicitation": {}}, "clientInfo": {"name": "e2e", "version": "1"}}
            meta |= {PREFIX + key: value for key, value in {"protocolVersion": STATELESS, **client}.items()}
        number = next(self.ids)
        await self.send({"id": number, "method": method, "params": {**params, **({"_meta": meta} if meta else {})}})
        return number

    async def answer(self, number: int) -> Params:
        """Wait for the response to request `number`, be it a result or an error."""
        async with self.arrived:
            while number not in self.results:
                await self.arrived.wait()
        return self.results.pop(number)

    async def wait(self, number: int) -> Params:
        """Wait for the result of request `number`. Raises: AssertionError for an error."""
        message = await self.answer(number)
        assert "result" in message, message
        result: Params = message["result"]
        return result

    async def note(self, method: str) -> Params:
        """Wait for a notification and return its params."""
        async with self.arrived:
            while True:
                for message in self.notes:
                    if message["method"] == method:
                        self.notes.remove(message)
                        params: Params = message["params"]
                        return params
                await self.arrived.wait()

    async def request(self, method: str, params: Params, **meta: Any) -> Params:
        """Send a request and wait for its result."""
        return await self.wait(await self.start(method, params, **meta))


@asynccontextmanager
async def open_peer(url: str, *, stateless: bool, headers: Sequence[tuple[bytes, bytes]] = ()) -> AsyncIterator[Peer]:
    """Connect with these headers besides the usual ones."""
    opened = trio_websocket.open_websocket_url(url, subprotocols=["mcp"], extra_headers=list(headers))
    async with opened as socket, reading(Peer(socket, stateless=stateless)) as peer:
        assert socket.subprotocol == "mcp"
        yield peer


@asynccontextmanager
async def reading(peer: Peer) -> AsyncIterator[Peer]:
    """Sort what arrives for `peer` while the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.read)
        yield peer
        nursery.cancel_scope.cancel()


class Lane:
    """The rows, on one connection."""

    def __init__(self, peer: Peer, ask: Ask) -> None:
        self.peer = peer
        self.ask = ask

    def rows(self) -> dict[str, Callable[[], Awaitable[Any]]]:
        return {
            "connect": self.connect,
            "list": self.list,
            "call": partial(self.text, "echo", {"text": "héllo"}),
            "structured": self.structured,
            "tool_error": self.tool_error,
            "progress": self.progress,
            "elicitation": self.elicitation,
            "read": partial(self.read, "notes://past/monday"),
            "search": self.search,
            "subscribe": self.listen if self.peer.stateless else self.subscribe,
            "prompt": self.prompt,
            "cancel_json": partial(self.cancel, speak=False),
            "cancel_stream": partial(self.cancel, speak=True),
        }

    async def connect(self) -> Any:
        if self.peer.stateless:
            found = await self.peer.request("server/discover", {})
            return {"version": found["supportedVersions"][0], "server": found["_meta"][PREFIX + "serverInfo"]["name"]}
        params = {
            "protocolVersion": STATEFUL,
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "e2e", "version": "1"},
        }
        found = await self.peer.request("initialize", params)
        await self.peer.send({"method": "notifications/initialized"})
        return {"version": found["protocolVersion"], "server": found["serverInfo"]["name"]}

    async def list(self) -> Any:
        request = self.peer.request
        return {
            "tools": [tool["name"] for tool in (await request("tools/list", {}))["tools"]],
            "resources": [item["uri"] for item in (await request("resources/list", {}))["resources"]],
            "templates": [
                item["uriTemplate"] for item in (await request("resources/templates/list", {}))["resourceTemplates"]
            ],
            "prompts": [prompt["name"] for prompt in (await request("prompts/list", {}))["prompts"]],
        }

    async def call(self, tool: str, arguments: Params, **meta: Any) -> Params:
        return await self.peer.request("tools/call", {"name": tool, "arguments": arguments}, **meta)

    async def text(self, tool: str, arguments: Params) -> Any:
        return (await self.call(tool, arguments))["content"][0]["text"]

    async def structured(self) -> Any:
        return (await self.call("measure", {"text": "to be or nought"}))["structuredContent"]

    async def tool_error(self) -> Any:
        result = await self.call("refuse", {})
        return {"isError": result["isError"], "text": result["content"][0]["text"]}

    async def progress(self) -> Any:
        await self.call("count", {"steps": 3}, progressToken="steps")
        seen = [message["params"] for message in self.peer.notes if message["method"] == "notifications/progress"]
        assert all(params["progressToken"] == "steps" for params in seen)
        return [[params["progress"], params["total"], params["message"]] for params in seen]

    async def elicitation(self) -> Any:
        if not self.peer.stateless:
            return await self.text("greet", {})
        params = {"name": "greet", "arguments": {}}
        asked = await self.peer.request("tools/call", params)
        assert asked["resultType"] == "input_required"
        assert {key: request["method"] for key, request in asked["inputRequests"].items()} == {
            "who": "elicitation/create"
        }
        answers = {"inputResponses": {"who": ANSWER}, "requestState": asked["requestState"]}
        return (await self.peer.request("tools/call", {**params, **answers}))["content"][0]["text"]

    async def read(self, uri: str) -> Any:
        return (await self.peer.request("resources/read", {"uri": uri}))["contents"][0]["text"]

    async def search(self) -> Any:
        return await self.read((await self.call("search_documents", {"query": "tide"}))["content"][1]["uri"])

    async def listen(self) -> Any:
        wanted = {"resourceSubscriptions": [NOTE], "toolsListChanged": True}
        number = await self.peer.start("subscriptions/listen", {"notifications": wanted})
        acknowledged = await self.peer.note("notifications/subscriptions/acknowledged")
        written = await self.text("touch", {})
        updated = await self.peer.note("notifications/resources/updated")
        assert [note["_meta"][PREFIX + "subscriptionId"] for note in (acknowledged, updated)] == [number, number]
        read = await self.read(NOTE)
        await self.peer.send({"method": "notifications/cancelled", "params": {"requestId": number}})
        return {"honoured": acknowledged["notifications"], "updated": updated["uri"], "same": written == read}

    async def subscribe(self) -> Any:
        await self.peer.request("resources/subscribe", {"uri": NOTE})
        written = await self.text("touch", {})
        updated = await self.peer.note("notifications/resources/updated")
        read = await self.read(NOTE)
        await self.peer.request("resources/unsubscribe", {"uri": NOTE})
        return {"updated": updated["uri"], "same": written == read}

    async def prompt(self) -> Any:
        result = await self.peer.request("prompts/get", {"name": "review", "arguments": {"topic": "the draft"}})
        message = result["messages"][0]
        return {"role": message["role"], "text": message["content"]["text"]}

    async def cancel(self, *, speak: bool) -> Any:
        mark = f"websocket-{self.peer.stateless}-{speak}"
        params = {"name": "linger", "arguments": {"mark": mark, "speak": speak}}
        number = await self.peer.start("tools/call", params, progressToken=mark)
        await self.ask("started", mark)
        await self.peer.send({"method": "notifications/cancelled", "params": {"requestId": number}})
        stopped = await self.ask("stopped", mark)
        then = await self.text("echo", {"text": "still here"})
        assert number not in self.peer.results, "a cancelled call was answered"
        return {**stopped, "then": then}


async def take(url: str, era: str, ask: Ask) -> dict[str, Any]:
    """Connect, run the rows in order, and return what each observed."""
    report: dict[str, Any] = {}
    async with open_peer(url, stateless=era == "stateless") as peer:
        for name, row in Lane(peer, ask).rows().items():
            try:
                with trio.fail_after(ROW_S):
                    report[name] = await row()
            except Exception:  # noqa: BLE001 - whatever a row raises is what it has to report
                report[name] = {"failed": traceback.format_exc()[-3000:]}
    return report
