"""The form of a reply is one that its client takes: JSON, events, or whichever comes first where it takes both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpd.gateway.asgi import Head
from mcpd.wire.versions import STATEFUL
from tests.in_process import http_server, server_config
from tests.served import CLIENT, TOOLS, Mcp, Server, client_at, client_of, serving

EVENTS, JSON = "text/event-stream", "application/json"
COUNT = {"name": "count", "_meta": {"progressToken": 0}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.parametrize(
    ("accept", "json", "events"),
    [
        (None, True, True),
        ("*/*", True, True),
        ("application/json, text/event-stream", True, True),
        ("Application/JSON", True, False),
        ("text/*", False, True),
        ("text/html", False, False),
        ("text/event-stream, application/json;q=0", False, True),
        ("*/*, text/event-stream; q=0.0", True, False),
        ("*/*;q=0, text/event-stream", False, True),
        ("application/*;q=0.1, text/event-stream;charset=utf-8;q=0.9", True, True),
        ("application/json;q=0;a=b", False, False),
    ],
)
def test_the_range_that_names_a_type_most_closely_decides(accept: str | None, json: bool, events: bool) -> None:
    """RSP-1, LAD-1; RFC 9110 section 12.5.1."""
    head = Head({"headers": [] if accept is None else [(b"accept", accept.encode())]})
    assert (head.takes_json, head.takes_events) == (json, events)


async def replies(mcp: Mcp, accept: str, version: str) -> list[Any]:
    """Return the replies of both eras to a handshake, a ping, a call that is silent and one that is not."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    opened = await mcp.post(hello, {"accept": accept})
    session = {"accept": accept, "mcp-session-id": opened.headers["mcp-session-id"]}
    stateful = [
        await mcp.post({"jsonrpc": "2.0", "id": number, "method": method, "params": params}, session)
        for number, (method, params) in enumerate(
            [("ping", {}), ("tools/call", {"name": "echo", "arguments": {"text": "hi"}}), ("tools/call", COUNT)]
        )
    ]
    mirrored = {"accept": accept}
    echoed = await mcp.ask("tools/call", {"name": "echo", "arguments": {"text": "hi"}}, headers=mirrored)
    counted = await mcp.ask("tools/call", {"name": "count"}, meta={"progressToken": 0}, headers=mirrored)
    return [opened, *stateful, echoed, counted]


@pytest.mark.parametrize("version", STATEFUL)
async def test_who_takes_only_events_gets_every_result_as_an_event(server: Server, version: str) -> None:
    """RSP-1, STR-1: such a client waits for ever for a JSON text."""
    async with client_of(server) as mcp:
        answers = await replies(mcp, EVENTS, version)
    assert [(reply.status, reply.streamed, "result" in reply.last) for reply in answers] == [(200, True, True)] * 6


@pytest.mark.parametrize("version", STATEFUL)
async def test_who_takes_only_json_gets_every_result_as_json(server: Server, version: str) -> None:
    """RSP-1, STR-1: also of a call that has something to say on its way."""
    async with client_of(server) as mcp:
        answers = await replies(mcp, JSON, version)
    assert [(reply.status, reply.streamed, len(reply.messages)) for reply in answers] == [(200, False, 1)] * 6
    assert all("result" in reply.last for reply in answers)


async def test_who_takes_only_json_waits_for_a_slow_call_and_is_not_sent_away(tmp_path: Path) -> None:
    """RSP-1, RSM-4: neither the silence after which a stream begins nor `release_stream` changes the form."""
    config = server_config(tmp_path, TOOLS, ping_s=0.001)
    async with http_server(config) as running, client_at(f"http://127.0.0.1:{running.port}") as mcp:
        await mcp.initialize()
        mcp.session["accept"] = JSON
        await mcp.call("tools/call", {"name": "go_on", "arguments": {"name": "json"}})
        reply = await mcp.call("tools/call", {"name": "come_back", "arguments": {"name": "json"}})
        assert (reply.streamed, reply.result["content"][0]["text"]) == (False, "welcome back")
        slow = await mcp.call("tools/call", {"name": "slow"})
        assert (slow.streamed, slow.status) == (False, 200)
