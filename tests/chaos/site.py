"""What is put to the test, and who breaks it: one Redis, three replicas, a balancer in front, and the hand of fate.

`RedisPlace` is one Redis at one address, whatever process stands there; `Site` is the whole. `kill_replicas` and
`trouble_redis` break things until a moment and leave all whole. Starting and ending processes blocks, so that is done
in threads. Resources: `open_site` ends all that it has started.

Called by: `course`. Deliberately not: a client, or a judgement.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import trio

from tests.balancer import Balancer, balancing
from tests.chaos.history import Death, History, Trouble
from tests.redis_servers import RedisServer
from tests.redis_servers import serving as redis_serving
from tests.served import Server, killable

REPLICAS = 3
SPARED = 0
"""The replica that is never killed, for its memory and descriptors to be compared."""
KILL_EVERY_S = 3.0
LEASE_S = 2.0
LEAST_AWAY_S = 2.5
"""A shorter outage goes unnoticed: whoever needs Redis waits for 2 s."""
STALL_S = 5.0
"""After so long without an answer the Redis client gives a connection up; some pauses are longer, some not."""
KEEPS = ("--appendonly", "yes", "--appendfsync", "always")
TURNS = ("stopped", "paused", "restarted", "emptied", "killed", "flushed", "paused long")
SETTINGS = """
[redis]
url = "{redis}"
[server]
public_url = "{balancer}"
[auth]
seal_keys = "site:{seal}"
[timeouts]
lease_s = {lease}
[limits]
worker_processes = 0
max_sessions = 100000
max_sessions_per_principal = 100000
max_tasks = 1000000
max_tasks_per_principal = 1000000
max_idempotency_keys = 1000000
max_idempotency_keys_per_principal = 1000000
"""
"""All clients are one caller, so that nothing may give way to anything else for want of room."""
TOOLS = str(Path(__file__).with_name("tools.py"))


def quiet_port(chance: random.Random) -> int:
    """Return a free port outside the range from which connections get theirs: nobody takes it while Redis is away."""
    while True:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@dataclass
class RedisPlace:
    """One Redis, over all its restarts."""

    port: int
    folder: Path
    history: History
    _running: ExitStack = field(default_factory=ExitStack)
    server: RedisServer | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it with whatever is in its folder."""
        self.folder.mkdir(exist_ok=True)
        opened = redis_serving("redis-7", *KEEPS, port=self.port, folder=self.folder)
        self.server = await trio.to_thread.run_sync(self._running.enter_context, opened)

    async def end(self, how: signal.Signals) -> None:
        """End it with a signal, and wait until it has ended."""
        assert self.server is not None
        self.server.process.send_signal(how)
        await trio.to_thread.run_sync(self.server.process.wait)
        await trio.to_thread.run_sync(self._running.close)

    async def suffer(self, kind: str, away_s: float) -> None:
        """Have one of the `TURNS`; afterwards it answers."""
        trouble = Trouble(kind, time.monotonic())
        self.history.troubles.append(trouble)
        await self._do(kind, away_s)
        trouble.end = time.monotonic()

    async def _do(self, kind: str, away_s: float) -> None:
        assert self.server is not None
        if kind == "flushed":
            await trio.to_thread.run_sync(self.server.ask, "FLUSHALL")
        elif kind.startswith("paused"):
            self.server.pause()
            await trio.sleep(max(away_s, 1.5 * LEASE_S) if kind == "paused" else away_s + STALL_S)
            self.server.resume()
            await trio.to_thread.run_sync(self.server.ask, "PING")
        else:
            await self.end(signal.SIGTERM if kind in {"stopped", "restarted"} else signal.SIGKILL)
            if kind == "emptied":
                shutil.rmtree(self.folder)
            await trio.sleep(0 if kind == "restarted" else max(away_s, LEAST_AWAY_S))
            await self.start()

    def close(self) -> None:
        """End it for good."""
        self._running.close()


@dataclass
class Replica:
    """One of the replicas, over all its lives. `server` is None while it is dead."""

    number: int
    folder: Path
    server: Server | None = None
    running: ExitStack = field(default_factory=ExitStack)
    starts_s: list[float] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.server is not None
        return self.server.process.pid


class Site:
    """All of it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.history = History()
        self.redis = RedisPlace(quiet_port(chance), folder / "redis", self.history)
        self.replicas = [Replica(number, folder / f"replica-{number}") for number in range(REPLICAS)]
        self.port = quiet_port(chance)
        self.balancer = Balancer([])
        self._seal = urlsafe_b64encode(chance.randbytes(64)).decode().rstrip("=")

    @property
    def url(self) -> str:
        """Where clients go."""
        return self.balancer.url

    @property
    def spared(self) -> Replica:
        """The replica that lives on."""
        return self.replicas[SPARED]

    async def start(self, replica: Replica) -> None:
        """Start a replica, and let the balancer know where it is."""
        replica.folder.mkdir(exist_ok=True)
        own = f"http://localhost:{self.port}"
        settings = SETTINGS.format(redis=self.redis.url, balancer=own, seal=self._seal, lease=LEASE_S)
        begin = time.monotonic()
        opened = killable(replica.folder, settings, "--data", "data", "--tools", TOOLS)
        replica.server = await trio.to_thread.run_sync(replica.running.enter_context, opened)
        replica.starts_s.append(time.monotonic() - begin)
        self.balancer.ports[replica.number] = replica.server.port

    async def kill(self, replica: Replica) -> None:
        """Kill a replica with SIGKILL and start it again."""
        assert replica.server is not None
        self.history.deaths.append(Death(replica.pid, replica.number, time.monotonic()))
        replica.server.process.kill()
        self.balancer.ports[replica.number] = 0
        replica.server = None
        await trio.to_thread.run_sync(replica.running.close)
        await self.start(replica)

    def close(self) -> None:
        """End all processes."""
        for replica in self.replicas:
            replica.running.close()
        self.redis.close()


@asynccontextmanager
async def open_site(folder: Path, seed: int) -> AsyncIterator[Site]:
    """Start everything in an empty folder; end it on leaving."""
    site = Site(folder, random.Random(f"{seed} site"))
    try:
        await site.redis.start()
        async with balancing(*[0] * REPLICAS, port=site.port, tries=REPLICAS) as balancer:
            site.balancer = balancer
            for replica in site.replicas:
                await site.start(replica)
            yield site
    finally:
        site.close()


async def kill_replicas(site: Site, until: float, chance: random.Random) -> None:
    """Kill one of the replicas every `KILL_EVERY_S` until the clock of Trio says `until`; then all are up again.

    Nobody is killed while another one starts: on a busy machine only the one that is spared would be left to serve.
    """
    async with trio.open_nursery() as restarts:
        due = trio.current_time() + KILL_EVERY_S
        while due < until:
            await trio.sleep_until(due)
            due = max(due, trio.current_time() - KILL_EVERY_S) + KILL_EVERY_S
            if all(one.server is not None for one in site.replicas):
                victims = [one for one in site.replicas if one is not site.spared]
                restarts.start_soon(site.kill, chance.choice(victims))
                await trio.lowlevel.checkpoint()


async def trouble_redis(site: Site, until: float, span_s: float, chance: random.Random) -> None:
    """Let Redis have its troubles in turns of about `span_s`, half of it well, each once and on until `until`."""
    for turn in count():
        for kind in chance.sample(TURNS, len(TURNS)):
            await trio.sleep(chance.uniform(0.4, 0.8) * span_s)
            if turn and trio.current_time() >= until:
                return
            await site.redis.suffer(kind, chance.uniform(0.2, 0.6) * span_s)
