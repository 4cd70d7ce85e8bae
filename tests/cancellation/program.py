"""`mcpd serve` as a process with the tools of this folder, for what only a process can show: exit codes and `kill -9`.

`serving` starts one and leaves none of it behind, however the test ends it; the numbers about it come from /proc, as
the kernel sees them. Deliberately not: an assertion about how it ended.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from tests.in_process import alive, children, eventually
from tests.served import ReplyReader, environment

HERE = Path(__file__).parent
TOOLS = ("tools.py", "async_tools.py")


@dataclass
class Program:
    """A server process."""

    process: trio.Process
    port: int
    log: Path
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request to an operations route: a key, if the server has any."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def workers(self) -> set[int]:
        """Return the processes it has started."""
        return children(self.pid)

    def processor_ticks(self) -> int:
        """Return the clock ticks of CPU that it and its workers have used; a worker may end meanwhile."""
        ticks = _ticks(self.pid)
        for worker in self.workers():
            with suppress(FileNotFoundError, ProcessLookupError):
                ticks += _ticks(worker)
        return ticks

    def descriptors(self) -> int:
        """Return how many files and sockets it has open beside its databases, whose readers are few and open late."""
        found = 0
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found += ".db" not in entry.readlink().name
        return found

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and body of an operations route."""
        return await get(self.port, path, self.headers)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's values with these labels."""
        _, text = await self.get("/metrics")
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        found = re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return sum(float(match[2]) for match in found if wanted <= set((match[1] or "").split(",")))


async def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return status and body of an operations route of the server at `port`."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        reader = ReplyReader(stream)
        await reader.start("GET", b"", {"host": f"127.0.0.1:{port}", **(headers or {})}, path)
        return reader.status, await reader.whole()


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@asynccontextmanager
async def serving(
    folder: Path, settings: str = "", tools: Sequence[str] = TOOLS, stderr: int | None = None
) -> AsyncIterator[Program]:
    """Run a server in `folder`, configured by `settings` (TOML); a test may end it in any way.

    Its stderr is the file `log` unless another is given: a pipe is not read.
    """
    (folder / "mcpd.toml").write_text(settings)
    (folder / "files").mkdir(exist_ok=True)
    words = [sys.executable, "-m", "mcpd", "serve", "--port", "0", "--files", "files", "--data", "data"]
    for name in tools:
        words += ["--tools", str(HERE / name)]
    with (folder / "log").open("wb") as log:
        start = partial(trio.run_process, words, stdout=subprocess.PIPE, stderr=stderr or log, check=False)
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(start, cwd=folder, env=environment()))
            program = Program(process, await _port(process), folder / "log")
            try:
                yield program
            finally:
                process.kill()
                await process.stdout.aclose()  # noqa: ASYNC102 - closing a pipe takes no time
    await eventually(lambda: not alive(program.pid), "the server has ended")


async def _port(process: trio.Process) -> int:
    said = b""
    assert process.stdout is not None
    async for chunk in process.stdout:
        said += chunk
        found = re.search(rb"http://\S+:(\d+)/mcp", said)
        if found and b"data" in said:
            return int(found[1])
    raise AssertionError(f"no address in {said!r}")
