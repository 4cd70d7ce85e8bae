"""A server with several workers, as a process, and clients that each stay with one of them.

A client's one connection stays with the worker that accepted it, so `at_each` opens clients until every worker has one.
Deliberately not: assertions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.in_process import eventually
from tests.served import Mcp, Server, client_of, serving

TOOLS = Path(__file__).parent / "tools.py"
MAX_TRIES = 200


@contextmanager
def crew(folder: Path, settings: str = "", *flags: str, code: int = 0, **process: Any) -> Iterator[Server]:
    """Start a server of two workers in `folder`; it has to end with this exit code. `process`: as for Popen."""
    words = ("--data", "data", "--tools", str(TOOLS), "--workers", "2", *flags)
    with serving(folder, settings, *words, code=code, **process) as server:
        yield server


async def pid_at(client: Mcp) -> int:
    """Return the process id of the worker that a client is connected to."""
    return int((await client.ask("tools/call", {"name": "pid", "arguments": {}})).result["content"][0]["text"])


@asynccontextmanager
async def at_each(server: Server, workers: int = 2, **headers: str) -> AsyncIterator[dict[int, Mcp]]:
    """Open one client for each worker: process id -> client."""
    async with AsyncExitStack() as opened:
        found: dict[int, Mcp] = {}
        for _ in range(MAX_TRIES):
            client = await opened.enter_async_context(client_of(server, **headers))
            found.setdefault(await pid_at(client), client)
            if len(found) == workers:
                yield found
                return
        raise AssertionError(f"{MAX_TRIES} connections came to {len(found)} workers")


async def started(path: Path) -> None:
    """Wait until the call that was told `path` runs."""
    await eventually(path.with_name(f"{path.name}.started").exists, f"the call that waits for {path.name} runs")


async def metrics(client: Mcp) -> dict[str, float]:
    """Return what a client's worker says when it is scraped: sample, labels included -> value."""
    text = (await client.http.get("/metrics")).text
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}
