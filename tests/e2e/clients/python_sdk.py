"""The official Python SDK's client (`mcp.Client`) as the test lanes run it; see `conversation`.

Its era is its `mode`: "auto" (the default) probes `server/discover` and speaks 2026-07-28 with a server that knows it;
"legacy" makes the `initialize` handshake and gets the newest of the older revisions.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Awaitable
from functools import partial
from typing import Any

import anyio
import mcp_types
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.session import ClientRequestContext
from mcp.client.subscriptions import ListenNotSupportedError, ResourceUpdated

import conversation
from conversation import NOTE, Order, Row

warnings.simplefilter("ignore")  # the handshake era's methods are marked as deprecated


class Lane:
    """One client on one connection."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.updated: list[str] = []
        self.heard = anyio.Event()
        target: Any = order.url
        if order.command is not None:
            target = StdioServerParameters(command=order.command[0], args=order.command[1:], env=order.environment)
        self.client = Client(
            target,
            mode="auto" if order.era == "stateless" else "legacy",
            elicitation_callback=self.answer,
            message_handler=self.hear,
        )

    async def answer(self, _: ClientRequestContext, params: mcp_types.ElicitRequestParams) -> mcp_types.ElicitResult:
        assert params.message == "What is your name?"
        return mcp_types.ElicitResult(action="accept", content={"name": "Ada"})

    async def hear(self, message: Any) -> None:
        if isinstance(message, mcp_types.ResourceUpdatedNotification):
            self.updated.append(str(message.params.uri))
            self.heard.set()

    def rows(self) -> dict[str, Row]:
        return {
            "connect": self.connect,
            "list": self.list,
            "call": partial(self.text, "echo", {"text": "héllo"}),
            "structured": self.structured,
            "tool_error": self.tool_error,
            "progress": self.progress,
            "elicitation": partial(self.text, "greet", {}),
            "read": partial(self.read, "notes://past/monday"),
            "search": self.search,
            "subscribe": self.listen if self.order.era == "stateless" else self.subscribe,
            "other_subscription": self.other_subscription,
            "prompt": self.prompt,
            "cancel_json": partial(self.cancel, speak=False),
            "cancel_stream": partial(self.cancel, speak=True),
            "websocket": self.websocket,
        }

    async def connect(self) -> Any:
        info = self.client.server_info
        return {"version": self.client.protocol_version, "server": info.name if info else None}

    async def list(self) -> Any:
        client = self.client
        return {
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "resources": [str(item.uri) for item in (await client.list_resources()).resources],
            "templates": [t.uri_template for t in (await client.list_resource_templates()).resource_templates],
            "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
        }

    async def text(self, tool: str, arguments: dict[str, Any]) -> Any:
        result = await self.client.call_tool(tool, arguments)
        block = result.content[0]
        assert isinstance(block, mcp_types.TextContent)
        return block.text

    async def structured(self) -> Any:
        return (await self.client.call_tool("measure", {"text": "to be or nought"})).structured_content

    async def tool_error(self) -> Any:
        result = await self.client.call_tool("refuse", {})
        block = result.content[0]
        assert isinstance(block, mcp_types.TextContent)
        return {"isError": result.is_error, "text": block.text}

    async def progress(self) -> Any:
        seen: list[Any] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append([progress, total, message])

        await self.client.call_tool("count", {"steps": 3}, progress_callback=note)
        return seen

    async def read(self, uri: str) -> Any:
        contents = (await self.client.read_resource(uri)).contents[0]
        assert isinstance(contents, mcp_types.TextResourceContents)
        return contents.text

    async def search(self) -> Any:
        link = (await self.client.call_tool("search_documents", {"query": "tide"})).content[1]
        assert isinstance(link, mcp_types.ResourceLink)
        return await self.read(str(link.uri))

    async def listen(self) -> Any:
        async with self.client.listen(resource_subscriptions=[NOTE], tools_list_changed=True) as subscription:
            honoured = subscription.honored.model_dump(by_alias=True, exclude_none=True)
            written = await self.text("touch", {})
            event = await anext(subscription)
            assert isinstance(event, ResourceUpdated)
            read = await self.read(NOTE)
        return {"honoured": honoured, "updated": event.uri, "same": written == read}

    async def subscribe(self) -> Any:
        await self.client.subscribe_resource(NOTE)
        written = await self.text("touch", {})
        await self.heard.wait()
        read = await self.read(NOTE)
        await self.client.unsubscribe_resource(NOTE)
        return {"updated": self.updated[0], "same": written == read}

    async def other_subscription(self) -> Any:
        """The way of the other era: this client must say that it does not go here."""
        if self.order.era == "stateful":
            return await self.lacks(self.client.listen(resource_subscriptions=[NOTE]).__aenter__())
        return await self.lacks(self.client.subscribe_resource(NOTE))

    async def lacks(self, attempt: Awaitable[Any]) -> Any:
        try:
            await attempt
        except (ListenNotSupportedError, MCPError) as error:
            return {"lacks": str(error)}
        return {"lacks": None}

    async def prompt(self) -> Any:
        message = (await self.client.get_prompt("review", {"topic": "the draft"})).messages[0]
        assert isinstance(message.content, mcp_types.TextContent)
        return {"role": message.role, "text": message.content.text}

    async def cancel(self, *, speak: bool) -> Any:
        async def linger(mark: str) -> None:
            spoken: list[float] = []

            async def note(progress: float, *_: Any) -> None:
                spoken.append(progress)

            arguments = {"mark": mark, "speak": speak}
            await self.client.call_tool("linger", arguments, progress_callback=note if speak else None)

        stopped = await conversation.cancelled(linger, f"{self.order.era}-{speak}")
        return {**stopped, "then": await self.text("echo", {"text": "still here"})}

    async def websocket(self) -> Any:
        return {"lacks": "a WebSocket transport" if importlib.util.find_spec("mcp.client.websocket") is None else None}


async def main() -> None:
    """Connect, take the rows, report."""
    lane = Lane(conversation.read_order())
    async with lane.client:
        report = await conversation.take(lane.rows())
    conversation.finish(report)


anyio.run(main)
