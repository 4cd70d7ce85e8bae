"""A key that expires, is revoked or is changed ends what was opened with it, not only what comes later."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from mcpd.app import reload_keys
from mcpd.gateway.keys import KeyStore
from mcpd.wire.versions import STATEFUL
from tests.in_process import WAIT_S, Running, eventually, http_server, server_config
from tests.served import CLIENT, client_of, stateless

TOOL = '''"""A tool that never ends by itself."""
import trio
from mcpd import tool

@tool
async def linger() -> str:
    """Linger."""
    await trio.sleep_forever()
    return ""
'''
HERE = timedelta(days=1)


@asynccontextmanager
async def running(folder: Path, life: timedelta) -> AsyncIterator[tuple[Running, str]]:
    (folder / "linger.py").write_text(TOOL)
    config = server_config(folder, folder / "linger.py")
    key = KeyStore(config.keys_file).new("laptop", ["call"], life=life).reveal()
    with trio.fail_after(3 * WAIT_S):
        async with http_server(config) as server:
            yield server, key


@asynccontextmanager
async def socket(server: Running, key: str) -> AsyncIterator[WebSocketConnection]:
    headers = [(b"Authorization", f"Bearer {key}".encode())]
    url = f"ws://127.0.0.1:{server.port}/ws"
    async with open_websocket_url(url, extra_headers=headers) as opened, opened._stream:
        yield opened


async def wait_closed(opened: WebSocketConnection) -> int:
    while opened.closed is None:
        with suppress(ConnectionClosed):
            await opened.get_message()
    return int(opened.closed.code)


async def initialize(opened: WebSocketConnection) -> None:
    params = {"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": CLIENT}
    await opened.send_message(json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}))
    await opened.get_message()


async def call(opened: WebSocketConnection, method: str = "tools/call", params: Any = None) -> None:
    arguments = {"name": "linger", "arguments": {}}
    body, _ = stateless(method, arguments if params is None else params, request_id=method)
    await opened.send_message(json.dumps(body))


async def test_an_expired_key_ends_the_session_and_the_call_of_an_open_socket(tmp_path: Path) -> None:
    """SEC-5, WS-3."""
    async with running(tmp_path, timedelta(seconds=3)) as (server, key), socket(server, key) as opened:
        await initialize(opened)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "linger", "arguments": {}}}
        await opened.send_message(json.dumps(message))
        assert await wait_closed(opened) == 1008
        await eventually(lambda: not server.in_flight(), "the call has ended")


@pytest.mark.parametrize("change", ["revoked", "made anew with fewer scopes", "given fewer scopes in its file"])
async def test_a_key_that_is_gone_or_changed_ends_what_it_has_running(tmp_path: Path, change: str) -> None:
    """SEC-5: a stateless call over a socket, and one over HTTP."""
    async with running(tmp_path, HERE) as (server, key), socket(server, key) as opened:
        await call(opened)
        await eventually(lambda: server.in_flight() == 1, "the call runs")
        keys = KeyStore(server.parts.keys.path)
        if change == "given fewer scopes in its file":
            keys.path.write_text(keys.path.read_text().replace('scopes = ["call"]', 'scopes = ["read"]'))
        else:
            keys.revoke("laptop")
        if change == "made anew with fewer scopes":
            keys.new("laptop", ["read"])
        reload_keys(server.parts)
        await eventually(lambda: not server.in_flight(), "the call has ended")
        assert await wait_closed(opened) == 1008, "also when it says nothing more"


async def test_a_key_that_is_as_before_keeps_its_calls_over_a_reload(tmp_path: Path) -> None:
    """SEC-5."""
    async with running(tmp_path, HERE) as (server, key), socket(server, key) as opened:
        await call(opened)
        await eventually(lambda: server.in_flight() == 1, "the call runs")
        KeyStore(server.parts.keys.path).new("another", ["read"])
        reload_keys(server.parts)
        await call(opened, "tools/list", {})
        assert "tools" in json.loads(await opened.get_message())["result"]
        assert server.in_flight() == 1


async def test_a_session_over_http_does_not_outlive_its_key(tmp_path: Path) -> None:
    """SES-5."""
    async with running(tmp_path, HERE) as (server, key):
        fake: Any = type("Address", (), {"url": f"http://127.0.0.1:{server.port}"})
        async with client_of(fake, authorization=f"Bearer {key}") as mcp:
            await mcp.initialize()
            assert server.metric("mcpd_sessions") == 1
            KeyStore(server.parts.keys.path).revoke("laptop")
            reload_keys(server.parts)
            assert server.metric("mcpd_sessions") == 0


@pytest.mark.parametrize("reason", ["admin", "explicit"])
async def test_a_reply_without_events_says_why_its_session_has_ended(tmp_path: Path, reason: str) -> None:
    """SES-4: the client has cancelled nothing when its key has gone."""
    async with running(tmp_path, HERE) as (server, key):
        fake: Any = type("Address", (), {"url": f"http://127.0.0.1:{server.port}"})
        async with client_of(fake, authorization=f"Bearer {key}") as mcp, trio.open_nursery() as nursery:
            await mcp.initialize()
            said: list[Any] = []

            async def linger() -> None:
                message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "linger"}}
                said.append((await mcp.post(message, {**mcp.session, "accept": "application/json"})).last)

            nursery.start_soon(linger)
            await eventually(lambda: server.in_flight() == 1, "the call runs")
            if reason == "explicit":
                await mcp.http.delete("/mcp", headers=mcp.session)
            else:
                KeyStore(server.parts.keys.path).revoke("laptop")
                reload_keys(server.parts)
            await eventually(lambda: bool(said), "the call is answered")
            assert said[0]["error"]["data"]["reason"] == reason
