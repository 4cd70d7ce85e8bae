"""Every request leaves one line in the log, under the id that its client was given, with the client's address."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from mcpd.config import Config, Server
from mcpd.gateway.app import Operations
from mcpd.gateway.asgi import REFUSED
from mcpd.monitoring.logs import Logs
from mcpd.secret import Secret
from mcpd.wire.envelope import VERSION_KEY
from mcpd.wire.versions import STATEFUL
from tests.in_process import WAIT_S, Running, eventually, http_server, server_config
from tests.served import CLIENT, ReplyReader, stateless

KEY = "mcpd_of_the_operator"
BEARER = {"authorization": f"Bearer {KEY}"}
ID = "asked-for.1"
UPGRADE = {
    "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}  # fmt: skip
BODY, HEADERS = stateless("tools/list")
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": CLIENT},
}  # fmt: skip
NOTICE = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"_meta": BODY["params"]["_meta"]}}
NO_REVISION = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"_meta": {VERSION_KEY: "2001-01-01"}}}
SAID = {"a notification of no revision": "notifications/cancelled", "a session that is none": "tools/list"}
"""What a message that was refused was called; others have the method of HTTP."""
Case = tuple[str, str, dict[str, str], Any, int, str]
CASES: dict[str, Case] = {
    "a call": ("POST", "/mcp", {**JSON, **HEADERS, **BEARER}, BODY, 200, "ok"),
    "a call that is refused": ("POST", "/mcp", {**JSON, **BEARER}, {"jsonrpc": "2.0", "id": 1}, 400, "protocol_error"),
    "a body that is none": ("POST", "/mcp", {**BEARER}, BODY, 415, "protocol_error"),
    "a session": ("POST", "/mcp", {**JSON, **BEARER}, INITIALIZE, 200, "ok"),
    "a notification": ("POST", "/mcp", {**JSON, **HEADERS, **BEARER}, NOTICE, 202, "ok"),
    "a preflight": ("OPTIONS", "/mcp", {}, None, 204, "ok"),
    "no key": ("POST", "/mcp", {**JSON, **HEADERS}, BODY, 401, "protocol_error"),
    "a stream of no session": ("GET", "/mcp", {**BEARER}, None, 405, "protocol_error"),
    "a method that is none": ("PUT", "/mcp", {**BEARER}, None, 405, "protocol_error"),
    "nothing here": ("GET", "/nothing", {}, None, 404, "protocol_error"),
    "a wrong method": ("POST", "/healthz", {}, None, 405, "protocol_error"),
    "a probe": ("GET", "/healthz", {}, None, 200, "ok"),
    "a scrape": ("GET", "/metrics", BEARER, None, 200, "ok"),
    "a scrape without a key": ("GET", "/metrics", {}, None, 401, "protocol_error"),
    "a WebSocket without a key": ("GET", "/ws", UPGRADE, None, 401, "protocol_error"),
    "a WebSocket of a wrong host": ("GET", "/ws", {**UPGRADE, "host": "evil.example"}, None, 421, "protocol_error"),
    "a WebSocket of another protocol": (
        "GET", "/ws", {**UPGRADE, **BEARER, "sec-websocket-protocol": "chat"}, None, 400, "protocol_error",
    ),
    "a WebSocket whose upgrade a proxy has dropped": ("GET", "/ws", {}, None, 426, "protocol_error"),
    "a message that cannot be": ("POST", "/mcp", {**JSON, **BEARER}, 7, 400, "protocol_error"),
    "a notification of no revision": ("POST", "/mcp", {**JSON, **BEARER}, NO_REVISION, 400, "protocol_error"),
    "a session that is none": (
        "POST", "/mcp", {**JSON, **BEARER, "mcp-session-id": "x"}, {**INITIALIZE, "method": "tools/list"},
        404, "protocol_error",
    ),
    "a page of another site": ("POST", "/mcp", {**JSON, "origin": "http://evil"}, BODY, 403, "protocol_error"),
    "a WebSocket whose key is none": (
        "GET", "/ws", {**UPGRADE, **BEARER, "sec-websocket-key": "x"}, None, 400, "protocol_error",
    ),
    "a method that nobody knows": ("BREW", "/mcp", BEARER, None, 501, "protocol_error"),
    "a target of a proxy": ("GET", "ftp://elsewhere/x", BEARER, None, 400, "protocol_error"),
    "a WebSocket elsewhere": ("GET", "/elsewhere", UPGRADE, None, 404, "protocol_error"),
}  # fmt: skip


def configured(folder: Path, **server: Any) -> Config:
    config = server_config(folder)
    auth = replace(config.auth, api_key=Secret(KEY))
    return replace(config, auth=auth, server=Server(port=0, trusted_proxies=("127.0.0.1",), **server))


async def ask(running: Running, case: Case, **more: str) -> ReplyReader:
    method, path, headers, body, status, _ = case
    content = b"" if body is None else httpx.Request("POST", "http://x", json=body).content
    async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
        reader = ReplyReader(stream)
        fixed = {"host": f"127.0.0.1:{running.port}", "content-length": str(len(content)), **more}
        await reader.start(method, content, {**fixed, **headers}, path)
        assert reader.status == status
        return reader


def lines(running: Running) -> list[str]:
    """Return the lines of requests; complete once the server has ended."""
    return [line for line in b"".join(running.lines).decode().splitlines() if " request " in line]


@pytest.mark.parametrize("name", CASES)
async def test_every_request_is_one_line_with_its_id_outcome_and_client(tmp_path: Path, name: str) -> None:
    """README: one line on stderr is written for each request."""
    case = CASES[name]
    with trio.fail_after(2 * WAIT_S):
        async with http_server(configured(tmp_path)) as running:
            reply = await ask(running, case, **{"x-request-id": ID, "x-forwarded-for": "6.6.6.6, 203.0.113.7"})
            assert reply.headers["x-request-id"] == ID
    (line,) = lines(running)
    assert re.search(rf" id={re.escape(ID)} .* outcome={case[5]} .*client=203\.0\.113\.7( |$)", line), line
    if case[4] >= 400:
        expect_reason(line, SAID.get(name, case[0]), case[1], case[4])
    for seen in ("evil.example", "http://evil"):
        assert (seen in line) == (seen in case[2].values()), "a Host or Origin that is refused is named"


def expect_reason(line: str, method: str, path: str, status: int) -> None:
    """A refusal says what was asked, and why it was refused."""
    assert f" method={method} " in line
    assert f" target={path} " in line
    assert f" status={status}" in line
    if status not in (404, 405, 426):
        assert re.search(r' detail="[A-Z].{5,}"', line), line


@pytest.mark.parametrize(
    ("sent", "status", "method", "path"),
    [
        (b"\x16\x03\x01\n\r\n\r\n", 400, '"\\u0016\\u0003\\u0001"', ""),
        (b"GET /\x1b[31m\x80?key=secret HTTP/1.1\r\n\r\n", 400, "GET", '"/\\u001b[31m\\u0080"'),
        (b"GET /a" + b"b" * 40_000, 431, "GET", "/a" + "b" * 250),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\nX y: Bearer secret\r\n\r\n", 400, "GET", "/a"),
        (b"GET /a HTTP/3.0\r\nHost: h\r\n\r\n", 505, "GET", "/a"),
        (b"POST /mcp HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "POST", "/mcp"),
        (
            b"POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n?zz\r\n",
            400,
            "POST",
            "/healthz",
        ),
    ],
)
async def test_what_is_no_request_is_one_line_too(
    tmp_path: Path, sent: bytes, status: int, method: str, path: str
) -> None:
    """README: one line for each request; bounded, escaped, without what is secret."""
    with trio.fail_after(2 * WAIT_S):
        async with (
            http_server(configured(tmp_path)) as running,
            await trio.open_tcp_stream("127.0.0.1", running.port) as stream,
        ):
            await stream.send_all(sent)
            received = b""
            while chunk := await stream.receive_some():
                received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    reason = json.loads(body)["detail"]
    name = re.search(rb"x-request-id: (\S+)", head)
    assert name is not None
    (line,) = lines(running)
    assert f" id={name[1].decode()} " in line
    assert f" method={method} outcome=protocol_error " in line
    assert (f" target={path} " in line) if path else (" target=" not in line)
    assert f" client=127.0.0.1 status={status} detail={json.dumps(reason)}" in line
    assert "secret" not in line + reason


async def test_a_connection_too_many_is_a_line_too(tmp_path: Path) -> None:
    """SEC-4; README: one line for each request."""
    config = configured(tmp_path)
    config = replace(config, limits=replace(config.limits, max_connections=1))
    with trio.fail_after(2 * WAIT_S):
        async with (
            http_server(config) as running,
            await trio.open_tcp_stream("127.0.0.1", running.port) as first,
        ):
            await first.send_all(b"GET /healthz HTTP/1.1\r\n")
            await eventually(lambda: running.metric("mcpd_connections", transport="http") == 1, "it is there")
            async with await trio.open_tcp_stream("127.0.0.1", running.port) as second:
                received = b""
                while chunk := await second.receive_some():
                    received += chunk
            await first.send_all(b"Host: 127.0.0.1\r\nConnection: close\r\n\r\n")
            while await first.receive_some():
                pass
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"content-length: {len(body)}" in head.decode()
    name = re.search(rb"x-request-id: (\S+)", head)
    assert name is not None
    (line,) = (line for line in lines(running) if "status=503" in line)
    assert f" id={name[1].decode()} " in line
    assert f" client=127.0.0.1 status=503 detail={json.dumps(json.loads(body)['detail'])}" in line


@pytest.mark.parametrize("name", CASES)
async def test_a_request_without_an_id_is_given_one_that_is_in_the_log(tmp_path: Path, name: str) -> None:
    """Everywhere: X-Request-Id."""
    with trio.fail_after(2 * WAIT_S):
        async with http_server(configured(tmp_path)) as running:
            reply = await ask(running, CASES[name], **{"x-request-id": "not one\x7f!"})
    (line,) = lines(running)
    assert f" id={reply.headers['x-request-id']} " in line
    assert line.rpartition("client=")[2].startswith("127.0.0.1")


async def test_a_socket_that_is_accepted_says_its_id(tmp_path: Path) -> None:
    """WS-1."""
    with trio.fail_after(2 * WAIT_S):
        async with (
            http_server(configured(tmp_path)) as running,
            await trio.open_tcp_stream("127.0.0.1", running.port) as stream,
        ):
            sent = {"host": f"127.0.0.1:{running.port}", "x-request-id": ID, **UPGRADE, **BEARER}
            head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            await stream.send_all(f"GET /ws HTTP/1.1\r\n{head}\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive_some()
            assert received.startswith(b"HTTP/1.1 101 ")
            assert f"x-request-id: {ID}\r\n".encode() in received.lower()


async def test_metrics_on_a_listener_of_their_own_are_logged_as_well(tmp_path: Path) -> None:
    """README: one line for each request."""
    with trio.fail_after(2 * WAIT_S):
        config = configured(tmp_path)
        port = _free_port()
        config = replace(config, server=replace(config.server, metrics_bind=f"127.0.0.1:{port}"))
        async with http_server(config) as running:
            running.port = port
            reply = await ask(running, ("GET", "/metrics", {}, None, 200, "ok"))
    (line,) = lines(running)
    assert f" id={reply.headers['x-request-id']} " in line


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_client_that_leaves_before_its_reply_is_no_error() -> None:
    """A probe that gives up must not look like a fault of the server."""
    lines: list[bytes] = []
    logs = Logs(lines.append, requests=True)

    async def gives_up(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.disconnect"

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        raise AssertionError("nobody is there")

    await Operations(gives_up, logs)({"type": "http", "method": "GET", "path": "/readyz", "headers": []}, receive, send)
    logs.close()
    assert b"outcome=cancelled" in b"".join(lines)


async def test_what_the_server_below_has_refused_is_not_logged_again() -> None:
    """One line for each request: the reply to a body that goes wrong is not the application's."""
    lines: list[bytes] = []
    logs = Logs(lines.append, requests=True)

    async def gives_up(scope: Any, receive: Any, send: Any) -> None:
        scope[REFUSED] = True

    async def nothing(*_: Any) -> Any:
        raise AssertionError("nobody asks")

    scope = {"type": "http", "method": "POST", "path": "/readyz", "headers": []}
    await Operations(gives_up, logs)(scope, nothing, nothing)
    logs.close()
    assert lines == []


@pytest.mark.parametrize(("rest", "outcome"), [(b"", "cancelled"), (b"zz\r\n", "protocol_error")])
async def test_a_message_that_is_never_complete_is_one_line(tmp_path: Path, rest: bytes, outcome: str) -> None:
    """README: one line for each request; its client leaves, or its body goes wrong after it has begun."""
    sent = "".join(f"{name}: {value}\r\n" for name, value in {**JSON, **BEARER, "transfer-encoding": "chunked"}.items())
    with trio.fail_after(2 * WAIT_S):
        async with (
            http_server(configured(tmp_path)) as running,
            await trio.open_tcp_stream("127.0.0.1", running.port) as stream,
        ):
            head = f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{running.port}\r\n{sent}\r\n"
            await stream.send_all(head.encode() + b"1\r\n{\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(rest)
            await stream.send_eof()
            while await stream.receive_some():
                pass
    (line,) = lines(running)
    assert f" method=POST outcome={outcome} " in line
    assert " target=/mcp " in line
