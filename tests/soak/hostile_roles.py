"""Attackers: each scene does one bad thing, then asks whether whoever serves it still does, or has hung up in time.

They come from a loopback address of their own, with the key `mallory`, so that whatever is shared fairly by address or
principal is shared with the honest ones. Deliberately without a client library.

Laws: an attacker either leaves at a random moment, or stays and is cut off within `CUT_OFF_S`; no answer is a 500; and
a message behind a hostile one is answered, unless the connection was closed.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from mcpd.wire.methods import TABLE
from mcpd.wire.versions import STATEFUL, STATELESS
from tests.mirrored import encode_value
from tests.served import CLIENT, client_at, stateless
from tests.soak import hostile_messages as messages
from tests.soak.hostile_bytes import FRAMES, MASK, OPENINGS, client_frame, post_head, upgrade_head
from tests.soak.hostile_messages import Hostile
from tests.soak.line_roles import Pipes, child
from tests.soak.world import GONE, Actor

ADDRESS = "127.0.0.66"
CUT_OFF_S = 40.0
"""The longest timeout of the server (`course.SETTINGS`) and what a busy machine adds."""
AFTER = b'"after"'
"""Id of the sound request behind a hostile one."""
FLOOD = 120
TRICKLE_S = 0.2


@asynccontextmanager
async def connection(actor: Actor) -> AsyncIterator[trio.SocketStream]:
    """Connect from the attackers' address."""
    async with await trio.open_tcp_stream("127.0.0.1", actor.world.program.port, local_address=ADDRESS) as stream:
        yield stream


def encode(hostile: Hostile, *, era: str) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a hostile request; whatever else can be is sound."""
    method, params, meta, number = hostile
    body, _ = stateless("tools/list", params, request_id=number, meta=dict(meta))
    headers = {"mcp-protocol-version": STATELESS, "mcp-method": _header(method)}
    if era != STATELESS:
        body["params"] = {**params, "_meta": dict(meta)}
        headers = {}
    elif (row := TABLE.get(method)) is not None and row.target is not None:
        headers["mcp-name"] = _header(str(params.get(row.target)))
    body["method"] = method
    return json.dumps(body).replace("Infinity", "1e999").encode(), headers


def _header(text: str) -> str:
    try:
        return encode_value(text) if len(text) < 1000 else "x"
    except UnicodeEncodeError:
        return "x"


async def post_messages(actor: Actor) -> None:
    """A hostile request to `/mcp`, stateless or in a session of its own."""
    name, hostile = messages.draw(actor.chance)
    async with client_at(actor.url, **actor.headers) as mcp:
        if actor.chance.random() < 0.5:
            body, headers = encode(hostile, era=STATELESS)
        else:
            await mcp.initialize(actor.chance.choice(STATEFUL[:3]))
            body, headers = encode(hostile, era=STATEFUL[0])[0], mcp.session
    await _post(actor, name, body, headers)


async def post_bytes(actor: Actor) -> None:
    """A body that is no message."""
    name = actor.chance.choice(list(messages.RAW))
    headers = actor.chance.choice([{}, {"mcp-protocol-version": STATELESS, "mcp-method": "ping"}])
    await _post(actor, name, messages.RAW[name], headers)


async def _post(actor: Actor, name: str, body: bytes, headers: dict[str, str]) -> None:
    async with connection(actor) as stream:
        head = post_head(actor.world.program.port, len(body), {**headers, **actor.headers})
        with suppress(*GONE):
            await stream.send_all(head + body)
        if actor.cancels():
            await trio.sleep(actor.moment())
            actor.add("left")
            return
        _count(actor, name, await _first_bytes(actor, name, stream))


async def _first_bytes(actor: Actor, name: str, stream: trio.SocketStream) -> bytes:
    with trio.move_on_after(CUT_OFF_S), suppress(*GONE):
        return bytes(await stream.receive_some(65536))
    actor.expect(False, f"{name}: no answer")
    return b""


def _count(actor: Actor, name: str, data: bytes) -> None:
    status = data[9:12].decode("latin-1") if data.startswith(b"HTTP/1.1 ") else "closed"
    actor.expect(status != "500", f"{name}: 500")
    actor.add(status)


async def openings(actor: Actor) -> None:
    """Bytes that are no sound HTTP; then leave, or wait to be cut off."""
    name = actor.chance.choice(list(OPENINGS))
    data = OPENINGS[name](actor.world.program.port)
    if actor.chance.random() < 0.7:
        key = f"\r\nAuthorization: {actor.headers['authorization']}\r\nHost: ".encode()
        data = data.replace(b"\r\nHost: ", key, 1)
    async with connection(actor) as stream:
        with suppress(*GONE):
            await stream.send_all(data)
        if actor.chance.random() < 0.7:
            await trio.sleep(actor.chance.uniform(0, 0.5))
            _leave(actor, stream)
        else:
            await _expect_cut_off(actor, f"opening {name}", stream)


def _leave(actor: Actor, stream: trio.SocketStream) -> None:
    """Prepare to go, in order or with a reset."""
    if actor.chance.random() < 0.5:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    actor.add("left")


async def _expect_cut_off(actor: Actor, name: str, stream: trio.SocketStream) -> None:
    first = b""
    with trio.move_on_after(CUT_OFF_S), suppress(*GONE):
        while data := await stream.receive_some(65536):
            first = first or bytes(data)
        _count(actor, name, first)
        return
    if stream.socket.fileno() >= 0 and first is not None:
        await _still_open(actor, name, stream)


async def _still_open(actor: Actor, name: str, stream: trio.SocketStream) -> None:
    """Tell a reset, which is fine, from a connection that was never ended."""
    with suppress(*GONE), trio.move_on_after(0.5) as waiting:
        await stream.receive_some(65536)
    actor.expect(not waiting.cancelled_caught, f"{name}: not cut off in {CUT_OFF_S} s")
    actor.add("reset")


@asynccontextmanager
async def websocket(actor: Actor) -> AsyncIterator[trio.SocketStream]:
    """Open a WebSocket."""
    async with connection(actor) as stream:
        await stream.send_all(upgrade_head(actor.world.program.port, actor.headers))
        data = b""
        while b"\r\n\r\n" not in data:
            part = await stream.receive_some(4096)
            if not part:
                break
            data += part
        actor.expect(data.startswith(b"HTTP/1.1 101"), f"no upgrade: {data[:60]!r}")
        yield stream


async def frames(actor: Actor) -> None:
    """Frames that are no sound WebSocket; then leave, or wait for the pings that nobody answers."""
    name = actor.chance.choice(list(FRAMES))
    async with websocket(actor) as stream:
        with suppress(*GONE), trio.move_on_after(10):
            await stream.send_all(FRAMES[name])
        if actor.chance.random() < 0.7:
            await trio.sleep(actor.chance.uniform(0, 0.5))
            _leave(actor, stream)
        else:
            await _expect_cut_off(actor, f"frames {name}", stream)


async def websocket_messages(actor: Actor) -> None:
    """Hostile messages on a WebSocket, a sound one behind them."""
    era = actor.chance.choice([STATELESS, STATEFUL[0]])
    name, lines = _lines(actor, era)
    async with websocket(actor) as stream:
        with suppress(*GONE):
            for line in lines:
                await stream.send_all(client_frame(line))
        await _expect_after(actor, f"WebSocket {name}", stream)


def _lines(actor: Actor, era: str) -> tuple[str, list[bytes]]:
    """Return a few hostile messages with what has to stand before and behind them."""
    named = [messages.draw(actor.chance) for _ in range(3)]
    bodies = [encode(hostile, era=era)[0] for _, hostile in named]
    noted = encode(actor.chance.choice(messages.NOTIFICATIONS), era=era)[0].replace(b'"id": 7, ', b"")
    bodies += [noted, messages.RAW[actor.chance.choice(["null", "keys twice", "answer to nothing", "escapes"])]]
    return " + ".join(name for name, _ in named), [*_opening(era), *bodies, _after(era)]


def _opening(era: str) -> list[bytes]:
    if era == STATELESS:
        return []
    params = {"protocolVersion": era, "capabilities": {}, "clientInfo": CLIENT}
    first = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    return [json.dumps(first).encode(), b'{"jsonrpc":"2.0","method":"notifications/initialized"}']


def _after(era: str) -> bytes:
    body: Any = {"jsonrpc": "2.0", "id": "after", "method": "ping", "params": {}}
    if era == STATELESS:
        body, _ = stateless("server/discover", {}, request_id="after")
    return json.dumps(body).encode()


async def _expect_after(actor: Actor, name: str, source: trio.abc.ReceiveStream) -> None:
    seen = b""
    with trio.move_on_after(CUT_OFF_S):
        try:
            while AFTER not in seen:
                data = await source.receive_some(65536)
                if not data:
                    break
                seen = seen[-20:] + data
        except GONE:
            pass
        actor.add("answered behind" if AFTER in seen else "closed")
        return
    actor.expect(False, f"{name}: nothing is answered any more")


async def stdio_messages(actor: Actor) -> None:
    """The same to a child, which goes on whatever comes."""
    era = actor.chance.choice([STATELESS, STATEFUL[0]])
    name, lines = _lines(actor, era)
    async with child(actor) as process, trio.open_nursery() as nursery:
        assert process.stdout is not None
        nursery.start_soon(_write_lines, Pipes(process), lines)
        await _expect_after(actor, f"stdio {name}", process.stdout)
        nursery.cancel_scope.cancel()


async def _write_lines(pipes: Pipes, lines: list[bytes]) -> None:
    with suppress(*GONE):
        for line in lines:
            await pipes.sink.send_all(line + b"\n")


async def flood(actor: Actor) -> None:
    """Many connections that do nothing, or next to it, for a moment."""
    beginnings = (b"", b"GET /", OPENINGS["preface and settings"](0), OPENINGS["half a body"](0))
    async with trio.open_nursery() as nursery:
        for _ in range(FLOOD):
            nursery.start_soon(_idle, actor, actor.chance.choice(beginnings), actor.chance.uniform(0.5, 4))


async def _idle(actor: Actor, beginning: bytes, seconds: float) -> None:
    with suppress(*GONE):
        async with connection(actor) as stream:
            await stream.send_all(beginning)
            await trio.sleep(seconds)
            _leave(actor, stream)


async def trickle(actor: Actor) -> None:
    """A head, a body or a frame that comes a byte at a time, and never ends."""
    port = actor.world.program.port
    kind = actor.chance.choice(["head", "body", "frame"])
    beginning = {"head": b"GET / HTTP/1.1\r\nX: ", "body": post_head(port, 10_000, actor.headers), "frame": b""}[kind]
    opened = websocket(actor) if kind == "frame" else connection(actor)
    async with opened as stream, trio.open_nursery() as nursery:
        await stream.send_all(beginning or b"\x81\xfe\x40\x00" + MASK)
        nursery.start_soon(_drip, stream)
        await _expect_cut_off(actor, f"a {kind} trickling in", stream)
        nursery.cancel_scope.cancel()


async def _drip(stream: trio.SocketStream) -> None:
    with suppress(*GONE):
        while True:
            await stream.send_all(b"x")
            await trio.sleep(TRICKLE_S)
