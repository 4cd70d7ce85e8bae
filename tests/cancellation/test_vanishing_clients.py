"""Clients that are gone without a word, at the moments in which servers tend not to notice.

While a JSON reply is computed nothing is being sent, so only a server that watches the connection learns that nobody
waits; and one that reads only until the request's end never learns it when more bytes have come behind that end.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mcpd.wire.versions import STATELESS
from tests.cancellation.clients import HttpClient, http_client, tool_call, websocket_client
from tests.cancellation.trial import HERE, take_census
from tests.in_process import Running, alive, eventually, http_server, server_config
from tests.served import WAIT_S, stateless

TOOLS = {"async": "linger_async", "thread": "linger_thread", "process": "linger_process", "C loop": "spin_process"}


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Running]:
    """A server with all tools; nothing may be left of its clients when the body is done.

    It sends no pings: into a connection that has broken these would tell, sooner or later, what it did not notice.
    """
    config = server_config(folder, HERE / "tools.py", HERE / "async_tools.py", ping_s=1000)
    with trio.fail_after(2 * WAIT_S):
        async with http_server(config) as running:
            before = take_census()
            yield running
            await running.parts.workers.wait_ready()
            await eventually(lambda: take_census() == before, "no task, socket or process is left")


async def begun(place: Path) -> int:
    """Wait until a tool has begun in `place`; return its process id."""
    await eventually((place / "began").exists, "the tool has begun")
    return int((place / "began").read_text())  # noqa: ASYNC240 - a few bytes of a test


async def expect_work_stopped(running: Running, work: str, place: Path, pid: int) -> None:
    await eventually(lambda: running.in_flight() == 0, "the call is out of the in-flight table")
    assert running.metric("mcpd_cancelled_total", reason="client_gone") == 1
    assert running.metric("mcpd_abandoned_threads") == (work == "thread")
    assert (place / "finally").exists() == (work == "async")
    assert alive(pid) == (work in {"async", "thread"})
    (place / "go").touch()
    await eventually(lambda: running.metric("mcpd_abandoned_threads") == 0, "a thread has ended")


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("work", TOOLS)
async def test_a_client_that_vanishes_while_its_json_reply_is_computed_stops_the_work(
    work: str, how: str, tmp_path: Path
) -> None:
    """CAN-1, RSP-4."""
    async with server(tmp_path) as running, http_client(running, STATELESS) as client:
        await client.call(TOOLS[work], {"place": str(tmp_path)}, progress=False)
        pid = await begun(tmp_path)
        assert (running.in_flight(), client.status) == (1, 0), "not a byte of a reply has been sent"
        if how == "reset":
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.vanish()
        await expect_work_stopped(running, work, tmp_path, pid)


BEHIND = {
    "a stray line end": b"\r\n",
    "the start of a request": b"POST /mcp HT",
    "a whole request": None,
}


@pytest.mark.parametrize("when", ["with it", "later"])
@pytest.mark.parametrize("what", BEHIND)
async def test_bytes_behind_the_body_do_not_make_the_server_deaf_to_the_clients_going(
    what: str, when: str, tmp_path: Path
) -> None:
    """CAN-1, CAN-2."""
    async with server(tmp_path) as running, http_client(running, STATELESS) as client:
        first = raw_request(client, running, "linger_async", {"place": str(tmp_path)})
        behind = BEHIND[what] or raw_request(client, running, "echo_async", {"text": "second"})
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            await stream.send_all(first + (behind if when == "with it" else b""))
            pid = await begun(tmp_path)
            if when == "later":
                await stream.send_all(behind)
        await expect_work_stopped(running, "async", tmp_path, pid)


@pytest.mark.parametrize("when", ["with it", "later"])
async def test_more_than_is_read_ahead_ends_the_call_although_its_client_stays(when: str, tmp_path: Path) -> None:
    """CAN-1, SEC-4: behind a full window nobody would see the client go."""
    async with server(tmp_path) as running, http_client(running, STATELESS) as client:
        first, surplus = raw_request(client, running, "linger_async", {"place": str(tmp_path)}), b"x" * 150_000
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            try:
                await stream.send_all(first + (surplus if when == "with it" else b""))
                pid = await begun(tmp_path)
                if when == "later":
                    await stream.send_all(surplus)
            except trio.BrokenResourceError:
                pid = await begun(tmp_path)
            await expect_work_stopped(running, "async", tmp_path, pid)


def raw_request(client: HttpClient, running: Running, tool: str, arguments: dict[str, str]) -> bytes:
    """Return a call as it goes over the wire."""
    params, meta = tool_call(tool, arguments, progress=False)
    body, routing = stateless("tools/call", params, meta=meta)
    content = json.dumps(body).encode()
    headers = {"host": f"127.0.0.1:{running.port}", "content-type": "application/json", **routing}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /mcp HTTP/1.1\r\n{lines}content-length: {len(content)}\r\n\r\n".encode() + content


async def test_a_websocket_whose_client_has_vanished_holds_nothing(tmp_path: Path) -> None:
    """WS-4, SEC-4: no task, no socket, no place under `limits.max_connections`; not even until the next ping."""
    async with server(tmp_path) as running:
        async with websocket_client(running, STATELESS) as client:
            await client.call("linger_async", {"place": str(tmp_path)})
            await begun(tmp_path)
            await client.leave()
            await eventually(lambda: running.in_flight() == 0, "the call is over")
        await eventually(lambda: running.metric("mcpd_connections") == 0, "its connection is not counted any more")
