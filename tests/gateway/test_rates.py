"""Rates as clients meet them: refused calls on every transport, what headers say, whose rate it is, Redis or none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import open_websocket_url

from mcpd.config import Auth, Redis
from mcpd.errors import RegistrationError
from mcpd.gateway.keys import KeyStore
from mcpd.secret import SecretUrl
from mcpd.storage.redis import rates as redis_rates
from tests.in_process import Running, eventually, http_server, server_config
from tests.redis_servers import RedisServer
from tests.redis_servers import serving as redis_serving
from tests.served import WAIT_S, Mcp, client_at, stateless

TOOL = '''"""Tools that are called too often."""
from mcpd import Context, tool

@tool(rate="2/h")
async def dear(ctx: Context) -> str:
    """Cost much."""
    await ctx.progress(1)
    return "done"

@tool
async def cheap() -> str:
    """Cost little."""
    return "done"
'''
DATA = {"reason": "rate_limited", "retryable": True}


@asynccontextmanager
async def server(folder: Path, url: str = "", **limits: Any) -> AsyncIterator[Running]:
    (folder / "rated.py").write_text(TOOL)
    config = server_config(folder, folder / "rated.py", limits=limits)
    if url:
        config = replace(config, redis=Redis(url=SecretUrl(url)))
    with trio.fail_after(3 * WAIT_S):
        async with http_server(config) as running:
            yield running


@asynccontextmanager
async def client_of(running: Running, **headers: str) -> AsyncIterator[Mcp]:
    async with client_at(f"http://127.0.0.1:{running.port}", **headers) as client:
        yield client


def calling(name: str = "cheap") -> dict[str, Any]:
    return {"name": name, "arguments": {}}


def check_refusal(error: dict[str, Any], least_ms: int, most_ms: int) -> None:
    assert error["code"] == -32603
    assert {key: error["data"][key] for key in DATA} == DATA
    assert least_ms < error["data"]["retryAfterMs"] <= most_ms


async def test_a_caller_over_its_rate_is_refused_and_told_when_to_come_back(tmp_path: Path) -> None:
    """Surfaces "Errors": 429, -32603, Retry-After, and what is left on every reply."""
    async with server(tmp_path, rate="3/h") as running, client_of(running) as client:
        for left in (2, 1, 0):
            reply = await client.ask("tools/call", calling())
            assert reply.status == 200
            assert reply.headers["ratelimit-policy"] == '"caller";q=3;w=3600'
            assert reply.headers["ratelimit"] == f'"caller";r={left};t={1200 * (3 - left)}'
        refused = await client.ask("tools/list")
        assert refused.status == 429
        check_refusal(refused.last["error"], 1_100_000, 1_200_000)
        assert 1100 < int(refused.headers["retry-after"]) <= 1200
        assert len(refused.headers.get_list("retry-after")) == 1
        assert refused.headers["ratelimit"].startswith('"caller";r=0;t=')
        assert running.metric("mcpd_rejected_total", reason="rate") == 1
        assert running.metric("mcpd_requests_total", method="tools/list", outcome="rejected") == 1


async def test_a_tool_has_a_rate_of_its_own_within_its_callers(tmp_path: Path) -> None:
    async with server(tmp_path, rate="10/h") as running, client_of(running) as client:
        for left in (1, 0):
            reply = await client.ask("tools/call", calling("dear"), meta={"progressToken": 1})
            assert (reply.status, reply.streamed) == (200, True), "headers are in the head of a stream, too"
            assert reply.headers["ratelimit-policy"] == '"caller";q=10;w=3600, "tool";q=2;w=3600'
            assert f'"tool";r={left};' in reply.headers["ratelimit"]
        refused = await client.ask("tools/call", calling("dear"))
        assert refused.status == 429
        assert "of this tool" in refused.last["error"]["message"]
        again = await client.ask("tools/call", calling("cheap"))
        assert (again.status, again.headers["ratelimit"].split(";")[1]) == (200, "r=7"), "the refused call cost nothing"


async def test_tools_that_say_nothing_have_the_rate_of_the_settings(tmp_path: Path) -> None:
    async with server(tmp_path, tool_rate="1/h") as running, client_of(running) as client:
        statuses = [
            (await client.ask("tools/call", calling(name))).status for name in ("cheap", "dear", "cheap", "dear")
        ]
        assert statuses == [200, 200, 429, 200]
        assert (await client.ask("tools/list")).status == 200
        unknown = await client.ask("tools/call", calling("unknown"))
        assert "ratelimit" not in unknown.headers, "nobody fills the store with names of their own"


async def test_a_session_is_told_in_its_answers(tmp_path: Path) -> None:
    async with server(tmp_path, rate="1/h") as running, client_of(running) as client:
        await client.initialize()
        assert (await client.call("ping")).code is None
        first = await client.call("tools/list")
        assert (first.code, first.headers["ratelimit"]) == (None, '"caller";r=0;t=3600')
        second = await client.call("tools/list", request_id=2)
        check_refusal(second.last["error"], 3_500_000, 3_600_000)
        assert 3500 < int(second.headers["retry-after"]) <= 3600
        assert (await client.call("ping")).code is None, "what is no work of the server's is not counted"


async def test_a_websocket_is_told_in_its_answers(tmp_path: Path) -> None:
    async with (
        server(tmp_path, rate="1/h") as running,
        open_websocket_url(f"ws://127.0.0.1:{running.port}/ws") as socket,
    ):
        answers = []
        for number in range(2):
            await socket.send_message(json.dumps(stateless("tools/call", calling(), request_id=number)[0]))
            answers.append(json.loads(await socket.get_message()))
        assert "result" in answers[0]
        check_refusal(answers[1]["error"], 3_500_000, 3_600_000)


async def test_each_key_has_a_rate_of_its_own_on_all_transports(tmp_path: Path) -> None:
    (tmp_path / "rated.py").write_text(TOOL)
    store = KeyStore(tmp_path / "keys.toml")
    keys = [store.new(name, ["call"]).reveal() for name in ("ada", "bob")]
    config = server_config(tmp_path, tmp_path / "rated.py", limits={"rate": "2/h"})
    config = replace(config, auth=Auth(keys_file=tmp_path / "keys.toml"))
    with trio.fail_after(3 * WAIT_S):
        async with http_server(config) as running:
            for key in keys:
                async with client_of(running, authorization=f"Bearer {key}") as client:
                    assert (await client.ask("tools/list")).status == 200
                    await client.initialize()
                    assert (await client.call("tools/list")).code is None
                    assert (await client.ask("tools/list")).status == 429


async def test_each_address_has_a_rate_of_its_own_where_there_are_no_keys(tmp_path: Path) -> None:
    (tmp_path / "rated.py").write_text(TOOL)
    config = server_config(tmp_path, tmp_path / "rated.py", limits={"rate": "1/h"})
    config = replace(config, server=replace(config.server, trusted_proxies=("127.0.0.1",)))
    with trio.fail_after(3 * WAIT_S):
        async with http_server(config) as running:
            for address in ("192.0.2.1", "192.0.2.2"):
                async with client_of(running, **{"x-forwarded-for": address}) as client:
                    assert [(await client.ask("tools/list")).status for _ in range(2)] == [200, 429]


async def test_without_rates_nothing_is_counted_or_told(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(TOOL.replace('(rate="2/h")', ""))
    with trio.fail_after(3 * WAIT_S):
        async with http_server(server_config(tmp_path, tmp_path / "plain.py")) as running, client_of(running) as client:
            assert not running.parts.manager.has_rates
            reply = await client.ask("tools/call", calling())
            assert (reply.status, "ratelimit" in reply.headers) == (200, False)


async def test_a_rate_that_cannot_be_read_keeps_a_tool_from_being_served(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(TOOL.replace("2/h", "often"))
    with pytest.raises(RegistrationError, match=r"dear.*calls/time"):
        async with http_server(server_config(tmp_path, tmp_path / "wrong.py")):
            pass


def monitored(lines: list[str]) -> list[str]:
    """Return what was sent to Redis besides what the bus does of its own accord: its log of events, and PING."""
    own = ("{run}:events", '"PING"', "Marker", "lua]")
    return [line for line in lines if not any(word in line for word in own)]


@asynccontextmanager
async def monitor(redis: RedisServer) -> AsyncIterator[list[str]]:
    """Hear every command that the server runs; the list is whole when the body is left."""
    lines: list[str] = []
    async with await trio.open_tcp_stream("127.0.0.1", redis.port) as stream, trio.open_nursery() as nursery:
        await stream.send_all(b"MONITOR\r\n")
        assert (await stream.receive_some()).startswith(b"+OK")

        async def read() -> None:
            rest = b""
            async for chunk in stream:
                *whole, rest = (rest + chunk).split(b"\r\n")
                lines.extend(line.decode() for line in whole)

        nursery.start_soon(read)
        yield lines
        redis.ask("ECHO", "Marker")
        await eventually(lambda: any("Marker" in line for line in lines), "all has been heard")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("limits", "commands"), [({}, 0), ({"rate": "1000/h"}, 10 + 1)])
async def test_a_stateless_call_sends_no_command_to_redis_unless_there_are_rates(
    tmp_path: Path, limits: dict[str, str], commands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 11: a stateless request needs no memory that is shared. With rates, one each, and once the script's text."""
    monkeypatch.setattr(redis_rates, "PATIENCE_S", WAIT_S)
    with redis_serving("redis-7") as redis:
        async with server(tmp_path, redis.url, **limits) as running, client_of(running) as client:
            async with monitor(redis) as lines:
                for method, params in [("tools/list", None), ("tools/call", calling()), ("server/discover", None)]:
                    assert (await client.ask(method, params)).status == 200
                for _ in range(7):
                    assert (await client.ask("tools/call", calling())).status == 200
            sent = monitored(lines)
            assert len(sent) == commands, sent


@pytest.mark.parametrize("away", ["killed", "stopped"])
async def test_without_redis_each_server_goes_by_its_own_count(tmp_path: Path, away: str) -> None:
    with redis_serving("redis-7") as redis:
        async with server(tmp_path, redis.url, rate="5/h") as running, client_of(running) as client:
            assert (await client.ask("tools/call", calling())).status == 200
            if away == "stopped":
                redis.pause()
            else:
                redis.process.kill()
                redis.process.wait()
            statuses = Counter([(await client.ask("tools/call", calling())).status for _ in range(7)])
            assert statuses == {200: 5, 429: 2}
            alone = running.metric("mcpd_store_operations_total", store="redis", operation="take_alone", outcome="ok")
            assert alone == 7
