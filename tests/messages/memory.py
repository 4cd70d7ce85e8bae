"""The server without transports, for tests in memory: the real parts of `assembly.build`, and calls made by hand.

`make_server` builds everything; `call` and `session_call` write what a transport would have read; `Wire` stands at the
end of a call's way back and keeps what was said. Used by `tests/messages` and its neighbours, with a clock that jumps.
Deliberately not: bytes, sockets, processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from mcpd.assembly import Parts, build
from mcpd.messages.flight import Done, Failed, Flight, Outcome
from mcpd.messages.session import Session
from mcpd.monitoring.logs import Logs
from mcpd.wire.call import ANONYMOUS, Call, Principal
from mcpd.wire.session import SessionState
from mcpd.wire.versions import STATEFUL, STATELESS
from tests.in_process import server_config
from tests.served import CLIENT, TOOLS

TEXT = {"name": "echo", "arguments": {"text": "hi"}}


def make_server(
    folder: Path, *, tools: Sequence[Path | str] = (TOOLS,), limits: dict[str, Any] | None = None, **timeouts: float
) -> Parts:
    """Return all parts of a server with the tools of the conversations, or with others."""
    logs = Logs(lambda _: None, requests=False)
    server = build(server_config(folder, *tools, limits=limits, **timeouts), logs)
    logs.close()
    return server


def call(method: str = "tools/call", params: dict[str, Any] | None = None, **more: Any) -> Call:
    """Return a stateless call."""
    given = {"version": STATELESS, "transport": "http", "id": 1, "request_id": "r-1", **more}
    return Call(method=method, params=TEXT if params is None else params, **given)


def open_session(
    server: Parts, version: str = STATEFUL[0], principal: Principal = ANONYMOUS, **capabilities: Any
) -> Session:
    """Open a session."""
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": CLIENT}
    return server.sessions.open(SessionState(params), principal)


def session_call(session: Session, method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> Call:
    """Return a call of a session."""
    given = {"version": session.state.version, "transport": "http", "id": request_id, "session": session.key}
    capabilities = session.state.capabilities
    return Call(method=method, params=params or {}, capabilities=capabilities, log_level="info", **given)


class Wire:
    """A client at the end of a call: keeps notifications as `(method, params)`; a slow one waits at its gate."""

    def __init__(self, gate: trio.Event | None = None) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.released: list[int] = []
        self._gate = trio.Event() if gate is None else gate
        if gate is None:
            self._gate.set()

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Keep a notification."""
        self.said.append((method, params))
        await self._gate.wait()

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Answer every question with its own request."""
        return dict(requests)

    def release(self, retry_ms: int) -> None:
        """Keep that the stream was given up."""
        self.released.append(retry_ms)


async def serve(server: Parts, of: Call, wire: Wire | None = None) -> Outcome:
    """Serve one call to its end."""
    return await server.manager.serve(Flight(of, wire or Wire()))


async def result(server: Parts, of: Call, wire: Wire | None = None) -> dict[str, Any]:
    """Serve a call that succeeds; return its result."""
    outcome = await serve(server, of, wire)
    assert isinstance(outcome, Done), outcome
    return outcome.result


async def failure(server: Parts, of: Call, wire: Wire | None = None) -> Any:
    """Serve a call that fails; return its error."""
    outcome = await serve(server, of, wire)
    assert isinstance(outcome, Failed), outcome
    return outcome.error


class Collector:
    """A `send` that keeps decoded messages, and can be slow or broken."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.gate = trio.Event()
        self.gate.set()
        self.broken = False

    async def __call__(self, data: bytes) -> None:
        """Send one message."""
        await self.gate.wait()
        if self.broken:
            raise trio.BrokenResourceError
        await trio.lowlevel.checkpoint()
        self.sent.append(json.loads(data))


async def until(met: Callable[[], object]) -> None:
    """Let other tasks run until `met()`; bounded by the clock that jumps."""
    with trio.fail_after(1000):
        while not met():  # noqa: ASYNC110 - what is awaited rings no bell
            await trio.sleep(0.001)
