"""A process with an inbox, to be stopped and killed: prints its address, then each message that it hears, as hex.

python -m tests.contract.inbox_child redis URL PREFIX
"""

from __future__ import annotations

import sys
from functools import partial

import trio

from mcpd.drivers.redis import Redis
from mcpd.storage.inbox import Inbox, Message
from mcpd.storage.redis.inbox import RedisInbox
from mcpd.storage.redis.keys import Keys
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


if __name__ == "__main__":
    trio.run(partial({"redis": on_redis}[sys.argv[1]], *sys.argv[2:]))
