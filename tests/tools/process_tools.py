"""Tools that misbehave in every way a worker process must survive; loaded by `test_workers.py` in real workers."""

from __future__ import annotations

import importlib
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
from mcpd.errors import RpcError, ToolError


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
def refuse_as_server() -> None:
    """Refuse with a JSON-RPC error."""
    raise RpcError(7, "not here", {"x": [1]})


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


@tool(isolation="process")
def detach(place: str, end: str) -> None:
    """Start a child in a session of its own and one that outlives its parent; then spin, crash or return."""
    folder = Path(place)
    nap = [sys.executable, "-c", "import time; time.sleep(1000)"]
    _write(folder / "session", subprocess.Popen(nap, start_new_session=True).pid)
    twice = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=2).pid)"
    done = subprocess.run([sys.executable, "-c", twice, *nap], stdout=subprocess.PIPE, check=True)
    _write(folder / "orphan", int(done.stdout))
    while not (folder / "go").exists():
        time.sleep(0.005)
    if end == "cancelled":
        sum(range(10**14))
    elif end == "crashed":
        os._exit(7)


def _write(path: Path, pid: int) -> None:
    path.with_suffix(".new").write_text(str(pid))
    path.with_suffix(".new").replace(path)


@tool(isolation="process")
def fork_and_return() -> str:
    """Return in two processes."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return "returned"


@tool(isolation="process")
def exit_politely() -> None:
    """Leave by the ordinary way."""
    sys.exit(3)


class Own(BaseException):
    """No Exception."""


class Unshowable(Exception):
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise LookupError("no text")

    __str__ = __repr__


@tool(isolation="process")
def raise_odd(kind: str) -> None:
    """Raise what nobody expects."""
    kinds: dict[str, BaseException] = {
        "asyncio": importlib.import_module("asyncio").CancelledError(),
        "generator": GeneratorExit(),
        "interrupt": KeyboardInterrupt(),
        "own": Own(),
        "unshowable": Unshowable(),
        "surrogate": ValueError("\udc80"),
    }
    raise kinds[kind]


@tool(isolation="process")
def give_odd(kind: str) -> dict[str, Any]:
    """Return what cannot be encoded."""
    cycle: dict[str, Any] = {}
    cycle["cycle"] = cycle
    return {"object": {"value": object()}, "cycle": cycle}[kind]


@tool(isolation="process")
def close_output(how: str) -> None:
    """Close what Python prints to, or put nothing in its place."""
    if how == "close":
        sys.stdout.close()
    else:
        sys.stdout = sys.stderr = None


@tool(isolation="process")
def say_aloud() -> str:
    """Print on both streams."""
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    assert sys.stdout is not None
    return "said"
