"""A process with an inbox, to be stopped and killed: prints its address, then each message that it hears, as hex.

python -m tests.contract.inbox_child redis URL PREFIX
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from mcpd.drivers.redis import Redis
from mcpd.storage.inbox import Inbox, Message
from mcpd.storage.redis.inbox import RedisInbox
from mcpd.storage.redis.keys import Keys
from mcpd.storage.sqlite.inbox import open_inbox
from tests.contract.inbox_backends import LEASE_S, QUICK, ROOM, TOPIC


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def hear(message: Message) -> None:
    say(message.body.hex())


async def live(inbox: Inbox, nursery: trio.Nursery) -> None:
    inbox.on(TOPIC, hear)
    await nursery.start(inbox.run)
    say(inbox.address)


async def on_redis(url: str, prefix: str) -> None:
    async with trio.open_nursery() as nursery:
        redis = Redis(url, options=QUICK)
        await nursery.start(redis.run)
        await live(RedisInbox(redis, Keys(prefix), lease_s=LEASE_S, room=ROOM), nursery)


async def on_sqlite(folder: str) -> None:
    async with open_inbox(Path(folder), poll_s=0.01, room=ROOM) as inbox, trio.open_nursery() as nursery:
        await live(inbox, nursery)


KINDS: dict[str, Callable[..., Awaitable[None]]] = {"redis": on_redis, "sqlite": on_sqlite}

if __name__ == "__main__":
    trio.run(partial(KINDS[sys.argv[1]], *sys.argv[2:]))
