"""`search_documents`, as an agent meets it: through the whole server, over a real store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.authoring.context import Context
from mcpd.authoring.declarations import ToolDeclaration
from mcpd.config import Limits
from mcpd.search.embeddings import HashProvider
from mcpd.search.query_schema import input_schema
from mcpd.storage.documents import Document, Put, Span
from tests.in_process import WAIT_S, http_server, server_config
from tests.resources.test_documents_served import Client, connected

TEXT = "# Nurseries\n\nA nursery ends when all of its tasks have ended.\n\n# Scopes\n\nA scope can be cancelled."
SPANS = (Span(0, 61, "Nurseries"), Span(63, len(TEXT), "Scopes"))


async def write(documents: Any) -> None:
    texts = [TEXT[span.start : span.end] for span in SPANS]
    provider = HashProvider()
    vectors = tuple(await provider.embed(texts))
    document = Document(uri="docs:///n/trio.md", title="Trio", mime_type="text/markdown", text=TEXT, digest="1")
    put = Put(document=document, spans=SPANS, vectors=vectors, model=provider.model)
    assert [outcome.status for outcome in await documents.write([put])] == ["created"]


async def search(client: Client, **arguments: Any) -> dict[str, Any]:
    reply = await client.ask("tools/call", name="search_documents", arguments=arguments)
    result: dict[str, Any] = reply["result"]
    return result


async def test_a_hit_links_to_the_passage_it_was_found_in(tmp_path: Path) -> None:
    """TOOL-3, RSC-1: the answer as JSON, the same as text, and a link for each hit."""
    with trio.fail_after(WAIT_S):
        async with http_server(server_config(tmp_path)) as running, connected(running) as client:
            await write(running.parts.documents)
            result = await search(client, query="cancelled")
            answer = result["structuredContent"]
            assert json.loads(result["content"][0]["text"]) == answer
            assert (answer["mode"], answer["total"], len(answer["hits"])) == ("text", 1, 1)
            assert answer["hits"][0]["highlights"] == ["# Scopes A scope can be **cancelled**."]
            link = result["content"][1]
            assert (link["type"], link["name"], link["title"]) == ("resource_link", "trio.md", "Trio")
            assert link["mimeType"] == "text/markdown"
            read = (await client.ask("resources/read", uri=link["uri"]))["result"]["contents"][0]
            assert read["text"].startswith("# Scopes")
            assert running.metric("mcpd_search_duration_seconds_count", mode="text") == 1


@pytest.mark.parametrize("mode", ["text", "semantic", "hybrid"])
async def test_each_mode_finds_the_document(tmp_path: Path, mode: str) -> None:
    with trio.fail_after(WAIT_S):
        async with http_server(server_config(tmp_path)) as running, connected(running) as client:
            await write(running.parts.documents)
            answer = (await search(client, query="nursery tasks", mode=mode))["structuredContent"]
            assert [hit["uri"] for hit in answer["hits"]] == ["docs:///n/trio.md"]
            assert ("total" in answer) == (mode == "text")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"query": "x", "filters": {"colour": "red"}}, "colour"),
        ({"query": "x", "cursor": "nonsense"}, "ursor"),
        ({"query": "x", "size": 10_000}, "size"),
        ({"query": 7}, "query"),
        ({"qery": "x"}, "qery"),
        ({"mode": "semantic"}, "words"),
    ],
)
async def test_a_query_that_cannot_be_is_told_to_the_model(
    tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    """TOOL-4: the model can mend it, so it is a result."""
    with trio.fail_after(WAIT_S):
        async with http_server(server_config(tmp_path)) as running, connected(running) as client:
            result = await search(client, **arguments)
            assert result["isError"] is True
            assert named in result["content"][0]["text"]


async def test_the_listed_schema_is_the_grammar(tmp_path: Path) -> None:
    """JSC-1."""
    with trio.fail_after(WAIT_S):
        async with http_server(server_config(tmp_path)) as running, connected(running) as client:
            tools = (await client.ask("tools/list"))["result"]["tools"]
            (tool,) = [tool for tool in tools if tool["name"] == "search_documents"]
            assert tool["inputSchema"] == input_schema(Limits())
            assert tool["annotations"] == {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}


async def test_a_tool_searches_through_its_context(tmp_path: Path) -> None:
    async def look(words: str, ctx: Context) -> list[str]:
        answer = await ctx.search(words, size=5)
        return [hit["uri"] for hit in answer["hits"]]

    with trio.fail_after(WAIT_S):
        async with http_server(server_config(tmp_path)) as running, connected(running) as client:
            await write(running.parts.documents)
            running.parts.manager.service._tools.registry.replace([ToolDeclaration(name="look", fn=look)])
            reply = await client.ask("tools/call", name="look", arguments={"words": "nursery"})
            assert reply["result"]["structuredContent"] == ["docs:///n/trio.md"]
