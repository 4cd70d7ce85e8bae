"""The lean HTTP/1.1 path by itself: a small ASGI application, connections in memory, the clock of the test.

What goes through real sockets and the whole server is in the tests of the transports.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio
import trio.testing

from mcpd.config import Limits, Timeouts
from mcpd.gateway.asgi import WHOLE_BODY
from mcpd.gateway.server.http11 import Connection, Front
from mcpd.gateway.server.refusals import SHOWN_BYTES, Refusals
from mcpd.monitoring.logs import RequestLine

App = Callable[[Any, Any, Any], Awaitable[None]]
BOUND_S = 500.0
UNREAD = list[RequestLine]()
"""Lines of refusals, which other tests look at."""
REQUEST = b"POST /x?a=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body of the request, and its length."""
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Client:
    """The other end of one connection."""

    def __init__(self, stream: trio.abc.Stream, server_side: trio.abc.Stream, front: Front) -> None:
        self.stream = stream
        self.server_side = server_side
        self.front = front
        self.http = h11.Connection(h11.CLIENT)
        self.ended = trio.Event()

    async def reply(self, method: str = "POST") -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one reply to a request that was sent as raw bytes."""
        if self.http.our_state is not h11.IDLE:
            self.http.start_next_cycle()
        self.http.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        self.http.send(h11.EndOfMessage())
        head = await self._event()
        while isinstance(head, h11.InformationalResponse):
            head = await self._event()
        assert isinstance(head, h11.Response), head
        body = b""
        while isinstance(part := await self._event(), h11.Data):
            body += part.data
        return head.status_code, dict(head.headers), body

    async def _event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(bytes(await self.stream.receive_some()))
        return event

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        data = b""
        while chunk := await self.stream.receive_some():
            data += chunk
        return data


@asynccontextmanager
async def connected(
    app: App, timeouts: Timeouts | None = None, limits: Limits | None = None, *, real: bool = False
) -> AsyncIterator[Client]:
    """`real` is a socket: one that is full holds up who writes, and bytes left unread break it off."""
    theirs, ours = socket_pair() if real else trio.testing.memory_stream_pair()
    front = Front(limits or Limits(), timeouts or Timeouts(), Refusals(UNREAD.append))
    client = Client(theirs, ours, front)

    async def run() -> None:
        await Connection(app, front, ours).run()
        client.ended.set()

    with trio.fail_after(BOUND_S):
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield client
            nursery.cancel_scope.cancel()


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    one, other = trio.socket.socketpair()
    return trio.SocketStream(one), trio.SocketStream(other)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
async def test_a_request_in_pieces_is_the_same_request(size: int, autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as client:
        for at in range(0, len(REQUEST), size):
            await client.stream.send_all(REQUEST[at : at + size])
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.reply())[::2] == (200, b"hello")


async def test_pipelined_requests_are_answered_in_their_order(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as client:
        await client.stream.send_all(REQUEST + REQUEST.replace(b"hello", b"again"))
        assert (await client.reply())[2] == b"hello"
        assert (await client.reply())[2] == b"again"


async def test_a_chunked_body_is_put_together(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as client:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.stream.send_all(head + b"3\r\nabc\r\n2\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.send_all(b"de\r\n0\r\n\r\n")
        assert (await client.reply())[2] == b"abcde"


@pytest.mark.parametrize(("first", "told"), [(len(REQUEST), b"hello"), (len(REQUEST) - 1, None)])
async def test_a_body_that_came_with_the_head_is_told_with_the_scope(
    first: int, told: bytes | None, autojump_clock: trio.testing.MockClock
) -> None:
    """Who knows the extension needs not wait; who does not reads the same bytes."""
    seen: list[bytes | None] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["extensions"].get(WHOLE_BODY))
        await echo(scope, receive, send)

    async with connected(look) as client:
        await client.stream.send_all(REQUEST[:first])
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.send_all(REQUEST[first:])
        assert (await client.reply())[2] == b"hello"
    assert seen == [told]


async def test_a_reply_with_a_length_is_one_write(autojump_clock: trio.testing.MockClock) -> None:
    """Trap 6: head, body and end as three writes are three packets."""
    async with connected(echo) as client:
        await client.stream.send_all(REQUEST)
        assert (await client.stream.receive_some()).endswith(b"\r\n\r\nhello")


async def test_a_reply_without_a_length_begins_before_its_first_byte(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A client of an event stream wants to know that it is open."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await trio.sleep_forever()

    async with connected(silent) as client:
        await client.stream.send_all(REQUEST)
        head = await client.stream.receive_some()
        assert head.startswith(b"HTTP/1.1 200")
        assert b"chunked" in head.lower()


async def test_the_scope_says_what_was_asked(autojump_clock: trio.testing.MockClock) -> None:
    seen: dict[str, Any] = {}

    async def keep(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await echo(scope, receive, send)

    async with connected(keep) as client:
        await client.stream.send_all(REQUEST.replace(b"/x?", b"/a%20b?"))
        await client.reply()
    assert (seen["type"], seen["method"], seen["http_version"]) == ("http", "POST", "1.1")
    assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/a b", b"/a%20b", b"a=1")
    assert (b"host", b"h") in seen["headers"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_what_is_no_request_gets_a_refusal_and_an_end(
    sent: bytes, status: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected(echo) as client:
        await client.stream.send_all(sent)
        answered, headers, body = await client.reply()
        assert (answered, headers[b"connection"], headers[b"content-type"]) == (status, b"close", b"application/json")
        assert list(json.loads(body)) == ["detail"]
        assert await client.rest() == b""


async def test_no_more_of_a_head_is_kept_for_the_log_than_is_shown(autojump_clock: trio.testing.MockClock) -> None:
    """Law 8."""
    theirs, ours = trio.testing.memory_stream_pair()
    connection = Connection(echo, Front(Limits(), Timeouts(), Refusals(UNREAD.append)), ours)
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        for piece in (b"\r\n", b"G", b"ET /" + b"x" * 10_000, b"y" * 10_000):
            await theirs.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        assert connection._line == b"GET /" + b"x" * (SHOWN_BYTES - 5)
        nursery.cancel_scope.cancel()


async def test_a_refusal_of_head_has_no_body(autojump_clock: trio.testing.MockClock) -> None:
    """RFC 9110 section 9.3.2."""
    async with connected(echo) as client:
        await client.stream.send_all(b"HEAD nowhere HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.reply("HEAD"))[0] == 400
        assert await client.rest() == b""


async def test_a_body_that_goes_wrong_after_its_beginning_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as client:
        await client.stream.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.send_all(b"zz\r\n")
        status, headers, _ = await client.reply()
        assert (status, headers[b"connection"]) == (400, b"close")
        assert await client.rest() == b""


async def test_the_client_is_told_to_continue(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as client:
        await client.stream.send_all(REQUEST[:-5].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100")
        await client.stream.send_all(b"hello")
        assert (await client.reply())[2] == b"hello"


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_a_reply_that_may_have_no_body_has_none(
    method: bytes, status: int, autojump_clock: trio.testing.MockClock
) -> None:
    async def wordy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"abc"})

    async with connected(wordy) as client:
        await client.stream.send_all(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.stream.receive_some()).endswith(b"\r\n\r\n")


async def test_an_application_that_fails_gives_500_and_the_next_request_is_served(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_once(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fail":
            await receive()
            raise ValueError("a bug")
        await echo(scope, receive, send)

    async with connected(fail_once) as client:
        await client.stream.send_all(b"GET /fail HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.reply())[0] == 500
        await client.stream.send_all(REQUEST)
        assert (await client.reply())[0] == 200
    assert "a bug" in caplog.text


async def test_a_reply_that_breaks_off_ends_the_connection(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The client must not take half a reply for a whole one."""

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("a bug")

    async with connected(half) as client:
        await client.stream.send_all(REQUEST)
        data = await client.rest()
    assert b"half" in data
    assert not data.endswith(b"0\r\n\r\n")
    assert "a bug" in caplog.text


async def wait_for_the_end(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, then hear that the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("behind", [b"", b"\r\n", REQUEST, REQUEST * 100])
async def test_bytes_behind_a_body_do_not_hide_that_the_client_has_gone(
    behind: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Trap 11: a pipelined request, even one stray line end."""
    async with connected(wait_for_the_end) as client:
        await client.stream.send_all(REQUEST + behind)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await client.ended.wait()


async def send_ahead(client: Client, size: int) -> None:
    """Send as much as the server takes, in pieces that fit between its reads."""
    for _ in range(size // 10_000):
        await client.stream.send_all(b"x" * 10_000)
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("real", [False, True])
async def test_what_a_client_sends_ahead_is_bounded(real: bool, autojump_clock: trio.testing.MockClock) -> None:
    """Law 8: the surplus ends the connection and its call, since unread it would hide that the client has gone."""
    async with connected(wait_for_the_end, real=real) as client:
        await client.stream.send_all(REQUEST)
        await send_ahead(client, 60_000)
        assert not client.ended.is_set()
        with pytest.raises(trio.BrokenResourceError):
            await send_ahead(client, 10_000_000)
        await client.ended.wait()


async def test_a_client_that_breaks_off_has_gone_like_any_other(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It leaves unread what the application has said, and what that says afterwards is nobody's failure."""
    heard: list[str] = []

    async def talk(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await wait_for_the_end(scope, receive, send)
        heard.append("gone")
        await send({"type": "http.response.body", "body": b"late"})

    async with connected(talk, real=True) as client:
        await client.stream.send_all(REQUEST)
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await client.ended.wait()
    assert (heard, caplog.text) == (["gone"], "")


async def test_a_reply_to_a_client_that_has_gone_is_no_failure(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(1)
        await echo(scope, receive, send)

    async with connected(slow) as client:
        await client.stream.send_all(REQUEST)
        await client.stream.aclose()
        await client.ended.wait()
    assert caplog.text == ""


async def test_a_watch_that_is_called_off_leaves_the_next_request_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Somebody waits for the client's going while the call runs, and stops waiting when it is over."""

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with connected(watched) as client:
        for _ in range(3):
            await client.stream.send_all(REQUEST)
            assert (await client.reply())[0] == 200


async def test_an_idle_connection_ends_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo, Timeouts(keep_alive_s=75)) as client:
        await client.stream.send_all(REQUEST)
        await client.reply()
        begin = trio.current_time()
        assert await client.rest() == b""
        assert trio.current_time() - begin == pytest.approx(75)


async def trickle(stream: trio.abc.Stream, pieces: list[bytes], *, every_s: float) -> None:
    for piece in pieces:
        await stream.send_all(piece)
        await trio.sleep(every_s)


async def test_a_head_that_trickles_in_ends_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """Each byte comes in time; all of them do not."""
    async with connected(echo, Timeouts(keep_alive_s=75, header_s=10)) as client:
        begin = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await trickle(client.stream, [b"G"] * 100, every_s=1)
        assert trio.current_time() - begin == pytest.approx(10, abs=1)


async def test_a_call_may_take_longer_than_any_of_these(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(300)
        await echo(scope, receive, send)

    async with connected(slow, Timeouts(keep_alive_s=75, header_s=10)) as client:
        await client.stream.send_all(REQUEST)
        assert (await client.reply())[0] == 200


async def test_closing_ends_an_idle_connection_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as client:
        await client.stream.send_all(REQUEST)
        await client.reply()
        await trio.testing.wait_all_tasks_blocked()
        begin = trio.current_time()
        client.front.close()
        assert await client.rest() == b""
        assert trio.current_time() == begin


async def test_closing_lets_a_request_finish_and_then_ends(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(5)
        await echo(scope, receive, send)

    async with connected(slow) as client:
        await client.stream.send_all(REQUEST)
        await trio.testing.wait_all_tasks_blocked()
        client.front.close()
        status, headers, body = await client.reply()
        assert (status, headers[b"connection"], body) == (200, b"close", b"hello")
        assert await client.rest() == b""


async def test_a_reply_that_had_begun_before_the_closing_is_the_last(autojump_clock: trio.testing.MockClock) -> None:
    """Its head could not say so."""

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep(5)
        await send({"type": "http.response.body", "body": b"all"})

    async with connected(stream) as client:
        await client.stream.send_all(REQUEST)
        await trio.testing.wait_all_tasks_blocked()
        client.front.close()
        _, headers, body = await client.reply()
        assert (b"connection" in headers, body) == (False, b"all")
        begin = trio.current_time()
        assert await client.rest() == b""
        assert trio.current_time() == begin


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answer without reading the body."""
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def test_a_client_that_is_still_sending_can_read_its_refusal(autojump_clock: trio.testing.MockClock) -> None:
    """It sees reply and end at once, and is not reset by what it still sends; not for long, though."""
    async with connected(refuse, real=True) as client:
        await client.stream.send_all(REQUEST[:-1])
        begin = trio.current_time()
        assert (await client.reply())[0] == 403
        assert await client.rest() == b""
        await client.stream.send_all(b"o" * 100_000)
        await trio.testing.wait_all_tasks_blocked()
        assert (trio.current_time(), client.ended.is_set()) == (begin, False)
        await client.ended.wait()
        assert trio.current_time() - begin == pytest.approx(1)


async def test_a_client_that_breaks_off_while_it_is_refused_is_no_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(refuse, real=True) as client:
        await client.stream.send_all(REQUEST[:-1])
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await client.ended.wait()


async def test_a_reply_that_comes_before_the_body_says_that_it_is_the_last(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A refusal does not read the body; a client that is still sending it must not send the next request here."""
    async with connected(refuse) as client:
        await client.stream.send_all(REQUEST)
        status, headers, _ = await client.reply()
        assert (status, b"connection" in headers) == (403, False)
        await client.stream.send_all(REQUEST[:-1])
        status, headers, _ = await client.reply()
        assert (status, headers[b"connection"]) == (403, b"close")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "line", [b"Upgrade: websocket", b"Upgrade: TLS/1.0", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"]
)
async def test_an_upgrade_that_cannot_be_is_ignored(line: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """RFC 9110 section 7.8: a server may ignore it; a WebSocket begins with a GET."""
    async with connected(echo) as client:
        await client.stream.send_all(REQUEST.replace(b"Host: h", b"Host: h\r\nConnection: Upgrade\r\n" + line))
        assert (await client.reply())[2] == b"hello"


async def test_a_send_that_is_cancelled_poisons_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """Law 6: after half a message nothing else may be said."""

    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.move_on_after(1):
            await send({"type": "http.response.body", "body": b"x" * 10_000_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"y" * 1000})

    async with connected(impatient, real=True) as client:
        await client.stream.send_all(REQUEST)
        await trio.sleep(2)
        assert client.ended.is_set()
        _, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert 0 < body.count(b"x") < 10_000_000
    assert b"y" not in body


async def test_a_reader_that_stops_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """On a Unix socket, too, where no kernel would end it; the call hears that its client has gone."""
    heard: list[str] = []

    async def talk(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            await wait_for_the_end(scope, receive, send)
            heard.append("gone")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * 10_000_000})

    async with connected(talk, Timeouts(write_s=15), real=True) as client:
        begin = trio.current_time()
        await client.stream.send_all(REQUEST)
        await client.ended.wait()
        assert heard == ["gone"]
        assert trio.current_time() - begin == pytest.approx(15)


def test_the_date_is_that_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110 section 6.6.1."""
    front = Front(Limits(), Timeouts(), Refusals(UNREAD.append))
    for now, second in ((1.0, 1), (1.9, 1), (62.0, 2)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert front.date() == b"Thu, 01 Jan 1970 00:0%d:0%d GMT" % (now // 60, second)
