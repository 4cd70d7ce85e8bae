"""Honest clients of WebSocket and stdio, both eras: many calls on one connection, cancelled by messages or by going.

`open_line` and `open_child` give the same `Peer`, so that a role does not know what carries its messages. A child is
`mcpd stdio` in the server's folder, with the same data; it has to end by itself at the end of its input, with exit
code 0. Deliberately not: hostile or slow ones.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from mcpd.wire.versions import STATEFUL
from tests.e2e.websocket import STATELESS, Peer, open_peer, reading
from tests.served import CLIENT, environment
from tests.soak import corpus, orders
from tests.soak.world import Actor, gone_on_purpose

CALLS = 16
MAX_AT_ONCE = 4
ASKING = STATEFUL[:2]
"""Revisions that know questions to the user."""
END_S = 20.0
"""A child that has no more input ends within this."""
TOOLS = ("tools.py", "async_tools.py")


@asynccontextmanager
async def open_line(actor: Actor, version: str) -> AsyncIterator[Peer]:
    """Connect to `/ws` and, on the older era, initialize."""
    headers = [(name.encode(), value.encode()) for name, value in actor.headers.items()]
    url = actor.url.replace("http", "ws", 1) + "/ws"
    async with open_peer(url, stateless=version == STATELESS, headers=headers) as peer:
        await greet(peer, version)
        yield peer


async def greet(peer: Peer, version: str) -> None:
    """Initialize, if the revision has sessions."""
    if version != STATELESS:
        params = {"protocolVersion": version, "capabilities": {"elicitation": {}}, "clientInfo": CLIENT}
        await peer.request("initialize", params)
        await peer.send({"method": "notifications/initialized"})


class Pipes:
    """The messages of a child: one line each."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.sink = process.stdin
        self._source = process.stdout
        self._buffer = bytearray()
        self._turn = trio.Lock()

    async def get_message(self) -> bytes:
        """Wait for a line. Raises: trio.EndOfChannel at the end."""
        while b"\n" not in self._buffer:
            data = await self._source.receive_some()
            if not data:
                raise trio.EndOfChannel
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line

    async def send_message(self, message: str, /) -> None:
        """Send a line."""
        async with self._turn:
            await self.sink.send_all(message.encode() + b"\n")


@asynccontextmanager
async def child(actor: Actor) -> AsyncIterator[trio.Process]:
    """Run `mcpd stdio` until the block ends; then it has to end in order."""
    words = [sys.executable, "-m", "mcpd", "stdio", "--files", "files", "--data", "data"]
    for name in TOOLS:
        words += ["--tools", str(Path(__file__).parent / name)]
    with (actor.world.folder / "stdio.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=actor.world.folder, env=environment()
        )
    try:
        yield process
        await _end(actor, process)
    finally:
        if process.returncode is None:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            await pipe.aclose()  # noqa: ASYNC102 - closing a pipe takes no time


async def _end(actor: Actor, process: trio.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.aclose()
    with trio.move_on_after(END_S):
        while await process.stdout.receive_some():
            pass
        code = await process.wait()
        actor.expect(code == 0, f"mcpd stdio ended with {code}")
        return
    actor.expect(False, "mcpd stdio did not end at the end of its input")


@asynccontextmanager
async def open_child(actor: Actor, version: str) -> AsyncIterator[Peer]:
    """Talk to a child of one's own."""
    async with child(actor) as process, reading(Peer(Pipes(process), stateless=version == STATELESS)) as peer:
        await greet(peer, version)
        yield peer


async def websocket_stateless(actor: Actor) -> None:
    """Calls on a WebSocket of 2026-07-28."""
    async with open_line(actor, STATELESS) as peer:
        await converse(actor, peer, CALLS)


async def websocket_stateful(actor: Actor) -> None:
    """Calls and questions on a WebSocket with a session, idle for longer than sessions are kept now and then."""
    async with open_line(actor, actor.chance.choice(ASKING)) as peer:
        await converse(actor, peer, CALLS // 2)
        await _asked(actor, peer)
        await converse(actor, peer, CALLS // 2)


async def stdio_stateless(actor: Actor) -> None:
    """Calls to a child of 2026-07-28."""
    async with open_child(actor, STATELESS) as peer:
        await converse(actor, peer, actor.chance.randrange(1, 4 * CALLS))


async def stdio_stateful(actor: Actor) -> None:
    """Calls and questions to a child with a session."""
    async with open_child(actor, actor.chance.choice(ASKING)) as peer:
        await converse(actor, peer, actor.chance.randrange(1, 4 * CALLS))
        await _asked(actor, peer)


async def converse(actor: Actor, peer: Peer, calls: int) -> None:
    """Make calls, some at once."""
    while calls > 0:
        at_once = min(calls, actor.chance.randrange(1, MAX_AT_ONCE + 1))
        calls -= at_once
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(_call, actor, peer)
        await actor.think()


async def _call(actor: Actor, peer: Peer) -> None:
    order = orders.draw(actor.chance)
    if actor.cancels():
        number = await peer.start(order.method, order.params)
        await trio.sleep(actor.moment())
        await peer.send({"method": "notifications/cancelled", "params": {"requestId": number}})
        actor.add("answered before the cut" if peer.results.pop(number, None) else "cancelled")
        return
    with actor.timed():
        answer = await peer.answer(await peer.start(order.method, order.params))
    if not order.right(answer):
        actor.expect(False, f"{order.label} is answered wrongly: {str(answer)[:200]}")
    actor.add("answered")


async def _asked(actor: Actor, peer: Peer) -> None:
    """Be asked a question, which `Peer` answers."""
    result = await peer.request("tools/call", {"name": "greet", "arguments": {}})
    actor.expect(result["content"][0]["text"] == "Hello, Ada!", f"greet says {result}")
    actor.add("questions answered")


async def websocket_vanishing(actor: Actor) -> None:
    """Break connections with calls on them."""
    with gone_on_purpose(), trio.CancelScope() as scope:
        async with open_line(actor, actor.chance.choice([STATELESS, *STATEFUL[:3]])) as peer:
            for _ in range(3):
                order = orders.draw(actor.chance)
                await peer.start(order.method, order.params)
                actor.add("cancelled")
            await trio.sleep(actor.moment())
            socket: Any = peer.socket
            await socket._stream.aclose()
            scope.cancel()


async def websocket_listening(actor: Actor) -> None:
    """Listen to the hot document with either era's means."""
    version = actor.chance.choice([STATELESS, STATEFUL[0]])
    async with open_line(actor, version) as peer:
        if version == STATELESS:
            number = await peer.start(
                "subscriptions/listen", {"notifications": {"resourceSubscriptions": [corpus.HOT]}}
            )
            await _hear(actor, peer)
            await peer.send({"method": "notifications/cancelled", "params": {"requestId": number}})
        else:
            await peer.request("resources/subscribe", {"uri": corpus.HOT})
            await _hear(actor, peer)
            await peer.request("resources/unsubscribe", {"uri": corpus.HOT})


async def _hear(actor: Actor, peer: Peer) -> None:
    params = await peer.note("notifications/resources/updated")
    actor.expect(params["uri"] == corpus.HOT, "an update of something else")
    actor.add("updates heard")
