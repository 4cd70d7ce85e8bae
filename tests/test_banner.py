"""What `mcpd serve` says first, and that nothing about its stdout or stderr keeps it from serving."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.served import WAIT_S, environment

_POLL_S = 0.05
TOOL = '''"""A tool."""
from mcpd import tool

@tool
def hello() -> str:
    """Say hello."""
    return "hello"
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.py").write_text(TOOL)
    return tmp_path


@contextmanager
def started(folder: Path, *flags: str, redirect: str = "> banner", stdout: int | None = None) -> Iterator[None]:
    """Run a server whose shell redirects its output so, until it answers and the block ends."""
    socket_path = folder / "socket"
    words = (
        f"exec {sys.executable} -m mcpd serve --bind unix:{socket_path} --tools words.py {' '.join(flags)} {redirect}"
    )
    process = subprocess.Popen(["sh", "-c", words], cwd=folder, env=environment(), stdout=stdout)
    if stdout is not None:
        os.close(stdout)
    try:
        _ask(str(socket_path), process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(WAIT_S)
    assert code == 0


def _ask(path: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
            except OSError:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
                continue
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            return
    raise AssertionError(f"the server ended with {process.returncode}")


def test_the_banner_says_what_models_can_read_which_tools_there_are_and_who_is_asked_for_a_key(folder: Path) -> None:
    """CLI: serve."""
    with started(folder):
        pass
    text = (folder / "banner").read_text()
    assert re.search(rf"^  files +models can read {folder}$", text, re.MULTILINE), text
    assert re.search(r"^  tools +.*list_files, read_file, hello$", text, re.MULTILINE), text
    assert re.search(r"^  keys +none: whoever reaches the server may use it$", text, re.MULTILINE), text


def test_the_banner_says_when_there_are_no_files_and_keys_are_needed(folder: Path) -> None:
    """CLI: serve --no-files."""
    done = [sys.executable, "-m", "mcpd", "keys", "new", "laptop"]
    subprocess.run(done, cwd=folder, env=environment(), check=True, capture_output=True)
    with started(folder, "--no-files"):
        pass
    text = (folder / "banner").read_text()
    assert re.search(r"^  files +none$", text, re.MULTILINE), text
    assert "list_files" not in text
    assert re.search(r"^  keys +every request needs one$", text, re.MULTILINE), text


@pytest.mark.parametrize("redirect", ["> /dev/full", "> /dev/full 2>&1", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_server_serves_whatever_its_stdout_and_stderr_are(folder: Path, redirect: str) -> None:
    """IO: a full disk or a closed descriptor is no reason to end."""
    with started(folder, redirect=redirect):
        pass
    assert b"mcpd" not in (folder / ".mcpd" / "seal.key").read_bytes()


def test_a_server_serves_when_nobody_reads_its_stdout(folder: Path) -> None:
    """IO: the reader of the pipe has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with started(folder, redirect="", stdout=writer):
        pass


def test_a_command_whose_output_cannot_be_written_fails_with_a_line(folder: Path) -> None:
    """CLI: exit codes."""
    words = f"exec {sys.executable} -m mcpd check > /dev/full"
    done = subprocess.run(
        ["sh", "-c", words], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mcpd: ")
    assert done.stderr.count("\n") == 1
