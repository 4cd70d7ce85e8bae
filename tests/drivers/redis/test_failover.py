"""A server that is no longer, or never was, the one to talk to: what the client does about it.

As other clients were found to do: to stay with a primary that has become a replica, to hammer a server that turns
subscribers away, to wait for ever for a server that is silent, to fall over what answers HELLO.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio

from mcpd.drivers.redis import GAP, Message, NotExecuted, OutcomeUnknown, Redis, Refused, Script, Unreachable
from mcpd.drivers.redis.address import parse
from mcpd.drivers.redis.client import LARGE_BYTES
from mcpd.drivers.redis.connection import Connection, connect
from mcpd.drivers.redis.errors import CLOSING, classify
from mcpd.drivers.redis.subscription import Subscription
from mcpd.drivers.resp import ErrorReply
from tests.drivers.redis.conftest import QUICK, client_of
from tests.in_process import eventually
from tests.redis_servers import KINDS, RedisServer, cutting, free_port, serving

WAIT_S = 30.0
WRITE = Script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
GREETING = b"%2\r\n+server\r\n+redis\r\n+version\r\n+7.2.0\r\n"


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[str]:
    """Serve a stranger that says `reply` to the first command; give its URL."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(reply)
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
        yield f"redis://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def demote(server: RedisServer, primary: RedisServer) -> None:
    primary.ask("REPLICAOF", "NO", "ONE")
    server.ask("REPLICAOF", "127.0.0.1", str(primary.port))


async def write(redis: Redis, value: str, *, in_script: bool) -> None:
    if in_script:
        assert await redis.run_script(WRITE, keys=["k"], arguments=[value]) == value.encode()
    else:
        assert await redis.execute("SET", "k", value) == b"OK"


@pytest.mark.parametrize("in_script", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_primary_that_has_become_a_replica_is_left_for_the_new_one(kind: str, in_script: bool) -> None:
    """Its connections stay open, and all that they hear is READONLY."""
    with serving(kind) as old, serving(kind) as new, trio.fail_after(WAIT_S):
        async with cutting(old.port) as proxy, client_of(proxy.url, QUICK._replace(patience_s=10)) as redis:
            await write(redis, "before", in_script=in_script)
            demote(old, new)
            proxy.target = new.port
            await write(redis, "after", in_script=in_script)
            assert b"after" in new.ask("GET", "k")
            assert redis.statistics().reconnects >= 1


@pytest.mark.parametrize("way", ["pipeline", "transaction"])
async def test_several_commands_at_once_leave_a_primary_that_has_become_a_replica_too(way: str) -> None:
    """Their errors come in a list, and each is looked at as that of one command is."""
    with serving("redis-7") as old, serving("redis-7") as new, trio.fail_after(WAIT_S):
        async with cutting(old.port) as proxy, client_of(proxy.url, QUICK._replace(patience_s=10)) as redis:
            await write(redis, "before", in_script=False)
            demote(old, new)
            proxy.target = new.port
            with suppress(NotExecuted):
                await getattr(redis, way)([("SET", "k", "refused")])
            await eventually(lambda: redis.statistics().reconnects == 1, "the replica is left")
            assert await getattr(redis, way)([("SET", "k", "after")]) == [b"OK"]
            assert b"after" in new.ask("GET", "k")


async def test_a_subscription_follows_to_the_new_primary_when_the_old_one_lives_on() -> None:
    """Cut off from the new one, it answers PING for ever, and nobody publishes there."""
    with serving("redis-7") as old, serving("redis-7") as new, trio.fail_after(WAIT_S):
        async with (
            cutting(old.port) as proxy,
            client_of(proxy.url, QUICK._replace(patience_s=10)) as redis,
            redis.subscribe("news") as subscription,
        ):
            assert await anext(subscription) is GAP
            old.ask("REPLICAOF", "127.0.0.1", str(free_port()))
            proxy.target = new.port
            await write(redis, "after", in_script=False)
            assert await anext(subscription) is GAP
            assert await redis.execute("PUBLISH", "news", "told") == 1
            assert await anext(subscription) == Message(b"news", b"told")


async def test_a_replica_is_not_taken_for_a_server_and_named(redis7: RedisServer) -> None:
    with serving("redis-7") as replica, trio.fail_after(WAIT_S):
        demote(replica, redis7)
        async with client_of(replica.url, QUICK._replace(patience_s=0.2)) as redis:
            with pytest.raises(Unreachable, match="is a replica"):
                await redis.execute("PING")
            replica.ask("REPLICAOF", "NO", "ONE")
            await eventually(lambda: redis.statistics().connected, "it is connected to the promoted one")


@pytest.mark.parametrize(
    "text",
    [
        "READONLY You can't write against a read only replica.",
        "READONLY You can't write against a read only replica. script: abc, on @user_script:1.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    ],
)
def test_what_only_a_replica_says_ends_the_connection(text: str) -> None:
    error = classify(ErrorReply(text.partition(" ")[0], text))
    assert isinstance(error, NotExecuted)
    assert error.code in CLOSING


@pytest.mark.parametrize("said", [b">3\r\n+subscribe\r\n+x\r\n:1\r\n", b"-BUSY a script runs\r\n", b""])
async def test_a_server_that_turns_subscribers_away_is_asked_at_a_pace(said: bytes, autojump_clock: object) -> None:
    """Law 8: also one that takes the connection first, and the subscription too."""
    attempts = 0

    async def open_one() -> Connection:
        nonlocal attempts
        attempts += 1
        assert attempts < 100
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(said)
        await theirs.send_eof()
        return Connection(ours)

    subscription = Subscription((b"x",), open_one, stall_s=5)
    with trio.move_on_after(60):
        async for _ in subscription:
            pass
    assert attempts > 30


async def test_a_large_value_does_not_wait_for_a_silent_server() -> None:
    """It has a connection of its own, which nobody watches."""
    with serving("redis-7") as server, trio.fail_after(WAIT_S):
        async with client_of(server.url, QUICK._replace(stall_s=0.2, patience_s=0.2)) as redis:
            assert await redis.execute("SET", "k", b"x" * LARGE_BYTES) == b"OK"
            server.pause()
            with pytest.raises(OutcomeUnknown, match="no reply to"):
                await redis.execute("SET", "k", b"y" * LARGE_BYTES)
            server.resume()
            assert redis.statistics().leased == 0


@pytest.mark.parametrize(
    "reply", [b"+OK\r\n", b"*2\r\n$6\r\nserver\r\n$5\r\nredis\r\n", b":1\r\n", b"_\r\n", b"%1\r\n+server\r\n*0\r\n"]
)
async def test_whatever_answers_the_greeting_is_judged_and_not_believed(reply: bytes) -> None:
    async with answering(reply) as url:
        with trio.fail_after(WAIT_S), pytest.raises((Refused, Unreachable)):
            await connect(parse(url), connect_s=5)


@pytest.mark.parametrize("version", [b":7", b"+\xff.1", b"*0", b"+" + b"9" * 5000])
async def test_a_version_that_is_none_is_too_old(version: bytes) -> None:
    async with answering(GREETING.replace(b"+7.2.0", version)) as url:
        with trio.fail_after(WAIT_S), pytest.raises(Refused, match="is needed"):
            await connect(parse(url), connect_s=5)
