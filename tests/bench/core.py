"""`python -m tests.bench.core`: one echo call without HTTP, in microseconds of processor time, and where they go.

The whole server is built as `mcpd serve` builds it; then its ASGI application is called in memory, body bytes in,
reply bytes out: access check, headers, era, validation, the call's scope and deadline, the tool, metrics, log, record,
and the watch for a client that leaves. No socket, no Hypercorn. After every 16 calls the event loop gets one turn, as
it would with 16 connections, so that the watches are looked after.

Rounds alternate with `json.loads` of the same request plus `json.dumps` of the same reply, for a ratio that travels
from machine to machine. The profile is taken by sampling (SIGPROF on processor time): it adds no cost per function
call, which at this size would drown what it measures.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mcpd import assembly, settings
from mcpd.config import Config
from mcpd.gateway.access import Access
from mcpd.gateway.app import make_app
from mcpd.gateway.asgi import WHOLE_BODY
from mcpd.monitoring import logs
from tests.bench import call, machine, report, rounds, servers
from tests.bench.sampling import Profile

PORT = 8000
TURN = 16
MOST_US = 90.0
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Exchange:
    """One request and its reply, in memory; after the body the client is quiet and stays."""

    __slots__ = ("_body", "reply", "status")

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.reply = b""
        self.status = 0

    async def receive(self) -> dict[str, Any]:
        """The body, then nothing for ever."""
        body, self._body = self._body, None
        if body is None:
            await trio.sleep_forever()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, event: dict[str, Any]) -> None:
        """Keep what is sent."""
        self.status = event.get("status", self.status)
        self.reply += event.get("body", b"")


def scope(body: bytes) -> dict[str, Any]:
    """An ASGI scope as the HTTP/1.1 path makes it for the benchmarks' request, body included."""
    head = call.http(PORT, body).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in head)]
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"spec_version": "2.3", "version": "3.0"},
        "method": "POST",
        "scheme": "http",
        "path": "/mcp",
        "raw_path": b"/mcp",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", PORT),
        "state": {},
        "extensions": {WHOLE_BODY: body},
    }


async def run_calls(application: Application, count: int) -> float:
    """Processor time of one call, in microseconds, over `count` of them."""
    body = call.body()
    request = scope(body)
    begin = time.process_time()
    for number in range(count):
        exchange = Exchange(body)
        await application({**request}, exchange.receive, exchange.send)
        if number % TURN == 0:
            await trio.lowlevel.checkpoint()
    return (time.process_time() - begin) / count * 1e6


async def reply_of(application: Application) -> bytes:
    """The reply, judged as every server's is.

    Raises:
        call.WrongReply: it is not the echo.
    """
    body = call.body()
    exchange = Exchange(body)
    await application(scope(body), exchange.receive, exchange.send)
    if exchange.status != 200:
        raise call.WrongReply(f"status {exchange.status}: {exchange.reply!r}")
    call.check(exchange.reply)
    return exchange.reply


def run_json(reply: bytes, count: int) -> float:
    """Processor time of `json.loads` of the request and `json.dumps` of the reply, in microseconds."""
    body, value = call.body(), json.loads(reply)
    begin = time.process_time()
    for _ in range(count):
        json.loads(body)
        json.dumps(value)
    return (time.process_time() - begin) / count * 1e6


async def measure(options: Any, folder: str) -> tuple[rounds.Samples, Profile]:
    """Build the server, run the alternated rounds, then profile."""
    flags = {
        "data.folder": f"{folder}/data",
        "files.root": folder,
        "tools.modules": (str(servers.ROOT / "tests/bench/echo.py"),),
        "server.log_level": "warning",
        "records.enabled": not options.no_records,
    }
    config = settings.load(None, {}, flags)
    async with assembly.open_stores(config) as stores:
        return await measure_with(stores, config, options)


async def measure_with(stores: assembly.Stores, config: Config, options: Any) -> tuple[rounds.Samples, Profile]:
    """Measure a server on these stores; its recorder writes between the rounds."""
    log = logs.configure("warning")
    server = assembly.build(config, log, stores)
    access = Access(config.server, server.keys, ports=[PORT])
    samples: rounds.Samples = {"core": [], "json": []}
    profile = Profile()
    async with trio.open_nursery() as nursery:
        watch = (server.metrics, server.health, log)
        application = make_app(config, server.manager, server.sessions, access, watch=watch, nursery=nursery).asgi_app
        if server.manager.recorder is not None:
            await nursery.start(server.manager.recorder.run)
        reply = await reply_of(application)
        await run_calls(application, options.calls)
        for _ in range(options.rounds):
            samples["core"].append({"us": await run_calls(application, options.calls)})
            samples["json"].append({"us": run_json(reply, options.calls * 5)})
        with profile.sampling():
            await run_calls(application, options.calls * 10)
        nursery.cancel_scope.cancel()
    return samples, profile


def main() -> None:
    """Measure and publish."""
    made = rounds.parser(__doc__ or "", "core")
    made.add_argument("--calls", type=int, default=3000, help="calls per round")
    made.add_argument("--no-records", action="store_true", help="without call records, which are on by default")
    options = made.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcpd-bench-") as folder, machine.on_core(servers.SERVER_CORE):
        samples, profile = trio.run(measure, options, folder)
    core, plain = rounds.median(samples["core"], "us"), rounds.median(samples["json"], "us")
    ratio = rounds.Ratio.of(rounds.values(samples["core"], "us"), rounds.values(samples["json"], "us"))
    text = "\n\n".join(
        [
            f"core {core:.1f} us   json.loads + json.dumps {plain:.1f} us   ratio {report.ratio_text(ratio)}",
            *profile.tables(core),
        ]
    )
    data = {"rounds": options.rounds, "samples": samples}
    aims = [report.Target("core, microseconds of processor time per call", core, most=MOST_US)]
    report.publish("Core: body bytes to reply bytes, without HTTP", text, aims, data, options.json)


if __name__ == "__main__":
    main()
