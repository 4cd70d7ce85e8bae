"""Clients that read slowly or not at all, on both network transports.

The server may wait `timeouts.write_s` for such a peer and then has to cut it off. Deliberately raw: a client library
would read.
"""

from __future__ import annotations

import json

import trio

from tests.served import stateless
from tests.soak import orders
from tests.soak.hostile_bytes import client_frame, post_head, upgrade_head
from tests.soak.world import GONE, Actor

LONG = 3_000_000
"""More than all buffers between server and client hold; less than a result may have."""
CUT_OFF_S = 30.0
"""Of this `write_s` is a sixth; the rest is for a busy machine."""


def _order(actor: Actor) -> tuple[bytes, dict[str, str]]:
    order = orders.tool_call("long_text", {"items": LONG}, lambda _: True)
    body, headers = stateless(order.method, order.params)
    return json.dumps(body).encode(), {**headers, **actor.headers}


async def slow(actor: Actor) -> None:
    """Read a long answer a little at a time, then go in the middle of it."""
    body, headers = _order(actor)
    async with await trio.open_tcp_stream("127.0.0.1", actor.world.program.port) as stream:
        await stream.send_all(post_head(actor.world.program.port, len(body), headers) + body)
        for _ in range(actor.chance.randrange(1, 60)):
            actor.expect(await stream.receive_some(4096), "a slow reader is cut off although it reads")
            await trio.sleep(0.03)
    actor.add("left")


async def deaf(actor: Actor) -> None:
    """Ask for a long answer and never read it: the server hangs up."""
    body, headers = _order(actor)
    async with await trio.open_tcp_stream("127.0.0.1", actor.world.program.port) as stream:
        await stream.send_all(post_head(actor.world.program.port, len(body), headers) + body)
        await _wait_cut_off(actor, stream)


async def deaf_websocket(actor: Actor) -> None:
    """The same on a WebSocket, with several calls."""
    body, _ = _order(actor)
    async with await trio.open_tcp_stream("127.0.0.1", actor.world.program.port) as stream:
        await stream.send_all(upgrade_head(actor.world.program.port, actor.headers))
        actor.expect(b" 101 " in await stream.receive_some(4096), "no upgrade")
        for number in range(4):
            message = {**json.loads(body), "id": number}
            await stream.send_all(client_frame(json.dumps(message).encode()))
        await _wait_cut_off(actor, stream)


async def _wait_cut_off(actor: Actor, stream: trio.SocketStream) -> None:
    """Wait until sending fails, which is how somebody who does not read learns that the other end is gone."""
    try:
        with trio.fail_after(CUT_OFF_S):
            while True:
                await trio.sleep(0.5)
                await stream.send_all(b"\r\n")
    except trio.TooSlowError:
        actor.expect(False, "a client that does not read is not cut off")
    except GONE:
        actor.add("cut off")
