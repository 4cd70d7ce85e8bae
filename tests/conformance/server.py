"""The server under test, `mcpd serve --tools tests/conformance/fixture.py`, as a process.

Used by the tests of this folder, which start one or several. It has to stop in order, with exit code 0.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conformance.suite import FIXTURE
from tests.served import environment


class Server(NamedTuple):
    """Where it listens, and the file that it logs to."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/mcp"


@contextmanager
def serving(folder: Path, data: Path, settings: str = "") -> Iterator[Server]:
    """Start a server in `folder`, which has its log and its files, over the data folder `data`."""
    log, files = folder / "log", folder / "files"
    files.mkdir(parents=True)
    (folder / "mcpd.toml").write_text(settings)
    command = [sys.executable, "-m", "mcpd", "serve", "--port", "0", "--data", str(data)]
    command += ["--files", str(files), "--tools", str(FIXTURE)]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder, env=environment()
        ) as process,
    ):
        try:
            yield Server(_announced(process, log), log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def _announced(process: subprocess.Popen[str], log: Path) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://[^/\s]*:(\d+)/mcp", line)
        if found is not None:
            return int(found[1])
    pytest.fail(f"the server did not start:\n{log.read_text()}")
