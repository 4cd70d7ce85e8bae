"""The WebSocket client and `mcpd call`, against a small scripted server on a real socket."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio_websocket

from mcpd import client as client_module
from mcpd.client import ConnectionFailed, RequestFailed, open_client, websocket_url
from mcpd.commands.calling import UsageMistake, describe_progress, offer, read_arguments, render, show
from mcpd.errors import ConfigurationError

Script = Callable[["Peer"], Awaitable[None]]

ECHO = {
    "name": "echo",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
    },
}


class Peer:
    """The server's end of one connection."""

    def __init__(self, socket: trio_websocket.WebSocketConnection, headers: dict[bytes, bytes]) -> None:
        self.socket = socket
        self.headers = headers

    async def get(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.socket.get_message())
        return message

    async def send(self, **message: Any) -> None:
        await self.socket.send_message(json.dumps({"jsonrpc": "2.0", **message}))


@asynccontextmanager
async def served(script: Script) -> AsyncIterator[str]:
    """Run `script` for each connection; yields the address."""

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        offered = [protocol for protocol in request.proposed_subprotocols if protocol == "mcp"]
        socket = await request.accept(subprotocol=offered[0])
        try:
            await script(Peer(socket, dict(request.headers)))
        except trio_websocket.ConnectionClosed:
            return

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, ssl_context=None)
            )
            yield f"ws://127.0.0.1:{server.port}/ws"
            nursery.cancel_scope.cancel()


async def answer_forever(peer: Peer) -> None:
    while True:
        message = await peer.get()
        if message["method"] == "tools/list":
            await peer.send(id=message["id"], result={"tools": [ECHO]})
        elif "id" in message:
            await peer.send(id=message["id"], result={"content": [{"type": "text", "text": json.dumps(message)}]})


def echoed(result: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(result["content"][0]["text"])
    return message


async def test_a_call_carries_its_own_version_capabilities_and_limit() -> None:
    """STA-1, WS-4."""
    async with served(answer_forever) as url, open_client(url) as client:
        message = echoed(await client.call_tool("echo", {"text": "hi"}, timeout_s=1.5))
        plain = echoed(await client.call_tool("echo", {}))
    assert message["method"] == "tools/call"
    assert message["params"]["name"] == "echo"
    assert message["params"]["arguments"] == {"text": "hi"}
    meta = message["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {}
    assert meta["dev.mcpd/timeoutMs"] == 1500
    assert "progressToken" not in meta
    assert "dev.mcpd/timeoutMs" not in plain["params"]["_meta"]
    assert message["id"] != plain["id"]


async def test_the_key_travels_only_in_the_authorization_header() -> None:
    """WS-3."""
    seen: list[dict[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        seen.append(peer.headers)
        await answer_forever(peer)

    async with served(script) as url:
        async with open_client(url, key="mcpd_secret") as client:
            assert "mcpd_secret" not in json.dumps(await client.call_tool("echo", {}))
        async with open_client(url) as client:
            await client.call_tool("echo", {})
    assert seen[0][b"authorization"] == b"Bearer mcpd_secret"
    assert b"authorization" not in seen[1]


async def test_progress_reaches_the_request_that_asked_for_it() -> None:
    """PRG-1."""

    async def script(peer: Peer) -> None:
        first, second = await peer.get(), await peer.get()
        for step in (1, 2):
            token = second["params"]["_meta"]["progressToken"]
            await peer.send(method="notifications/progress", params={"progressToken": token, "progress": step})
        await peer.send(method="notifications/progress", params={"progressToken": "unknown", "progress": 9})
        await peer.send(id=second["id"], result={"content": [], "of": second["params"]["name"]})
        await peer.send(id=first["id"], result={"content": [], "of": first["params"]["name"]})

    progress: dict[str, list[float]] = {"a": [], "b": []}
    results: dict[str, dict[str, Any]] = {}

    async def call(name: str) -> None:
        results[name] = await client.call_tool(
            name, {}, on_progress=lambda params: progress[name].append(params["progress"])
        )

    async with served(script) as url, open_client(url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(call, "a")
        nursery.start_soon(call, "b")
    assert {name: result["of"] for name, result in results.items()} == {"a": "a", "b": "b"}
    assert sorted(progress.values()) == [[], [1, 2]]


async def test_a_cancelled_call_is_cancelled_on_the_server_before_the_socket_closes() -> None:
    """CAN-3, IO-7."""
    heard: list[dict[str, Any]] = []
    closed = trio.Event()
    scope = trio.CancelScope()

    async def script(peer: Peer) -> None:
        heard.append(await peer.get())
        scope.cancel()
        try:
            while True:
                heard.append(await peer.get())
        finally:
            closed.set()

    async with served(script) as url:
        with scope:
            async with open_client(url) as client:
                await client.call_tool("slow", {})
        await closed.wait()
    assert [message["method"] for message in heard] == ["tools/call", "notifications/cancelled"]
    assert heard[1]["params"]["requestId"] == heard[0]["id"]


async def test_an_error_of_the_server_keeps_its_code_and_data() -> None:
    """RPC-10."""

    async def script(peer: Peer) -> None:
        message = await peer.get()
        await peer.send(id=message["id"], error={"code": -32602, "message": "Unknown tool", "data": {"name": "x"}})
        await peer.get()
        await peer.send(error={"code": -32700, "message": "Parse error"})

    async with served(script) as url, open_client(url) as client:
        with pytest.raises(RequestFailed, match="Unknown tool") as caught:
            await client.call_tool("x", {})
        assert (caught.value.code, caught.value.data) == (-32602, {"name": "x"})
        with pytest.raises(RequestFailed, match="Parse error"):
            await client.call_tool("x", {})


async def test_all_pages_of_the_tools_are_listed_even_behind_an_empty_cursor() -> None:
    """PAG-1."""

    async def script(peer: Peer) -> None:
        for tool, more in (("a", {"nextCursor": ""}), ("b", {})):
            message = await peer.get()
            assert message["params"].get("cursor") == (None if tool == "a" else "")
            await peer.send(id=message["id"], result={"tools": [{"name": tool}], **more})

    async with served(script) as url, open_client(url) as client:
        assert [tool["name"] for tool in await client.list_tools()] == ["a", "b"]


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAN-5."""
    monkeypatch.setattr(client_module, "PATIENCE_S", 0.05)
    heard: list[str] = []

    async def script(peer: Peer) -> None:
        while True:
            heard.append((await peer.get())["method"])

    async with served(script) as url, open_client(url) as client:
        with pytest.raises(ConnectionFailed, match="no answer within"):
            await client.call_tool("slow", {}, timeout_s=0.05)
    assert heard == ["tools/call", "notifications/cancelled"]


async def test_a_connection_that_breaks_is_told_in_plain_words() -> None:
    """WS-4."""

    async def close(peer: Peer) -> None:
        await peer.get()
        await peer.socket.aclose(1001, "going away")

    async def babble(peer: Peer) -> None:
        await peer.get()
        await peer.socket.send_message("{")

    for script, text in ((close, "going away"), (babble, "not JSON")):
        async with served(script) as url:
            with pytest.raises(ConnectionFailed, match=text):
                async with open_client(url) as client:
                    await client.call_tool("echo", {})


async def test_nobody_listening_is_told_with_what_to_do() -> None:
    """WS-3."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(ConnectionFailed, match="mcpd serve"):
        async with open_client(f"ws://127.0.0.1:{port}/ws"):
            pytest.fail("connected to nobody")


@asynccontextmanager
async def replying(reply: bytes | None) -> AsyncIterator[str]:
    """A TCP server that answers every connection with the same bytes and closes; None: never answers."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if reply is None:
            await trio.sleep_forever()
        else:
            await stream.send_all(reply)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
            yield f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/ws"
            nursery.cancel_scope.cancel()


def refusing(status: int) -> bytes:
    return b"HTTP/1.1 %d No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status


@pytest.mark.parametrize(
    ("reply", "key", "text"),
    [
        (refusing(401), None, "wants an API key"),
        (refusing(401), "mcpd_old", "does not know this API key"),
        (refusing(403), None, "does not allow this caller"),
        (refusing(404), None, "usually ends in /ws"),
        (refusing(421), None, "allowed_hosts"),
        (refusing(426), None, "Upgrade and Connection"),
        (refusing(500), None, "HTTP status 500"),
        (b"", None, "not a WebSocket server"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", None, "not a WebSocket server"),
    ],
)
async def test_a_refused_connection_says_why(reply: bytes, key: str | None, text: str) -> None:
    """WS-3."""
    async with replying(reply) as url:
        with pytest.raises(ConnectionFailed, match=text):
            async with open_client(url, key=key):
                pytest.fail("the connection was refused")


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """WS-3."""
    monkeypatch.setattr(client_module, "CONNECT_S", 0.1)
    async with replying(None) as url:
        with pytest.raises(ConnectionFailed, match="no answer within"):
            async with open_client(url):
                pytest.fail("nobody answered")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ws://h:1/ws", "ws://h:1/ws"),
        ("http://h:1", "ws://h:1/ws"),
        ("https://h/mcp/ws", "wss://h/mcp/ws"),
        ("h:8000", "ws://h:8000/ws"),
        ("[::1]:8000/", "ws://[::1]:8000/ws"),
    ],
)
def test_an_address_is_completed(text: str, url: str) -> None:
    """WS-2."""
    assert websocket_url(text) == url


NO_HOSTS = ["ws://a..b", f"ws://{'x' * 64}", "ws://.", "ws://[::1", "ws://[zz]"]
"""What a resolver raises no OSError about."""


@pytest.mark.parametrize(
    "text", ["", "ftp://h", "ws://", "ws://h:x", "ws://user:key@h/ws", "ws://h/ws?key=k", "h:0", *NO_HOSTS]
)
def test_an_impossible_address_is_refused(text: str) -> None:
    """WS-3: no key in an address."""
    with pytest.raises(ConfigurationError, match="ws://127"):
        websocket_url(text)


async def test_a_key_that_cannot_be_one_is_never_sent() -> None:
    """WS-3."""
    with pytest.raises(ConfigurationError, match="API key"):
        async with open_client("ws://127.0.0.1:9/ws", key="mcpd_\r\nX: 1"):
            pytest.fail("a header was injected")


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "n": {"type": "integer"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "both": {"type": ["string", "integer"]},
        "color": {"enum": ["red", "3"]},
        "ref": {"$ref": "#/$defs/Word"},
        "free": {},
        "items": {"type": "array"},
    },
    "$defs": {"Word": {"type": "string"}},
}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("text=3", "3"),
        ("text=", ""),
        ("text=a=b", "a=b"),
        ("n=3", 3),
        ("maybe=null", "null"),
        ("both=3", "3"),
        ("color=3", "3"),
        ("ref=true", "true"),
        ("free=true", True),
        ("free=not json", "not json"),
        ("unknown=[1]", [1]),
        ('items=["a"]', ["a"]),
    ],
)
def test_a_word_becomes_what_the_schema_admits(pair: str, value: Any) -> None:
    """TOOL-1."""
    assert read_arguments([pair], SCHEMA) == {pair.partition("=")[0]: value}


@pytest.mark.parametrize("pairs", [["n=three"], ["text"], ["=1"], ["n=1", "n=2"], ["items=a,b"]])
def test_words_that_cannot_be_arguments_are_wrong_usage(pairs: list[str]) -> None:
    """TOOL-1."""
    with pytest.raises(UsageMistake):
        read_arguments(pairs, SCHEMA)


def test_content_that_is_no_text_is_described() -> None:
    """TOOL-4."""
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "one"},
        {"type": "image", "data": "AAAA", "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "file:///x", "text": "two"}},
        {"type": "resource", "resource": {"uri": "file:///x", "blob": "AA==", "mimeType": "a/b"}},
        {"type": "resource_link", "uri": "docs:///x", "name": "x"},
    ]
    assert render(blocks).split("\n") == [
        "one",
        "[image, image/png, 3 bytes; --json shows it]",
        "two",
        "[resource, a/b, 1 byte; --json shows it]",
        "[link to docs:///x]",
    ]


def test_progress_is_one_short_line_without_control_characters() -> None:
    """PRG-1."""
    assert describe_progress({"progress": 2, "total": 5, "message": "reading"}) == " 40% 2/5 reading"
    assert describe_progress({"progress": 2}) == "2"
    assert describe_progress({"progress": 1, "message": "a\x1b[2J\nb"}) == "1 a\ufffd[2J b"


async def run_call(url: str, *words: str) -> tuple[int, str, str]:
    done = await trio.run_process(
        [sys.executable, "-m", "mcpd", "call", *words, "--url", url],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def slow_echo(peer: Peer) -> None:
    listing = await peer.get()
    await peer.send(id=listing["id"], result={"tools": [ECHO]})
    call = await peer.get()
    token = call["params"]["_meta"]["progressToken"]
    await peer.send(
        method="notifications/progress",
        params={"progressToken": token, "progress": 1, "total": 2, "message": "half"},
    )
    arguments = call["params"]["arguments"]
    failed = arguments.get("times") == 0
    text = json.dumps(arguments)
    await peer.send(id=call["id"], result={"content": [{"type": "text", "text": text}], "isError": failed})
    await answer_forever(peer)


async def test_mcpd_call_prints_the_result_on_stdout_and_progress_on_stderr() -> None:
    """PRG-1."""
    async with served(slow_echo) as url:
        assert await run_call(url, "echo", "text=1", "times=2") == (
            0,
            '{"text": "1", "times": 2}\n',
            " 50% 1/2 half\n",
        )
        code, out, _ = await run_call(url, "echo", "--json")
        assert (code, json.loads(out)["content"]) == (0, [{"type": "text", "text": "{}"}])


TOKEN = {"progressToken": 2}
STRANGE: dict[str, list[Any]] = {
    "an id that is a list": [{"id": [1], "result": {}}],
    "a token that is an object": [{"method": "notifications/progress", "params": {"progressToken": {}}}],
    "parameters that are a list": [{"method": "notifications/progress", "params": [1]}],
    "progress that is no number": [{"method": "notifications/progress", "params": {**TOKEN, "progress": "x"}}],
    "an error that is a text": [{"error": "x"}],
    "no tools": [{"id": 1, "result": {}}],
    "tools that are none": [{"id": 1, "result": {"tools": [5]}}],
    "content that is none": [
        {"id": 1, "result": {"tools": [ECHO]}},
        {"id": 2, "result": {"content": 5}},
    ],
    "blocks that are none": [{"id": 1, "result": {"tools": [ECHO]}}, {"id": 2, "result": {"content": [5]}}],
}


@pytest.mark.parametrize("what", STRANGE)
async def test_whatever_a_server_sends_is_told_in_a_line_and_never_by_a_traceback(what: str) -> None:
    async def odd(peer: Peer) -> None:
        await peer.get()
        for message in STRANGE[what]:
            await peer.send(**message)
        await peer.socket.aclose(1000, "enough")

    async with served(odd) as url:
        code, out, err = await run_call(url, "echo", "text=hi")
    assert (code, out) == (1, "")
    assert err.startswith("mcpd: the server ")
    assert "Traceback" not in err


async def test_what_a_server_gives_as_the_reason_cannot_move_the_cursor() -> None:
    async def odd(peer: Peer) -> None:
        await peer.socket.aclose(1008, "\x1b[2J\x9b31m go away")

    async with served(odd) as url:
        code, _, err = await run_call(url, "echo", "text=hi")
    assert (code, "go away" in err) == (1, True)
    assert not {"\x1b", "\x9b"} & set(err)


async def test_mcpd_call_tells_failure_and_wrong_usage_apart() -> None:
    """TOOL-2."""
    async with served(slow_echo) as url:
        code, out, err = await run_call(url, "echo", "times=0")
        assert (code, out) == (1, "")
        assert '{"times": 0}' in err
        code, out, err = await run_call(url, "echo", "times=many")
        assert (code, out) == (2, "")
        assert "the tool wants integer" in err
        code, _, err = await run_call(url, "ecko")
        assert code == 2
        assert "echo" in err
        code, _, err = await run_call("ws://127.0.0.1:1/ws", "echo")
        assert code == 1
        assert err.count("\n") == 1
        assert "mcpd serve" in err
        assert (await run_call("ftp://nowhere", "echo"))[0] == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"code": -32603, "message": "Internal error", "data": {"requestId": "ab-1"}}, "log says why, under ab-1"),
        (
            {"code": -32021, "message": "Needs: elicitation", "data": {"requiredCapabilities": {"elicitation": {}}}},
            "cannot answer questions",
        ),
        (
            {"code": -32021, "message": "Needs: x", "data": {"requiredCapabilities": {"extensions": {"a.b/c": {}}}}},
            "knows no extensions",
        ),
        ({"code": -32021, "message": "Needs: x", "data": {"requiredCapabilities": 1}}, "cannot answer questions"),
        ({"code": -32603, "message": "No room", "data": "overloaded"}, "mcpd: No room\n"),
    ],
)
async def test_mcpd_call_says_what_to_do_about_a_refusal(error: dict[str, Any], told: str) -> None:
    """CLI: friendly errors."""

    async def script(peer: Peer) -> None:
        await peer.send(id=(await peer.get())["id"], result={"tools": [ECHO]})
        await peer.send(id=(await peer.get())["id"], error=error)
        await answer_forever(peer)

    async with served(script) as url:
        code, out, err = await run_call(url, "echo")
    assert (code, out) == (1, "")
    assert told in err
    assert err.startswith(f"mcpd: {error['message']}")


def test_who_asks_for_a_tool_that_is_not_there_learns_how_many_there_are() -> None:
    """CLI: friendly errors."""
    names = [f"tool{number:02}" for number in range(12)]
    assert offer("what", names[:2]) == "it has: tool00, tool01"
    assert offer("what", names).endswith("tool09 and 2 more")
    assert offer("tool00x", names) == "the nearest is 'tool00'"
    assert offer("what", []) == "it has: none"


async def test_ctrl_c_cancels_the_call_on_the_server_and_exits_with_130() -> None:
    """CAN-3."""
    heard: list[str] = []
    called, closed = trio.Event(), trio.Event()

    async def script(peer: Peer) -> None:
        listing = await peer.get()
        await peer.send(id=listing["id"], result={"tools": [ECHO]})
        try:
            while True:
                heard.append((await peer.get())["method"])
                called.set()
        finally:
            closed.set()

    async with served(script) as url, trio.open_nursery() as nursery:
        command = [sys.executable, "-m", "mcpd", "call", "echo", "--url", url]
        process = await nursery.start(partial(trio.run_process, command, check=False))
        await called.wait()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        await closed.wait()
    assert heard == ["tools/call", "notifications/cancelled"]


@pytest.mark.parametrize(("terminal", "seen"), [(True, "a\ufffd[2J\nb"), (False, "a\x1b[2J\nb")])
def test_a_terminal_never_obeys_what_a_tool_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, seen: str
) -> None:
    """CLI: a file gets the bytes as they are."""
    for stream, failed in ((sys.stdout, False), (sys.stderr, True)):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
        show([{"type": "text", "text": "a\x1b[2J\nb"}], failed=failed)
        captured = capsys.readouterr()
        assert (captured.err if failed else captured.out).rstrip("\n") == seen
