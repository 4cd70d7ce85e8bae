"""`mcpd serve`, `mcpd stdio` and `mcpd call` as processes, together: what a person at a terminal sees."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from mcpd import cli

pytestmark = pytest.mark.slow
MCPD = [sys.executable, "-m", "mcpd"]
TOOLS = '''
from pathlib import Path
import trio
from mcpd import Context, tool

@tool
async def linger(ctx: Context) -> str:
    """Never ends by itself."""
    try:
        await ctx.progress(1, 4, "started")
        await trio.sleep_forever()
    finally:
        Path("ended").touch()
'''


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MCPD_", "REDIS_URL"))}
    return {**kept, "PYTHONPATH": str(Path(cli.__file__).parents[1])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "mcpd.toml").write_text("[server]\nport = 0\n[files]\nwrite = true\n")
    return tmp_path


@asynccontextmanager
async def serving(folder: Path, *flags: str) -> AsyncIterator[tuple[trio.Process, str]]:
    """Start a server and yield its process and WebSocket address; the test, or leaving, stops it."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            command = [*MCPD, "serve", "--tools", "tools.py", *flags]
            start = partial(trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
            process = await nursery.start(partial(start, cwd=folder, env=environment()))
            yield process, await address(process)
            process.terminate()


async def address(process: trio.Process) -> str:
    assert process.stdout is not None
    said = b""
    async for chunk in process.stdout:
        said += chunk
        found = re.search(rb"wss?://\S+", said)
        if found and b"data" in said:
            return found.group().decode()
    raise AssertionError(f"no address in {said!r}")


async def call(folder: Path, url: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [*MCPD, "call", *words, "--url", url]
    env = environment()
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, cwd=folder, env=env)


async def test_tools_are_called_on_real_files_and_the_server_stops_cleanly(folder: Path) -> None:
    """CLI: serve, call; TOOL-2."""
    async with serving(folder) as (process, url):
        written = await call(folder, url, "write_file", "path=notes/a.txt", "content=1")
        assert (written.returncode, written.stderr) == (0, b"")
        assert json.loads(written.stdout)["created"] is True
        assert (folder / "notes" / "a.txt").read_text() == "1"
        read = await call(folder, url, "read_file", "path=notes/a.txt")
        assert (read.returncode, read.stdout) == (0, b"1\n")
        listed = await call(folder, url, "list_files", "recursive=true", "--json")
        entries = json.loads(listed.stdout)["structuredContent"]["entries"]
        assert [entry["path"] for entry in entries] == ["notes", "notes/a.txt"], "nothing of the server's own"
        refused = await call(folder, url, "read_file", "path=.mcpd/seal.key")
        assert (refused.returncode, refused.stdout) == (1, b"")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_ctrl_c_at_the_caller_ends_the_tool_on_the_server(folder: Path) -> None:
    """CAN-3."""
    async with serving(folder) as (_, url), trio.open_nursery() as nursery:
        start = partial(trio.run_process, [*MCPD, "call", "linger", "--url", url], stderr=subprocess.PIPE, check=False)
        caller = await nursery.start(partial(start, cwd=folder, env=environment()))
        assert await caller.stderr.receive_some() == b" 25% 1/4 started\n"
        assert not (folder / "ended").exists()
        caller.send_signal(signal.SIGINT)
        assert await caller.wait() == 130
        read = await call(folder, url, "list_files", "glob=ended")
        assert json.loads(read.stdout)["entries"][0]["path"] == "ended"


async def test_a_timeout_is_told_and_is_a_failure(folder: Path) -> None:
    """CAN-5."""
    async with serving(folder) as (_, url):
        ended = await call(folder, url, "linger", "--timeout", "0.2")
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1] == b"mcpd: The call did not finish within its request limit of 200 ms"


async def test_the_second_ctrl_c_ends_the_server_at_once(folder: Path) -> None:
    """CLI: serve."""
    async with serving(folder) as (process, url), trio.open_nursery() as nursery:
        start = partial(trio.run_process, [*MCPD, "call", "linger", "--url", url], stderr=subprocess.PIPE, check=False)
        caller = await nursery.start(partial(start, cwd=folder, env=environment()))
        await caller.stderr.receive_some()
        began = trio.current_time()
        process.send_signal(signal.SIGINT)
        await wait_until_it_stops_accepting(url, folder)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == -signal.SIGINT
        assert trio.current_time() - began < 8
        assert await caller.wait() == 1


async def wait_until_it_stops_accepting(url: str, folder: Path) -> None:
    while (await call(folder, url, "list_files")).returncode == 0:
        pass


async def test_a_key_opens_the_server_and_its_absence_is_told(folder: Path) -> None:
    """WS-3."""
    made = await trio.run_process(
        [*MCPD, "keys", "new", "me"], capture_stdout=True, cwd=folder, env=environment(), stderr=subprocess.DEVNULL
    )
    key = made.stdout.decode().strip()
    async with serving(folder) as (_, url):
        refused = await call(folder, url, "list_files")
        assert (refused.returncode, b"wants an API key" in refused.stderr) == (1, True)
        refused = await call(folder, url, "list_files", "--key", "mcpd_wrong")
        assert (refused.returncode, b"does not know this API key" in refused.stderr) == (1, True)
        assert (await call(folder, url, "list_files", "--key", key)).returncode == 0


async def test_a_port_that_is_taken_is_one_line(folder: Path) -> None:
    """CLI: friendly errors."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = str(listener.socket.getsockname()[1])
        with trio.fail_after(30):
            done = await trio.run_process(
                [*MCPD, "serve", "--port", port], capture_stderr=True, check=False, cwd=folder, env=environment()
            )
    assert done.returncode in (1, 2)
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert port.encode() in done.stderr


@pytest.mark.parametrize(
    ("cert", "said"),
    [("none.pem", b"server.tls_cert: none.pem: there is no such file"), ("words.pem", b"server.tls_cert words.pem")],
)
async def test_a_certificate_that_cannot_be_loaded_is_one_line(folder: Path, cert: str, said: bytes) -> None:
    """CLI: friendly errors."""
    (folder / "words.pem").write_text("no certificate")
    words = [*MCPD, "serve", "--port", "0", "--tls-cert", cert, "--tls-key", "words.pem"]
    with trio.fail_after(30):
        done = await trio.run_process(words, capture_stderr=True, check=False, cwd=folder, env=environment())
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1, done.stderr.decode()
    assert said in done.stderr


async def test_stdio_answers_and_ends_with_its_input(folder: Path) -> None:
    """IO-1, IO-3."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, [*MCPD, "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            process = await nursery.start(partial(start, stderr=subprocess.DEVNULL, cwd=folder, env=environment()))
            await process.stdin.send_all(json.dumps(request).encode() + b"\n")
            said = b""
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some()
            await process.stdin.aclose()
            assert await process.wait() == 0
    names = [tool["name"] for tool in json.loads(said)["result"]["tools"]]
    assert names == ["search_documents", "list_files", "read_file", "write_file", "delete_file"]


@pytest.mark.parametrize("command", ["serve", "stdio"])
@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        (b"broken.py", ["--tools", "broken.py"]),
        (b"twice", ["--tools", "twice.py", "--tools", "twice.py"]),
        (b"--data", ["--data", "occupied/data"]),
        (b"mcpd.db", ["--data", "damaged"]),
    ],
)
async def test_a_server_that_cannot_start_says_why_on_one_line(
    folder: Path, command: str, named: bytes, arguments: list[str]
) -> None:
    """CLI: friendly errors, whichever transport; a traceback says nothing to whoever runs it."""
    (folder / "broken.py").write_text("def (:\n")
    (folder / "twice.py").write_text("from mcpd import tool\n\n@tool\ndef twice() -> None: ...\n")
    (folder / "occupied").write_text("a file")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "mcpd.db").write_bytes(b"no database at all" * 500)
    with trio.fail_after(30):
        done = await trio.run_process(
            [*MCPD, command, *arguments], capture_stderr=True, check=False, cwd=folder, env=environment()
        )
    assert done.returncode in (1, 2)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.stderr.count(b"\n") == 1, done.stderr.decode()
    assert named in done.stderr
