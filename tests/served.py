"""A real server for tests on sockets: `mcpd serve` as a process, and how to speak to it without a client of ours.

`serving` starts one (mostly for a whole module) and stops it; `Mcp` sends requests to it, in the form of either era,
and shows status, headers and messages of each reply as they came. Used by `tests/gateway` and `tests/conversations`.
Deliberately not: assertions.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h11
import httpx
import trio

from mcpd import cli
from mcpd.wire.envelope import CAPABILITIES_KEY, PREFIX, VERSION_KEY
from mcpd.wire.methods import TABLE
from mcpd.wire.versions import STATEFUL, STATELESS
from tests.mirrored import encode_value

TOOLS = Path(__file__).parent / "conversations" / "tools.py"
WAIT_S = 20.0
"""No exchange of a test takes longer; one that does has failed."""


class Server(NamedTuple):
    """A running server: `http://host:port`, and its process."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


def environment() -> dict[str, str]:
    """Return the environment without settings of ours, able to import this package."""
    ours = ("MCPD_", "REDIS_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(Path(cli.__file__).parents[1])}


def command(subcommand: str, folder: Path, settings: str = "", flags: Sequence[str] = ()) -> list[str]:
    """Return the command line of a server that lives in `folder`, configured by `settings` (TOML)."""
    (folder / "mcpd.toml").write_text(settings)
    (folder / "files").mkdir(exist_ok=True)
    flags = ["--tools", str(TOOLS), "--files", "files", *(flags or ("--data", "data"))]
    return [sys.executable, "-m", "mcpd", subcommand, *flags]


@contextmanager
def serving(folder: Path, settings: str = "", *flags: str, code: int = 0, **process_options: Any) -> Iterator[Server]:
    """Start a server in `folder`; it has to end with this exit code. Its data is in `folder` without flags."""
    words = [*command("serve", folder, settings, flags), "--port", "0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environment(), **process_options
        )
    try:
        yield Server(_address(process), process)
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()
    assert ended == code, (folder / "log").read_text()


@contextmanager
def killable(folder: Path, settings: str = "", *flags: str) -> Iterator[Server]:
    """Start a server in `folder` that a test may kill; what is left of it afterwards is killed, too."""
    words = [*command("serve", folder, settings, flags), "--port", "0"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environment())
    try:
        yield Server(_address(process), process)
    finally:
        process.kill()
        process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()


def _address(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(rb"(https?://\S+)/mcp", line)
        if found:
            return found.group(1).decode()
    raise AssertionError("the server did not start")


class Reply(NamedTuple):
    """What came back: `messages` are the JSON body, or the data of its events, in order."""

    status: int
    headers: httpx.Headers
    messages: list[Any]
    events: list[dict[str, str]]
    text: str = ""

    @property
    def streamed(self) -> bool:
        """True when the reply was an event stream."""
        return str(self.headers.get("content-type", "")).startswith("text/event-stream")

    @property
    def last(self) -> Any:
        """The response."""
        return self.messages[-1]

    @property
    def code(self) -> int | None:
        """The code of the JSON-RPC error, None for a result."""
        error = self.last.get("error")
        return None if error is None else error["code"]

    @property
    def result(self) -> Any:
        """The result."""
        return self.last["result"]


class Mcp:
    """One HTTP client of `/mcp`. `session` holds the headers of its stateful session once it has one."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.session: dict[str, str] = {}

    async def post(self, body: Any, headers: dict[str, str] | None = None, *, plain: bool = False) -> Reply:
        """Send a body (bytes as they are, else as JSON); `plain` sends no headers but those given."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        usual = {} if plain else {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        return await read(await self.http.post("/mcp", content=content, headers={**usual, **(headers or {})}))

    async def ask(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Reply:
        """Send a stateless request with its headers; `headers` and `meta` change what is sent, None removes."""
        body, headers = stateless(method, params, **more)
        return await self.post(body, headers)

    async def initialize(self, version: str = STATEFUL[0], capabilities: dict[str, Any] | None = None) -> Reply:
        """Open a session and say `initialized`."""
        params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": CLIENT}
        reply = await self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        self.session = {"mcp-session-id": reply.headers["mcp-session-id"], "mcp-protocol-version": version}
        assert (await self.say("notifications/initialized")).status == 202
        return reply

    async def call(self, method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> Reply:
        """Send a request of the session."""
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
        return await self.post(message, self.session)

    async def say(self, method: str, params: dict[str, Any] | None = None) -> Reply:
        """Send a notification of the session."""
        return await self.post({"jsonrpc": "2.0", "method": method, "params": params or {}}, self.session)

    @asynccontextmanager
    async def streaming(
        self, method: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[ReplyReader]:
        """Open a reply that has to be an event stream, as it comes. Leaving closes the connection."""
        content = b"" if body is None else json.dumps(body).encode()
        async with opened(str(self.http.base_url), method, content, {**self.http.headers, **(headers or {})}) as reader:
            assert reader.streamed, reader.status
            yield reader


@asynccontextmanager
async def opened(url: str, method: str, content: bytes, headers: dict[str, str]) -> AsyncIterator[ReplyReader]:
    """Send one request to `/mcp` of the server at `url` and read the head of the reply; leaving closes the socket."""
    base = httpx.URL(url)
    usual = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    fixed = {"host": base.netloc.decode(), "content-length": str(len(content))}
    async with await trio.open_tcp_stream(base.host, base.port or 80) as stream:
        reader = ReplyReader(stream)
        await reader.start(method, content, {**usual, **headers, **fixed})
        yield reader


async def upgrade(port: int, headers: dict[str, str]) -> Reply:
    """Ask for a WebSocket at `/ws`; return the refusal."""
    usual = {
        "host": f"127.0.0.1:{port}",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
    }
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        reader = ReplyReader(stream)
        await reader.start("GET", b"", {**usual, **headers}, target="/ws")
        text = await reader.whole()
    return Reply(reader.status, httpx.Headers(reader.headers), [json.loads(text)], [], text)


class ReplyReader:
    """One reply as it arrives, be it an event stream or a JSON text."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._buffer = ""
        self.status = 0
        self.headers: dict[str, str] = {}

    @property
    def streamed(self) -> bool:
        """True when the reply is an event stream."""
        return self.headers.get("content-type") == "text/event-stream"

    async def start(self, method: str, content: bytes, headers: dict[str, str], target: str = "/mcp") -> None:
        """Send the request and read the head of the reply."""
        request = h11.Request(method=method, target=target, headers=list(headers.items()))
        data = [self._http.send(part) or b"" for part in (request, h11.Data(data=content), h11.EndOfMessage())]
        await self._stream.send_all(b"".join(data))
        response = await self._next()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}

    async def _next(self) -> Any:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            with trio.fail_after(WAIT_S):
                self._http.receive_data(bytes(await self._stream.receive_some()))

    async def _more(self) -> bool:
        part = await self._next()
        if isinstance(part, h11.Data):
            self._buffer += bytes(part.data).decode()
        return isinstance(part, h11.Data)

    async def event(self) -> dict[str, str] | None:
        """Return the next event as field -> value, None at the end; a comment has the only field `comment`."""
        while "\n\n" not in self._buffer:
            if not await self._more():
                return None
        text, _, self._buffer = self._buffer.partition("\n\n")
        return _fields(text)

    async def message(self) -> Any:
        """Return the next JSON-RPC message, None at the end."""
        while (event := await self.event()) is not None:
            if event.get("data"):
                return json.loads(event["data"])
        return None

    async def whole(self) -> str:
        """Return the rest of the reply."""
        while await self._more():
            pass
        text, self._buffer = self._buffer, ""
        return text


def _fields(text: str) -> dict[str, str]:
    lines = [line.partition(":") for line in text.splitlines()]
    return {name or "comment": value.strip() for name, _, value in lines}


CLIENT = {"name": "tests", "version": "1"}


def stateless(
    method: str,
    params: dict[str, Any] | None = None,
    *,
    request_id: Any = 1,
    meta: dict[str, Any] | None = None,
    headers: dict[str, str | None] | None = None,
    capabilities: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return body and headers of a sound stateless request, changed by `meta` and `headers` (None removes)."""
    params = dict(params or {})
    marks = {VERSION_KEY: STATELESS, CAPABILITIES_KEY: capabilities or {}, PREFIX + "clientInfo": CLIENT}
    params["_meta"] = {key: value for key, value in {**marks, **(meta or {})}.items() if value is not None}
    body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    usual: dict[str, str | None] = {"mcp-protocol-version": STATELESS, "mcp-method": method}
    row = TABLE.get(method)
    if row is not None and row.target is not None:
        usual["mcp-name"] = encode_value(str(params.get(row.target)))
    return body, {key: value for key, value in {**usual, **(headers or {})}.items() if value is not None}


async def read(response: httpx.Response) -> Reply:
    """Read a reply to its end."""
    text = (await response.aread()).decode()
    kind = response.headers.get("content-type", "").partition(";")[0]
    found = [_fields(part) for part in text.split("\n\n") if part] if kind == "text/event-stream" else []
    messages = [json.loads(event["data"]) for event in found if event.get("data")]
    if kind == "application/json":
        messages = [json.loads(text)]
    return Reply(response.status_code, response.headers, messages, found, text)


@asynccontextmanager
async def client_of(server: Server, **headers: str) -> AsyncIterator[Mcp]:
    """Open an HTTP client of a server; `headers` go with every request."""
    async with client_at(server.url, **headers) as client:
        yield client


@asynccontextmanager
async def client_at(url: str, **headers: str) -> AsyncIterator[Mcp]:
    """Open an HTTP client of the server at `url`; `headers` go with every request.

    It reads no certificates, which takes 50 ms and is of no use on plain HTTP.
    """
    unverified = httpx.AsyncHTTPTransport(verify=False)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=WAIT_S, trust_env=False, transport=unverified
    ) as http:
        yield Mcp(http)
