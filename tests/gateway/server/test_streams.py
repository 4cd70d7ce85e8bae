"""Writing with a bound, whatever the stream is made of."""

from __future__ import annotations

import ipaddress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.gateway.server.streams import client_key, send_within
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
