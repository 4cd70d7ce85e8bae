"""Messages of channels, on a connection of their own that is opened again whenever it ends.

    async with redis.subscribe(b"news") as subscription:
        async for item in subscription:
            if item is GAP: ...            # (re)connected: what was published meanwhile has not been seen
            else: item.channel, item.payload

The first item is a GAP too, as soon as the server has confirmed the channels: who keeps a log beside the channel reads
it then, and misses nothing. The task that iterates does all the work, so there is no queue: a reader that stops is a
reader whose server ends the connection (over 32 MB behind), and that is a GAP.

Called by: users of `client.Redis.subscribe`. Deliberately not: patterns, shard channels, or a channel added later.

Laws: reconnecting is paced with backoff and goes on until cancelled; a silent server is asked with PING and given up
after `stall_s`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import trio

from mcpd.drivers.redis.connection import LOST, Connection
from mcpd.drivers.redis.errors import NotExecuted, Refused, classify
from mcpd.drivers.resp import ErrorReply, ProtocolError, Push, encode

SHORTEST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
_PING: Final = encode([b"PING"])


class Message(NamedTuple):
    """What was published on a channel."""

    channel: bytes
    payload: bytes


class Gap:
    """The kind of `GAP`."""

    def __repr__(self) -> str:
        return "GAP"


GAP: Final = Gap()
"""The subscription has (re)connected; messages may have been missed."""


class Subscription:
    """An endless iterator over what comes. Made by `Redis.subscribe`, which closes it."""

    def __init__(
        self, channels: tuple[bytes, ...], connect: Callable[[], Awaitable[Connection]], *, stall_s: float
    ) -> None:
        self._channels = channels
        self._connect = connect
        self._stall_s = stall_s
        self._connection: Connection | None = None
        self._missing: set[bytes] = set()
        self._ready: deque[Message | Gap] = deque()
        self._opened_at = -LONGEST_PAUSE_S
        self._longest = SHORTEST_PAUSE_S
        self.reconnects = -1
        """How often the connection had to be opened again."""

    @property
    def listening(self) -> bool:
        """True while the server has confirmed every channel on a connection that stands."""
        return self._connection is not None and not self._missing

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message | Gap:
        """Return what comes next. Cancellation: safe. Raises: Refused when a channel may not be read."""
        while not self._ready:
            connection = self._connection or await self._open()
            try:
                for item in await self._next(connection):
                    self._take(item)
            except (*LOST, NotExecuted):
                self.close()
                if trio.current_time() - self._opened_at > LONGEST_PAUSE_S:
                    self._longest = SHORTEST_PAUSE_S
                await self._pause()
        return self._ready.popleft()

    def _take(self, item: Any) -> None:
        if self._missing and _confirmed(item, self._missing):
            self._ready.append(GAP)
        elif isinstance(item, Push) and item.kind == b"message":
            self._ready.append(_message(item.items))

    async def _next(self, connection: Connection) -> list[Any]:
        """Return what came next; ask a silent server whether it is there."""
        with trio.move_on_after(self._stall_s):
            return await connection.receive()
        with trio.move_on_after(self._stall_s):
            await connection.send(_PING)
            return await connection.receive()
        raise trio.BrokenResourceError("the server is silent")

    async def _open(self) -> Connection:
        while True:
            try:
                connection = self._connection = await self._connect()
                await connection.send(encode([b"SUBSCRIBE", *self._channels]))
            except (*LOST, NotExecuted):
                self.close()
                await self._pause()
            else:
                self._opened_at = trio.current_time()
                self._missing = set(self._channels)
                self.reconnects += 1
                return connection

    async def _pause(self) -> None:
        longest, self._longest = self._longest, min(2 * self._longest, LONGEST_PAUSE_S)
        await trio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - only to fall out of step

    def close(self) -> None:
        """Close the connection, if there is one. Not a checkpoint."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


def _message(items: list[Any]) -> Message:
    if len(items) != len(Message._fields) or not all(isinstance(item, bytes) for item in items):
        raise ProtocolError("a message that is none")
    return Message(*items)


def _confirmed(item: Any, missing: set[bytes]) -> bool:
    """True when `item` confirms the last of the `missing` channels. Raises: what the server's error means."""
    if isinstance(item, ErrorReply):
        error = classify(item)
        raise error if isinstance(error, Refused) else NotExecuted(str(error), error.code)
    if not (isinstance(item, Push) and item.kind == b"subscribe"):
        return False
    if not (item.items and isinstance(item.items[0], bytes)):
        raise ProtocolError("a confirmation that names no channel")
    missing.discard(item.items[0])
    return not missing
