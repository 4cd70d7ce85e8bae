"""The stdio transport: lines and their bounds, and the program as a client starts it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mcpd.gateway.stdio import Lines
from tests.conversations.transports import stdio_transport
from tests.in_process import eventually, server_config, stdio_server
from tests.served import TOOLS, WAIT_S, command, environment, stateless


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line)), st.integers(1, 7))
def test_lines_come_out_as_they_went_in_however_they_are_cut(lines: list[bytes], size: int) -> None:
    """IO-1, IO-9: a line of more than 8 bytes is told once, at the place where it was."""
    data = b"".join(line + b"\n" for line in lines)
    cutter = Lines(8)
    found = [line for start in range(0, len(data), size) for line in cutter.feed(data[start : start + size])]
    assert found == [line if len(line) <= 8 else None for line in lines]


def test_a_line_without_end_takes_no_more_memory_than_its_bound() -> None:
    """IO-9."""
    cutter = Lines(1000)
    told = [line for _ in range(100) for line in cutter.feed(b"x" * 100)]
    assert told == [None]
    assert len(cutter._buffer) <= 1100


async def test_a_line_that_is_too_long_is_refused_and_the_next_one_served(tmp_path: Path) -> None:
    """IO-9, RPC-4, RPC-7."""
    config = server_config(tmp_path, TOOLS, limits={"max_message_bytes": 10_000})
    with trio.fail_after(WAIT_S):
        async with stdio_server(config) as running, stdio_transport(running, "2026-07-28", {}) as client:
            await client.send_text('{"jsonrpc": "2.0", "id": 1, "method": "' + "x" * 50_000 + '"}')
            refused = await client.receive()
            assert refused["error"]["code"] == -32700
            assert "id" not in refused
            await client.send_text("")
            await client.send({"id": 2, "method": "server/discover"})
            assert (await client.receive())["id"] == 2


@asynccontextmanager
async def program(folder: Path) -> AsyncIterator[trio.Process]:
    """Start `mcpd stdio` and wait until it answers, which it has to do first of all (IO-6)."""
    with trio.fail_after(WAIT_S), (folder / "log").open("wb") as log:
        async with trio.open_nursery() as nursery:
            start = partial(
                trio.run_process,
                command("stdio", folder, "[timeouts]\ngrace_s = 0.2\n"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
                cwd=folder,
                env=environment(),
            )
            process = await nursery.start(start)
            await ask(process, "server/discover", request_id="hello")
            assert (await hear(process))["id"] == "hello"
            yield process


async def ask(process: trio.Process, method: str, params: dict[str, Any] | None = None, **more: Any) -> None:
    body, _ = stateless(method, params, **more)
    assert process.stdin is not None
    await process.stdin.send_all(json.dumps(body).encode() + b"\n")


async def hear(process: trio.Process) -> Any:
    assert process.stdout is not None
    data = b""
    while not data.endswith(b"\n"):
        data += await process.stdout.receive_some()
    return json.loads(data)


async def test_what_tools_print_goes_to_stderr_and_stdout_carries_messages_only(tmp_path: Path) -> None:
    """IO-1."""
    async with program(tmp_path) as process:
        await ask(process, "tools/call", {"name": "shout"}, request_id=1)
        assert (await hear(process))["id"] == 1
        assert process.stdin is not None
        await process.stdin.aclose()
        assert await process.wait() == 0
    said = (tmp_path / "log").read_bytes()
    assert b"printed" in said
    assert b"echoed" in said


@pytest.mark.parametrize("how", ["end of input", "SIGTERM", "closed output"])
async def test_the_program_ends_when_its_client_is_done(tmp_path: Path, how: str) -> None:
    """IO-3, CAN-1: also with a call in flight, at once and with exit code 0."""
    async with program(tmp_path) as process:
        await ask(process, "tools/call", {"name": "hold"}, meta={"progressToken": 1})
        assert (await hear(process))["method"] == "notifications/progress"
        assert process.stdin is not None
        assert process.stdout is not None
        if how == "SIGTERM":
            await ask(process, "notifications/cancelled")
            process.send_signal(signal.SIGTERM)
        elif how == "end of input":
            await process.stdin.aclose()
        else:
            await process.stdout.aclose()
            await ask(process, "server/discover", request_id=2)
        assert await process.wait() == 0
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


async def test_end_of_input_cancels_what_is_in_flight(tmp_path: Path) -> None:
    """IO-3, CAN-1."""
    with trio.fail_after(WAIT_S):
        async with stdio_server(server_config(tmp_path, TOOLS)) as running:
            async with stdio_transport(running, "2026-07-28", {}) as client:
                params = {"name": "hold", "_meta": {"progressToken": 1}}
                await client.send({"id": 1, "method": "tools/call", "params": params})
                await client.receive()
                assert running.in_flight() == 1
            await eventually(running.stopped.is_set, "the server has ended")
            assert running.in_flight() == 0
            assert running.metric("mcpd_cancelled_total", reason="client_gone") == 1
