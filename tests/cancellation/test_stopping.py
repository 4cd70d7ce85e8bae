"""How a server stops: in order, in bounded time whatever its tools and peers do, and at once when asked twice."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.wire.versions import STATEFUL, STATELESS
from tests.cancellation.clients import HttpClient, http_client, tool_call, websocket_client
from tests.cancellation.program import Program, get, serving
from tests.cancellation.trial import HERE, last_words, progress, without_texts
from tests.in_process import Running, alive, children, eventually, http_server, server_config
from tests.served import WAIT_S, ReplyReader, stateless


async def begin(client: Any, place: Path, tool: str = "linger_async", *, number: int = 1) -> int:
    """Start a call that waits in `place`; return its process id."""
    place.mkdir()  # noqa: ASYNC240 - once, in a test
    await client.call(tool, {"place": str(place)}, number=number)
    await eventually((place / "began").exists, "the tool has begun")
    return int((place / "began").read_text())


async def listen(client: HttpClient, running: Running) -> None:
    """Open a listen stream and wait for its acknowledgement."""
    content, headers = client.encode("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, 3)
    await client.exchange(content, headers)
    await eventually(lambda: client.heard and running.metric("mcpd_subscriptions") == 1, "it listens")


async def test_a_server_stops_step_by_step(tmp_path: Path) -> None:
    """SUB-11, SUB-12, CAN-5: unready, listeners dismissed, calls given time to finish, the rest cancelled, the end."""
    config = server_config(tmp_path, HERE / "async_tools.py", grace_s=3)
    with trio.fail_after(3 * WAIT_S):
        async with (
            http_server(config) as running,
            http_client(running, STATELESS) as listener,
            http_client(running, STATELESS) as quick,
            http_client(running, STATEFUL[0]) as endless,
        ):
            await listen(listener, running)
            await begin(quick, tmp_path / "quick")
            await begin(endless, tmp_path / "endless")
            running.stopping.set()

            await eventually(lambda: running.parts.health.draining, "it drains")
            assert await get(running.port, "/readyz") == (503, "draining\n")
            await listener.settle(ended=True)
            assert (listener.heard[-1]["id"], listener.heard[-1]["result"]["resultType"]) == (3, "complete")
            status, _, text = await quick.post("tools/call", {"name": "echo_async", "arguments": {"text": "x"}}, 9)
            assert (status, json.loads(text)["error"]["data"]["reason"]) == (503, "draining")
            assert running.in_flight() == 2, "calls may go on"

            (tmp_path / "quick" / "go").touch()
            await quick.settle(ended=True)
            assert quick.heard[-1]["result"]["content"][0]["text"] == "done"
            assert running.in_flight() == 1
            assert not (tmp_path / "endless" / "finally").exists()
            assert running.metric("mcpd_cancelled_total") == 0

            await endless.settle(ended=True)
            assert without_texts(endless.heard) == [progress(1), *last_words("drain")]
            assert (tmp_path / "endless" / "finally").exists()
            assert running.metric("mcpd_cancelled_total", reason="drain") == running.metric("mcpd_cancelled_total") == 1
            await running.stopped.wait()


async def test_a_stopping_program_cancels_what_is_left_and_exits_with_0(tmp_path: Path) -> None:
    """CAN-5: even with a worker in a C loop and a thread that never ends; no process stays behind."""
    with trio.fail_after(3 * WAIT_S):
        async with (
            serving(tmp_path, "[timeouts]\ngrace_s = 0.1\ncleanup_s = 1\n") as program,
            http_client(program, STATELESS) as spinning,
            http_client(program, STATELESS) as stuck,
            websocket_client(program, STATEFUL[0]) as waiting,
        ):
            worker = await begin(spinning, tmp_path / "spinning", "spin_process")
            await begin(stuck, tmp_path / "stuck", "forever_thread")
            await begin(waiting, tmp_path / "waiting")
            assert worker in program.workers()
            program.process.send_signal(signal.SIGTERM)
            assert await program.process.wait() == 0
            assert not alive(worker)
            for client in (spinning, stuck, waiting):
                await client.settle(ended=True)
                assert without_texts(client.heard)[-1:] == last_words("drain")
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


async def blocked(program: Program, client: HttpClient, place: Path) -> None:
    """Bring the server's event loop to a halt: its only tool in flight holds it while being cancelled."""
    await begin(client, place, "block_in_finally")
    assert (await program.get("/healthz"))[0] == 200
    program.process.send_signal(signal.SIGINT)
    await eventually(lambda: is_asleep(program), "the loop is held up")


def is_asleep(program: Program) -> bool:
    """True when the main thread waits in a system call that is no `epoll_wait`: it sleeps in a tool."""
    return "nanosleep" in Path(f"/proc/{program.pid}/wchan").read_text(encoding="ascii")


async def test_a_second_ctrl_c_exits_at_once_even_when_a_tool_holds_up_the_loop(tmp_path: Path) -> None:
    """CAN-5: and takes the workers along, one in a C loop too."""
    with trio.fail_after(3 * WAIT_S):
        async with (
            serving(tmp_path, "[timeouts]\ngrace_s = 0.1\n") as program,
            http_client(program, STATELESS) as spinning,
            http_client(program, STATELESS) as client,
        ):
            worker = await begin(spinning, tmp_path / "spinning", "spin_process")
            await blocked(program, client, tmp_path / "blocked")
            program.process.send_signal(signal.SIGINT)
            assert await program.process.wait() == -signal.SIGINT
            await eventually(lambda: not alive(worker), "no worker is left")


async def test_a_watchdog_ends_a_program_that_a_tool_holds_up(tmp_path: Path) -> None:
    """CAN-5: nobody has to ask twice."""
    settings = "[timeouts]\ngrace_s = 0.1\ncleanup_s = 0.1\nwrite_s = 0.1\n"
    with trio.fail_after(3 * WAIT_S):
        async with serving(tmp_path, settings) as program, http_client(program, STATELESS) as client:
            await blocked(program, client, tmp_path / "blocked")
            assert await program.process.wait() == 1
    assert b"Timeout (0:00:0" in (tmp_path / "log").read_bytes()


Start = Callable[[int], Awaitable[trio.SocketStream]]


async def open_deaf(port: int) -> trio.SocketStream:
    """Connect with a receive buffer as small as the system allows."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def post_deaf(port: int, tool: str, arguments: dict[str, Any]) -> trio.SocketStream:
    """Make a call, read the beginning of its reply, and not a byte more."""
    params, meta = tool_call(tool, arguments)
    body, routing = stateless("tools/call", params, meta=meta)
    stream = await open_deaf(port)
    fixed = {"host": f"127.0.0.1:{port}", "content-type": "application/json"}
    content = json.dumps(body).encode()
    await ReplyReader(stream).start("POST", content, {**fixed, **routing, "content-length": str(len(content))})
    return stream


async def deaf_to_json(port: int) -> trio.SocketStream:
    return await post_deaf(port, "long_text", {"items": 12_000_000})


async def deaf_to_events(port: int) -> trio.SocketStream:
    return await post_deaf(port, "chatter", {})


async def deaf_on_a_websocket(port: int) -> trio.SocketStream:
    """Upgrade by hand, ask for the long text in one masked frame, and read no more."""
    stream = await open_deaf(port)
    lines = ["GET /ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "", ""]
    await stream.send_all("\r\n".join(lines).encode())
    assert (await stream.receive_some(12)).endswith(b"101")
    params, meta = tool_call("long_text", {"items": 12_000_000})
    text = json.dumps(stateless("tools/call", params, meta=meta)[0]).encode()
    await stream.send_all(b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
    return stream


@asynccontextmanager
async def stopping_server(folder: Path, **bounds: float) -> AsyncIterator[Running]:
    """A server with these bounds of `timeouts`; what is not given is not what ends a connection here."""
    times: dict[str, Any] = {"grace_s": 0.1, "cleanup_s": 1000, "write_s": 1000, "ping_s": 1000, **bounds}
    config = server_config(folder, HERE / "tools.py", HERE / "async_tools.py", **times)
    with trio.fail_after(3 * WAIT_S):
        async with http_server(config) as running:
            yield running


@pytest.mark.parametrize("start", [deaf_to_json, deaf_to_events, deaf_on_a_websocket])
async def test_a_peer_that_has_stopped_reading_loses_its_connection(start: Start, tmp_path: Path) -> None:
    """SEC-4: what it does not take within `timeouts.write_s` is given up with its connection."""
    async with stopping_server(tmp_path, write_s=1) as running, await start(running.port):
        await eventually(lambda: waits_for_peer(running.port), "the server cannot send more")
        await eventually(lambda: running.metric("mcpd_connections") == 0, "the connection is given up")
        await eventually(lambda: running.in_flight() == 0, "its call has ended")


@pytest.mark.parametrize(
    ("start", "bounds"),
    [(deaf_to_json, {"cleanup_s": 0.5}), (deaf_to_events, {"cleanup_s": 0.5}), (deaf_on_a_websocket, {})],
)
async def test_a_peer_that_has_stopped_reading_cannot_hold_up_the_shutdown(
    start: Start, bounds: dict[str, float], tmp_path: Path
) -> None:
    """CAN-5, SEC-4: a reply has `timeouts.cleanup_s` to get through, a WebSocket is left at once."""
    async with stopping_server(tmp_path, **bounds) as running, await start(running.port):
        await eventually(lambda: waits_for_peer(running.port), "the server cannot send more")
        running.stopping.set()
        with trio.fail_after(WAIT_S):
            await running.stopped.wait()
        assert running.in_flight() == 0
        await eventually(lambda: not children(), "the workers have ended")


def waits_for_peer(port: int) -> bool:
    """True when a connection of the server has bytes to send that its peer does not take: the kernel probes (4)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[5].startswith("04") for row in rows)
