"""One connection by itself: what ends an exchange, and what is no reply."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing

from mcpd.drivers.redis.address import parse
from mcpd.drivers.redis.connection import Connection, connect
from mcpd.drivers.redis.errors import OutcomeUnknown, Unreachable


async def test_what_the_server_says_unasked_is_no_reply() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    connection = Connection(ours)
    await theirs.send_all(b">2\r\n+invalidate\r\n_\r\n+OK\r\n")
    with trio.fail_after(10):
        assert await connection.call("PING") == b"OK"
    assert connection.usable


@pytest.mark.parametrize("said", [b"", b"+O", b"+OK\r\n+AND\r\n", b"?\r\n"])
async def test_an_exchange_that_is_not_whole_is_the_last(said: bytes) -> None:
    """Law 6: cancelled before its reply, within it, with more than that, or broken."""
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    connection = Connection(ours)

    async def attempt() -> None:
        with suppress(OutcomeUnknown):
            await connection.call("PING")

    async with theirs, trio.open_nursery() as nursery:
        await theirs.send_all(said)
        nursery.start_soon(attempt)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not connection.usable
    assert ours.socket.fileno() == -1


async def test_a_server_that_accepts_and_says_nothing_is_not_waited_for() -> None:
    """Law 8."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener:
        with trio.fail_after(10), pytest.raises(Unreachable, match="did not answer"):
            await connect(parse(f"redis://127.0.0.1:{port}"), connect_s=0.1)
