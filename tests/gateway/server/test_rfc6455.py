"""The lean WebSocket path by itself: a small ASGI application, frames made by wsproto, connections in memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import wsproto
import wsproto.events as frames
from trio.testing import MockClock

from mcpd.config import Limits, Timeouts
from mcpd.gateway.server.http11 import Connection, Front
from mcpd.gateway.server.refusals import Refusals
from tests.gateway.server.test_heads import count_turns
from tests.gateway.server.test_http11 import UNREAD, socket_pair, trickle

App = Callable[[Any, Any, Any], Awaitable[None]]
BOUND_S = 500.0
HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def mirror(scope: Any, receive: Any, send: Any) -> None:
    """Send every message back as it came, until the client goes."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


def keep_in(seen: list[Any]) -> App:
    """Return an application that accepts and keeps all events."""

    async def keep(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while not seen or seen[-1]["type"] != "websocket.disconnect":
            seen.append(await receive())

    return keep


class Client:
    """The other end of one WebSocket."""

    def __init__(self, stream: trio.abc.Stream, front: Front) -> None:
        self.stream = stream
        self.front = front
        self.ended = trio.Event()
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._events: list[frames.Event] = []

    async def open(self) -> None:
        await self.send(frames.Request(host="h", target="/ws"))
        assert isinstance(await self.next(), frames.AcceptConnection)

    async def send(self, frame: frames.Event) -> None:
        await self.stream.send_all(self._ws.send(frame))

    async def next(self) -> Any:
        while not self._events:
            self._ws.receive_data(bytes(await self.stream.receive_some()) or None)
            self._events = list(self._ws.events())
        return self._events.pop(0)


@asynccontextmanager
async def connected(
    app: App = mirror, limits: Limits | None = None, *, real: bool = False, timeouts: Timeouts | None = None
) -> AsyncIterator[Client]:
    theirs, ours = socket_pair() if real else trio.testing.memory_stream_pair()
    client = Client(theirs, Front(limits or Limits(), timeouts or Timeouts(), Refusals(UNREAD.append)))

    async def run() -> None:
        await Connection(app, client.front, ours).run()
        client.ended.set()

    with trio.fail_after(BOUND_S):
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield client
            await client.ended.wait()


async def test_messages_of_both_kinds_go_there_and_back(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.open()
        await client.send(frames.TextMessage("привет"))
        assert (await client.next()).data == "привет"
        await client.send(frames.TextMessage(""))
        assert (await client.next()).data == ""
        await client.send(frames.BytesMessage(b"\x00\x01"))
        assert (await client.next()).data == b"\x00\x01"
        await client.stream.aclose()


async def test_fragments_are_one_message_and_a_ping_between_them_is_answered(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.open()
        await client.send(frames.TextMessage("one ", message_finished=False))
        await client.send(frames.Ping(b"?"))
        assert isinstance(await client.next(), frames.Pong)
        await client.send(frames.TextMessage("two"))
        assert (await client.next()).data == "one two"
        await client.stream.aclose()


async def test_frames_in_single_bytes_are_the_same_frames(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.open()
        for byte in client._ws.send(frames.TextMessage("slowly")):
            await client.stream.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.next()).data == "slowly"
        await client.stream.aclose()


async def test_a_frame_that_came_with_the_request_is_not_lost(autojump_clock: MockClock) -> None:
    async with connected() as client:
        masked = b"\x81\x82\x00\x00\x00\x00hi"
        await client.stream.send_all(HEAD + masked)
        received = b""
        while not received.endswith(b"\x81\x02hi"):
            received += await client.stream.receive_some()
        assert received.startswith(b"HTTP/1.1 101")
        await client.stream.aclose()


async def test_a_close_is_answered_with_its_code(autojump_clock: MockClock) -> None:
    seen: list[Any] = []
    async with connected(keep_in(seen)) as client:
        await client.open()
        await client.send(frames.CloseConnection(4321))
        assert (await client.next()).code == 4321
    assert seen[-1] == {"type": "websocket.disconnect", "code": 4321}


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1\x80\x00\x00\x00\x00",  # claims to be compressed
        b"\x83\x80\x00\x00\x00\x00",  # an opcode that does not exist
        b"\x81\x02hi",  # not masked
    ],
)
async def test_a_broken_frame_is_told_and_ends_the_connection(frame: bytes, autojump_clock: MockClock) -> None:
    """SEC-4 for the first: nothing was agreed on, so nothing is inflated."""
    async with connected() as client:
        await client.open()
        await client.stream.send_all(frame)
        assert (await client.next()).code == 1002


async def test_text_that_is_no_text_is_told(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.open()
        await client.stream.send_all(b"\x81\x81\x00\x00\x00\x00\xff")
        assert (await client.next()).code == 1007


async def test_a_message_that_grows_too_long_in_fragments_is_refused(autojump_clock: MockClock) -> None:
    """Law 8: the bound is about the message, not the frame."""
    async with connected(limits=Limits(max_message_bytes=100)) as client:
        await client.open()
        for _ in range(3):
            await client.send(frames.TextMessage("x" * 40, message_finished=False))
        assert (await client.next()).code == 1009


async def test_the_bound_of_a_message_is_in_bytes_and_not_in_characters(autojump_clock: MockClock) -> None:
    """Law 8: four bytes of a character are four bytes of memory and of JSON."""
    async with connected(limits=Limits(max_message_bytes=100)) as client:
        await client.open()
        await client.send(frames.TextMessage("\N{SLEEPING FACE}" * 25))
        assert len((await client.next()).data) == 25
        await client.send(frames.TextMessage("\N{SLEEPING FACE}" * 26))
        assert (await client.next()).code == 1009


async def test_messages_in_a_row_are_bounded_each_by_itself(autojump_clock: MockClock) -> None:
    async with connected(limits=Limits(max_message_bytes=100)) as client:
        await client.open()
        for _ in range(3):
            await client.send(frames.TextMessage("x" * 40))
            assert (await client.next()).data == "x" * 40
        await client.stream.aclose()


@pytest.mark.parametrize(
    ("line", "instead", "status"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", b"426"),
        (b"Sec-WebSocket-Version: 13\r\n", b"", b"400"),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", b"400"),
        (b"keep-alive, Upgrade", b"keep-alive", b"400"),
        (b"keep-alive, Upgrade", b"Upgrade, \xff", b"400"),
        (b"Host: h\r\n", b"Host: h\r\nSec-WebSocket-Protocol: mcp, \xc3\xa9\r\n", b"400"),
        (b"Host: h\r\n", b"Host: h\r\nSec-WebSocket-Extensions: \xff\r\n", b"400"),
        (b"Host: h\r\n", b"Host: \xff\r\n", b"400"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"", b"400"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff\xff", b"400"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZQ==", b"400"),
        (b"Host: h\r\n", b"Host: h\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"400"),
    ],
)
async def test_a_request_that_cannot_upgrade_is_refused(
    line: bytes, instead: bytes, status: bytes, autojump_clock: MockClock
) -> None:
    async with connected() as client:
        await client.stream.send_all(HEAD.replace(line, instead))
        received = b""
        while chunk := await client.stream.receive_some():
            received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"x-request-id: " in head.lower()
        assert list(json.loads(body)) == ["detail"]


async def test_an_application_may_refuse_with_a_reply_of_its_own(autojump_clock: MockClock) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async with connected(refuse) as client:
        await client.stream.send_all(HEAD)
        received = b""
        while chunk := await client.stream.receive_some():
            received += chunk
        assert received.startswith(b"HTTP/1.1 401")
        assert b"\r\nconnection: close\r\n" in received.lower()
        assert received.endswith(b"\r\n\r\nno")


async def test_an_application_that_fails_closes_with_1011(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("a bug")

    async with connected(fail) as client:
        await client.open()
        assert (await client.next()).code == 1011
    assert "a bug" in caplog.text


async def test_a_server_that_closes_says_that_it_goes_away(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.open()
        await trio.testing.wait_all_tasks_blocked()
        begin = trio.current_time()
        client.front.close()
        goodbye = await client.next()
        assert goodbye.code == 1001
        await trio.testing.wait_all_tasks_blocked()
        assert not client.ended.is_set(), "it waits for the answer"
        await client.send(goodbye.response())
        await client.ended.wait()
        assert trio.current_time() == begin


async def test_a_client_that_does_not_answer_the_close_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    async with connected() as client:
        await client.open()
        await trio.testing.wait_all_tasks_blocked()
        begin = trio.current_time()
        client.front.close()
        await client.ended.wait()
        assert trio.current_time() - begin <= 1


async def test_a_quiet_client_is_pinged(autojump_clock: MockClock) -> None:
    """Without a ping nobody notices a peer that has vanished."""
    async with connected() as client:
        await client.open()
        begin = trio.current_time()
        assert isinstance(await client.next(), frames.Ping)
        assert trio.current_time() - begin == pytest.approx(15)
        await client.stream.aclose()


@pytest.mark.parametrize("real", [False, True])
async def test_the_client_going_ends_the_application(real: bool, autojump_clock: MockClock) -> None:
    """A real client leaves our ping unread: its connection breaks off."""
    seen: list[Any] = []
    async with connected(keep_in(seen), real=real) as client:
        await client.open()
        await trio.sleep(16)
        await client.stream.aclose()
    assert seen[-1] == {"type": "websocket.disconnect", "code": 1006}


async def test_what_is_said_to_a_client_that_has_gone_is_no_failure(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await trio.sleep(1)
        await send({"type": "websocket.send", "text": "late"})

    async with connected(talk) as client:
        await client.open()
        await client.stream.aclose()
    assert caplog.text == ""


async def test_frames_of_several_tasks_leave_one_after_another(autojump_clock: MockClock) -> None:
    async def crowd(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        async with trio.open_nursery() as nursery:
            for letter in "abcdefgh":
                nursery.start_soon(send, {"type": "websocket.send", "text": letter * 200})

    async with connected(crowd) as client:
        await client.open()
        said = [(await client.next()).data for _ in "abcdefgh"]
        assert sorted(said) == [letter * 200 for letter in "abcdefgh"]
        await client.stream.aclose()


async def test_a_send_that_is_cancelled_poisons_the_connection(autojump_clock: MockClock) -> None:
    """Law 6: after half a frame nothing else may be said, not even goodbye."""

    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        with trio.move_on_after(1):
            await send({"type": "websocket.send", "text": "x" * 10_000_000})
        await send({"type": "websocket.send", "text": "y"})

    async with connected(impatient, real=True) as client:
        await client.stream.send_all(HEAD)
        await trio.sleep(2)
        assert client.ended.is_set()
        received = b""
        while chunk := await client.stream.receive_some():
            received += chunk
    _, _, frame = received.partition(b"\r\n\r\n")
    assert 10 < len(frame) < 10_000_000
    assert frame[10:].strip(b"x") == b""


async def test_an_application_closes_with_a_code_and_a_reason_and_says_no_more(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def close(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        await send({"type": "websocket.send", "text": "too late"})

    async with connected(close) as client:
        await client.open()
        closed = await client.next()
        assert (closed.code, closed.reason) == (4000, "enough")
        await client.send(closed.response())
    assert caplog.text == ""


async def leave(scope: Any, receive: Any, send: Any) -> None:
    """Do nothing."""


async def turn_away(scope: Any, receive: Any, send: Any) -> None:
    """Close instead of accepting."""
    await send({"type": "websocket.close"})


async def stumble(scope: Any, receive: Any, send: Any) -> None:
    """Fail before anything was said."""
    raise ValueError("a bug")


@pytest.mark.parametrize(("app", "status"), [(leave, b"403"), (turn_away, b"403"), (stumble, b"500")])
async def test_an_upgrade_that_is_not_accepted_is_refused(app: App, status: bytes, autojump_clock: MockClock) -> None:
    async with connected(app) as client:
        await client.stream.send_all(HEAD)
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 " + status)


async def test_a_client_that_answers_no_ping_is_left(autojump_clock: MockClock) -> None:
    """Its kernel may acknowledge pings for ever."""
    async with connected() as client:
        await client.open()
        begin = trio.current_time()
        assert isinstance(await client.next(), frames.Ping)
        assert (await client.next()).code == 1008
        await client.ended.wait()
        assert trio.current_time() - begin == pytest.approx(30)


@pytest.mark.parametrize("answer", [frames.Pong(), frames.TextMessage("here"), frames.Ping()])
async def test_a_client_that_says_anything_between_pings_stays(answer: frames.Event, autojump_clock: MockClock) -> None:
    seen: list[Any] = []
    async with connected(keep_in(seen)) as client:
        await client.open()
        begin = trio.current_time()
        while trio.current_time() < begin + 300:
            if isinstance(await client.next(), frames.Ping):
                await client.send(answer)
        await client.stream.aclose()


async def test_an_application_that_does_not_listen_is_no_silence_of_its_client(autojump_clock: MockClock) -> None:
    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await trio.sleep(299)
        await receive()
        assert (await receive())["text"] == "still here"

    async with connected(busy) as client:
        await client.open()
        await client.send(frames.TextMessage("still here"))
        for _ in range(19):
            assert isinstance(await client.next(), frames.Ping)
        assert (await client.next()).code == 1000


HEADER = b"\x81\xfe\x10\x00\x00\x00\x00\x00"
"""Of a text frame of 4,096 bytes; every byte is sent as it is, for the mask is zero."""
PING = b"\x89\x80\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "pieces",
    [
        [HEADER[at : at + 1] for at in range(7)],
        [HEADER, *[b"x"] * 4000],
        [b"\x89\xfd\x00\x00\x00\x00", *[b"x"] * 100],
        [b"\x01\x81\x00\x00\x00\x00x", *[b"\x00\x81\x00\x00\x00\x00x", PING] * 100],
        [b"\x01\x80\x00\x00\x00\x00", *[b"\x00\x80\x00\x00\x00\x00", PING] * 100],
    ],
    ids=["header", "payload", "ping", "fragments", "empty fragments"],
)
async def test_what_trickles_in_has_to_be_complete_in_time(pieces: list[bytes], autojump_clock: MockClock) -> None:
    """Each byte comes in time; all of them do not. `ping_s` has nothing to do with it."""
    async with connected(timeouts=Timeouts(ping_s=1000, body_s=30)) as client:
        await client.open()
        begin = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await trickle(client.stream, pieces, every_s=7)
        assert 30 <= trio.current_time() - begin <= 75


@pytest.mark.parametrize(
    ("part", "most"),
    [(b"\x00\x80\x00\x00\x00\x00", 200_000), (b"\x00\x83\x00\x00\x00\x00xxx", 600_000)],
    ids=["empty", "tiny"],
)
async def test_fragments_cost_no_more_memory_than_their_bytes(
    part: bytes, most: int, autojump_clock: MockClock
) -> None:
    """Law 8: no size counts empty ones, and a list of tiny strings has sixty bytes for each."""
    async with connected() as client:
        await client.open()
        await client.stream.send_all(b"\x01\x81\x00\x00\x00\x00x")
        await trio.testing.wait_all_tasks_blocked()
        tracemalloc.start()
        try:
            for _ in range(10):
                await client.stream.send_all(part * 5_000)
                await trio.testing.wait_all_tasks_blocked()
            assert tracemalloc.get_traced_memory()[0] < most
        finally:
            tracemalloc.stop()
        await client.stream.send_all(b"\x80\x80\x00\x00\x00\x00")
        assert set((await client.next()).data) == {"x"}
        await client.stream.aclose()


async def test_tiny_messages_leave_others_their_turns(autojump_clock: MockClock) -> None:
    """A read of 64 KiB may bring 9,000 messages, each of which costs a call or its refusal."""
    turns, seen = [0], []

    async def swallow(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] != "websocket.disconnect":
            seen.append(event)

    async with connected(swallow) as client:
        await client.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns, turns)
            await client.stream.send_all(b"\x81\x81\x00\x00\x00\x00x" * 4000)
            await client.stream.aclose()
            await client.ended.wait()
            nursery.cancel_scope.cancel()
    assert len(seen) == 4001
    assert turns[0] >= 1000


async def test_a_reader_that_stops_is_cut_off(autojump_clock: MockClock) -> None:
    """On a Unix socket, too, where no kernel would end it."""

    async def talk(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * 10_000_000})

    async with connected(talk, real=True) as client:
        await client.stream.send_all(HEAD)
        begin = trio.current_time()
        await client.ended.wait()
        assert trio.current_time() - begin == pytest.approx(15)
