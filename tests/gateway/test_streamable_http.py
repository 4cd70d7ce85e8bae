"""`/mcp` for 2026-07-28 on a real socket: eras told apart, the ladder, statuses, bodies, streams, going away."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from mcpd.wire.envelope import CAPABILITIES_KEY, PREFIX, SERVER_KEY, SUBSCRIPTION_KEY, VERSION_KEY
from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS
from tests.in_process import eventually, http_server, server_config
from tests.mirrored import encode_value
from tests.served import TOOLS, WAIT_S, Mcp, Server, client_at, client_of, read, serving, stateless

JSON = {"content-type": "application/json"}
ECHO = {"name": "echo", "arguments": {"text": "hi"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "[limits]\nmax_body_bytes = 100000\n") as running:
        yield running


LIST = "tools/list"
CLASSIFIER = [
    ("absent, absent", {}, None, 400, -32600),
    ("stateful, absent", {"mcp-protocol-version": "2025-06-18"}, None, 400, -32600),
    ("stateless, absent", {"mcp-protocol-version": STATELESS}, None, 400, -32602),
    ("unknown, absent", {"mcp-protocol-version": "banana"}, None, 400, -32602),
    ("empty, absent", {"mcp-protocol-version": ""}, None, 400, -32602),
    ("absent, present", {}, STATELESS, 400, -32020),
    ("absent, stateful", {}, "2025-11-25", 400, -32020),
    ("stateful, another", {"mcp-protocol-version": "2025-06-18"}, STATELESS, 400, -32020),
    ("stateful, equal", {"mcp-protocol-version": "2025-11-25"}, "2025-11-25", 400, -32022),
    ("stateless, equal", {"mcp-protocol-version": STATELESS}, STATELESS, 200, None),
    ("unknown, equal", {"mcp-protocol-version": "v999.0.0"}, "v999.0.0", 400, -32022),
    ("stateless, unknown", {"mcp-protocol-version": STATELESS}, "v999.0.0", 400, -32020),
    ("unknown, stateless", {"mcp-protocol-version": "v999.0.0"}, STATELESS, 400, -32020),
]


@pytest.mark.parametrize(("headers", "version", "status", "code"), [row[1:] for row in CLASSIFIER])
async def test_version_header_and_body_decide_the_era_together(
    server: Server, headers: dict[str, str], version: str | None, status: int, code: int | None
) -> None:
    """ERA-1, ERA-2, ERA-3, ERA-4, ERA-5, ERA-9, ERA-10, HDR-1, HDR-5, VER-1, LAD-1."""
    meta: dict[str, Any] = {"progressToken": 1}
    if version is not None:
        meta |= {VERSION_KEY: version, CAPABILITIES_KEY: {}}
    body = {"jsonrpc": "2.0", "id": "a", "method": LIST, "params": {"_meta": meta}}
    async with client_of(server) as mcp:
        reply = await mcp.post(body, {**headers, "mcp-method": LIST})
    assert (reply.status, reply.code, reply.last["id"]) == (status, code, "a")
    assert "mcp-session-id" not in reply.headers
    if code == -32022:
        assert reply.last["error"]["data"] == {"supported": SUPPORTED_STATELESS, "requested": version}


async def test_a_bare_meta_is_no_sign_of_the_stateless_era(server: Server) -> None:
    """ERA-6."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        reply = await mcp.call(
            "tools/call", {**ECHO, "_meta": {"progressToken": 7, "traceparent": "x", PREFIX + "a": 1}}
        )
    assert reply.result["content"][0]["text"] == "hi"


@pytest.mark.parametrize(
    "method",
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "unknown/method"],
)
async def test_a_method_of_the_other_era_is_not_found_even_with_a_session(server: Server, method: str) -> None:
    """ERA-7, LAD-1, RPC-10, RSP-6."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        reply = await mcp.ask(method, headers={"mcp-session-id": mcp.session["mcp-session-id"]}, request_id=0)
    assert (reply.status, reply.code, reply.last["id"]) == (404, -32601, 0)
    assert "mcp-session-id" not in reply.headers


@pytest.mark.parametrize("method", ["server/discover", "subscriptions/listen"])
async def test_a_stateless_method_without_marks_is_told_what_is_missing(server: Server, method: str) -> None:
    """ERA-8."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
    async with client_of(server) as mcp:
        reply = await mcp.post(body)
    assert (reply.status, reply.code) == (400, -32602)
    assert "protocolVersion" in reply.last["error"]["message"]


LADDER: list[tuple[str, dict[str, Any], int]] = [
    ("no capabilities", {"meta": {CAPABILITIES_KEY: None}}, -32602),
    ("capabilities of another type", {"meta": {CAPABILITIES_KEY: []}}, -32602),
    ("a version that is no text", {"meta": {VERSION_KEY: 7}}, -32602),
    ("a client without a name", {"meta": {PREFIX + "clientInfo": {}}}, -32602),
    ("an unknown log level", {"meta": {PREFIX + "logLevel": "loud"}}, -32602),
    ("a progress token of another type", {"meta": {"progressToken": 1.5}}, -32602),
    ("capabilities before version", {"meta": {CAPABILITIES_KEY: None, VERSION_KEY: "v999"}}, -32602),
    ("header before supported", {"meta": {VERSION_KEY: "v999"}}, -32020),
    (
        "supported before method header",
        {"meta": {VERSION_KEY: "v9"}, "headers": {"mcp-protocol-version": "v9", "mcp-method": None}},
        -32022,
    ),
    ("no method header", {"headers": {"mcp-method": None}}, -32020),
    ("a method header in another case", {"headers": {"mcp-method": "TOOLS/CALL"}}, -32020),
    ("an encoded method header", {"headers": {"mcp-method": "=?base64?dG9vbHMvY2FsbA==?="}}, -32020),
    ("no name header", {"headers": {"mcp-name": None}}, -32020),
    ("an empty name header", {"headers": {"mcp-name": ""}}, -32020),
    ("another name", {"headers": {"mcp-name": "add"}}, -32020),
    ("a name in bad base64", {"headers": {"mcp-name": "=?base64?ZWNobw?="}}, -32020),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in LADDER], ids=[row[0] for row in LADDER])
async def test_the_first_step_of_the_ladder_that_fails_is_told(
    server: Server, changes: dict[str, Any], code: int
) -> None:
    """LAD-1, LAD-2, HDR-2, HDR-4, HDR-5, HDR-7, RPC-10."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", ECHO, request_id="x", **changes)
    assert (reply.status, reply.code, reply.last["id"]) == (400, code, "x")


async def test_header_checks_come_before_method_lookup(server: Server) -> None:
    """LAD-2, HDR-5."""
    async with client_of(server) as mcp:
        assert (await mcp.ask("unknown/method", headers={"mcp-method": "other"})).code == -32020


def test_header_names_have_no_case_and_values_no_outer_space(server: Server) -> None:
    """HDR-2, HDR-3."""
    body, headers = stateless("tools/call", ECHO)
    shouted = {name.upper(): f"  {value} \t" for name, value in {**headers, **JSON}.items()}
    assert raw_post(server, body, shouted) == b"200"


async def test_a_name_is_only_compared_where_the_method_has_one(server: Server) -> None:
    """HDR-4."""
    async with client_of(server) as mcp:
        assert (await mcp.ask("tools/list", headers={"mcp-name": "whatever"})).status == 200
        reply = await mcp.ask("resources/read", {"uri": "note:///one"})
        assert reply.result["contents"][0]["text"] == "first"
        assert (
            await mcp.ask("resources/read", {"uri": "note:///one"}, headers={"mcp-name": "note:///two"})
        ).code == -32020


async def test_a_routing_header_sent_twice_is_refused(server: Server) -> None:
    """HDR-5."""
    body, headers = stateless("tools/list")
    raw = [*headers.items(), ("mcp-method", "tools/list"), *JSON.items()]
    async with client_of(server) as mcp:
        response = await mcp.http.post("/mcp", content=json.dumps(body), headers=raw)
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize(
    ("where", "header", "code"),
    [
        ("eu", "eu", None),
        ("Hello, 世界", encode_value("Hello, 世界"), None),
        ("eu", "us", -32020),
        ("eu", None, -32020),
        ("eu", "=?base64?SGVs!!!bG8=?=", -32020),
        ("=?base64?plain", "=?base64?plain", None),
        (None, "eu", -32020),
    ],
)
async def test_mirrored_arguments_agree_with_their_headers(
    server: Server, where: str | None, header: str | None, code: int | None
) -> None:
    """HDR-7, HDR-8, HDR-10, HDR-12."""
    asked: list[dict[str, Any]] = [{"name": "region"}, {"name": "region", "arguments": {}}]
    if where is not None:
        asked = [{"name": "region", "arguments": {"where": where}}]
    headers = {"mcp-param-region": header, "mcp-param-unknown": "ignored"}
    async with client_of(server) as mcp:
        replies = [await mcp.ask("tools/call", params, headers=headers) for params in asked]
    assert {(reply.code, reply.status) for reply in replies} == {(code, 200 if code is None else 400)}


async def test_an_unknown_tool_is_told_although_parameter_headers_are_sent(server: Server) -> None:
    """HDR-13, TOOL-2."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", {"name": "nope"}, headers={"mcp-param-region": "eu"})
    assert (reply.status, reply.code) == (400, -32602)


UNREADABLE = [
    b"",
    b"{",
    b"\xef\xbb\xbf\xef\xbb\xbf{}",
    b"\xff\xfe{}",
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":NaN}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":Infinity}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":1e999}}',
    b'{"a":"\\ud800"}',
    b"9" * 5000,
    b"[" * 50_000,
    b'{"a":' * 10_000,
    b'{"a":' * 100 + b"1" + b"}" * 100,
]
MALFORMED = [
    b"1", b"null", b'"text"', b"{}",
    b'{"jsonrpc":"1.0","id":1,"method":"a"}',
    b'{"jsonrpc":"2.0","id":null,"method":"a"}',
    b'{"jsonrpc":"2.0","id":1.5,"method":"a"}',
    b'{"jsonrpc":"2.0","id":true,"method":"a"}',
    b'{"jsonrpc":"2.0","id":{},"method":"a"}',
    b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
]  # fmt: skip


@pytest.mark.parametrize("version", [STATELESS, STATEFUL[0], None])
async def test_a_body_that_is_no_message_is_a_client_error_in_both_eras(server: Server, version: str | None) -> None:
    """RPC-2, RPC-4, RPC-7, RPC-10, ERA-9."""
    headers = {} if version is None else {"mcp-protocol-version": version}
    async with client_of(server) as mcp:
        for body in UNREADABLE:
            reply = await mcp.post(body, headers)
            assert (reply.status, reply.code) == (400, -32700), body[:40]
            assert reply.last.get("id") == (1 if b'"method"' in body else None), body[:40]
        for body in MALFORMED:
            reply = await mcp.post(body, headers)
            assert (reply.status, reply.code) == (400, -32600), body[:40]
        assert (await mcp.ask("tools/list")).status == 200, "the connection has survived"


@pytest.mark.parametrize("params", [[], 1, "text", None])
async def test_params_are_an_object_and_so_is_meta(server: Server, params: Any) -> None:
    """RPC-6, LAD-1."""
    headers = {"mcp-protocol-version": STATELESS, "mcp-method": "tools/list"}
    async with client_of(server) as mcp:
        for wrong in (params, {"_meta": params}):
            body = {"jsonrpc": "2.0", "id": 5, "method": "tools/list", "params": wrong}
            reply = await mcp.post(body, headers)
            assert (reply.status, reply.code, reply.last["id"]) == (400, -32602, 5)


@pytest.mark.parametrize("request_id", [0, "", "0", -1, 2**53, "id with spaces", "世"])
async def test_an_id_comes_back_as_it_was_sent(server: Server, request_id: Any) -> None:
    """RPC-2, RPC-3, RPC-5."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", ECHO, request_id=request_id)
        failed = await mcp.ask("tools/call", {"name": "nope"}, request_id=request_id)
    for message in (reply.last, failed.last):
        assert message["id"] == request_id
        assert type(message["id"]) is type(request_id)


async def test_equal_ids_of_different_posts_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    """RPC-5, RSP-1: in flight at once, one is cancelled alone, and each answer goes to its own call."""
    answered: list[str] = []

    async def ask(mcp: Mcp, name: str, tool: str = "tell_and_wait") -> None:
        reply = await mcp.ask("tools/call", {"name": tool, "arguments": {"name": name}}, request_id=1)
        answered.append(f"{tool} {name}" if "result" in reply.last else f"no {name}")

    with trio.fail_after(WAIT_S):
        async with (
            http_server(server_config(tmp_path, TOOLS)) as running,
            client_at(f"http://127.0.0.1:{running.port}") as mcp,
            trio.open_nursery() as nursery,
        ):
            for name in "abcd":
                nursery.start_soon(ask, mcp, name)
            await eventually(lambda: running.in_flight() == 4, "all run at once")
            flights = {flight.call.params["arguments"]["name"]: flight for flight in running.parts.manager.in_flight()}
            running.parts.manager.cancel(flights["c"].key)
            await eventually(lambda: answered == ["no c"], "it has been told")
            for left, name in ((2, "b"), (1, "d"), (0, "a")):
                await mcp.ask("tools/call", {"name": "go_on", "arguments": {"name": name}}, request_id=1)
                await eventually(lambda left=left: running.in_flight() == left, "one call is over")  # type: ignore[misc]
                await eventually(lambda left=left: len(answered) == 4 - left, "it is answered")  # type: ignore[misc]
    assert answered == ["no c", "tell_and_wait b", "tell_and_wait d", "tell_and_wait a"]


async def test_an_array_without_a_session_is_refused(server: Server) -> None:
    """BAT-3, ERA-10."""
    body, headers = stateless("tools/list")
    async with client_of(server) as mcp:
        for sent in ({}, headers):
            for batch in ([body], [], [1]):
                reply = await mcp.post(batch, sent)
                assert (reply.status, reply.code) == (400, -32600)


async def test_a_response_is_no_request(server: Server) -> None:
    """RPC-1, IO-2."""
    async with client_of(server) as mcp:
        reply = await mcp.post({"jsonrpc": "2.0", "id": 1, "result": {}}, {"mcp-protocol-version": STATELESS})
    assert (reply.status, reply.code) == (400, -32600)


async def test_a_notification_is_accepted_without_a_body_and_an_unusable_one_is_refused(server: Server) -> None:
    """RPC-1, ERA-9."""
    meta = {VERSION_KEY: STATELESS, CAPABILITIES_KEY: {}}
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
    async with client_of(server) as mcp:
        marked = {**body, "params": {"requestId": 1, "_meta": meta}}
        reply = await mcp.post(marked, {"mcp-protocol-version": STATELESS})
        assert (reply.status, reply.text) == (202, "")
        wrong = {**body, "params": {"_meta": {VERSION_KEY: "v999"}}}
        reply = await mcp.post(wrong, {"mcp-protocol-version": "v999"})
        assert (reply.status, reply.code) == (400, -32022)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "Application/JSON"}, 200),
        ({**JSON, "accept": "text/html"}, 406),
        ({**JSON, "accept": "*/*"}, 200),
        ({**JSON, "accept": "application/*"}, 200),
        ({**JSON, "accept": "text/event-stream"}, 200),
        ({**JSON, "accept": "application/json"}, 200),
    ],
)
async def test_media_types_are_checked_before_the_body(server: Server, headers: dict[str, str], status: int) -> None:
    """ERA-9, RSP-1."""
    body, routing = stateless("tools/list")
    async with client_of(server) as mcp:
        request = mcp.http.build_request("POST", "/mcp", content=json.dumps(body), headers={**routing, **headers})
        for name in ("content-type", "accept"):
            if name not in headers:
                request.headers.pop(name, None)
        reply = await read(await mcp.http.send(request))
    assert reply.status == status
    assert ("error" in reply.last) == (status != 200)


async def test_a_body_has_a_size_whether_it_says_so_or_not(server: Server) -> None:
    """SEC-4, ERA-9, RPC-7."""
    big = b" " * 100_001

    async def in_chunks() -> Any:
        for start in range(0, len(big), 1000):
            yield big[start : start + 1000]

    async with client_of(server) as mcp:
        for content in (big, in_chunks()):
            response = await mcp.http.post("/mcp", content=content, headers=JSON)
            assert (response.status_code, response.json()["error"]["code"]) == (413, -32600)


def raw(server: Server, request: bytes) -> bytes:
    """Send bytes; return all that comes until the server closes or has sent a whole head."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as sock:
        sock.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            data = sock.recv(65536)
            if not data:
                break
            received += data
    return received


def test_a_head_that_is_too_long_is_refused_with_an_answer(server: Server) -> None:
    """SEC-4."""
    head = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX: %b\r\n\r\n" % (server.port, b"a" * 200_000)
    assert raw(server, head).split(b" ")[1] in (b"400", b"431")


def raw_post(server: Server, body: Any, headers: dict[str, str]) -> bytes:
    """Send headers as they are; return the status."""
    content = json.dumps(body).encode()
    fixed = {"Host": f"127.0.0.1:{server.port}", "Content-Length": str(len(content)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
    return raw(server, f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + content).split(b" ")[1]


def test_header_bytes_that_are_no_ascii_are_a_mismatch_and_no_crash(server: Server) -> None:
    """HDR-6, RPC-7."""
    body, headers = stateless("tools/call", ECHO)
    assert raw_post(server, body, {**headers, **JSON, "mcp-name": "ech\xf6"}) == b"400"


async def test_other_methods_are_refused_with_what_is_allowed(server: Server) -> None:
    """GET-1, ERA-9."""
    async with client_of(server) as mcp:
        for method in ("PUT", "PATCH", "HEAD", "TRACE"):
            response = await mcp.http.request(method, "/mcp")
            assert response.status_code == 405
            assert response.headers["allow"] == "POST, GET, DELETE, OPTIONS"
        for method in ("GET", "DELETE"):
            response = await mcp.http.request(method, "/mcp", headers={"mcp-protocol-version": STATELESS})
            assert (response.status_code, response.headers["allow"]) == (405, "POST")
            assert response.json()["error"]["code"] == -32600
        assert (await mcp.ask("tools/list")).status == 200


async def test_pages_of_allowed_origins_may_call_and_others_not(server: Server) -> None:
    """HDR-15, SEC-1, SEC-2."""
    own = f"http://localhost:{server.port}"
    async with client_of(server) as mcp:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "mcp-param-region"}
        preflight = await mcp.http.options("/mcp", headers={"origin": own, **asked})
        assert preflight.status_code == 204
        assert "mcp-param-region" in preflight.headers["access-control-allow-headers"]
        reply = await mcp.ask("tools/list", headers={"origin": own})
        assert reply.headers["access-control-allow-origin"] == own
        refused = await mcp.ask("tools/list", headers={"origin": own, "mcp-method": "x"})
        assert refused.headers["access-control-allow-origin"] == own, "a page must be able to read a refusal"
        for origin in ("http://evil.example.com", "null"):
            foreign = await mcp.ask("tools/list", headers={"origin": origin})
            assert (foreign.status, foreign.code) == (403, -32600)
            assert (await mcp.http.options("/mcp", headers={"origin": origin})).status_code == 403
        rebound = await mcp.ask("tools/list", headers={"host": "evil.example.com"})
        assert (rebound.status, rebound.code) == (421, -32600)


async def test_every_reply_names_its_request(server: Server) -> None:
    """SEC-6."""
    async with client_of(server) as mcp:
        assert (await mcp.ask("tools/list", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
        odd = await mcp.ask("tools/list", headers={"x-request-id": "<script>"})
        assert odd.headers["x-request-id"] not in ("", "<script>")
        crashed = await mcp.ask("tools/call", {"name": "not_a_number"}, headers={"x-request-id": "mine-2"})
    assert (crashed.status, crashed.code) == (200, -32603)
    assert crashed.last["error"] == {"code": -32603, "message": "Internal error", "data": {"requestId": "mine-2"}}


@pytest.mark.parametrize("tool", ["not_a_number", "lone_surrogate"])
async def test_a_result_that_json_cannot_hold_is_an_internal_error(server: Server, tool: str) -> None:
    """RPC-7, RPC-12."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", {"name": tool}, request_id=0)
    assert (reply.status, reply.code, reply.last["id"]) == (200, -32603, 0)


async def test_discover_says_what_is_served_and_all_of_it_is(server: Server) -> None:
    """DIS-1, DIS-2, DIS-3, DIS-4, RES-1, RES-2, RES-3, EXT-0."""
    async with client_of(server) as mcp:
        result = (await mcp.ask("server/discover")).result
        assert result["supportedVersions"] == SUPPORTED_STATELESS
        assert result["resultType"] == "complete"
        assert (result["ttlMs"], result["cacheScope"]) == (60_000, "public")
        assert result["_meta"][SERVER_KEY]["name"] == "mcpd"
        assert "serverInfo" not in result
        assert sorted(result["capabilities"]) == [
            "completions", "extensions", "logging", "prompts", "resources", "tools",
        ]  # fmt: skip
        assert result["capabilities"]["extensions"] == {"io.modelcontextprotocol/tasks": {}}
        for method, member in [
            ("tools/list", "tools"),
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ]:
            listed = (await mcp.ask(method)).result
            assert listed[member]
            assert isinstance(listed["ttlMs"], int)
            assert listed["cacheScope"] in ("public", "private")


async def test_a_list_is_the_same_for_every_connection(server: Server) -> None:
    """STA-1, STA-2."""
    lists = []
    for _ in range(2):
        async with client_of(server) as mcp:
            lists += [(await mcp.ask("tools/list")).result for _ in range(2)]
    assert all(found == lists[0] for found in lists)


async def test_an_empty_cursor_is_a_cursor(server: Server) -> None:
    """PAG-1."""
    async with client_of(server) as mcp:
        for cursor in ("", "made up"):
            reply = await mcp.ask("tools/list", {"cursor": cursor})
            assert (reply.status, reply.code) == (400, -32602)
        assert (await mcp.ask("tools/list", {"cursor": 1})).code == -32602
        await mcp.initialize()
        assert (await mcp.call("tools/list", {"cursor": ""})).code == -32602


async def test_a_quick_call_is_answered_with_json_and_nothing_else(server: Server) -> None:
    """RSP-1, RSP-4, RSP-6, RES-5, RPC-8."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", {**ECHO, "unknown": {}}, meta={"org.example/x": 1})
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert "mcp-session-id" not in reply.headers


async def test_a_call_that_says_something_is_answered_with_a_stream(server: Server) -> None:
    """RSP-2, RSP-3, RSP-4, RSP-5, PRG-1, PRG-2."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", {"name": "count"}, meta={"progressToken": "t"}, request_id="a")
    assert reply.streamed
    assert reply.headers["cache-control"] == "no-cache, no-transform"
    assert reply.headers["x-accel-buffering"] == "no"
    assert all(set(event) == {"event", "data"} and event["event"] == "message" for event in reply.events)
    assert [message["params"]["progress"] for message in reply.messages[:-1]] == [1, 3]
    assert all(message["params"]["progressToken"] == "t" for message in reply.messages[:-1])
    assert reply.last["id"] == "a"


@pytest.mark.parametrize(
    ("level", "heard"), [(None, []), ("debug", ["debug", "info", "error"]), ("notice", ["error"]), ("alert", [])]
)
async def test_log_lines_are_sent_to_those_who_ask_and_from_their_level_on(
    server: Server, level: str | None, heard: list[str]
) -> None:
    """LOG-1."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", {"name": "say"}, meta={PREFIX + "logLevel": level})
    assert [message["params"]["level"] for message in reply.messages[:-1]] == heard


async def test_an_error_is_mapped_to_a_status_also_when_a_function_raises_it(server: Server) -> None:
    """RPC-12, LAD-1, MRT-3."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", {"name": "needs_sampling"}, request_id=0)
        assert (reply.status, reply.code, reply.last["id"]) == (400, -32021, 0)
        assert reply.last["error"]["data"] == {"requiredCapabilities": {"sampling": {}}}
        missing = await mcp.ask("resources/read", {"uri": "note:///none"})
        assert (missing.status, missing.code) == (400, -32602)
        assert missing.last["error"]["data"] == {"uri": "note:///none"}


async def test_a_deadline_is_told_with_its_budget(server: Server) -> None:
    """CAN-5."""
    async with client_of(server) as mcp:
        reply = await mcp.ask("tools/call", {"name": "slow"})
        assert (reply.status, reply.code) == (200, -32603)
        assert reply.last["error"]["data"] == {"reason": "deadline", "budget": "tool", "limitMs": 50}
        reply = await mcp.ask("tools/call", {"name": "hold_in_silence"}, meta={"dev.mcpd/timeoutMs": 30})
        assert reply.last["error"]["data"] == {"reason": "deadline", "budget": "request", "limitMs": 30}
        reply = await mcp.ask("tools/call", {"name": "slow"}, meta={"dev.mcpd/timeoutMs": 0})
        assert reply.code == -32602


async def wait_cancelled(mcp: Mcp, name: str) -> None:
    """Wait until the server says that the held call `name` was cancelled."""
    with trio.fail_after(WAIT_S):
        while name not in (await mcp.ask("tools/call", {"name": "cancelled_calls"})).result["structuredContent"]:
            pass


async def test_going_away_cancels_a_call_that_streams(server: Server) -> None:
    """CAN-1."""
    body, headers = stateless(
        "tools/call", {"name": "hold", "arguments": {"name": "streaming"}}, meta={"progressToken": 1}
    )
    async with client_of(server) as mcp:
        async with mcp.streaming("POST", body, headers) as events:
            assert (await events.message())["method"] == "notifications/progress"
        await wait_cancelled(mcp, "streaming")


async def test_going_away_cancels_a_call_that_has_said_nothing_yet(server: Server) -> None:
    """CAN-1, CAN-2."""
    body, headers = stateless("tools/call", {"name": "hold_in_silence", "arguments": {"name": "quiet"}})
    async with client_of(server) as mcp:
        with trio.move_on_after(0.2):
            await mcp.post(body, headers)
        await wait_cancelled(mcp, "quiet")


async def test_pipelined_bytes_are_no_sign_of_going_away(server: Server) -> None:
    """CAN-2."""
    lines = f"Host: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"

    def request(name: str) -> bytes:
        body, headers = stateless("tools/call", {"name": name, "arguments": {}}, meta={"dev.mcpd/timeoutMs": 200})
        routing = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        content = json.dumps(body).encode()
        return f"POST /mcp HTTP/1.1\r\n{lines}{routing}Content-Length: {len(content)}\r\n\r\n".encode() + content

    with trio.fail_after(WAIT_S):
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(request("hold_in_silence") + request("echo"))
            received = b""
            while received.count(b"HTTP/1.1 200") < 2 or not received.endswith(b"}"):
                received += await stream.receive_some()
    assert b'"budget":"request"' in received
    assert b'"resultType":"complete"' in received


LISTEN = {
    "notifications": {
        "toolsListChanged": True,
        "promptsListChanged": False,
        "resourceSubscriptions": ["note:///one", "note:///none"],
    }
}


async def test_a_listen_stream_acknowledges_first_and_tells_only_what_was_asked(server: Server) -> None:
    """SUB-1, SUB-2, SUB-3, SUB-6, SUB-8, SUB-9, RSP-1, PUB-1."""
    body, headers = stateless("subscriptions/listen", LISTEN, request_id=0)
    async with client_of(server) as mcp, mcp.streaming("POST", body, headers) as events:
        acknowledged = await events.message()
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"] == {
            "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["note:///one"]},
            "_meta": {SUBSCRIPTION_KEY: 0},
        }
        for kind, uri in [
            ("prompts", None),
            ("resource", "note:///two"),
            ("resource", "note:///one"),
            ("tools", None),
        ]:
            arguments = {"kind": kind} if uri is None else {"kind": kind, "uri": uri}
            await mcp.ask("tools/call", {"name": "change", "arguments": arguments})
        told = [await events.message() for _ in range(2)]
    assert told[0] == {
        "jsonrpc": "2.0",
        "method": "notifications/resources/updated",
        "params": {"uri": "note:///one", "_meta": {SUBSCRIPTION_KEY: 0}},
    }
    assert told[1]["method"] == "notifications/tools/list_changed"


async def test_two_listeners_with_one_id_both_hear(server: Server) -> None:
    """SUB-4, SUB-5, SUB-7, GET-2."""
    body, headers = stateless("subscriptions/listen", {"notifications": {"promptsListChanged": True}}, request_id=1)
    headers["last-event-id"] = "1-1"
    async with (
        client_of(server) as mcp,
        mcp.streaming("POST", body, headers) as first,
        mcp.streaming("POST", body, headers) as second,
    ):
        for events in (first, second):
            assert (await events.message())["method"] == "notifications/subscriptions/acknowledged"
        await mcp.ask("tools/call", {"name": "change", "arguments": {"kind": "prompts"}})
        for events in (first, second):
            assert (await events.message())["method"] == "notifications/prompts/list_changed"


async def test_an_empty_filter_is_acknowledged_and_a_broken_one_refused(server: Server) -> None:
    """SUB-1, SUB-10."""
    body, headers = stateless("subscriptions/listen", {"notifications": {}})
    async with client_of(server) as mcp:
        async with mcp.streaming("POST", body, headers) as events:
            assert (await events.message())["params"]["notifications"] == {}
            with trio.move_on_after(0.1) as quiet:
                await events.message()
            assert quiet.cancelled_caught, "the stream stays open"
        filters: list[dict[str, Any]] = [{}, {"notifications": []}, {"notifications": {"toolsListChanged": 1}}]
        for wrong in filters:
            reply = await mcp.ask("subscriptions/listen", wrong)
            assert (reply.status, reply.code) == (400, -32602)


async def test_a_question_is_answered_by_calling_again(server: Server) -> None:
    """MRT-1, MRT-2, MRT-4, MRT-5, MRT-8, RES-1, RES-3."""
    can: dict[str, Any] = {"elicitation": {}}
    answer = {"action": "accept", "content": {"name": "Ada"}}
    async with client_of(server) as mcp:
        asked = (await mcp.ask("tools/call", {"name": "greet"}, capabilities=can)).result
        assert asked["resultType"] == "input_required"
        assert "ttlMs" not in asked
        assert asked["inputRequests"]["user_name"]["method"] == "elicitation/create"
        state = {"name": "greet", "requestState": asked["requestState"]}
        done = await mcp.ask("tools/call", {**state, "inputResponses": {"user_name": answer}}, capabilities=can)
        assert done.result["content"][0]["text"] == "Hello, Ada!"
        again = await mcp.ask("tools/call", {**state, "inputResponses": {"wrong": answer}}, capabilities=can)
        assert again.result["resultType"] == "input_required"
        again = await mcp.ask("tools/call", {**state, "inputResponses": {"user_name": 12345}}, capabilities=can)
        assert again.result["resultType"] == "input_required"
        states: list[Any] = [asked["requestState"] + "-TAMPERED", "", 7, {}]
        for bad in states:
            tampered = await mcp.ask("tools/call", {"name": "greet", "requestState": bad}, capabilities=can)
            assert (tampered.status, tampered.code) == (400, -32602)
        cold = await mcp.ask("tools/call", {"name": "greet", "inputResponses": {"user_name": answer}}, capabilities=can)
        assert cold.result["content"][0]["text"] == "Hello, Ada!"
        assert (await mcp.ask("tools/call", {"name": "greet", "inputResponses": []}, capabilities=can)).code == -32602


async def test_an_answered_read_is_not_cacheable(server: Server) -> None:
    """RES-4, MRT-1, MRT-12."""
    can: dict[str, Any] = {"elicitation": {}}
    answers = {"reader": {"action": "accept", "content": {"name": "Ada"}}}
    async with client_of(server) as mcp:
        asked = (await mcp.ask("resources/read", {"uri": "note:///asked"}, capabilities=can)).result
        for state in ({"requestState": asked["requestState"]}, {}):
            params = {"uri": "note:///asked", "inputResponses": answers, **state}
            read = (await mcp.ask("resources/read", params, capabilities=can)).result
            assert read["contents"][0]["text"] == "for Ada"
            assert (read["ttlMs"], read["cacheScope"]) == (0, "private")
        plain = (await mcp.ask("resources/read", {"uri": "note:///one"})).result
        assert (plain["ttlMs"], plain["cacheScope"]) == (60_000, "public")


async def test_a_completion_cannot_ask_and_the_server_survives_one_that_tries(server: Server) -> None:
    """MRT-1."""
    params = {"ref": {"type": "ref/resource", "uri": "note:///{id}/copy"}, "argument": {"name": "id", "value": "x"}}
    async with client_of(server) as mcp:
        reply = await mcp.ask("completion/complete", params, capabilities={"elicitation": {}})
        assert (reply.status, reply.code) == (200, -32603)
        assert (await mcp.ask("tools/list")).status == 200


async def test_a_client_that_takes_no_stream_gets_json_and_cannot_listen(server: Server) -> None:
    """RSP-1, ERA-9."""
    async with client_of(server) as mcp:
        reply = await mcp.ask(
            "tools/call", {"name": "count"}, meta={"progressToken": 1}, headers={"accept": "application/json"}
        )
        assert (reply.streamed, len(reply.messages), reply.status) == (False, 1, 200)
        refused = await mcp.ask("subscriptions/listen", LISTEN, headers={"accept": "application/json"})
        assert (refused.status, refused.code) == (406, -32600)


async def test_accept_may_come_in_two_lines(server: Server) -> None:
    """RSP-1."""
    body, headers = stateless("tools/list")
    lines = [*headers.items(), *JSON.items(), ("accept", "text/event-stream"), ("accept", "text/html")]
    async with client_of(server) as mcp:
        mcp.http.headers.pop("accept")
        response = await mcp.http.post("/mcp", content=json.dumps(body), headers=lines)
    assert response.status_code == 200


async def test_a_long_silence_commits_to_a_stream_that_is_kept_alive(tmp_path: Path) -> None:
    """RSP-3, RSP-4, STR-7: in either era."""
    with trio.fail_after(WAIT_S):
        async with http_server(server_config(tmp_path, TOOLS, ping_s=0.1)) as running:
            url = f"http://127.0.0.1:{running.port}"
            async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, trust_env=False) as http:
                mcp = Mcp(http)
                quiet = {"name": "hold_in_silence", "_meta": {"dev.mcpd/timeoutMs": 350}}
                await mcp.initialize("2025-06-18")
                replies = [
                    await mcp.ask("tools/call", {"name": "hold_in_silence"}, meta={"dev.mcpd/timeoutMs": 350}),
                    await mcp.call("tools/call", quiet),
                ]
    for reply in replies:
        assert reply.streamed
        assert {"comment": "ping"} in reply.events
        assert (reply.status, reply.code) == (200, -32603)


async def test_a_stopping_server_says_when_to_come_back(tmp_path: Path) -> None:
    """RPC-12, CAN-5, SUB-11, SUB-12."""
    config = server_config(tmp_path, TOOLS, grace_s=0.4)
    body, headers = stateless("subscriptions/listen", LISTEN, request_id=0)
    held, held_headers = stateless("tools/call", {"name": "hold"}, meta={"progressToken": 1})
    with trio.fail_after(WAIT_S):
        async with http_server(config) as running:
            url = f"http://127.0.0.1:{running.port}"
            async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, trust_env=False) as http:
                mcp = Mcp(http)
                async with (
                    mcp.streaming("POST", body, headers) as listening,
                    mcp.streaming("POST", held, held_headers) as holding,
                ):
                    await listening.message()
                    await holding.message()
                    running.stopping.set()
                    ended = await listening.message()
                    assert (ended["id"], ended["result"]["resultType"]) == (0, "complete")
                    assert await listening.message() is None
                    refused = await mcp.ask("tools/list")
                    assert (refused.status, refused.code) == (503, -32603)
                    assert refused.last["error"]["data"]["reason"] == "draining"
                    assert int(refused.headers["retry-after"]) >= 1
                    assert (await holding.message())["error"]["data"]["reason"] == "draining"
                    assert await holding.message() is None


async def test_a_slash_behind_the_path_changes_nothing(server: Server) -> None:
    """ERA-9: clients and proxies add one."""
    body, headers = stateless("server/discover")
    async with client_of(server) as mcp:
        for target in ("/mcp", "/mcp/"):
            reply = await mcp.http.post(target, json=body, headers=headers)
            assert (reply.status_code, reply.json()["id"]) == (200, body["id"])


@pytest.mark.parametrize(
    ("method", "target", "status"), [("GET", "/none", 404), ("POST", "/healthz", 405), ("GET", "/ws", 426)]
)
async def test_what_no_route_takes_is_answered_in_json(server: Server, method: str, target: str, status: int) -> None:
    """ERA-9."""
    async with client_of(server) as mcp:
        reply = await mcp.http.request(method, target)
        assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json")
        assert reply.json()["detail"]
        assert ("/mcp" in reply.json()["detail"]) == (status == 404)
        assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize("second", ["identity", "gzip"])
def test_a_coding_is_noticed_in_whichever_of_two_lines_it_stands(server: Server, second: str) -> None:
    """RFC 9110 section 5.3: two lines are one list, so a coding in the first is there, too."""
    body, headers = stateless("tools/call", ECHO)
    first = "gzip" if second == "identity" else "identity"
    assert raw_post(server, body, {**headers, **JSON, "Content-Encoding": first, "content-encoding": second}) == b"415"
