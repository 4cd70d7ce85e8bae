"""The stdio transport: lines and their bounds, and the program as a client starts it."""

from __future__ import annotations

import json
import shlex
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


async def test_a_thousand_requests_in_one_write_are_answered_each(tmp_path: Path) -> None:
    """IO-1, RPC-7: good ones with a result, bad ones with an error, however few answers may wait."""
    config = server_config(tmp_path, TOOLS, limits={"max_outbox_items": 16, "max_calls_per_connection": 16})
    texts = []
    for number in range(1000):
        body, _ = stateless("server/discover" if number % 2 else "nothing/at_all", None, request_id=number)
        texts.append(json.dumps(body))
    with trio.fail_after(WAIT_S):
        async with (
            stdio_server(config) as running,
            stdio_transport(running, "2026-07-28", {}) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(client.send_text, "\n".join(texts))
            heard = [await client.receive() for _ in texts]
    assert {answer["id"]: "result" in answer for answer in heard} == {
        number: bool(number % 2) for number in range(1000)
    }


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


def words(folder: Path, settings: str = "") -> list[str]:
    """The command line, with the tools of this folder besides."""
    return [*command("stdio", folder, settings), "--tools", str(Path(__file__).with_name("stdio_tools.py"))]


def shell(folder: Path, redirection: str) -> list[str]:
    """The same, by way of a shell that closes or moves descriptors."""
    return ["sh", "-c", f"{' '.join(map(shlex.quote, words(folder)))} {redirection}"]


async def piped(folder: Path, said: bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `mcpd stdio` on input that ends."""
    with trio.fail_after(WAIT_S):
        return await trio.run_process(
            options.pop("words", None) or words(folder, options.pop("settings", "")),
            stdin=said,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder,
            env=environment(),
            **options,
        )


def lines(*requests: tuple[str, dict[str, Any] | None]) -> bytes:
    """Stateless requests, numbered from 0."""
    bodies = [stateless(method, params, request_id=number)[0] for number, (method, params) in enumerate(requests)]
    return b"".join(json.dumps(body).encode() + b"\n" for body in bodies)


HANDSHAKE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":"printf","version":"1"}}}\n'
)


@pytest.mark.parametrize("end", ["", "the last line has no end"])
async def test_what_was_asked_before_the_end_of_input_is_answered(end: str, tmp_path: Path) -> None:
    """IO-3: `printf ... | mcpd stdio` shows every answer, those of worker processes and threads too."""
    said = HANDSHAKE + b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
    said += b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'
    said += b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"shout"}}\n'
    done = await piped(tmp_path, said.rstrip(b"\n") if end else said)
    assert done.returncode == 0
    assert sorted(json.loads(line)["id"] for line in done.stdout.splitlines()) == [0, 1, 2]


async def test_a_question_that_nobody_can_answer_any_more_does_not_hold_the_end(tmp_path: Path) -> None:
    """IO-3, S2C-3: a call that waits for its client learns that it has gone; a listen stream ends."""
    requests = lines(("subscriptions/listen", {"notifications": {"toolsListChanged": True}}), ("tools/list", None))
    done = await piped(tmp_path, requests)
    assert done.returncode == 0
    assert [body for body in map(json.loads, done.stdout.splitlines()) if body.get("id") == 1]


@pytest.mark.parametrize("before", [b"", b"\n"])
async def test_a_byte_order_mark_before_the_first_message_is_ignored(before: bytes, tmp_path: Path) -> None:
    """IO-1: some shells and editors write one."""
    done = await piped(tmp_path, before + b"\xef\xbb\xbf" + HANDSHAKE)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [0]


async def test_a_child_of_a_tool_reads_nothing_of_the_protocol(tmp_path: Path) -> None:
    """IO-1: what is on fd 0 is nobody's, and fd 1 is not the client's."""
    said = HANDSHAKE + b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"eat"}}\n'
    said += b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n' % number for number in range(2, 42))
    done = await piped(tmp_path, said)
    answers = {body["id"]: body for body in map(json.loads, done.stdout.splitlines())}
    assert set(answers) == set(range(42))
    assert answers[1]["result"]["content"][0]["text"] == "0 bytes eaten"


async def test_no_tool_takes_standard_output_from_the_others(tmp_path: Path) -> None:
    """IO-1: whether it closes the stream, wraps what lies below it, or takes it apart; the program ends as ever."""
    names = ("close_stdout", "wrap_stdout", "detach_stdout", "shout")
    said = HANDSHAKE + b"".join(
        b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%s"}}\n' % (number, name.encode())
        for number, name in enumerate(names, 1)
    )
    done = await piped(tmp_path, said)
    assert done.returncode == 0
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(answer["id"] for answer in answers) == [0, 1, 2, 3, 4]
    assert not [answer for answer in answers if answer["result"].get("isError")]
    for text in (b"wrapped", b"detached", b"printed"):
        assert text in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
async def test_log_lines_never_stand_among_the_messages(closed: str, tmp_path: Path) -> None:
    """IO-1: also when stderr was closed or takes nothing; no file of ours becomes what others print to."""
    said = HANDSHAKE + b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"shout"}}\n'
    done = await piped(tmp_path, said, words=shell(tmp_path, closed))
    assert done.returncode == 0
    assert sorted(json.loads(line)["id"] for line in done.stdout.splitlines()) == [0, 1]


@pytest.mark.parametrize("where", ["/dev/full", "closed"])
async def test_a_stdout_that_takes_nothing_ends_the_program(where: str, tmp_path: Path) -> None:
    """IO-3: with a line in the log and no traceback."""
    target = ">/dev/full" if where == "/dev/full" else ">&-"
    done = await piped(tmp_path, HANDSHAKE, words=shell(tmp_path, target))
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    assert (b"stdout is closed or full" in done.stderr) == (where == "/dev/full")


@pytest.mark.parametrize("tool", ["hang", "leave_a_thread"])
async def test_a_hung_tool_does_not_hold_the_end(tool: str, tmp_path: Path) -> None:
    """IO-3: a thread that never ends is left behind, one that Python would wait for is ended by the watchdog."""
    said = HANDSHAKE + b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%s"}}\n' % tool.encode()
    done = await piped(tmp_path, said, settings="[timeouts]\ncleanup_s = 0.1\nwrite_s = 0.1\n")
    assert done.returncode == (0 if tool == "hang" else 1)
    assert json.loads(done.stdout.splitlines()[0])["id"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_every_signal_that_means_to_stop_stops_it(number: signal.Signals, tmp_path: Path) -> None:
    """IO-3: SIGHUP too, since its keys are nobody's and its terminal has gone."""
    async with program(tmp_path) as process:
        process.send_signal(number)
        assert await process.wait() == 0
    assert b"Traceback" not in (tmp_path / "log").read_bytes()
