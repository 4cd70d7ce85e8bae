"""The Redis client on real servers: commands, pipelines, transactions, scripts, leases, channels, refusals."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from mcpd.drivers.redis import (
    GAP,
    Message,
    NotExecuted,
    Options,
    OutcomeUnknown,
    Redis,
    RedisError,
    Refused,
    Script,
    Unreachable,
)
from mcpd.drivers.redis.address import Address, parse
from tests.drivers.redis.conftest import QUICK, client_of
from tests.in_process import eventually
from tests.redis_servers import RedisServer, cutting, free_port, make_certificate, serving, tls_options

WAIT_S = 20.0
ECHO = Script("return {KEYS[1], ARGV[1]}")


async def test_a_command_has_its_reply(server: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with client_of(server.url, name="tester") as redis:
            assert await redis.execute("SET", "k", "v") == b"OK"
            assert await redis.execute("GET", "k") == b"v"
            assert await redis.execute("GET", "none") is None
            assert await redis.execute("DEL", "h") in (0, 1)
            assert await redis.execute("HSET", "h", "a", 1, "b", 2) == 2
            assert await redis.execute("HGETALL", "h") == {b"a": b"1", b"b": b"2"}
            assert b"name=tester" in await redis.execute("CLIENT", "LIST")
            assert redis.server["server"] in ("redis", "valkey")


async def test_an_error_of_the_server_is_final_and_named(server: RedisServer) -> None:
    async with client_of(server.url) as redis:
        await redis.execute("SET", "text", "v")
        with pytest.raises(Refused, match="wrong kind of value") as raised:
            await redis.execute("LPUSH", "text", "x")
        assert raised.value.code == "WRONGTYPE"


async def test_a_pipeline_keeps_each_error_in_its_place(server: RedisServer) -> None:
    async with client_of(server.url) as redis:
        await redis.execute("DEL", "n")
        one, bad, two = await redis.pipeline([("INCR", "n"), ("LPUSH", "n", 1), ("INCR", "n")])
        assert (one, two) == (1, 2)
        assert isinstance(bad, Refused)
        assert await redis.pipeline([]) == []


async def test_a_transaction_runs_whole_or_is_refused_whole(server: RedisServer) -> None:
    async with client_of(server.url) as redis:
        await redis.execute("DEL", "n")
        one, bad, two = await redis.transaction([("INCR", "n"), ("LPUSH", "n", 1), ("INCR", "n")])
        assert (one, two, bad.code) == (1, 2, "WRONGTYPE")
        with pytest.raises(Refused, match="wrong number of arguments"):
            await redis.transaction([("INCR", "n"), ("INCR",)])
        assert await redis.execute("GET", "n") == b"2"


async def test_a_script_runs_whether_the_server_knows_it_or_not(server: RedisServer) -> None:
    async with client_of(server.url) as redis:
        for _ in range(2):
            await redis.execute("SCRIPT", "FLUSH")
            assert await redis.run_script(ECHO, keys=["k"], arguments=[1]) == [b"k", b"1"]
            assert await redis.run_script(ECHO, keys=["k"], arguments=[2]) == [b"k", b"2"]


async def test_an_error_within_a_script_is_never_called_harmless(server: RedisServer) -> None:
    """What it wrote before stays."""
    script = Script("redis.call('INCR', KEYS[1]); return redis.call('XADD', KEYS[1], '*', 'a', 'b')")
    async with client_of(server.url) as redis:
        await redis.execute("DEL", "n")
        with pytest.raises(Refused):
            await redis.run_script(script, keys=["n"])
        assert await redis.execute("GET", "n") == b"1"


async def lists(redis: Redis, word: bytes) -> bool:
    """True when the server lists a client with this word."""
    return word in await redis.execute("CLIENT", "LIST")


async def until(condition: Callable[[], Awaitable[bool]], *, met: bool = True) -> None:
    while await condition() != met:  # noqa: ASYNC110 - a foreign process rings no bell
        await trio.sleep(0.01)


async def test_a_blocking_command_holds_up_nobody_and_ends_with_its_caller(server: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with client_of(server.url, name="blocked") as redis, trio.open_nursery() as nursery:

            async def wait() -> None:
                async with redis.lease() as connection:
                    await connection.call("CLIENT", "SETNAME", "waits")
                    await connection.call("BLPOP", "never", 0)

            nursery.start_soon(wait)
            await until(lambda: lists(redis, b"cmd=blpop"))
            assert redis.statistics().leased == 1
            nursery.cancel_scope.cancel()
        async with client_of(server.url) as redis:
            await until(lambda: lists(redis, b"cmd=blpop"), met=False)


async def test_places_of_leases_are_bounded_and_come_back_after_every_end(redis7: RedisServer) -> None:
    """A pool that loses a place at each cancellation runs dry; others' did."""
    async with client_of(redis7.url, QUICK._replace(max_leases=2)) as redis:
        for _ in range(10):
            with trio.move_on_after(0.01):
                async with redis.lease() as connection:
                    await connection.call("BLPOP", "never", 0)
            with pytest.raises(Refused):
                async with redis.lease() as connection:
                    await connection.call("NOSUCH")
            async with redis.lease() as connection:
                assert await connection.call("PING") == b"PONG"
        assert redis.statistics().leased == 0
        assert redis.statistics().idle == 1


async def test_a_large_value_goes_apart_and_comes_back(server: RedisServer) -> None:
    value = b"x\r\n" * 700_000
    async with client_of(server.url) as redis:
        await redis.execute("SET", "large", value)
        assert await redis.execute("GET", "large") == value


async def test_messages_come_after_the_gap_that_says_where_they_begin(server: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with client_of(server.url) as redis, redis.subscribe("a", "b") as subscription:
            seen: list[object] = []
            async for item in subscription:
                seen.append(item)
                if item is GAP:
                    await redis.execute("PUBLISH", "a", "1")
                    await redis.execute("PUBLISH", "b", "2")
                if len(seen) == 3:
                    break
            assert seen == [GAP, Message(b"a", b"1"), Message(b"b", b"2")]


async def test_a_subscription_survives_its_connection(server: RedisServer) -> None:
    with trio.fail_after(WAIT_S):
        async with client_of(server.url, name="killed") as redis, redis.subscribe("a") as subscription:
            gaps = 0
            async for item in subscription:
                if item is not GAP:
                    break
                gaps += 1
                if gaps == 1:
                    await redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
                else:
                    await redis.execute("PUBLISH", "a", "after")
            assert (gaps, item, subscription.reconnects) == (2, Message(b"a", b"after"), 1)


async def test_a_lost_connection_is_opened_again_and_its_victims_know_the_outcome_is_unknown(
    server: RedisServer,
) -> None:
    with trio.fail_after(WAIT_S):
        async with client_of(server.url) as redis:
            identity = await redis.execute("CLIENT", "ID")
            async with redis.lease() as connection:
                await connection.call("CLIENT", "PAUSE", 300, "ALL")
                async with trio.open_nursery() as nursery:

                    async def fail() -> None:
                        with pytest.raises(OutcomeUnknown):
                            await redis.execute("INCR", "lost")

                    nursery.start_soon(fail)
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    await connection.send(
                        b"*4\r\n$6\r\nCLIENT\r\n$4\r\nKILL\r\n$2\r\nID\r\n$%d\r\n%d\r\n"
                        % (len(str(identity)), identity)
                    )
            assert await redis.execute("PING") == b"PONG"
            assert redis.statistics().reconnects == 1


async def test_a_server_that_is_not_there_is_waited_for_and_then_named() -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    async with client_of(url, QUICK._replace(patience_s=0.2)) as redis:
        with pytest.raises(Unreachable, match=url):
            await redis.execute("PING")
        with pytest.raises(Unreachable, match=url):
            async with redis.lease():
                raise AssertionError("there is nothing to lease")
        assert redis.statistics().leased == 0


async def test_a_caller_waits_for_a_server_that_comes_soon(tmp_path: Path) -> None:
    port = free_port()
    with trio.fail_after(WAIT_S):
        async with client_of(f"redis://127.0.0.1:{port}", QUICK._replace(patience_s=10)) as redis:
            async with trio.open_nursery() as nursery:
                found: list[object] = []

                async def ask() -> None:
                    found.append(await redis.execute("PING"))

                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.02)
                with serving("redis-7", port=port):
                    await eventually(lambda: found, "it is answered")
            assert found == [b"PONG"]


async def test_a_stopped_server_ends_every_wait(redis7: RedisServer) -> None:
    """connect() succeeds and nothing is ever answered."""
    with serving("redis-7") as server, trio.fail_after(WAIT_S):
        async with client_of(server.url, Options(connect_s=0.3, stall_s=0.3, patience_s=0.3)) as redis:
            server.pause()
            with pytest.raises(OutcomeUnknown, match="no reply for"):
                await redis.execute("INCR", "n")
            with pytest.raises(Unreachable):
                await redis.execute("INCR", "n")
            server.resume()
            await eventually(lambda: redis.statistics().connected, "it is connected again")
            assert await redis.execute("GET", "n") in (None, b"1")


async def test_a_loading_server_is_asked_again_until_patience_ends(redis7: RedisServer) -> None:
    """The command did not run; PING would have said the server is ill, and it is not."""
    async with client_of(redis7.url, QUICK._replace(patience_s=10)) as redis, trio.open_nursery() as nursery:
        async with redis.lease() as connection:
            await connection.call("CONFIG", "SET", "busy-reply-threshold", 10)

        async def block() -> None:
            async with redis.lease() as connection:
                with pytest.raises(RedisError):
                    await connection.call("EVAL", "while true do end", 0)

        nursery.start_soon(block)
        await trio.sleep(0.2)
        async with trio.open_nursery() as both:
            replies: list[object] = []

            async def ask() -> None:
                replies.append(await redis.execute("ECHO", "late"))

            both.start_soon(ask)
            await trio.sleep(0.2)
            assert not replies
            redis7.ask("SCRIPT", "KILL")
        assert replies == [b"late"]


async def fill(redis: Redis) -> None:
    for number in range(100):
        await redis.execute("SET", f"k{number}", b"x" * 60_000)


async def test_a_full_server_is_unavailable_and_not_asked_again(redis7: RedisServer) -> None:
    with serving("redis-7", "--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        async with client_of(server.url) as redis:
            with pytest.raises(NotExecuted) as raised:
                await fill(redis)
            assert raised.value.code == "OOM"
            assert await redis.execute("GET", "k0") == b"x" * 60_000


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_wrong_password_is_told_at_the_start(password: str) -> None:
    with serving("redis-7", "--requirepass", "right") as server:
        redis = Redis(f"redis://:{password}@127.0.0.1:{server.port}" if password else server.url, options=QUICK)
        with pytest.raises(Refused):
            await redis.run()
        async with client_of(f"redis://:right@127.0.0.1:{server.port}") as redis:
            assert await redis.execute("PING") == b"PONG"


async def test_a_user_may_do_what_the_rights_named_in_the_manual_allow() -> None:
    with serving("redis-7") as server:
        async with client_of(server.url) as redis:
            rights = [
                "on",
                ">p%40ss",
                "~mcpd:*",
                "&mcpd:*",
                "+@all",
                "-@dangerous",
                "-@admin",
                "+info",
                "+role",
                "+client|list",
                "+client|kill",
            ]
            await redis.execute("ACL", "SETUSER", "mcpd", *rights)
        async with client_of(f"redis://mcpd:p%2540ss@127.0.0.1:{server.port}", name="mcpd") as redis:
            assert await redis.execute("SET", "mcpd:k", "v") == b"OK"
            with pytest.raises(Refused, match="NOPERM"):
                await redis.execute("SET", "other", "v")
            async with redis.subscribe("other") as subscription:
                with pytest.raises(Refused, match="NOPERM"):
                    await anext(aiter(subscription))


async def test_a_unix_socket_is_an_address_too(server: RedisServer) -> None:
    async with client_of(server.socket_url) as redis:
        assert await redis.execute("PING") == b"PONG"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_tls_is_checked_and_spoken(certificate: Path) -> None:
    port = free_port()
    with serving("redis-7", *tls_options(certificate, port)) as server, trio.fail_after(WAIT_S):
        trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        async with client_of(f"rediss://localhost:{port}", tls=trusting) as redis:
            assert await redis.execute("PING") == b"PONG"
        async with client_of(f"rediss://localhost:{port}", QUICK._replace(patience_s=0.1)) as redis:
            with pytest.raises(Unreachable, match="certificate"):
                await redis.execute("PING")
        quick = QUICK._replace(connect_s=0.3, patience_s=0.1)
        async with client_of(f"rediss://localhost:{server.port}", quick, tls=trusting) as redis:
            with pytest.raises(Unreachable):
                await redis.execute("PING")


async def test_a_stranger_on_the_port_is_no_server() -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with client_of(f"redis://127.0.0.1:{port}", QUICK._replace(patience_s=0.1)) as redis:
            with pytest.raises(Unreachable, match="no element begins"):
                await redis.execute("PING")
        nursery.cancel_scope.cancel()


async def test_a_reply_that_nobody_asked_for_ends_the_connection(redis7: RedisServer) -> None:
    """Whatever is out of step would hand each caller the reply of another."""
    async with cutting(redis7.port) as proxy, client_of(proxy.url) as redis:
        assert await redis.execute("ECHO", "a") == b"a"
        shared = redis._shared
        assert shared is not None
        await shared._connection.send(b"*1\r\n$4\r\nPING\r\n")
        await eventually(lambda: redis.statistics().reconnects, "the connection has been replaced")
        assert await redis.execute("ECHO", "b") == b"b"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Address("h")),
        ("redis://h:7/0", Address("h", 7)),
        ("rediss://[::1]:7", Address("::1", 7, tls=True)),
        ("redis://:p%40@h", Address("h", password="p@")),
        ("redis://u:p@h", Address("h", username="u", password="p")),
        ("unix:///a%20b/r.sock", Address(path="/a b/r.sock")),
        ("redis+unix://u:p@/r.sock", Address(path="/r.sock", username="u", password="p")),
    ],
)
def test_a_url_names_an_address(url: str, expected: Address) -> None:
    found = parse(url)
    assert found == expected
    assert "p@" not in repr(found) + str(found)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "http://h",
        "redis://h/1",
        "redis://h:99999",
        "redis://secret@h",
        "redis://:secret@h?db=1",
        "redis://:a/secret@h",
        "redis://:secret/b@h",
        "redis://u:secret[x@h",
        "redis://:#secret@h",
        "unix://h/x",
        "unix:///",
        "redis://:secret@a..b",
        f"redis://:secret@{'x' * 64}",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Refused) as raised:
        parse(url)
    assert "secret" not in str(raised.value)
