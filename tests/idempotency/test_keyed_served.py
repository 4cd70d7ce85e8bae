"""Idempotency keys on real sockets and pipes: every transport, both eras, a client that is cut off in mid-call."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket

from mcpd.wire.envelope import IDEMPOTENCY_KEY, MAX_IDEMPOTENCY_KEY_CHARS
from mcpd.wire.versions import STATEFUL
from tests.idempotency.memory import TOOLS, Witness, replayed, text
from tests.in_process import Running, eventually, http_server, server_config, stdio_server
from tests.served import CLIENT, WAIT_S, Mcp, client_at, opened, stateless

HELLO = {"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": CLIENT}
ERAS = ["stateless", "stateful"]
TRANSPORTS = ["websocket", "stdio"]


@asynccontextmanager
async def served(folder: Path, *, grace_s: float = 1.0) -> AsyncIterator[Running]:
    with trio.fail_after(WAIT_S):
        async with http_server(server_config(folder, TOOLS, grace_s=grace_s)) as running:
            yield running


def url(running: Running) -> str:
    return f"http://127.0.0.1:{running.port}"


def params(witness: Witness, tool: str = "run", key: Any = "k", **arguments: Any) -> dict[str, Any]:
    return {
        "name": tool,
        "arguments": {"witness": str(witness.path), **arguments},
        "_meta": {IDEMPOTENCY_KEY: key},
    }


def plain(witness: Witness, era: str, **arguments: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return body and headers of a POST; a stateful one needs the session's headers besides."""
    wanted = params(witness, **arguments)
    if era == "stateless":
        return stateless("tools/call", wanted, meta=wanted["_meta"])
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": wanted}, {}


async def opening(client: Mcp, era: str) -> None:
    if era == "stateful":
        await client.initialize()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("key", ["", 1, None, [], {}, True, "x" * (MAX_IDEMPOTENCY_KEY_CHARS + 1)])
async def test_what_is_no_key_is_refused_clearly(tmp_path: Path, era: str, key: Any) -> None:
    witness = Witness(tmp_path)
    async with served(tmp_path) as running, client_at(url(running)) as client:
        await opening(client, era)
        body, headers = plain(witness, era, key=key)
        reply = await client.post(body, {**client.session, **headers})
        if key is None:
            assert reply.code is None, "absent"
            return
        assert (reply.code, witness.words) == (-32602, [])
        assert IDEMPOTENCY_KEY in reply.last["error"]["message"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_is_cut_off_gets_the_outcome_by_calling_again(tmp_path: Path, era: str) -> None:
    """Law 2's exception, over HTTP: the connection is lost in the middle, the tool runs once."""
    witness = Witness(tmp_path)
    async with served(tmp_path) as running, client_at(url(running)) as client:
        await opening(client, era)
        body, headers = plain(witness, era, seconds=0.5)
        content = json.dumps(body).encode()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_lose, url(running), content, {**client.session, **headers})
            await eventually(lambda: witness.words, "the tool runs")
            nursery.cancel_scope.cancel()
        if era == "stateless":
            await eventually(lambda: running.metric("mcpd_cancelled_total", reason="client_gone"), "it has left")
        else:
            body["id"] = 2
        reply = await client.post(body, {**client.session, **headers})
        assert (text(reply.result), replayed(reply.result)) == ("ran", True)
        assert witness.words == ["ran"]
        await eventually(lambda: running.in_flight() == 0, "nothing is left behind")


async def _lose(base: str, content: bytes, headers: dict[str, str]) -> None:
    async with opened(base, "POST", content, headers) as reader:
        await reader.whole()


async def test_a_session_and_a_stateless_client_share_an_outcome(tmp_path: Path) -> None:
    witness = Witness(tmp_path)
    async with served(tmp_path) as running, client_at(url(running)) as client:
        first = await client.ask("tools/call", wanted := params(witness, "structured"), meta=wanted["_meta"])
        await client.initialize()
        second = await client.call("tools/call", wanted)
        assert second.result["structuredContent"] == first.result["structuredContent"]
        assert replayed(second.result)
        assert "resultType" not in second.result
        assert witness.words == ["ran"]


async def test_statuses_are_those_of_calls_without_keys(tmp_path: Path) -> None:
    """ERA-9: refusals and kept errors look as they always do."""
    witness = Witness(tmp_path)
    async with served(tmp_path) as running, client_at(url(running)) as client:
        for _ in range(2):
            reply = await client.ask(
                "tools/call", wanted := params(witness, "fail_so", how="rpc"), meta=wanted["_meta"]
            )
            assert (reply.status, reply.code) == (200, -7)
        reply = await client.ask("tools/call", wanted := params(witness, "fail_so", how="tool"), meta=wanted["_meta"])
        assert (reply.status, reply.code) == (400, -32602)
        assert witness.words == ["ran"]


class Line:
    """A client of one duplex connection: what it says and hears."""

    def __init__(self, running: Running, socket: trio_websocket.WebSocketConnection | None = None) -> None:
        self._running, self._socket, self._rest = running, socket, b""
        self._heard: dict[Any, Any] = {}

    async def say(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message})
        if self._socket is not None:
            await self._socket.send_message(data)
        else:
            await trio.to_thread.run_sync(os.write, self._running.stdin_fd, data.encode() + b"\n")

    async def hear(self, request_id: Any) -> Any:
        """Return the answer to a request; those of others, which come in any order, are kept for later."""
        while request_id not in self._heard:
            message = json.loads(await self._line())
            self._heard[message.get("id")] = message
        return self._heard.pop(request_id)

    async def _line(self) -> bytes | str:
        if self._socket is not None:
            return await self._socket.get_message()
        while b"\n" not in self._rest:
            await trio.lowlevel.wait_readable(self._running.stdout_fd)
            self._rest += os.read(self._running.stdout_fd, 65_536)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def hello(self, era: str) -> None:
        if era == "stateful":
            await self.say({"id": 0, "method": "initialize", "params": HELLO})
            await self.hear(0)
            await self.say({"method": "notifications/initialized"})

    async def call(self, era: str, request_id: int, wanted: dict[str, Any]) -> None:
        if era == "stateless":
            body, _ = stateless("tools/call", wanted, request_id=request_id, meta=wanted["_meta"])
            await self.say(body)
        else:
            await self.say({"id": request_id, "method": "tools/call", "params": wanted})


@asynccontextmanager
async def connected(folder: Path, transport: str) -> AsyncIterator[tuple[Running, Line]]:
    with trio.fail_after(WAIT_S):
        if transport == "stdio":
            async with stdio_server(server_config(folder, TOOLS)) as running:
                yield running, Line(running)
                os.close(running.stdin_fd)
                await running.stopped.wait()
                os.close(running.stdout_fd)
        else:
            async with http_server(server_config(folder, TOOLS)) as running, _socket(running) as line:
                yield running, line


@asynccontextmanager
async def _socket(running: Running) -> AsyncIterator[Line]:
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{running.port}/ws") as socket:
        yield Line(running, socket)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_calls_on_one_connection_run_once(tmp_path: Path, transport: str, era: str) -> None:
    """Also one that is cancelled by name: who joined only leaves, whose call runs ends it for all (CAN-3)."""
    witness = Witness(tmp_path)
    async with connected(tmp_path, transport) as (running, line):
        await line.hello(era)
        for number in (1, 2, 3):
            await line.call(era, number, params(witness, seconds=0.5))
        await eventually(lambda: witness.words and running.in_flight() == 4, "all wait for one")
        await line.say({"method": "notifications/cancelled", "params": {"requestId": 2}})
        told = [(await line.hear(number))["result"] for number in (1, 3)]
        assert [text(one) for one in told] == ["ran", "ran"]
        assert [replayed(one) for one in told] == [False, True]
        await line.call(era, 4, params(witness, key="other", seconds=100))
        await eventually(lambda: len(witness.words) == 2, "another runs")
        await line.call(era, 5, params(witness, key="other", seconds=100))
        await eventually(lambda: running.in_flight() == 3, "and is waited for")
        await line.say({"method": "notifications/cancelled", "params": {"requestId": 4}})
        assert (await line.hear(5))["error"]["data"] == {"reason": "explicit"}
        assert witness.words == ["ran", "ran", "stopped"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_websocket_that_is_lost_is_picked_up_by_another(tmp_path: Path, era: str) -> None:
    """WS-3, and law 2's exception."""
    witness = Witness(tmp_path)
    async with served(tmp_path) as running:
        async with _socket(running) as line:
            await line.hello(era)
            await line.call(era, 1, params(witness, seconds=0.5))
            await eventually(lambda: witness.words, "it runs")
        await eventually(lambda: running.metric("mcpd_cancelled_total", reason="client_gone"), "it has left")
        async with _socket(running) as line:
            await line.hello(era)
            await line.call(era, 1, params(witness, seconds=0.5))
            told = (await line.hear(1))["result"]
        assert (text(told), replayed(told)) == ("ran", True)
        assert witness.words == ["ran"]


async def test_a_server_that_stops_finishes_what_has_a_key(tmp_path: Path) -> None:
    """Drain: the client has gone, the work has the grace of all calls, and the next server knows its outcome."""
    witness = Witness(tmp_path)
    body, headers = plain(witness, "stateless", seconds=0.5)
    async with served(tmp_path, grace_s=5.0) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_lose, url(running), json.dumps(body).encode(), headers)
            await eventually(lambda: witness.words, "it runs")
            nursery.cancel_scope.cancel()
        running.stopping.set()
        await running.stopped.wait()
    async with served(tmp_path) as running, client_at(url(running)) as client:
        reply = await client.post(body, headers)
        assert (text(reply.result), replayed(reply.result)) == ("ran", True)
        assert witness.words == ["ran"]
