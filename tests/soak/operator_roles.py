"""Whoever runs the server: documents that change, keys that are made and revoked, scrapes.

Documents get to the store through `mcpd ingest --watch`, a process of its own beside the server, as in real life. The
role `rover` holds the key that is revoked: what it has opened before has to end.

Sources: surfaces "Access": a reload ends connections, sessions and streams of keys that are gone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from mcpd.gateway.keys import KeyStore
from tests.e2e.websocket import STATELESS, Peer
from tests.served import Mcp, client_at, environment
from tests.soak import corpus, orders
from tests.soak.line_roles import open_line
from tests.soak.world import Actor, World, gone_on_purpose

RELOAD_S = 15.0
"""A reload has taken effect within this, on a machine that is busy with all else."""
WALKING = "rover"
UNAUTHENTICATED = 401


async def ingest(world: World) -> None:
    """Put the corpus into the store."""
    words = [sys.executable, "-m", "mcpd", "ingest", str(world.corpus), "--as", corpus.NAME, "--data", "data"]
    done = await trio.run_process(
        words, cwd=world.folder, env=environment(), capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@asynccontextmanager
async def watching(world: World) -> AsyncIterator[None]:
    """Keep the store in step with the corpus while the block runs."""
    words = [sys.executable, "-m", "mcpd", "ingest", str(world.corpus), "--as", corpus.NAME, "--data", "data"]
    with (world.folder / "ingest.log").open("ab") as log:
        start = partial(trio.run_process, stdout=subprocess.DEVNULL, stderr=log, check=False)
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(start, [*words, "--watch"], cwd=world.folder, env=environment()))
            yield
            if process.returncode is not None:
                world.tally.violation(f"mcpd ingest --watch ended with {process.returncode}")
            nursery.cancel_scope.cancel()


async def change_documents(actor: Actor) -> None:
    """Change a few files."""
    corpus.change(actor.world.corpus, actor.chance)
    actor.add("changes")


async def scrape(actor: Actor) -> None:
    """Ask for health and metrics, as a monitor does."""
    for path in ("/healthz", "/readyz", "/metrics"):
        with actor.timed():
            status, text = await actor.world.program.get(path)
        actor.expect(status == 200, f"{path} is {status}: {text[:200]}")


async def reload_keys(actor: Actor) -> None:
    """Make the walking key anew: the old one and all that was opened with it ends, the new one works."""
    async with client_at(actor.url, **actor.headers) as old, trio.open_nursery() as nursery:
        actor.expect((await old.ask("tools/list")).status == 200, "the key does not work")
        await nursery.start(_connected, actor)
        await _renew(actor)
        await _until_refused(actor, old)
    async with client_at(actor.url, **actor.headers) as new:
        order = orders.echo("async", "new")
        reply = await new.ask(order.method, order.params)
        actor.expect(order.right(reply.last), f"a new key is answered with {reply.status}")
    actor.add("reloads")


async def _renew(actor: Actor) -> None:
    store = KeyStore(actor.world.folder / "data" / "keys.toml")
    store.revoke(actor.principal)
    actor.world.keys[actor.principal] = store.new(actor.principal, ("call",)).reveal()
    actor.world.program.process.send_signal(signal.SIGHUP)


async def _until_refused(actor: Actor, old: Mcp) -> None:
    with trio.move_on_after(RELOAD_S):
        while (await old.ask("tools/list")).status != UNAUTHENTICATED:  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.05)
        return
    actor.expect(False, "a revoked key still works")


async def _connected(actor: Actor, *, task_status: trio.TaskStatus[None]) -> None:
    """Have a connection until it is closed, as it has to be soon after its key has gone."""
    with gone_on_purpose():
        async with open_line(actor, STATELESS) as peer:
            task_status.started()
            await _until_ended(actor, peer)


async def _until_ended(actor: Actor, peer: Peer) -> None:
    """Call on the connection of a revoked key until it is closed."""
    with trio.move_on_after(RELOAD_S):
        while True:
            await peer.request("tools/list", {})
            await trio.sleep(0.05)
    actor.expect(False, "a connection of a revoked key still works")
