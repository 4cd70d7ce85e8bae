"""The REST transport: how requests are routed, refused and answered, whatever they ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from mcpd.gateway.keys import KeyStore
from mcpd.messages import calls
from mcpd.storage.sqlite.inbox import open_inbox
from tests.in_process import eventually, http_server, server_config
from tests.served import Mcp, Server, client_at, client_of, serving

WAIT_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("rest")) as running:
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Mcp]:
    with trio.fail_after(WAIT_S):
        async with client_of(server) as found:
            yield found


def problem(reply: httpx.Response) -> Any:
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert (body["status"], body["requestId"]) == (reply.status_code, reply.headers["x-request-id"])
    assert {"type", "title", "detail"} <= body.keys()
    return body


async def test_nothing_in_flight_is_an_empty_list(client: Mcp) -> None:
    reply = await client.http.get("/api/v1/calls", headers={"x-request-id": "mine"})
    assert (reply.status_code, reply.json()) == (200, {"items": [], "silent": 0})
    assert (reply.headers["content-type"], reply.headers["x-request-id"]) == ("application/json", "mine")


@pytest.mark.parametrize("path", ["", "/", "/call", "/calls/", "/calls/a/b", "/calls//x", "/%63alls", "/calls%2Fx"])
async def test_an_unknown_path_is_404(client: Mcp, path: str) -> None:
    """Also a known one spelt in another way: an encoded slash separates nothing."""
    reply = await client.http.get(f"/api/v1{path}")
    assert (reply.status_code, problem(reply)["title"]) == (404, "Not found")


async def test_a_method_that_a_path_does_not_have_is_405(client: Mcp) -> None:
    """RFC 9110 section 15.5.6."""
    reply = await client.http.post("/api/v1/calls", json={})
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
    problem(reply)


async def test_an_id_in_a_path_is_decoded(client: Mcp) -> None:
    for spelt in ("none", "a%2Fb", "%C3%A9", "%FF", "%00", "a" * 256):
        reply = await client.http.delete(f"/api/v1/calls/{spelt}")
        assert (reply.status_code, problem(reply)["code"]) == (404, -32602), spelt
    reply = await client.http.delete(f"/api/v1/calls/{'a' * 257}")
    assert (reply.status_code, problem(reply)["title"]) == (422, "Invalid params")


async def test_a_foreign_page_is_refused_and_our_own_may_read(client: Mcp, server: Server) -> None:
    """SEC-1, HDR-15."""
    foreign = await client.http.get("/api/v1/calls", headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert "access-control-allow-origin" not in foreign.headers
    problem(foreign)
    ours = {"origin": f"http://localhost:{server.port}"}
    assert (await client.http.get("/api/v1/calls", headers=ours)).headers["access-control-allow-origin"]
    asked = await client.http.options("/api/v1/calls", headers={**ours, "access-control-request-method": "GET"})
    assert (asked.status_code, "GET" in asked.headers["access-control-allow-methods"]) == (204, True)
    assert asked.headers.get_list("access-control-allow-origin") == [ours["origin"]], "once: browsers refuse two"


async def test_who_goes_away_ends_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 2. A process that never answers keeps the listing waiting."""
    monkeypatch.setattr(calls, "PATIENCE_S", WAIT_S)
    with trio.fail_after(WAIT_S):
        async with (
            http_server(server_config(tmp_path)) as running,
            open_inbox(running.parts.config.data.folder, poll_s=0.05) as silent,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(silent.run)
            stream = await trio.open_tcp_stream("127.0.0.1", running.port)
            await stream.send_all(b"GET /api/v1/calls HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % running.port)
            await eventually(lambda: running.in_flight() == 1, "it runs")
            await stream.aclose()
            await eventually(lambda: running.in_flight() == 0, "it has ended")
            assert running.metric("mcpd_cancelled_total", reason="client_gone") == 1
            nursery.cancel_scope.cancel()


async def test_what_a_refused_request_says_of_itself_is_recorded_with_its_key(tmp_path: Path) -> None:
    """And a `traceparent` that is none is not repeated."""
    key = KeyStore(tmp_path / "keys.toml").new("laptop").reveal()
    config = server_config(tmp_path)
    with trio.fail_after(WAIT_S):
        async with http_server(replace(config, auth=replace(config.auth, keys_file=tmp_path / "keys.toml"))) as running:
            async with client_at(f"http://127.0.0.1:{running.port}", authorization=f"Bearer {key}") as client:
                assert (await client.http.get("/api/v1/nothing")).status_code == 404
                assert (await client.http.get("/api/v1/calls", headers={"traceparent": "x" * 9_000})).status_code == 200
            running.parts.logs.flush(5)
    lines = [line for line in b"".join(running.lines).decode().splitlines() if "transport=rest" in line]
    assert ["principal=laptop" in line for line in lines] == [True, True]
    assert not any("xxxx" in line for line in lines)


async def test_keys_and_scopes_hold_as_everywhere(tmp_path: Path) -> None:
    """AUT-4: no key 401, too small a scope 403."""
    store = KeyStore(tmp_path / "data" / "keys.toml")
    reader = store.new("reader", ["read"]).reveal()
    with trio.fail_after(WAIT_S), serving(tmp_path, "", "--data", "data") as server:
        async with client_of(server) as nobody:
            reply = await nobody.http.get("/api/v1/calls")
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            problem(reply)
        async with client_of(server, authorization=f"Bearer {reader}") as client:
            assert (await client.http.get("/api/v1/calls")).status_code == 200
            reply = await client.http.delete("/api/v1/calls/x")
            assert (reply.status_code, 'scope="call"' in reply.headers["www-authenticate"]) == (403, True)
            problem(reply)
