"""Writing with a bound, whatever the stream is made of."""

from __future__ import annotations

import ipaddress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.gateway.server.streams import ByteStream, client_key, send_within
from tests.gateway.server.test_heads import count_turns
from tests.gateway.server.test_http11 import socket_pair

BOUND_S = 10_000.0
WRITE_S = 15.0


@pytest.mark.parametrize("pair", [trio.testing.lockstep_stream_pair, socket_pair], ids=["any stream", "socket"])
@pytest.mark.parametrize("size", [100, 10_000_000])
async def test_a_peer_that_does_not_read_is_given_up_and_closed(
    pair: object, size: int, autojump_clock: MockClock
) -> None:
    """TLS is such a stream, too."""
    ours, theirs = pair()  # type: ignore[operator]
    filled = b"x" * size if pair is trio.testing.lockstep_stream_pair else b"x" * 10_000_000
    with trio.fail_after(BOUND_S):
        async with theirs:
            begin = trio.current_time()
            assert not await send_within(ours, filled, WRITE_S)
            assert trio.current_time() - begin == pytest.approx(WRITE_S)
            with pytest.raises(trio.ClosedResourceError):
                await ours.send_all(b"more")


async def test_a_slow_reader_gets_all_of_a_large_reply(autojump_clock: MockClock) -> None:
    """It has `write_s` for every piece, not for the whole."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    received = 0

    async def read() -> None:
        nonlocal received
        while received < 1_000_000:
            received += len(await theirs.receive_some(65_536))
            await trio.sleep(WRITE_S - 1)

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            assert await send_within(ours, b"x" * 1_000_000, WRITE_S)
    assert received == 1_000_000


async def test_a_peer_that_has_gone_is_no_error(autojump_clock: MockClock) -> None:
    ours, theirs = socket_pair()
    await theirs.aclose()
    assert not await send_within(ours, b"x", WRITE_S)


async def test_who_writes_many_pieces_leaves_others_their_turns(autojump_clock: MockClock) -> None:
    """A client that reads as fast as it is written to does not hold the loop."""
    ours, theirs = socket_pair()
    turns, ours_now = [0], ByteStream(ours, WRITE_S)
    with trio.fail_after(BOUND_S):
        async with ours, theirs, trio.open_nursery() as nursery:
            nursery.start_soon(count_turns, turns)
            for _ in range(100):
                assert await ours_now.send(b"x")
            nursery.cancel_scope.cancel()
        assert turns[0] >= 15


@pytest.mark.parametrize("pair", [trio.testing.memory_stream_pair, socket_pair], ids=["any stream", "socket"])
async def test_what_is_sent_in_pieces_arrives_whole_and_in_order(pair: object, autojump_clock: MockClock) -> None:
    """Also what a full socket takes but a part of."""
    ours, theirs = pair()  # type: ignore[operator]
    pieces = [bytes([at]) * 50_000 for at in range(100)]
    sender, reader, received = ByteStream(ours, WRITE_S), ByteStream(theirs, WRITE_S), b""
    with trio.fail_after(BOUND_S):
        async with theirs, trio.open_nursery() as nursery:

            async def send() -> None:
                for piece in pieces:
                    assert await sender.send(piece)
                await ours.aclose()

            nursery.start_soon(send)
            while chunk := await reader.receive():
                received += chunk
    assert received == b"".join(pieces)


async def test_a_full_socket_is_given_up_after_its_time(autojump_clock: MockClock) -> None:
    ours, theirs = socket_pair()
    with trio.fail_after(BOUND_S):
        async with theirs:
            sender, begin = ByteStream(ours, WRITE_S), trio.current_time()
            while await sender.send(b"x" * 50_000):
                begin = trio.current_time()
            assert trio.current_time() - begin == pytest.approx(WRITE_S)
            assert not await sender.send(b"more")


@pytest.mark.parametrize("whose", ["its own", "the other"])
async def test_a_stream_that_was_closed_is_an_end_and_no_error(whose: str, autojump_clock: MockClock) -> None:
    ours, theirs = socket_pair()
    one = ByteStream(ours, WRITE_S)
    with trio.fail_after(BOUND_S):
        async with ours, theirs, trio.open_nursery() as nursery:
            nursery.start_soon((ours if whose == "its own" else theirs).aclose)
            assert await one.receive() == b""
            assert not await one.send(b"x")
            assert await one.receive() == b""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_one_client_has_one_key(one: str, other: str, same: bool) -> None:
    """Everybody has a whole /64 of IPv6."""
    assert (client_key(ipaddress.ip_address(one)) == client_key(ipaddress.ip_address(other))) is same
