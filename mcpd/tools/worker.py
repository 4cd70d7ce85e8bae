"""The inside of a worker process: load tools, run one job after the other, die with the server.

Started by `tools.process` as `python -P -m mcpd.tools.worker SETUP`; talks `tools.frames` over the inherited socket and
loads nothing but msgspec, `mcpd.authoring` and the tool files, because every import delays the start (never Trio).
Deliberately not: careful with itself. It may hang, leak, crash or be killed at any instruction; the server outlives it.

Death with the server: Linux kills the worker when the server's main thread ends (PR_SET_PDEATHSIG), even in a C loop
and even after `kill -9` of the server; a server that ended before the request was made is noticed by its pid. Elsewhere
the worker ends at its next read or write, so one in an endless loop survives a server that was killed.

Standard output belongs to nobody here: fd 1 is the server's stderr, and so is `print`.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import msgspec

from mcpd.authoring.declarations import ToolDeclaration, load
from mcpd.authoring.signatures import ArgumentError, inspect_function
from mcpd.authoring.spacing import Spacing
from mcpd.errors import McpdError, RegistrationError, RpcError, ToolCrashed, ToolError, describe, plain, traceback_of
from mcpd.tools import frames
from mcpd.wire.envelope import LOG_LEVELS

_STDERR = 2
PR_SET_PDEATHSIG = 1
SIGKILL = 9
CHUNK_BYTES = 65536

RunTool = Callable[[dict[str, Any], "WorkerContext"], dict[str, Any]]


class Channel:
    """The worker's end of the socket, blocking. Threads of a tool may send; only the main thread receives."""

    def __init__(self, fd: int, max_message_bytes: int) -> None:
        self._fd = fd
        self.max_message_bytes = max_message_bytes
        self._reader = frames.FrameReader(max_message_bytes)
        self._lock = threading.Lock()

    def send(self, frame: bytes) -> None:
        """Write one frame. Raises: OSError when the server is gone."""
        with self._lock:
            view = memoryview(frame)
            while view:
                view = view[os.write(self._fd, view) :]

    def receive(self) -> frames.Job | None:
        """Wait for the next job; None when the server has closed its end. Raises: frames.Garbage."""
        while isinstance(body := self._reader.next_frame(), frames.Need):
            data = os.read(self._fd, CHUNK_BYTES)
            if not data:
                return None
            self._reader.feed(data)
        return frames.decode_job(body)


class WorkerContext:
    """What a tool in a worker process gets as its `Context`: `deadline`, `progress` and `log`; the rest is refused."""

    def __init__(self, channel: Channel, deadline: float) -> None:
        self._channel = channel
        self._open = True
        self._spacing = Spacing()
        self.deadline = deadline
        """When the call is killed, on the `time.monotonic()` clock."""

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress; blocks while the server is behind. Values that come too close together are dropped."""
        if self._spacing.admits(done, total):
            self._send(frames.Progress(done, total, message))

    def log(self, level: str, data: Any, logger: str | None = None) -> None:
        """Send a log message; `data` is any JSON value. Raises: ValueError (level, size), TypeError (not JSON)."""
        if level not in LOG_LEVELS:
            raise ValueError(f"unknown log level {level!r}; use one of {', '.join(LOG_LEVELS)}")
        self._send(frames.Log(level, data, logger))

    def close(self) -> None:
        """The job is over: a thread that the tool left behind has nothing more to say."""
        self._open = False

    def _send(self, message: frames.Progress | frames.Log) -> None:
        if not self._open:
            raise RuntimeError("this call is over")
        frame = frames.encode(message)
        if len(frame) - frames.HEADER_BYTES > self._channel.max_message_bytes:
            raise ValueError(f"a message of {len(frame)} bytes; at most {self._channel.max_message_bytes} are allowed")
        self._channel.send(frame)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise RuntimeError(
            f'ctx.{name} does not work in a tool with isolation="process": only deadline, progress and log do'
        )


class Toolbox:
    """The tools of this process, loaded when first asked for and then kept."""

    def __init__(self) -> None:
        self._tools: dict[str, dict[str, RunTool]] = {}

    def find(self, target: str, name: str) -> RunTool:
        """Return the tool. Raises: RegistrationError when `target` does not load or has no such tool."""
        try:
            return self.load(target)[name]
        except KeyError:
            raise RegistrationError(f"{target} has no tool named {name!r} in a worker process") from None

    def load(self, target: str) -> dict[str, RunTool]:
        """Load `target` once. Raises: RegistrationError."""
        tools = self._tools.get(target)
        if tools is None:
            tools = self._tools[target] = load_tools(target)
        return tools


def load_tools(target: str) -> dict[str, RunTool]:
    """Return all tools of a file or module that may run here. Raises: RegistrationError."""
    return {one.name: _runner(one) for one in load(target) if isinstance(one, ToolDeclaration)}


def _runner(tool: ToolDeclaration) -> RunTool:
    signature = inspect_function(
        tool.fn, input_schema=tool.input_schema, output_schema=tool.output_schema, validate=False
    )

    def run(arguments: dict[str, Any], context: WorkerContext) -> dict[str, Any]:
        keywords = signature.bind(arguments)
        if signature.context is not None:
            keywords[signature.context] = context
        try:
            value = tool.fn(**keywords)
        except BaseException as error:
            found = plain(error)
            raise (found if issubclass(type(found), ToolError | RpcError) else ToolCrashed()) from error  # noqa: ASYNC104 - no Trio
        return signature.finish(value)

    return run


def perform(job: frames.Job, toolbox: Toolbox, channel: Channel) -> frames.Reply:
    """Run `job` and say how it went."""
    context = WorkerContext(channel, job.deadline)
    try:
        return frames.Done(toolbox.find(job.target, job.tool)(job.arguments, context))
    except RegistrationError as error:
        return frames.Refused("registration", str(error))
    except ArgumentError as error:
        return frames.Refused("arguments", str(error))
    except ToolError as error:
        return frames.Refused("tool", _plain(partial(str, error)))
    except RpcError as error:
        return frames.Refused("rpc", error.message, error.code, error.data)
    except ToolCrashed as crash:
        return _failed(crash if crash.__cause__ is None else crash.__cause__, raised=True)
    except BaseException as error:  # noqa: ASYNC103, BLE001 - the process boundary: a tool may raise anything
        return _failed(error, raised=False)  # noqa: ASYNC104 - no Trio here
    finally:
        context.close()


def fit(reply: frames.Reply, max_message_bytes: int) -> bytes:
    """Return the frame of `reply`, or of what can be said instead of it."""
    try:
        frame = frames.encode(reply)
    except BaseException as error:  # noqa: BLE001, ASYNC103 - the process boundary: a value may raise while it is encoded
        return frames.encode(_failed(error, raised=False))  # noqa: ASYNC104 - no Trio here
    size = len(frame) - frames.HEADER_BYTES
    if size <= max_message_bytes:
        return frame
    text = f"The result is {size} bytes long; at most {max_message_bytes} bytes are allowed"
    return frames.encode(frames.Refused("too_large", text))


def die_with(parent: int) -> None:
    """Arrange for this process to end with the process `parent`; leave at once if that has ended already."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main(argument: str) -> None:
    """Serve until the server hangs up. A child that a tool has forked off and let return is no worker, and leaves."""
    own = os.getpid()
    setup = msgspec.json.decode(argument, type=frames.Setup)
    die_with(setup.parent)
    _become_ordinary(setup)
    channel, toolbox = Channel(setup.fd, setup.max_message_bytes), Toolbox()
    _preload(toolbox, setup.preload)
    channel.send(frames.encode(frames.Ready()))
    while (job := channel.receive()) is not None:
        _open_streams()
        frame = fit(perform(job, toolbox, channel), setup.max_message_bytes)
        if os.getpid() != own:
            os._exit(0)
        channel.send(frame)


def _become_ordinary(setup: frames.Setup) -> None:
    os.set_inheritable(setup.fd, False)
    sys.stdout = sys.stderr
    if setup.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = setup.python_path


def _open_streams() -> None:
    """Give the next tool what it can print to, whatever the one before has closed or put in its place."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            opened = os.fdopen(_STDERR, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, name, opened)


def _preload(toolbox: Toolbox, targets: tuple[str, ...]) -> None:
    for target in targets:
        try:
            toolbox.load(target)
        except McpdError as error:
            sys.stderr.write(f"mcpd worker {os.getpid()}: {error}\n")
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a call of the tool will say what is wrong
            sys.stderr.write(f"mcpd worker {os.getpid()}: {target}: {type(error).__name__}\n")


def _failed(error: BaseException, *, raised: bool) -> frames.Failed:
    return frames.Failed(_plain(lambda: describe(error)), _plain(lambda: _trace(error))[-20_000:], raised)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, traceback_of(error)))


def _plain(render: Callable[[], str]) -> str:
    """Return a text that can be sent, whatever an exception's own methods do."""
    try:
        return render().encode("utf-8", "backslashreplace").decode()
    except BaseException:  # noqa: BLE001, ASYNC103 - a broken `__repr__` or `__str__` must not end the worker
        return "an exception that cannot be shown"  # noqa: ASYNC104 - no Trio here


if __name__ == "__main__":
    main(sys.argv[1])
