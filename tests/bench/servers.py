"""What is measured: mcpd, the bare limits, and the peers, each as a command; and how one is started and stopped.

Called by: the benchmarks. Calls `install` for what a peer needs. The table below is the only place that knows how a
server is started; a benchmark picks rows by name.

Laws: one process per server, on one core (the generator has the other), so that "per core" means the same for all,
unless processes are what is measured; a started server has already given one correct reply; whatever was started is
ended, also when a benchmark fails.

Resources: `open_server` and `open_servers` close what they open.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.bench import call, install, lanes, machine

ROOT = Path(__file__).parents[2]
SERVER_CORE = 1
START_S = 60.0
UNCOMPILED = "PYTHONDONTWRITEBYTECODE"
"""Would have mcpd alone compiled at each start: the peers were compiled when pip installed them."""


@dataclass(frozen=True)
class Server:
    """A row: `command` takes the port and a folder for data; `mirrored`: it sends a frame back as it came."""

    name: str
    command: Callable[[int, str], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    transport: str = "http"
    path: str = "/mcp"
    mirrored: bool = False
    core: int | None = SERVER_CORE
    """Which core it has; None for a server of several processes, which has them all."""


@dataclass(frozen=True)
class Running:
    """A server that has answered."""

    server: Server
    pid: int
    port: int

    @property
    def name(self) -> str:
        """The row's name."""
        return self.server.name


def _mcpd(*tools: str) -> Callable[[int, str], list[str]]:
    flags = [part for file in tools for part in ("--tools", f"tests/bench/{file}.py")]
    return lambda port, data: [
        *(sys.executable, "-m", "mcpd", "serve", "--port", str(port), "--data", data, *flags),
        *("--log-level", "warning"),
    ]


def _bare(file: str) -> Callable[[int, str], list[str]]:
    return lambda port, _: [sys.executable, str(install.PEERS / f"{file}.py"), str(port)]


def _python(name: str, *extra: str) -> Callable[[int, str], list[str]]:
    return lambda port, _: [install.python_peer(name), str(install.PEERS / f"{name}.py"), str(port), *extra]


def _typescript(*extra: str) -> Callable[[int, str], list[str]]:
    return lambda port, _: [install.tool("node"), install.typescript_peer(), str(port), *extra]


def _go(*extra: str) -> Callable[[int, str], list[str]]:
    return lambda port, _: [install.go_peer(), str(port), *extra]


def _named(label: str, file: str, package: str) -> str:
    return f"{label} {install.pinned(file, package)}"


ONE_PROCESSOR = {"GOMAXPROCS": "1"}
MCPD = Server("mcpd", _mcpd("echo"))
BARE_ASGI = Server("bare ASGI, Hypercorn-Trio", _bare("bare_asgi"))
BARE_QUART = Server("bare Quart-Trio route", _bare("bare_quart"))
PYTHON_SDK = Server(_named("Python SDK", "python_sdk.txt", "mcp"), _python("python_sdk"))
FASTMCP = Server(_named("FastMCP", "fastmcp_framework.txt", "fastmcp"), _python("fastmcp_framework"))
TYPESCRIPT_SDK = Server(
    _named("TypeScript SDK", "typescript_sdk/package.json", "@modelcontextprotocol/server"), _typescript()
)
GO_SDK = Server(_named("Go SDK", "go_sdk/go.mod", "github.com/modelcontextprotocol/go-sdk"), _go(), ONE_PROCESSOR)
NULL = Server("(generator's ceiling)", _bare("null_server"))
DEFAULTS = [
    Server("Python SDK, its defaults", _python("python_sdk", "defaults")),
    Server("FastMCP, its defaults", _python("fastmcp_framework", "defaults")),
]
"""What an author gets who sets nothing (structured output, log lines). No target compares with these."""
HTTP = [MCPD, BARE_ASGI, BARE_QUART, PYTHON_SDK, FASTMCP, TYPESCRIPT_SDK, GO_SDK]

MCPD_WEBSOCKET = Server("mcpd, WebSocket", _mcpd("echo"), transport="websocket", path="/ws")
BARE_WEBSOCKET = Server(
    "bare WebSocket echo", _bare("bare_websocket"), transport="websocket", path="/ws", mirrored=True
)

ANYWHERE = replace(MCPD, name="mcpd, one process", core=None)


def mcpd_with_redis(url: str) -> Server:
    """The row of mcpd that shares what it shares in the Redis at `url`."""
    return replace(MCPD, name="mcpd, with Redis", environment={"REDIS_URL": url})


def mcpd_apart(number: int) -> list[Server]:
    """Rows of so many servers that have nothing to do with each other, on all cores: what the machine itself allows."""
    return [replace(ANYWHERE, name=f"mcpd, alone {place}") for place in range(1, number + 1)]


def mcpd_with_workers(number: int) -> Server:
    """The row of mcpd with so many worker processes, on all cores, as `ANYWHERE` is."""
    command = MCPD.command
    words = ("--workers", str(number))
    return replace(ANYWHERE, name=f"mcpd, {number} workers", command=lambda port, data: [*command(port, data), *words])


LINGERING = [
    Server("mcpd", _mcpd("echo", "linger")),
    Server("Python SDK, JSON", _python("python_sdk", "json", "linger")),
    Server("Python SDK, SSE", _python("python_sdk", "sse", "linger")),
    Server("FastMCP, JSON", _python("fastmcp_framework", "json", "linger")),
    Server("FastMCP, SSE", _python("fastmcp_framework", "sse", "linger")),
    Server("TypeScript SDK, tool watches its signal", _typescript("linger")),
    Server("Go SDK, default", _go("default", "linger"), ONE_PROCESSOR),
    Server("Go SDK, opt-in", _go("propagate", "linger"), ONE_PROCESSOR),
]
"""Where the tool that waits is offered too (`disconnect`)."""


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def spawn(server: Server, port: int, data: str, log: Path) -> subprocess.Popen[bytes]:
    """Start the process, on its core; its output goes to `log`.

    Raises:
        install.Missing: it cannot be installed or is not written yet.
    """
    arguments = server.command(port, data)
    environment = {**_without(os.environ, UNCOMPILED), **server.environment}
    with machine.on_core(server.core), log.open("wb") as output:
        return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _without(environment: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


def wait_answered(server: Server, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Knock until the first correct reply.

    Raises:
        call.WrongReply: it ended, answers something else, or took longer than `START_S`.
    """
    limit = time.monotonic() + START_S
    while time.monotonic() < limit:
        if process.poll() is not None:
            break
        with suppress(ConnectionRefusedError):
            return knock(server, port)
        time.sleep(0.001)
    raise call.WrongReply(f"{server.name} does not answer: {log.read_text(errors='replace')[-1500:]}")


def knock(server: Server, port: int) -> None:
    """One call on a connection of its own."""
    if server.transport == "http":
        lane: lanes.Lane = lanes.HttpLane(port, server.path)
    else:
        lane = lanes.WebSocketLane(port, server.path, 1, mirrored=server.mirrored)
    lane.socket.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and its children, gently for 5 seconds."""
    members = machine.tree(process.pid)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for member in members[1:]:
        with suppress(ProcessLookupError):
            os.kill(member, 9)


@contextmanager
def open_server(server: Server) -> Iterator[Running]:
    """Run a server until the block ends.

    Raises:
        install.Missing, call.WrongReply: see `spawn` and `wait_answered`.
    """
    with tempfile.TemporaryDirectory(prefix="mcpd-bench-") as folder:
        port, log = free_port(), Path(folder) / "log"
        process = spawn(server, port, str(Path(folder) / "data"), log)
        try:
            wait_answered(server, process, port, log)
            yield Running(server, process.pid, port)
        finally:
            stop(process)


@contextmanager
def open_servers(rows: list[Server]) -> Iterator[list[Running]]:
    """Run all of them at once; one that cannot be started is left out, and named on the terminal."""
    with ExitStack() as stack:
        running = []
        for server in rows:
            try:
                running.append(stack.enter_context(open_server(server)))
            except (install.Missing, call.WrongReply) as reason:
                print(f"left out: {server.name}: {reason}", file=sys.stderr)
        yield running
