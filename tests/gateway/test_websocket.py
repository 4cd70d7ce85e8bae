"""`/ws` on a real socket: the upgrade, frames, and what happens to calls when a connection or the server ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket

from mcpd.wire.envelope import SUBSCRIPTION_KEY
from tests.in_process import Running, eventually, http_server, server_config
from tests.served import TOOLS, WAIT_S, stateless, upgrade

Socket = trio_websocket.WebSocketConnection


@asynccontextmanager
async def server(folder: Path, **timeouts: float) -> AsyncIterator[Running]:
    config = server_config(folder, TOOLS, limits={"max_message_bytes": 50_000}, **timeouts)
    with trio.fail_after(WAIT_S):
        async with http_server(config) as running:
            yield running


def connect(running: Running, **options: Any) -> Any:
    return trio_websocket.open_websocket_url(f"ws://127.0.0.1:{running.port}/ws", **options)


async def ask(socket: Socket, method: str, params: dict[str, Any] | None = None, **more: Any) -> None:
    body, _ = stateless(method, params, **more)
    await socket.send_message(json.dumps(body))


async def hear(socket: Socket) -> Any:
    message = await socket.get_message()
    assert isinstance(message, str), "messages come in text frames"
    return json.loads(message)


@pytest.mark.parametrize(
    ("offered", "selected"), [(None, None), (["mcp"], "mcp"), (["graphql-ws", "mcp"], "mcp")], ids=str
)
async def test_the_subprotocol_is_selected_when_it_is_offered(
    tmp_path: Path, offered: list[str] | None, selected: str | None
) -> None:
    """WS-1, WS-2."""
    async with server(tmp_path) as running, connect(running, subprotocols=offered) as socket:
        assert socket.subprotocol == selected
        await ask(socket, "server/discover", request_id=0)
        assert (await hear(socket))["id"] == 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sec-websocket-protocol": "graphql-ws"}, 400),
        ({"origin": "http://evil.example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example.com"}, 421),
    ],
    ids=str,
)
async def test_a_refused_upgrade_is_an_http_answer_with_a_reason(
    tmp_path: Path, changes: dict[str, str], status: int
) -> None:
    """WS-2, WS-3, SEC-1, SEC-2, ERA-9."""
    async with server(tmp_path) as running:
        reply = await upgrade(running.port, changes)
    assert (reply.status, reply.code) == (status, -32600)
    assert reply.headers["x-request-id"]


async def test_a_binary_frame_closes_the_connection(tmp_path: Path) -> None:
    """WS-2."""
    received = await answer_to_frame(tmp_path, b"\x82\x82" + bytes(4) + b"{}")
    assert (received[0], received[2:4]) == (0x88, (1003).to_bytes(2, "big"))


async def test_a_frame_that_is_too_long_closes_the_connection(tmp_path: Path) -> None:
    """WS-2, SEC-4."""
    received = await answer_to_frame(tmp_path, b"\x81\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + b"x" * 60_000)
    assert (received[0], received[2:4]) == (0x88, (1009).to_bytes(2, "big"))


async def test_a_frame_that_is_no_utf_8_ends_the_connection_and_is_never_answered(tmp_path: Path) -> None:
    """WS-2, RPC-1."""
    received = await answer_to_frame(tmp_path, b"\x81\x82" + bytes(4) + b"\xff\xfe")
    assert received[:1] in (b"", b"\x88")


async def answer_to_frame(folder: Path, frame: bytes) -> bytes:
    """Send one raw frame; return what comes back first."""
    async with server(folder) as running, await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
        await stream.send_all(UPGRADE % running.port)
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += await stream.receive_some()
        assert received.startswith(b"HTTP/1.1 101")
        await stream.send_all(frame)
        return bytes(await stream.receive_some())


UPGRADE = b"\r\n".join(
    [
        b"GET /ws HTTP/1.1",
        b"Host: 127.0.0.1:%d",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
        b"",
        b"",
    ]
)


async def test_closing_the_socket_cancels_everything_on_it(tmp_path: Path) -> None:
    """WS-4, CAN-1, SUB-13."""
    async with server(tmp_path) as running:
        async with connect(running) as socket:
            for number in range(3):
                await ask(socket, "tools/call", {"name": "hold"}, request_id=number, meta={"progressToken": number})
                await hear(socket)
            await ask(socket, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, request_id=9)
            await hear(socket)
            assert running.in_flight() == 4
        await eventually(lambda: running.in_flight() == 0, "all calls have ended")
        assert running.metric("mcpd_cancelled_total", reason="client_gone") == 4
        await eventually(lambda: running.metric("mcpd_subscriptions") == 0, "the stream is gone")


async def test_calls_on_one_socket_run_side_by_side(tmp_path: Path) -> None:
    """WS-2, WS-4, RPC-3."""
    async with server(tmp_path) as running, connect(running) as socket:
        await ask(socket, "tools/call", {"name": "hold_in_silence"}, request_id=1, meta={"dev.mcpd/timeoutMs": 300})
        await ask(socket, "tools/call", {"name": "echo"}, request_id="1")
        assert [(await hear(socket))["id"] for _ in range(2)] == ["1", 1]


async def test_a_stopping_server_ends_a_listen_stream_with_its_result(tmp_path: Path) -> None:
    """SUB-2, SUB-11, SUB-12, CAN-6."""
    async with server(tmp_path, grace_s=5) as running, connect(running) as socket:
        await ask(socket, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, request_id=0)
        await hear(socket)
        running.stopping.set()
        ended = await hear(socket)
        assert ended["id"] == 0
        assert ended["result"]["resultType"] == "complete"
        assert ended["result"]["_meta"][SUBSCRIPTION_KEY] == 0
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 0}}
        assert await hear(socket) == cancelled


async def test_a_stopping_server_refuses_new_calls_and_cancels_old_ones_in_the_end(tmp_path: Path) -> None:
    """CAN-5, IO-3."""
    async with server(tmp_path, grace_s=0.3) as running, connect(running) as socket:
        await ask(socket, "tools/call", {"name": "hold"}, request_id=1, meta={"progressToken": 1})
        await hear(socket)
        running.stopping.set()
        await eventually(lambda: running.parts.manager.draining, "it is draining")
        await ask(socket, "tools/list", request_id=2)
        for request_id in (2, 1):
            refused = await hear(socket)
            assert refused["id"] == request_id
            assert refused["error"]["code"] == -32603
            assert refused["error"]["data"]["reason"] == "draining"
