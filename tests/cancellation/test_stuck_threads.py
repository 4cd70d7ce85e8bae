"""`def` tools that never end: abandoned, counted, and bounded, so that the rest of the server never pays for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from mcpd.wire.versions import STATEFUL, STATELESS
from tests.cancellation.clients import HttpClient, Message, http_client
from tests.cancellation.program import get
from tests.cancellation.trial import HERE
from tests.in_process import Running, eventually, http_server, server_config
from tests.served import WAIT_S

BOUND = 3
LIMITS = {"max_threads": 8, "max_abandoned_threads": BOUND}


async def abandon(client: HttpClient, running: Running, place: Path) -> None:
    """Make a call whose thread does not end, and go away."""
    place.mkdir()  # noqa: ASYNC240 - once, in a test
    await client.call("linger_thread", {"place": str(place)}, progress=False)
    await eventually((place / "began").exists, "the tool has begun")
    await client.vanish()
    await eventually(lambda: running.in_flight() == 0, "the call is over")


async def ask(client: HttpClient, tool: str) -> tuple[int, Message]:
    status, headers, text = await client.post("tools/call", {"name": tool, "arguments": {"text": "hi"}}, number=7)
    return status, {**json.loads(text), "retry-after": headers.get("retry-after")}


async def test_calls_of_def_tools_are_refused_while_too_many_threads_are_stuck(tmp_path: Path) -> None:
    """CAN-1, RPC-12: from `limits.max_abandoned_threads` on, at once, and until some of them have ended."""
    with trio.fail_after(3 * WAIT_S):
        config = server_config(tmp_path, HERE / "tools.py", HERE / "async_tools.py", limits=LIMITS)
        async with http_server(config) as running, http_client(running, STATELESS) as client:
            for number in range(BOUND):
                assert (await get(running.port, "/readyz"))[1].startswith("ready\n")
                assert await client.probe("echo_thread") == "probe", "there are threads left"
                await abandon(client, running, tmp_path / str(number))
                assert running.metric("mcpd_abandoned_threads") == number + 1
            await expect_refusal(client, running)
            assert await client.probe("echo_async") == "probe", "the loop is free"
            assert await client.probe("echo_process") == "probe", "so are the worker processes"
            await let_them_end(running, tmp_path)
            assert (await get(running.port, "/readyz"))[1].startswith("ready\n")
            assert await client.probe("echo_thread") == "probe"


async def expect_refusal(client: HttpClient, running: Running) -> None:
    status, refused = await ask(client, "echo_thread")
    assert (status, refused["retry-after"], refused["id"]) == (503, "1", 7)
    assert refused["error"]["code"] == -32603
    assert refused["error"]["data"] == {"reason": "overloaded", "retryable": True, "retryAfterMs": 1000}
    assert running.metric("mcpd_abandoned_threads") == BOUND, "the refused call took no thread"
    status, text = await get(running.port, "/readyz")
    assert status == 200
    assert text.splitlines()[0] == "degraded: threads"
    assert f"{BOUND} stuck" in text
    assert "linger_thread" not in text
    assert any(b"linger_thread" in line for line in running.lines)


async def let_them_end(running: Running, folder: Path) -> None:
    for number in range(BOUND):
        (folder / str(number) / "go").touch()
    await eventually(lambda: running.metric("mcpd_abandoned_threads") == 0, "the threads have ended")


@pytest.mark.parametrize("version", [STATELESS, STATEFUL[0]])
async def test_a_call_that_waits_for_a_thread_can_be_cancelled_and_never_runs(version: str, tmp_path: Path) -> None:
    """CAN-1, CAN-3: it holds no thread, so none is abandoned with it."""
    with trio.fail_after(3 * WAIT_S):
        config = server_config(tmp_path, HERE / "tools.py", limits={"max_threads": 1, "max_abandoned_threads": 1})
        async with (
            http_server(config) as running,
            http_client(running, version) as first,
            http_client(running, version) as second,
        ):
            for name in ("running", "waiting"):
                (tmp_path / name).mkdir()
            await first.call("linger_thread", {"place": str(tmp_path / "running")})
            await eventually((tmp_path / "running" / "began").exists, "the first call has the only thread")
            await second.call("linger_thread", {"place": str(tmp_path / "waiting")}, progress=False)
            await eventually(lambda: running.in_flight() == 2, "the second call waits")
            (_, flight) = running.parts.manager.in_flight()
            running.parts.manager.cancel(flight.key)
            await eventually(lambda: running.in_flight() == 1, "it is over")
            assert running.metric("mcpd_abandoned_threads") == 0
            (tmp_path / "running" / "go").touch()
            await first.settle(ended=True)
            assert "result" in first.heard[-1]
            assert await first.probe("echo_thread") == "probe"
            assert not (tmp_path / "waiting" / "began").exists()
