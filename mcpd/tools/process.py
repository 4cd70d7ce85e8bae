"""One worker process, as its owner in the server sees it: start, talk, kill, reap.

Called by: `tools.workers`, which decides how many there are and who may talk to which. Runs `python -m
mcpd.tools.worker`. Deliberately not: a pool, and not `trio.Process`: that forks on a helper thread, and Linux's
PR_SET_PDEATHSIG is tied to the thread that forked, so the worker would die when the helper idles out. `Popen` on the
main thread costs about 1 ms of the event loop per start.

The talk runs over a socket pair, never over fd 0 or 1: those may be the stdio transport. What a tool prints goes to our
stderr. The worker leads a session of its own: Ctrl-C reaches mcpd alone, and a kill takes the tool's children along;
those that have left the session are found by their environment (`tools.descendants`).

Laws: 2 (after `aclose` the pid is dead and reaped), 6 (whoever sees an exchange break kills the process).
Elsewhere than Linux there is no pidfd, so exits are polled for, and no PR_SET_PDEATHSIG: see `tools.worker`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from mcpd.tools import descendants, frames

OnProgress = Callable[[float, float | None, str | None], Awaitable[None]]
OnLog = Callable[[str, Any, str | None], Awaitable[None]]

CHUNK_BYTES: Final = 65536
EXIT_POLL_S: Final = 0.2


class WorkerBroken(Exception):
    """The process is gone, or what it says makes no sense; in both cases it must be killed."""


class WorkerProcess:
    """A child process and our end of its socket.

    Resources: the creator calls `aclose`. Only one task at a time may talk; any task may `kill`.
    """

    def __init__(self, *, max_message_bytes: int, preload: tuple[str, ...] = ()) -> None:
        """Start the process; blocks for the length of a fork. Raises: OSError."""
        ours, theirs = socket.socketpair()
        self._mark = descendants.new_mark()
        with theirs, contextlib.ExitStack() as on_failure:
            on_failure.callback(ours.close)
            setup = frames.Setup(theirs.fileno(), os.getpid(), max_message_bytes, preload, os.environ.get("PYTHONPATH"))
            self._popen = _start(setup, self._mark)
            on_failure.callback(_end, self._popen)
            self._pidfd = os.pidfd_open(self._popen.pid) if hasattr(os, "pidfd_open") else None
            on_failure.pop_all()
        self._sock = ours
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._reader = frames.FrameReader(max_message_bytes)
        self.started_at = trio.current_time()
        self.idle_since = 0.0
        self.gone = trio.Event()
        """Set when the process is dead and reaped."""

    @property
    def pid(self) -> int:
        """The process id, also after the end."""
        return self._popen.pid

    @property
    def fate(self) -> str:
        """How the process ended, for a sentence: `signal SIGSEGV`, `exit status 3`, `still dying`."""
        code = self._popen.returncode
        if code is None:
            return "still dying"
        if code >= 0:
            return f"exit status {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"

    def quiet(self) -> bool:
        """Return True when the process has said nothing since its last reply, and has not hung up."""
        if not self._reader.empty:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def wait_ready(self) -> None:
        """Wait for the first word. Cancellation: poisons. Raises: WorkerBroken."""
        message = await self._receive()
        if not isinstance(message, frames.Ready):
            raise WorkerBroken(f"a worker began with {type(message).__name__}")

    async def exchange(self, job: bytes, on_progress: OnProgress, on_log: OnLog) -> frames.Reply:
        """Send one encoded `Job` and return the reply, handing on what comes before it.

        A callback that takes its time holds the worker back: nothing is queued here.
        Cancellation: poisons (as does any exception). Raises: WorkerBroken, and what the callbacks raise.
        """
        try:
            await self._stream.send_all(job)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WorkerBroken("a worker stopped reading") from error
        while True:
            message = await self._receive()
            if isinstance(message, frames.Progress):
                await on_progress(message.done, message.total, message.message)
            elif isinstance(message, frames.Log):
                await on_log(message.level, message.data, message.logger)
            elif isinstance(message, frames.Ready):
                raise WorkerBroken("a worker said Ready in the middle of a job")
            else:
                return message

    async def _receive(self) -> frames.FromWorker:
        try:
            while isinstance(body := self._reader.next_frame(), frames.Need):
                data = await self._stream.receive_some(CHUNK_BYTES)
                if not data:
                    raise WorkerBroken("a worker hung up")
                self._reader.feed(data)
            return frames.decode_from_worker(body)
        except (trio.BrokenResourceError, trio.ClosedResourceError, frames.Garbage) as error:
            raise WorkerBroken(str(error)) from error

    def kill(self) -> None:
        """Send SIGKILL to the worker and to whatever it started. Idempotent; not a checkpoint."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    async def wait_exit(self) -> None:
        """Wait until the process has ended, reaped or not. Cancellation: safe."""
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
            return
        while self._popen.poll() is None:  # noqa: ASYNC110 - no event: this platform has no pidfd
            await trio.sleep(EXIT_POLL_S)

    async def aclose(self) -> None:
        """Kill it and all that it has started, reap it and close; then set `gone`. Idempotent.

        Cancellation: leaves it dying, descriptors closed.
        """
        if self.gone.is_set():
            return
        self.kill()
        try:
            await self.wait_exit()
            self.kill()
            self._popen.wait()
            await trio.to_thread.run_sync(descendants.kill_marked, self._mark, abandon_on_cancel=True)
        finally:
            self._stream.socket.close()
            if self._pidfd is not None:
                trio.lowlevel.notify_closing(self._pidfd)
                os.close(self._pidfd)
            self.gone.set()


def _end(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait()


def _start(setup: frames.Setup, mark: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mcpd.tools.worker", msgspec.json.encode(setup).decode()],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=[setup.fd],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, descendants.VARIABLE: mark},
    )
