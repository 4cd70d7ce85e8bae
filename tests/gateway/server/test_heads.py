"""Heads of HTTP/1.1 requests: what RFC 9112 leaves to the server, and what it refuses. Connections in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.config import Limits
from tests.gateway.server.test_http11 import REQUEST, Client, connected, echo, trickle, wait_for_the_end

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n"


def keep_scope(seen: list[Any]) -> Any:
    """Return an application that keeps each scope and answers 200."""

    async def keep(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    return keep


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/mcp?a=b?c", "/mcp", b"a=b?c", b"h"),
        (b"http://other:81/mcp", "/mcp", b"", b"other:81"),
        (b"HTTPS://Other/ws?x=/y", "/ws", b"x=/y", b"other"),
        (b"http://[::1]:8000", "/", b"", b"[::1]:8000"),
        (b"http://other?x", "/", b"x", b"other"),
    ],
)
async def test_an_absolute_target_is_the_path_in_it_and_its_host_is_the_one_asked_for(
    target: bytes, path: str, query: bytes, host: bytes, autojump_clock: MockClock
) -> None:
    """RFC 9112 sections 3.2.2 and 3.3: access has to check the host that the target names."""
    seen: list[Any] = []
    async with connected(keep_scope(seen)) as client:
        await client.stream.send_all(HEAD.replace(b"GET /", b"GET " + target) + b"\r\n")
        assert (await client.reply("GET"))[0] == 200
    assert (seen[0]["path"], seen[0]["query_string"]) == (path, query)
    assert [value for name, value in seen[0]["headers"] if name == b"host"] == [host]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"PRI * HTTP/2.0", 505),
        (b"PRI / HTTP/1.1", 501),
        (b"PRI * HTTP/1.1", 501),
        (b"GET / HTTP/9.9", 505),
        (b"GET / HTTP/0.9", 505),
        (b"get / HTTP/1.1", 501),
        (b"post / HTTP/1.1", 501),
        (b"CONNECT h:80 HTTP/1.1", 501),
        (b"BREW / HTTP/1.1", 501),
        (b"GET mcp HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET http:///mcp HTTP/1.1", 400),
        (b"GET http://who@h/mcp HTTP/1.1", 400),
        (b"GET ftp://h/mcp HTTP/1.1", 400),
    ],
)
async def test_what_is_not_served_is_refused_and_ends_the_connection(
    line: bytes, status: int, autojump_clock: MockClock
) -> None:
    """No HTTP/2 begins here (RFC 9113 section 3.4), and methods are not made upper case (RFC 9110 section 9.1)."""
    async with connected(echo) as client:
        await client.stream.send_all(line + b"\r\nHost: h\r\n\r\nSM\r\n\r\n")
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 %d" % status)
        assert await client.rest() == b""
        await client.ended.wait()


async def test_a_later_minor_version_is_served(autojump_clock: MockClock) -> None:
    """RFC 9110 section 6.2."""
    async with connected(echo) as client:
        await client.stream.send_all(REQUEST.replace(b"HTTP/1.1", b"HTTP/1.2"))
        assert (await client.reply())[2] == b"hello"


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b"\r\n\r\n", b"\r\n\n\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
async def test_blank_lines_before_a_request_are_passed_over(blank: bytes, size: int, autojump_clock: MockClock) -> None:
    """RFC 9112 section 2.2: before the first, behind another, and however they are cut."""
    both = blank + REQUEST + blank + REQUEST.replace(b"hello", b"again")
    async with connected(echo) as client:
        for begin in range(0, len(both), size):
            await client.stream.send_all(both[begin : begin + size])
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.reply())[2] == b"hello"
        assert (await client.reply())[2] == b"again"


@pytest.mark.parametrize("before", [b"\r", b"\r\r\n", b" \r\n"])
async def test_what_is_no_blank_line_is_no_request(before: bytes, autojump_clock: MockClock) -> None:
    async with connected(echo) as client:
        await client.stream.send_all(before + REQUEST)
        assert (await client.reply())[0] == 400


async def test_blank_lines_hold_a_connection_no_longer_than_a_head(autojump_clock: MockClock) -> None:
    async with connected(echo) as client:
        begin = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await trickle(client.stream, [b"\r\n"] * 100, every_s=1)
        assert trio.current_time() - begin == pytest.approx(10, abs=1)


@pytest.mark.parametrize("before", [b"", REQUEST, b"\r\n", b"\r\n" + REQUEST])
@pytest.mark.parametrize("behind", [b"", b"hello", REQUEST])
@pytest.mark.parametrize("size", [100, 1000, 100_000])
async def test_a_head_that_is_too_long_is_refused_however_it_comes(
    before: bytes, behind: bytes, size: int, autojump_clock: MockClock
) -> None:
    """Law 8: in one read or many, alone, pipelined, or with something behind it."""
    head = HEAD.replace(b"GET", b"POST") + b"Content-Length: 5\r\nX: " + b"y" * 1100 + b"\r\n\r\n"
    sent = before + head + behind
    async with connected(echo, limits=Limits(max_header_bytes=1024)) as client:
        for begin in range(0, len(sent), size):
            await client.stream.send_all(sent[begin : begin + size])
            await trio.testing.wait_all_tasks_blocked()
        if REQUEST in before:
            assert (await client.reply())[0] == 200
        assert (await client.reply())[0] == 431


async def test_a_head_as_long_as_may_be_is_served_with_any_body(autojump_clock: MockClock) -> None:
    """The bytes of the body and of a next request are none of the head's."""
    fill = 1024 - len(REQUEST[:-5]) - len(b"X: \r\n")
    full = REQUEST.replace(b"Host", b"X: " + b"y" * fill + b"\r\nHost")
    async with connected(echo, limits=Limits(max_header_bytes=1024)) as client:
        await client.stream.send_all(full * 5)
        for _ in range(5):
            assert (await client.reply())[2] == b"hello"


async def test_two_lengths_are_answered_once(autojump_clock: MockClock) -> None:
    """RFC 9112 section 6.1: a proxy may have seen another end of the request, so nothing may follow it."""
    async with connected(echo) as client:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.stream.send_all(head + b"5\r\nhello\r\n0\r\n\r\n" + REQUEST)
        status, headers, body = await client.reply()
        assert (status, headers[b"connection"], body) == (200, b"close", b"hello")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "offer",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"Connection: Upgrade\r\nUpgrade: TLS/1.0, h2c\r\n",
    ],
)
async def test_a_call_that_offers_an_upgrade_hears_its_client_go_like_any_other(
    offer: bytes, autojump_clock: MockClock
) -> None:
    """CAN-1: the JDK's client offers h2c with its first request."""
    async with connected(wait_for_the_end) as client:
        await client.stream.send_all(REQUEST.replace(b"Host", offer + b"Host"))
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await client.ended.wait()


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    "request_", [UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), UPGRADE.replace(b"Host", b"Content-Length: 2\r\nHost")]
)
async def test_a_request_that_cannot_become_a_websocket_is_an_ordinary_one(
    request_: bytes, autojump_clock: MockClock
) -> None:
    """RFC 9110 section 7.8: HTTP/1.0 has no upgrades; a body would be taken for frames."""
    seen: list[Any] = []
    async with connected(keep_scope(seen)) as client:
        await client.stream.send_all(request_ + b"hi")
        assert (await client.reply("GET"))[0] == 200
    assert seen[0]["type"] == "http"


async def test_a_websocket_may_be_asked_for_by_an_absolute_target(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "websocket.close"})

    async with connected(refuse) as client:
        await client.stream.send_all(UPGRADE.replace(b"/ws", b"http://other/ws"))
        await client.rest()
    assert (seen[0]["type"], seen[0]["path"]) == ("websocket", "/ws")
    assert (b"host", b"other") in seen[0]["headers"]


async def count_turns(turns: list[int]) -> None:
    """Count in `turns[0]` how often others are scheduled."""
    while True:
        turns[0] += 1
        await trio.lowlevel.checkpoint()


async def turns_during(client: Client, sent: bytes) -> int:
    """Send and return how many turns others had until the reply."""
    turns = [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns, turns)
        await client.stream.send_all(sent)
        assert (await client.reply())[0] == 200
        nursery.cancel_scope.cancel()
    return turns[0]


async def test_a_body_in_tiny_chunks_leaves_others_their_turns(autojump_clock: MockClock) -> None:
    """One connection may not hold the loop: a read of 64 KiB may bring 11,000 chunks of one byte."""
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected(echo) as client:
        assert await turns_during(client, head + b"1\r\nx\r\n" * 6400 + b"0\r\n\r\n") >= 100
