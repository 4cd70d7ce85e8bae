"""A server that a test kills or stops and starts again in the same folder, at the same port.

Its clients stay: a connection that has ended is opened anew. Used by `test_session_restart`. Deliberately not: what
has to be as before.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.redis_servers import free_port
from tests.served import WAIT_S, command, environment

HOWS = (signal.SIGKILL, signal.SIGTERM)


class Restarting:
    """One server, process after process."""

    def __init__(self, folder: Path, settings: str = "", flags: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.folder = folder
        self._words = [*command("serve", folder, settings, flags), "--port", str(self.port)]
        self.process = self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                self._words, stdout=subprocess.PIPE, stderr=log, cwd=self.folder, env=environment()
            )
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if re.search(rb"https?://\S+/mcp", line):
                    return process
        raise AssertionError(f"the server did not start: {self.log()}")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def end(self, how: signal.Signals) -> None:
        """Let the process end; SIGTERM has to end it in order."""
        self.process.send_signal(how)
        code = self.process.wait(WAIT_S)
        assert code == (0 if how == signal.SIGTERM else -how), self.log()

    def begin(self) -> None:
        """Start the next process."""
        self.process = self._start()

    def restart(self, how: signal.Signals) -> None:
        """End the process and start the next one."""
        self.end(how)
        self.begin()


@contextmanager
def restarting(folder: Path, settings: str = "", *flags: str) -> Iterator[Restarting]:
    """Run a server that can be restarted; it has to stop in order in the end."""
    server = Restarting(folder, settings, flags)
    try:
        yield server
        if server.process.poll() is None:
            server.end(signal.SIGTERM)
    finally:
        server.process.kill()
        server.process.wait()
