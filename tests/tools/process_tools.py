"""Tools that misbehave in every way a worker process must survive; loaded by `test_workers.py` in real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mcpd.authoring.context import Context
from mcpd.authoring.declarations import tool
from mcpd.errors import ToolError


@tool(isolation="process")
def echo(text: str) -> str:
    """Return the text."""
    return text


@tool(isolation="process")
def whoami() -> dict[str, Any]:
    """Say where this runs."""
    return {
        "pid": os.getpid(),
        "trio": "trio" in sys.modules,
        "stdout": str(Path("/proc/self/fd/1").readlink()),
        "python_path": os.environ.get("PYTHONPATH"),
        "main_thread": threading.current_thread() is threading.main_thread(),
    }


@tool(isolation="process")
def wait(go: str) -> None:
    """Return when the file `go` is there."""
    while not Path(go).exists():
        time.sleep(0.005)


@tool(isolation="process")
def spin(marker: str) -> int:
    """Write the pid to the file `marker`, then stay in one C call for hours, with the GIL held."""
    Path(marker).write_text(str(os.getpid()))
    return sum(range(10**14))


@tool(isolation="process")
def spin_with_child(marker: str) -> int:
    """Start a child, write its pid, then spin."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(marker).write_text(str(child.pid))
    return sum(range(10**14))


@tool(isolation="process")
def leave(status: int) -> None:
    """End the process without a word."""
    os._exit(status)


@tool(isolation="process")
def fork_and_leave(marker: str) -> None:
    """Leave a forked child that keeps the socket open, and die."""
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    Path(marker).write_text(str(pid))
    os._exit(7)


@tool(isolation="process")
def segfault() -> None:
    """Die of a signal."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


@tool(isolation="process")
def garbage(data: str) -> str:
    """Write `data` into the socket of the worker protocol, before the reply."""
    os.write(_socket_fd(), data.encode("latin-1"))
    return "written"


@tool(isolation="process")
def garbage_later(go: str, done: str) -> str:
    """Return; then, when the file `go` appears, write garbage and make the file `done`."""

    def wait_and_write() -> None:
        while not Path(go).exists():
            time.sleep(0.005)
        os.write(_socket_fd(), b"????")
        Path(done).touch()

    threading.Thread(target=wait_and_write, daemon=True).start()
    return "later"


def _socket_fd() -> int:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if int(entry.name) > 2 and str(entry.readlink()).startswith("socket:"):
                return int(entry.name)
        except OSError:
            continue
    raise LookupError("no socket")


@tool(isolation="process")
def big(size: int) -> str:
    """Return a text of `size` characters."""
    return "x" * size


@tool(isolation="process")
def report(ctx: Context) -> str:
    """Report progress and log."""
    blocking: Any = ctx
    blocking.progress(1, 2, "half")
    blocking.log("info", {"at": 1}, "tests")
    blocking.progress(2, 2)
    return f"{ctx.deadline - time.monotonic():.0f}"


@tool(isolation="process")
def ask(ctx: Context) -> str:
    """Try what a worker must not."""
    blocking: Any = ctx
    return str(blocking.elicit(message="who?"))


@tool(isolation="process")
def refuse() -> None:
    """Fail on purpose."""
    raise ToolError("not today")


@tool(isolation="process")
def blunder() -> None:
    """Fail by mistake."""
    raise ZeroDivisionError("secret detail")


@tool(isolation="process")
def not_a_number() -> dict[str, float]:
    """Return what JSON cannot say."""
    return {"value": float("nan")}


@tool(isolation="process")
def loud(text: str) -> str:
    """Print to standard output."""
    print(text, flush=True)
    return "printed"
