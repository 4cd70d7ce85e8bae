"""Keys on the transports of MCP: who is let in, what each may do, and that nobody can use what belongs to another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio_websocket

from mcpd.app import reload_keys
from mcpd.config import Auth
from mcpd.gateway.keys import KeyStore
from tests.in_process import Running, eventually, http_server, server_config
from tests.served import TOOLS, WAIT_S, Mcp, ReplyReader, stateless, upgrade

NOW = datetime(2026, 7, 28, tzinfo=UTC)
GRANTS = {"ada": ("write",), "bob": ("write",), "reader": ("read",), "keeper": ("call", "vault")}


@dataclass
class Keys:
    """A running server and one client for each key; `nobody` has none."""

    running: Running
    keys: dict[str, str]
    clients: dict[str, Mcp]

    def __getitem__(self, name: str) -> Mcp:
        return self.clients[name]


@asynccontextmanager
async def server(folder: Path, **limits: int) -> AsyncIterator[Keys]:
    store = KeyStore(folder / "keys.toml")
    keys = {name: store.new(name, scopes, now=NOW).reveal() for name, scopes in GRANTS.items()}
    config = server_config(folder, TOOLS, limits={"page_size": 5, **limits})
    config = replace(config, auth=Auth(keys_file=folder / "keys.toml"))
    with trio.fail_after(WAIT_S):
        async with http_server(config) as running, trio.open_nursery() as nursery:
            clients = {}
            for name in (*GRANTS, "nobody"):
                headers = {"authorization": f"Bearer {keys[name]}"} if name in keys else {}
                url = f"http://127.0.0.1:{running.port}"
                http = httpx.AsyncClient(base_url=url, headers=headers, timeout=WAIT_S, trust_env=False)
                clients[name] = Mcp(await nursery.start(_keep_open, http))
            yield Keys(running, keys, clients)
            nursery.cancel_scope.cancel()


async def _keep_open(http: httpx.AsyncClient, *, task_status: trio.TaskStatus[httpx.AsyncClient]) -> None:
    async with http:
        task_status.started(http)
        await trio.sleep_forever()


async def test_without_a_key_every_method_is_refused_with_a_challenge(tmp_path: Path) -> None:
    """SEC-3, SES-5, ERA-9, DIS-1."""
    async with server(tmp_path) as keys:
        for method, params in [("server/discover", {}), ("tools/list", {}), ("tools/call", {"name": "echo"})]:
            refused = await keys["nobody"].ask(method, params)
            assert (refused.status, refused.code) == (401, -32600)
            assert refused.headers["www-authenticate"] == "Bearer"
        for verb in ("GET", "DELETE"):
            assert (await keys["nobody"].http.request(verb, "/mcp")).status_code == 401
        unknown = await keys["nobody"].ask("tools/list", headers={"authorization": "Bearer mcpd_unknown"})
        assert unknown.status == 401
        assert "invalid_token" in unknown.headers["www-authenticate"]
        assert (await keys["ada"].ask("tools/list")).status == 200


async def test_a_page_can_read_why_its_key_is_refused_and_a_foreign_page_cannot(tmp_path: Path) -> None:
    """HDR-15, SEC-1: without CORS headers a browser shows a refusal as a network error."""
    async with server(tmp_path) as keys:
        own = {"origin": f"http://localhost:{keys.running.port}"}
        for sent in (own, {**own, "authorization": "Bearer mcpd_unknown"}, {**own, "authorization": "Bearer a b"}):
            refused = await keys["nobody"].ask("tools/list", headers=sent)
            assert refused.status in (400, 401)
            assert refused.headers["access-control-allow-origin"] == own["origin"]
            assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]
        for sent in ({"origin": "http://evil.example"}, {**own, "host": "evil.example"}):
            refused = await keys["nobody"].ask("tools/list", headers=sent)
            assert refused.status in (403, 421)
            assert "access-control-allow-origin" not in refused.headers


async def test_a_websocket_needs_a_key_like_everybody(tmp_path: Path) -> None:
    """WS-3."""
    async with server(tmp_path) as keys:
        url = f"ws://127.0.0.1:{keys.running.port}/ws"
        refused = await upgrade(keys.running.port, {})
        assert (refused.status, refused.code) == (401, -32600)
        assert refused.headers["www-authenticate"] == "Bearer"
        allowed = [(b"authorization", f"Bearer {keys.keys['reader']}".encode())]
        async with trio_websocket.open_websocket_url(url, extra_headers=allowed) as socket:
            body, _ = stateless("tools/call", {"name": "echo"}, request_id=0)
            await socket.send_message(json.dumps(body))
            answer = json.loads(await socket.get_message())
            assert (answer["id"], answer["error"]["code"]) == (0, -32600)


async def test_a_key_may_do_what_its_scopes_say(tmp_path: Path) -> None:
    """TOOL-5, HDR-13, LAD-1."""
    async with server(tmp_path) as keys:
        assert (await keys["reader"].ask("tools/list")).status == 200
        for name, params in [("reader", {"name": "echo"}), ("ada", {"name": "vault"})]:
            refused = await keys[name].ask("tools/call", params, request_id=0)
            assert (refused.status, refused.code, refused.last["id"]) == (403, -32600, 0)
            assert "insufficient_scope" in refused.headers["www-authenticate"]
        opened = {"name": "vault", "arguments": {"transport": "back"}}
        assert (await keys["ada"].ask("tools/call", opened)).status == 403, "before its headers are compared"
        assert (await keys["keeper"].ask("tools/call", opened)).code == -32020
        mirrored = await keys["keeper"].ask("tools/call", opened, headers={"mcp-param-transport": "back"})
        assert mirrored.result["content"][0]["text"] == "back"


async def test_a_session_of_another_caller_does_not_exist(tmp_path: Path) -> None:
    """SES-5, SEC-5, RSM-5."""
    async with server(tmp_path) as keys:
        await keys["ada"].initialize()
        keys["bob"].session = keys["ada"].session
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        for body in (
            request,
            {"jsonrpc": "2.0", "method": "notifications/x"},
            {"jsonrpc": "2.0", "id": 1, "result": {}},
        ):
            assert (await keys["bob"].post(body, keys["ada"].session)).status == 404
        for verb in ("GET", "DELETE"):
            headers = {**keys["ada"].session, "accept": "text/event-stream"}
            assert (await keys["bob"].http.request(verb, "/mcp", headers=headers)).status_code == 404
        assert (await keys["ada"].call("ping")).status == 200
        assert (await keys["nobody"].post(request, keys["ada"].session)).status == 401


async def test_cursors_and_states_of_another_caller_are_invalid(tmp_path: Path) -> None:
    """SEC-5, PAG-1, MRT-5, MRT-6."""
    can: dict[str, Any] = {"elicitation": {}}
    async with server(tmp_path) as keys:
        cursor = (await keys["ada"].ask("tools/list")).result["nextCursor"]
        assert (await keys["ada"].ask("tools/list", {"cursor": cursor})).status == 200
        foreign = await keys["bob"].ask("tools/list", {"cursor": cursor})
        assert (foreign.status, foreign.code) == (400, -32602)
        asked = await keys["ada"].ask("tools/call", {"name": "greet"}, capabilities=can)
        params = {"name": "greet", "requestState": asked.result["requestState"]}
        assert (await keys["ada"].ask("tools/call", params, capabilities=can)).status == 200
        foreign = await keys["bob"].ask("tools/call", params, capabilities=can)
        assert (foreign.status, foreign.code) == (400, -32602)


async def test_a_list_may_depend_on_the_caller_and_then_is_private(tmp_path: Path) -> None:
    """STA-2, RES-4."""
    async with server(tmp_path, page_size=100) as keys:
        seen = {}
        for name in ("ada", "keeper"):
            result = (await keys[name].ask("tools/list")).result
            assert result["cacheScope"] == "private"
            seen[name] = {tool["name"] for tool in result["tools"]}
        assert seen["keeper"] - seen["ada"] == {"vault"}


async def test_one_caller_cannot_use_up_the_sessions_of_others(tmp_path: Path) -> None:
    """SES-6, SEC-4."""
    async with server(tmp_path, max_sessions=3, max_sessions_per_principal=2) as keys:
        await keys["bob"].initialize()
        sessions = []
        for _ in range(4):
            await keys["ada"].initialize()
            sessions.append(keys["ada"].session)
        alive = []
        for session in sessions:
            keys["ada"].session = session
            alive.append((await keys["ada"].call("ping")).status)
        assert alive == [404, 404, 200, 200], "the least recently used one gives way"
        assert (await keys["bob"].call("ping")).status == 200


async def test_a_reload_ends_what_a_revoked_key_has_running_and_nothing_else(tmp_path: Path) -> None:
    """AUT-4, SES-5, SEC-5: connections, sessions, streams, listens and calls."""
    listen = stateless("subscriptions/listen", {"notifications": {"toolsListChanged": True}})[0]
    async with server(tmp_path) as keys:
        url = f"ws://127.0.0.1:{keys.running.port}/ws"
        sockets: dict[str, trio_websocket.WebSocketConnection] = {}
        streams: dict[tuple[str, str], ReplyReader] = {}
        async with AsyncExitStack() as stack:
            for name in ("ada", "bob"):
                await keys[name].initialize()
                bearer = [(b"authorization", f"Bearer {keys.keys[name]}".encode())]
                opened = trio_websocket.open_websocket_url(url, extra_headers=bearer)
                sockets[name] = await stack.enter_async_context(opened)
                get = {**keys[name].session, "accept": "text/event-stream"}
                reading = keys[name].streaming("GET", None, get)
                streams[name, "get"] = await stack.enter_async_context(reading)
                listening = keys[name].streaming("POST", listen, stateless("subscriptions/listen", {})[1])
                streams[name, "listen"] = await stack.enter_async_context(listening)
                assert (await streams[name, "listen"].message())["method"].endswith("acknowledged")
                await sockets[name].send_message(json.dumps(stateless("tools/call", {"name": "hold_in_silence"})[0]))
            await eventually(lambda: keys.running.in_flight() == 4, "both have a listen and a call in flight")

            KeyStore(tmp_path / "keys.toml").revoke("ada")
            KeyStore(tmp_path / "keys.toml").new("ada", ["read"])
            reload_keys(keys.running.parts)

            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await sockets["ada"].get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1008
            await sockets["ada"]._close_stream()
            assert await streams["ada", "get"].message() is None
            ended = await streams["ada", "listen"].message()
            assert ended["error"]["code"] == -32800
            assert await streams["ada", "listen"].message() is None
            await eventually(lambda: keys.running.in_flight() == 2, "the calls of the other go on")
            assert (await keys["ada"].call("ping")).status == 401
            assert (await keys["bob"].call("ping")).status == 200
            await sockets["bob"].send_message(json.dumps(stateless("server/discover", request_id="d")[0]))
            assert json.loads(await sockets["bob"].get_message())["id"] == "d"
            tool_changed = {"name": "change", "arguments": {"kind": "tools"}}
            await keys["bob"].call("tools/call", tool_changed)
            for kind in ("get", "listen"):
                assert (await streams["bob", kind].message())["method"] == "notifications/tools/list_changed"


async def test_a_session_does_not_go_over_to_a_new_key_of_the_same_name(tmp_path: Path) -> None:
    """SES-5, SEC-5: nor do the scopes that it was opened with."""
    async with server(tmp_path) as keys:
        await keys["ada"].initialize()
        session = keys["ada"].session
        KeyStore(tmp_path / "keys.toml").revoke("ada")
        anew = KeyStore(tmp_path / "keys.toml").new("ada", ["read"]).reveal()
        reload_keys(keys.running.parts)
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
        refused = await keys["nobody"].post(request, {**session, "authorization": f"Bearer {anew}"})
        assert refused.status == 404
