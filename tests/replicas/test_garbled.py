"""What stands at `redis.url` answers, but not as Redis does: whatever it says, a replica goes on by itself.

`answering` greets as Redis 7.2 (or with what it is given), confirms subscriptions, and answers any other command with
the same bytes. Deliberately not a fake of Redis: none of its answers is right.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import pytest
import trio

from mcpd.config import Config, Redis
from mcpd.drivers.redis import GAP, RedisError
from mcpd.drivers.redis import Redis as Client
from mcpd.drivers.redis.subscription import SHORTEST_PAUSE_S
from mcpd.rates import Rate
from mcpd.secret import SecretUrl
from mcpd.storage.documents import StorageError
from mcpd.storage.open import open_shared
from mcpd.storage.redis import cache
from mcpd.storage.replicas import Shared
from mcpd.storage.session_records import SessionRoom, Use
from mcpd.storage.shared import Apart, Claim, Place, Room
from tests.contract.session_backends import session
from tests.in_process import eventually

GREETING: Final = b"%2\r\n+server\r\n+redis\r\n+version\r\n+7.2.0\r\n"
CONFIRMED: Final = b">3\r\n+subscribe\r\n+%b\r\n:1\r\n"
ENTRY: Final = b"*2\r\n:1\r\n*1\r\n*2\r\n"
"""The beginning of a reply about the stream of events: one entry, whose id and fields follow."""

REPLIES: Final = {
    "text": b"+OK\r\n",
    "an integer": b":1\r\n",
    "a number that nothing holds": b"(" + b"9" * 3000 + b"\r\n",
    "null": b"_\r\n",
    "an empty array": b"*0\r\n",
    "a map": b"%1\r\n+a\r\n+b\r\n",
    "a pair of other things": b"*2\r\n:1\r\n+a\r\n",
    "numbers beyond all bounds": b"*4\r\n" + (b"(" + b"9" * 400 + b"\r\n") * 4,
    "numbers that are none": b"*4\r\n" + b",nan\r\n" * 4,
    "an entry without fields": ENTRY + b"+9-9\r\n*0\r\n",
    "an entry whose payload is an array": ENTRY + b"+9-9\r\n*2\r\n+event\r\n*0\r\n",
    "an entry whose id is none": ENTRY + b"+x\r\n*2\r\n+event\r\n+[]\r\n",
}
GREETINGS: Final = {
    "text": b"+OK\r\n",
    "null": b"_\r\n",
    "an array": b"*1\r\n+redis\r\n",
    "a server that is an array": b"%1\r\n+server\r\n*1\r\n:1\r\n",
    "a version that is a number": b"%2\r\n+server\r\n+redis\r\n+version\r\n:1\r\n",
}
ASKED_S: Final = 0.5
"""Some are asked again and again, as of an owner that was given up."""

PUSHES: Final = {
    "a message without a channel": CONFIRMED + b">1\r\n+message\r\n",
    "a message of two parts": CONFIRMED + b">2\r\n+message\r\n+a\r\n",
    "a message of four parts": CONFIRMED + b">4\r\n+message\r\n+a\r\n+b\r\n+c\r\n",
    "a payload that is a number": CONFIRMED + b">3\r\n+message\r\n+a\r\n:1\r\n",
    "a payload that is null": CONFIRMED + b">3\r\n+message\r\n+a\r\n_\r\n",
    "a channel that is an array": b">2\r\n+subscribe\r\n*0\r\n",
    "no channel": b">1\r\n+subscribe\r\n",
}


async def words_of(stream: trio.SocketStream, buffer: bytearray) -> list[bytes]:
    """Return the next command; no words at the end."""
    while True:
        lines = bytes(buffer).split(b"\r\n")
        if lines[0] and len(lines) > 2 * int(lines[0][1:]) + 1:
            del buffer[: len(b"\r\n".join(lines[: 2 * int(lines[0][1:]) + 1])) + 2]
            return lines[2 : 2 * int(lines[0][1:]) + 1 : 2]
        data = await stream.receive_some()
        if not data:
            return []
        buffer += data


@asynccontextmanager
async def answering(
    reply: bytes = b"+OK\r\n", *, greeting: bytes = GREETING, confirmed: bytes = CONFIRMED
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Yield the URL of what answers so, and the commands that it was sent."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        buffer = bytearray()
        while words := await words_of(stream, buffer):
            asked.append(words[0])
            if words[0] == b"SUBSCRIBE":
                await stream.send_all(confirmed.replace(b"%b", words[1]))
            else:
                await stream.send_all(greeting if words[0] == b"HELLO" else reply)

    async def serve_one(stream: trio.SocketStream) -> None:
        try:
            await serve(stream)
        except (trio.BrokenResourceError, ValueError):
            await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve_one, [listener])
        yield f"redis://127.0.0.1:{listener.socket.getsockname()[1]}", asked
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def shared_at(url: str) -> AsyncIterator[Shared]:
    """Run what a replica shares."""
    shared = await open_shared(Config(redis=Redis(url=SecretUrl(url))))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(shared.run)
            yield shared
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_a_reply_that_cannot_be_understood_is_an_outage_and_no_more(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "REST_S", 0.0)
    async with answering(reply) as (url, asked), shared_at(url) as shared:
        taken = await shared.rates.take("somebody", {"caller": Rate(5, 60)})
        assert taken["caller"].remaining == 4
        assert shared.cache is not None
        assert await shared.cache.ask(Place("t://x", "t://x"), 0.0) == Apart(away=True)
        shared.cache.put({"a": b"a"})
        for names in (["a"], ["a", "b"]):
            assert set((await shared.cache.find(names)).values()) <= {b"OK"}
        await eventually(lambda: asked.count(b"EVALSHA") > 2, "it is asked again")
        assert (await shared.check()).state != "ok"


def asking(shared: Shared) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what everybody asks the stores of: each of them takes a reply apart."""
    stores = shared.sessions, shared.tasks, shared.idempotency, shared.inbox
    assert None not in stores
    sessions, tasks, keys, inbox = cast("tuple[Any, Any, Any, Any]", stores)
    one, use = session("one"), Use(0.0, 60.0)
    return {
        "create a session": lambda: sessions.create(one, use, SessionRoom(9, 9)),
        "find a session": lambda: sessions.get("one"),
        "replace a session": lambda: sessions.replace(one),
        "renew a session": lambda: sessions.renew({"one": use}),
        "remove a session": lambda: sessions.remove(["one"]),
        "purge sessions": sessions.purge,
        "count sessions": sessions.count,
        "keep a reply": lambda: sessions.replies.keep("one", "stream", b"rest", 60.0),
        "find a reply": lambda: sessions.replies.get("one", "stream"),
        "begin a keyed call": lambda: keys.begin(Claim("id", "share", "digest", "token"), Room(9, 9), 60.0),
        "purge keys": keys.purge,
        "tell a process": lambda: inbox.send("0" * 12, "topic", b"body"),
        "tell all processes": lambda: inbox.send_all("topic", b"body"),
        "find a task": lambda: tasks.get("one"),
        "recover tasks": tasks.recover,
        "purge tasks": tasks.purge,
        "count tasks": tasks.count,
    }


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_a_store_whose_reply_cannot_be_understood_fails_as_one_that_is_away(reply: bytes) -> None:
    """Anything but an answer or a StorageError would end a request with a traceback, or the server."""
    async with answering(reply) as (url, _), shared_at(url) as shared, trio.open_nursery() as nursery:
        assert shared.tasks is not None
        assert shared.inbox is not None
        await nursery.start(shared.tasks.watch, print)
        await nursery.start(shared.inbox.run)
        with trio.move_on_after(ASKED_S):
            async with trio.open_nursery() as asked:
                for ask in asking(shared).values():
                    asked.start_soon(refused, ask)
        nursery.cancel_scope.cancel()


async def refused(ask: Callable[[], Awaitable[object]]) -> None:
    with suppress(StorageError):
        await ask()


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
async def test_a_greeting_that_cannot_be_understood_is_refused_as_one(greeting: bytes) -> None:
    async with answering(greeting=greeting) as (url, _):
        with trio.fail_after(20), pytest.raises(RedisError):
            async with Client(url).lease():
                pass


@pytest.mark.parametrize("push", PUSHES.values(), ids=PUSHES)
async def test_a_push_that_cannot_be_understood_ends_its_connection_and_the_next_is_not_hurried(push: bytes) -> None:
    async def hear() -> None:
        async for item in subscription:
            assert item is GAP

    async with (
        answering(confirmed=push) as (url, asked),
        Client(url).subscribe("news") as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(hear)
        await eventually(lambda: asked.count(b"SUBSCRIBE") > 2, "it is tried again")
        started = trio.current_time()
        await eventually(lambda: asked.count(b"SUBSCRIBE") > 4, "and again")
        assert trio.current_time() - started > SHORTEST_PAUSE_S
        nursery.cancel_scope.cancel()
