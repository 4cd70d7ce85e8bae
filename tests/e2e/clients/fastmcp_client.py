"""FastMCP's client (`fastmcp.Client`) as the test lanes run it; see `conversation`.

It stands on the official SDK and takes the same `mode`, but its own methods know no subscriptions in either era.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import mcp_types
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

import conversation
from conversation import Order, Row


class Lane:
    """One client on one connection."""

    def __init__(self, order: Order) -> None:
        self.order = order
        transport: Any
        if order.command is None:
            assert order.url is not None
            transport = StreamableHttpTransport(order.url)
        else:
            transport = StdioTransport(order.command[0], order.command[1:], env=order.environment)
        mode = "auto" if order.era == "stateless" else "legacy"
        self.client: Client[Any] = Client(transport, mode=mode, elicitation_handler=self.answer)

    async def answer(self, message: str, *_: Any) -> Any:
        assert message == "What is your name?"
        return {"name": "Ada"}

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
            "subscribe": self.subscribe,
            "prompt": self.prompt,
            "cancel_json": partial(self.cancel, speak=False),
            "cancel_stream": partial(self.cancel, speak=True),
        }

    async def connect(self) -> Any:
        info = self.client.server_info
        return {"version": self.client.protocol_version, "server": info.name if info else None}

    async def list(self) -> Any:
        client = self.client
        return {
            "tools": [tool.name for tool in await client.list_tools()],
            "resources": [str(item.uri) for item in await client.list_resources()],
            "templates": [template.uri_template for template in await client.list_resource_templates()],
            "prompts": [prompt.name for prompt in await client.list_prompts()],
        }

    async def text(self, tool: str, arguments: dict[str, Any]) -> Any:
        block = (await self.client.call_tool(tool, arguments)).content[0]
        assert isinstance(block, mcp_types.TextContent)
        return block.text

    async def structured(self) -> Any:
        return (await self.client.call_tool("measure", {"text": "to be or nought"})).structured_content

    async def tool_error(self) -> Any:
        result = await self.client.call_tool("refuse", {}, raise_on_error=False)
        block = result.content[0]
        assert isinstance(block, mcp_types.TextContent)
        return {"isError": result.is_error, "text": block.text}

    async def progress(self) -> Any:
        seen: list[Any] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append([progress, total, message])

        await self.client.call_tool("count", {"steps": 3}, progress_handler=note)
        return seen

    async def read(self, uri: str) -> Any:
        contents = (await self.client.read_resource(uri))[0]
        assert isinstance(contents, mcp_types.TextResourceContents)
        return contents.text

    async def search(self) -> Any:
        link = (await self.client.call_tool("search_documents", {"query": "tide"})).content[1]
        assert isinstance(link, mcp_types.ResourceLink)
        return await self.read(str(link.uri))

    async def subscribe(self) -> Any:
        own = [name for name in dir(Client) if "subscri" in name or "listen" in name]
        return {"lacks": None if own else "subscriptions", "methods": own}

    async def prompt(self) -> Any:
        message = (await self.client.get_prompt("review", {"topic": "the draft"})).messages[0]
        assert isinstance(message.content, mcp_types.TextContent)
        return {"role": message.role, "text": message.content.text}

    async def cancel(self, *, speak: bool) -> Any:
        async def linger(mark: str) -> None:
            await self.client.call_tool("linger", {"mark": mark, "speak": speak})

        stopped = await conversation.cancelled(linger, f"fastmcp-{self.order.era}-{speak}")
        return {**stopped, "then": await self.text("echo", {"text": "still here"})}


async def main() -> None:
    """Connect, take the rows, report."""
    lane = Lane(conversation.read_order())
    async with lane.client:
        report = await conversation.take(lane.rows())
    conversation.finish(report)


anyio.run(main)
