"""The fixed set of calls that is made before, between and after: on every transport and revision, always the same.

Called by: `course`, while nobody else calls. Each answer is judged by its order; a wrong one, an error or none at all
is a violation.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from mcpd.wire.versions import STATEFUL, STATELESS
from tests.e2e.websocket import Peer
from tests.served import client_at
from tests.soak import orders
from tests.soak.line_roles import open_child, open_line
from tests.soak.orders import Order
from tests.soak.world import Actor, World, describe

Ask = Callable[[Order], Awaitable[dict[str, Any]]]
MODES = ("text", "semantic", "hybrid")
ANSWER_S = 30.0
FIXED: tuple[Order, ...] = (
    *(orders.echo(work, "probe") for work in ("async", "thread", "process")),
    *(orders.nap(work, 0.01) for work in ("async", "thread", "process")),
    *(orders.failing(work, "value") for work in ("async", "thread", "process")),
    *(orders.anchor_search(number, mode) for mode in MODES for number in (3, 33)),
    *orders.LISTINGS,
    orders.counting(3, 0.0),
    orders.reading(7),
    orders.FILE,
)


@asynccontextmanager
async def _http_stateless(actor: Actor, _: str) -> AsyncIterator[Ask]:
    async with client_at(actor.url, **actor.headers) as mcp:

        async def ask(order: Order) -> dict[str, Any]:
            return (await mcp.ask(order.method, order.params)).last  # type: ignore[no-any-return]

        yield ask


@asynccontextmanager
async def _http_stateful(actor: Actor, version: str) -> AsyncIterator[Ask]:
    async with client_at(actor.url, **actor.headers) as mcp:
        await mcp.initialize(version)

        async def ask(order: Order) -> dict[str, Any]:
            return (await mcp.call(order.method, order.params)).last  # type: ignore[no-any-return]

        yield ask
        await mcp.http.delete("/mcp", headers=mcp.session)


def _asking(peer: Peer) -> Ask:
    async def ask(order: Order) -> dict[str, Any]:
        return await peer.answer(await peer.start(order.method, order.params))

    return ask


@asynccontextmanager
async def _websocket(actor: Actor, version: str) -> AsyncIterator[Ask]:
    async with open_line(actor, version) as peer:
        yield _asking(peer)


@asynccontextmanager
async def _stdio(actor: Actor, version: str) -> AsyncIterator[Ask]:
    async with open_child(actor, version) as peer:
        yield _asking(peer)


LANES: tuple[tuple[str, Callable[[Actor, str], Any], str], ...] = (
    ("http", _http_stateless, STATELESS),
    *(("http", _http_stateful, version) for version in STATEFUL[:3]),
    *(("websocket", _websocket, version) for version in (STATELESS, *STATEFUL[:3])),
    *(("stdio", _stdio, version) for version in (STATELESS, STATEFUL[0])),
)
"""Transport, how a client of it is opened, revision."""


async def probe_all(world: World, when: str) -> None:
    """Make all fixed calls everywhere."""
    for transport, open_lane, version in LANES:
        actor = Actor(world, f"probe {when}, {transport} {version}", "alice", random.Random(0))
        try:
            async with open_lane(actor, version) as ask:
                await _probe(actor, ask)
        except Exception as error:  # noqa: BLE001 - whatever a probe meets is what the soak has to report
            actor.expect(False, describe(error))


async def _probe(actor: Actor, ask: Ask) -> None:
    for order in FIXED:
        with trio.fail_after(ANSWER_S):
            answer = await ask(order)
        actor.expect(order.right(answer), f"{order.label} is answered wrongly: {str(answer)[:150]}")
        actor.add("answered")
