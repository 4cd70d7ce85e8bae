"""What replicas tell each other: a stream of Redis for each process, which it alone reads, and a call to read it.

    send, send_all   one script: who lives, whether there is room, the entry, the call
    run              reads after each call, after each (re)connection, and as often as it beats; what has been told is
                     deleted by the next reading, so that a reply that was lost is read again

Everything in a stream is news, so nobody keeps a place in it: neither a failover nor a FLUSHALL can hide an entry.

Called by: `storage.redis.shared`. Implements `storage.inbox.Inbox`. Calls: the rules of `storage.redis.lease` on who
lives, over a list of its own, since an address is for life and an epoch is not. Deliberately not: change events
(`storage.redis.bus`), which are for all and kept for a while.

Laws: an inbox holds at most `INBOX_ROOM`; a process that is paused has its stream for `INBOX_TTL_MS`.
While it is not known who lived, because the list has just been lost, an address that is not listed is one that may
live, for one lease: in that time it has beaten if it does. Nothing that Redis does ends this.
"""

from __future__ import annotations

import logging
import re
import secrets
from itertools import count
from typing import Annotated, Final, NamedTuple

import msgspec
import trio

from mcpd.drivers.redis import Redis, RedisError, Script, shaped
from mcpd.drivers.resp import Argument
from mcpd.storage.inbox import ADDRESS, ADDRESS_BYTES, INBOX_ROOM, InboxFull, InboxRoom, Message, Receive
from mcpd.storage.receivers import Receivers
from mcpd.storage.redis.errors import translated
from mcpd.storage.redis.keys import INBOX_TTL_MS, Keys
from mcpd.storage.redis.lease import LUA

READ_ITEMS: Final = 200
BEGIN_S: Final = 1.0
"""How long the start of a server waits until it can be found: on a server that is there, some milliseconds."""

RETRY_S: Final = 0.5
_log = logging.getLogger(__name__)

_PRELUDE: Final = (
    LUA
    + """
local function look(inboxes, state, address, lease)
  local now = now_ms()
  local known = redis.call('EXISTS', state)
  beat(inboxes, state, now, lease, address)
  if known == 0 then redis.call('HSET', state, 'lost', now + lease) end
  return now
end
"""
)
_PUT: Final = """
local function put(stream, most, most_bytes, sender, number, topic, body)
  local at = #body
  if redis.call('XLEN', stream) > 0 then
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][2]
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][2]
    if redis.call('XLEN', stream) >= most then return false end
    if last[8] - first[8] + #first[10] + #body > most_bytes then return false end
    at = last[8] + #body
  elseif #body > most_bytes then
    return false
  end
  redis.call('XADD', stream, '*', 'sender', sender, 'number', number, 'topic', topic,
    'at', string.format('%.0f', at), 'body', body)
  redis.call('PEXPIRE', stream, TTL)
  redis.call('PUBLISH', stream, '')
  return true
end
""".replace("TTL", str(INBOX_TTL_MS))
"""`at` is how many bytes of bodies there have been up to this entry's end, since the stream was last empty."""

_SEND: Final = Script(
    _PRELUDE
    + _PUT
    + """
local now = look(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]))
if not is_alive(KEYS[1], KEYS[2], now, ARGV[8]) and tonumber(redis.call('HGET', KEYS[2], 'lost') or '0') <= now then
  return 0
end
return put(KEYS[3], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[1], ARGV[5], ARGV[6], ARGV[7]) and 1 or -1
""",
    "tell",
)

_SEND_ALL: Final = Script(
    _PRELUDE
    + _PUT
    + """
local now, told, full = look(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])), 0, 0
for _, address in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if address ~= ARGV[1] and is_alive(KEYS[1], KEYS[2], now, address) then
    if put(ARGV[8] .. address, tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[1], ARGV[5], ARGV[6], ARGV[7]) then
      told = told + 1
    else
      full = full + 1
    end
  end
end
return {told, full}
""",
    "tell_all",
)

_READ: Final = Script(
    _PRELUDE
    + """
look(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]))
for at = 4, #ARGV do redis.call('XDEL', KEYS[3], ARGV[at]) end
redis.call('PEXPIRE', KEYS[3], TTL)
return redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', ARGV[3])
""".replace("TTL", str(INBOX_TTL_MS)),
    "hear_told",
)

_LEAVE: Final = Script("redis.call('ZREM', KEYS[1], ARGV[1]) return redis.call('DEL', KEYS[2])", "leave_inbox")

_Fields = Annotated[list[bytes], msgspec.Meta(min_length=1)]


class _Told(NamedTuple):
    told: int
    full: int


class RedisInbox:
    """Implements `Inbox`; others find this process while `run` runs."""

    def __init__(self, redis: Redis, keys: Keys, *, lease_s: float, room: InboxRoom = INBOX_ROOM) -> None:
        self._redis = redis
        self._keys = keys
        self._lease_s = lease_s
        self._room = room
        self.address = secrets.token_hex(ADDRESS_BYTES)
        self._receivers = Receivers()
        self._numbers = count(1)
        self._told: list[bytes] = []
        """Ids of the entries that have been told and are still in the stream."""
        self._news = trio.Event()
        self._begun = trio.Event()
        self._left = False
        self.trouble = ""
        """What the server refuses although it is there; empty when it refuses nothing."""

    def on(self, topic: str, receive: Receive) -> None:
        """See `Inbox`."""
        self._receivers.on(topic, receive)

    @property
    def _arguments(self) -> tuple[str, int]:
        return self.address, round(self._lease_s * 1000)

    async def send(self, to: str, topic: str, body: bytes) -> bool:
        """See `Inbox`."""
        if to == self.address:
            await trio.lowlevel.checkpoint()
            self._receivers.tell(Message(to, topic, body))
            return True
        if re.fullmatch(ADDRESS, to) is None:
            await trio.lowlevel.checkpoint()
            return False
        keys = [self._keys.inboxes, self._keys.inbox_lease, self._keys.inbox(to)]
        arguments = (*self._arguments, *self._room, next(self._numbers), topic, body, to)
        with translated():
            said = await self._redis.run_script(_SEND, keys=keys, arguments=arguments, idempotent=True)
        if said == -1:
            raise InboxFull(f"the process {to} has more to hear than it may")
        return bool(said == 1)

    async def send_all(self, topic: str, body: bytes) -> int:
        """See `Inbox`."""
        arguments = (*self._arguments, *self._room, next(self._numbers), topic, body, self._keys.inbox(""))
        keys = [self._keys.inboxes, self._keys.inbox_lease]
        with translated():
            reply = await self._redis.run_script(_SEND_ALL, keys=keys, arguments=arguments, idempotent=True)
            told, full = shaped(reply, _Told)
        if full:
            raise InboxFull(f"{full} of {full + told} processes have more to hear than they may")
        return told

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Inbox`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._hear)
            with trio.move_on_after(BEGIN_S):
                await self._begun.wait()
            task_status.started()

    async def leave(self) -> None:
        """See `Inbox`."""
        self._left = True
        keys = [self._keys.inboxes, self._keys.inbox(self.address)]
        if not self._redis.statistics().connected:
            return
        try:
            await self._redis.run_script(_LEAVE, keys=keys, arguments=[self.address], idempotent=True)
        except RedisError as error:
            _log.debug("the inbox could not be given up: %s", error)

    async def _listen(self) -> None:
        async with self._redis.subscribe(self._keys.inbox(self.address)) as subscription:
            while True:
                try:
                    async for _ in subscription:
                        self._news.set()
                except RedisError as error:
                    self._note(error)
                    subscription.close()
                    await trio.sleep(self._lease_s / 3)

    async def _hear(self) -> None:
        """Read whenever there may be news, and at least as often as a lease wants."""
        while not self._left:
            self._news, pause_s = trio.Event(), self._lease_s / 3
            try:
                if await self._read():
                    pause_s = 0.0
            except RedisError as error:
                self._note(error)
                pause_s = RETRY_S
            with trio.move_on_after(pause_s):
                await self._news.wait()

    async def _read(self) -> bool:
        """Tell of everything that has come; True when it has to be deleted at once, or there may be more."""
        keys = [self._keys.inboxes, self._keys.inbox_lease, self._keys.inbox(self.address)]
        arguments: tuple[Argument, ...] = (*self._arguments, READ_ITEMS, *self._told)
        reply = await self._redis.run_script(_READ, keys=keys, arguments=arguments, idempotent=True)
        entries = shaped(reply, list[tuple[bytes, _Fields]])
        self._note(None)
        self._told = [name for name, _ in entries]
        for _, fields in entries:
            self._tell(fields)
        self._begun.set()
        return bool(entries)

    def _tell(self, fields: list[bytes]) -> None:
        entry = dict(zip(fields[0::2], fields[1::2], strict=False))
        try:
            sender, topic = entry[b"sender"].decode(), entry[b"topic"].decode()
            message, number = Message(sender, topic, entry[b"body"]), int(entry[b"number"])
        except (KeyError, ValueError) as error:
            _log.warning("a message of another process cannot be read: %r", error)
        else:
            self._receivers.tell_once(message, number)

    def _note(self, error: RedisError | None) -> None:
        """Keep what the server refuses until it does it again: one line in the log for each change."""
        trouble = str(error) if error is not None and error.code else ""
        if trouble and trouble != self.trouble:
            _log.error("redis: other replicas are not heard (mcpd check says more): %s", trouble)
        self.trouble = trouble
