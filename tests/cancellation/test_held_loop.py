"""A tool that holds the event loop: signals and the watchdog still end the process, and the log names the tool."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
import trio

from mcpd.wire.versions import STATELESS
from tests.cancellation.clients import HttpClient, http_client
from tests.cancellation.program import Program, serving
from tests.in_process import eventually
from tests.served import WAIT_S

TOOLS = ("holding_tools.py",)
QUICK = "[timeouts]\ngrace_s = 0.1\ncleanup_s = 0.1\nwrite_s = 0.1\n"


async def hold(client: HttpClient, place: Path, tool: str) -> None:
    """Call a tool that holds the loop; return when it does."""
    await client.call(tool, {"place": str(place)})
    await eventually((place / "began").exists, "the tool has begun")


def catches(program: Program, number: signal.Signals) -> bool:
    """True while the process has a handler of its own for a signal."""
    status = Path(f"/proc/{program.pid}/status").read_text(encoding="ascii")
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("tool", ["sleep", "backtrack", "add"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_ends_a_process_whose_loop_is_held(
    tool: str, number: signal.Signals, tmp_path: Path
) -> None:
    """CAN-5: also when a C call holds the GIL, so that no Python code runs any more."""
    with trio.fail_after(3 * WAIT_S):
        async with serving(tmp_path, tools=TOOLS) as program, http_client(program, STATELESS) as client:
            await hold(client, tmp_path, tool)
            program.process.send_signal(number)
            await eventually(lambda: not catches(program, number), "the first signal has arrived")
            program.process.send_signal(number)
            assert await program.process.wait() == -number


async def test_the_second_signal_may_be_another(tmp_path: Path) -> None:
    """CAN-5: as when a supervisor asks first, and then a person."""
    with trio.fail_after(3 * WAIT_S):
        async with serving(tmp_path, tools=TOOLS) as program, http_client(program, STATELESS) as client:
            await hold(client, tmp_path, "sleep")
            program.process.send_signal(signal.SIGTERM)
            await eventually(lambda: not catches(program, signal.SIGINT), "the first signal has arrived")
            program.process.send_signal(signal.SIGINT)
            assert await program.process.wait() == -signal.SIGINT


@pytest.mark.parametrize("tool", ["sleep", "backtrack"])
async def test_the_watchdog_ends_a_process_whose_loop_is_held(tool: str, tmp_path: Path) -> None:
    """CAN-5: nobody has to ask twice, and the log shows what was running; also when a C call holds the GIL."""
    with trio.fail_after(3 * WAIT_S):
        async with serving(tmp_path, QUICK, TOOLS) as program, http_client(program, STATELESS) as client:
            await hold(client, tmp_path, tool)
            program.process.send_signal(signal.SIGTERM)
            assert await program.process.wait() == 1
    log = (tmp_path / "log").read_text()
    assert "holding_tools.py" in log
    assert f"in {tool}" in log


@pytest.mark.parametrize(("tool", "arguments"), [("sleep", {"seconds": 1.5}), ("backtrack", {"letters": 25})])
async def test_a_tool_that_holds_the_loop_is_named(tool: str, arguments: dict[str, object], tmp_path: Path) -> None:
    """The log names it and the metrics count it; a C call that holds the GIL is told of when it is over."""
    with trio.fail_after(3 * WAIT_S):
        async with serving(tmp_path, tools=TOOLS) as program, http_client(program, STATELESS) as client:
            await client.call(tool, {"place": str(tmp_path), **arguments})
            await client.settle(ended=True)
            assert await program.metric("mcpd_loop_stalls_total") == 1
            assert await program.metric("mcpd_loop_lag_seconds_sum") > 0.5
            await eventually(lambda: f"tools/call {tool}" in (tmp_path / "log").read_text(), "the log names it")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_printing_to_a_pipe_that_nobody_reads_holds_nobody_up(stream: str, tmp_path: Path) -> None:
    """SEC-4: the tool returns, others are served; what does not fit into the pipe and the queue is dropped."""
    with trio.fail_after(3 * WAIT_S):
        async with serving(tmp_path, tools=TOOLS, stderr=subprocess.PIPE) as program:
            async with http_client(program, STATELESS) as client:
                await client.call("flood", {"place": str(tmp_path), "stream": stream})
                await client.settle(ended=True)
                assert client.heard[-1]["result"]["content"][0]["text"] == "printed"
            program.process.send_signal(signal.SIGTERM)
            assert await program.process.wait() == 0
