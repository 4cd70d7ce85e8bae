"""Change events between replicas: a `LocalBus` whose events also go to, and come from, a stream and a channel of Redis.

    publish   delivers here at once, and queues the event for the others; never waits
    run       sends what is queued, hears what others send

A channel forgets, so each event is an entry of the stream first: after every (re)connection, and every `POLL_S`, what
the stream holds behind the last entry that was heard is delivered. A message names its predecessor, so that hearing on
cannot hide a gap. When that entry is no longer there (Redis lost its
data, or this replica was away for longer than the stream reaches), everything may have changed, and subscribers are
told so.

The script that writes a change of a resource gives its `cache-state` another name (`cache`): whoever has heard the
change finds nothing of before it in what replicas share, and neither does this replica, which asks `settle` first.

Called by: the composition root; `messages`, caches and sessions through the `Bus` Protocol. Deliberately not: a queue
of everything that happened; what waits to be sent is a set, an event that waits already is not queued again.

Laws: each event carries its origin and a number, and is delivered once, also when it was sent twice because the first
outcome was unknown; what waits is bounded (`MAX_WAITING`), beyond that the others are told that anything may have
changed.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple, get_args

import msgspec
import trio

from mcpd.drivers.redis import GAP, Garbled, Message, Redis, RedisError, Script, shaped
from mcpd.drivers.redis import Subscription as Listening
from mcpd.errors import SHOWN_CHARS
from mcpd.events import Changed, Kind, LocalBus, Subscription
from mcpd.storage.redis.keys import EVENTS_TTL_MS, MAX_EVENTS, Keys

POLL_S: Final = 2.0
"""How often the stream is read without having been called: a message on a channel can be lost in silence."""

RETRY_S: Final = 0.5
MAX_WAITING: Final = 1_000
"""Distinct events that wait while Redis is away."""

MAX_ORIGINS: Final = 1_000
"""Replicas whose last number is remembered."""

READ_ITEMS: Final = 500
EVERYTHING: Final = (Changed("tools"), Changed("prompts"), Changed("resources"), Changed("resource"))
"""What is told when nobody knows what has changed."""

_KINDS: Final = frozenset(get_args(Kind))
"""What a replica of this version understands; entries of another kind, a hello too, are passed over."""
_log = logging.getLogger(__name__)

_ID: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_LAST_ID: Final = ((1 << 64) - 1, (1 << 64) - 1)
"""Of a stream: nothing can follow it, and nothing can be read behind it."""
_EMIT: Final = Script(
    """
local before = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], '*', 'event', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if KEYS[2] then redis.call('SET', KEYS[2], id, 'XX', 'KEEPTTL') end
redis.call('PUBLISH', ARGV[1], id .. ' ' .. (before[1] and before[1][1] or '-') .. ' ' .. ARGV[4])
return id
""",
    "emit",
)

_READ: Final = Script(
    """
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {#redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]),
        redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[3])}
""",
    "hear",
)


class _Found(NamedTuple):
    known: int
    entries: list[tuple[bytes, Annotated[list[bytes], msgspec.Meta(min_length=2)]]]


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    """An event as it is written. A `hello` has no kind: it marks where a replica begins to listen."""

    origin: str
    number: int
    kind: str = ""
    uri: str | None = None


class Statistics(NamedTuple):
    """A bus at one moment."""

    waiting: int
    heard: int
    resyncs: int


class RedisBus:
    """The bus of one replica; others hear it while `run` runs."""

    def __init__(self, redis: Redis, keys: Keys, normal: Callable[[str], str] = str) -> None:
        """`normal` brings all spellings of a URI to one."""
        self._redis = redis
        self._keys = keys
        self._normal = normal
        self._local = LocalBus()
        self.origin = secrets.token_urlsafe(9)
        self._number = 0
        self._waiting: dict[Changed, None] = {}
        self._news = trio.Event()
        self._last = ""
        """The id of the last entry that was heard; empty until this replica has written its hello."""
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._reading = trio.Lock()
        self._sending: Changed | None = None
        self._sent = trio.Event()
        self._begun = trio.Event()
        self._subscription: Listening | None = None
        self._connection = self._read_connection = 0
        self._troubles: dict[str, str] = {}
        self._heard = self._resyncs = 0

    def subscribe(self, callback: Callable[[Changed], None]) -> Subscription:
        """Have `callback` called with every later event of any replica; it must neither block nor raise."""
        return self._local.subscribe(callback)

    def publish(self, event: Changed) -> None:
        """Deliver to the subscribers here, and queue for the other replicas. Cancellation: not a checkpoint."""
        self._local.publish(event)
        if len(self._waiting) >= MAX_WAITING and event not in self._waiting:
            self._waiting = dict.fromkeys(EVERYTHING)
        else:
            self._waiting[event] = None
        self._news.set()

    def tell_here(self, event: Changed) -> None:
        """Deliver to the subscribers of this replica alone. Cancellation: not a checkpoint."""
        self._local.publish(event)

    @property
    def hears(self) -> bool:
        """True while events of other replicas come in."""
        return self._begun.is_set() and self._subscription is not None and self._subscription.listening

    @property
    def hearing(self) -> int | None:
        """Names the time since when no change can have been missed here; None while one may be missed.

        A connection that ended without a word is noticed when the stream cannot be read, after some seconds.
        """
        return self._connection if self.hears and self._read_connection == self._connection else None

    @property
    def trouble(self) -> str:
        """What does not happen because the server, which is there, refuses it; empty when it refuses nothing."""
        return ", ".join(f"not {what}" for what in self._troubles)

    def _note(self, what: str, error: RedisError | None) -> None:
        """Keep what the server refuses until it does it again: one line in the log for each change."""
        if error is None:
            self._troubles.pop(what, None)
        elif error.code and self._troubles.get(what) != str(error):
            self._troubles[what] = str(error)
            _log.error("redis: change events are not %s (mcpd check says more): %s", what, error)

    async def wait_begun(self) -> None:
        """Return when this replica hears the others for the first time. Cancellation: safe."""
        await self._begun.wait()

    async def flush(self) -> None:
        """Return when all that was published has been written. Bounded by its caller. Cancellation: safe."""
        while self._waiting or self._sending is not None:
            await self._sent.wait()

    def owes(self, about: str) -> bool:
        """True while others cannot know a change here of the URI with the normal form `about`."""
        unsent = self._waiting if self._sending is None else [*self._waiting, self._sending]
        return any(
            event.kind == "resource" and (event.uri is None or self._normal(event.uri) == about) for event in unsent
        )

    async def settle(self, about: str) -> None:
        """Return when all changes here of one URI have been written. Bounded by its caller. Cancellation: safe."""
        while self.owes(about):
            await self._sent.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send and hear until cancelled; what Redis does not take now is sent when it is back."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            nursery.start_soon(self._listen)
            nursery.start_soon(self._poll)
            task_status.started()

    async def _send(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._waiting:
                self._sending = event = next(iter(self._waiting))
                del self._waiting[event]
                self._number += 1
                await self._emit(_Entry(self.origin, self._number, event.kind, event.uri), *self._states(event))
                self._sending = None
                self._sent.set()
                self._sent = trio.Event()

    def _states(self, event: Changed) -> list[str]:
        """Return which state ends with an event."""
        if event.kind != "resource":
            return []
        keys = self._keys
        return [keys.cache_state if event.uri is None else keys.cache_state_of(self._normal(event.uri))]

    async def _emit(self, entry: _Entry, *states: str) -> str:
        """Write one entry, until it is written. Twice does no harm: whoever hears it knows the number."""
        key = self._keys.events
        keys, arguments = (key, *states), (key, MAX_EVENTS, EVENTS_TTL_MS, msgspec.json.encode(entry))
        while True:
            try:
                written = _id_of(await self._redis.run_script(_EMIT, keys=keys, arguments=arguments, idempotent=True))
            except RedisError as error:
                self._note("sent", error)
                await trio.sleep(RETRY_S)
            else:
                self._note("sent", None)
                return written

    async def _listen(self) -> None:
        async with self._redis.subscribe(self._keys.events) as subscription:
            self._subscription = subscription
            while True:
                try:
                    async for item in subscription:
                        self._note("heard", None)
                        if item is GAP:
                            self._connection += 1
                        if not (isinstance(item, Message) and self._follows(item.payload)):
                            await self._read()
                except RedisError as error:
                    self._note("heard", error)
                    subscription.close()
                    await trio.sleep(POLL_S)

    def _follows(self, message: bytes) -> bool:
        """Take `ID PREDECESSOR PAYLOAD` if its predecessor is the last entry heard, or if it was heard already."""
        name, _, rest = message.partition(b" ")
        before, _, payload = rest.partition(b" ")
        if not _can_be_followed(_text(name)):
            return False
        if self._last and _order(_text(name)) <= _order(self._last):
            return True
        if not self._last or before.decode("ascii", "replace") != self._last:
            return False
        self._hear(_text(name), payload)
        return True

    async def _poll(self) -> None:
        while True:
            await trio.sleep(POLL_S)
            await self._read()

    async def _read(self) -> None:
        """Deliver what the stream holds behind the last entry; say hello first where there is none."""
        async with self._reading:
            connection = self._connection
            while True:
                if not self._last:
                    await self._begin()
                try:
                    known, entries = await self._find()
                except RedisError as error:
                    self._note("read", error)
                    self._connection += 1
                    return
                self._note("read", None)
                if not known:
                    _log.warning("the stream of change events has a gap: everything may have changed")
                    self._resyncs += 1
                    await self._begin(self._keys.cache_state)
                for name, payload in entries if known else ():
                    if _order(name) > _order(self._last):
                        self._hear(name, payload)
                if known and len(entries) < READ_ITEMS:
                    self._read_connection = connection
                    return

    async def _find(self) -> tuple[int, list[tuple[str, bytes]]]:
        """Return whether the last entry is still there, and what is behind it: id and payload. Raises: RedisError."""
        arguments = (self._last, EVENTS_TTL_MS, READ_ITEMS)
        reply = await self._redis.run_script(_READ, keys=[self._keys.events], arguments=arguments, idempotent=True)
        known, entries = shaped(reply, _Found)
        return known, [(_id_of(name), fields[1]) for name, fields in entries]

    async def _begin(self, *states: str) -> None:
        """Mark where hearing begins; what happened before has not been heard, so anything may have changed.

        After a gap that holds for what replicas share too: a failover may have lost that something has changed.
        """
        self._last = await self._emit(_Entry(self.origin, 0), *states)
        for event in EVERYTHING:
            self._local.publish(event)
        self._begun.set()

    def _hear(self, name: str, payload: bytes) -> None:
        """Take the next entry, from the channel or the stream; nothing is delivered twice."""
        self._last = name
        try:
            entry = msgspec.json.decode(payload, type=_Entry)
        except msgspec.MsgspecError as error:
            _log.warning("a change event that cannot be read: %s", error)
            return
        seen = self._numbers.get(entry.origin, 0)
        if entry.origin == self.origin or entry.kind not in _KINDS or entry.number <= seen:
            return
        self._numbers[entry.origin] = entry.number
        self._numbers.move_to_end(entry.origin)
        if len(self._numbers) > MAX_ORIGINS:
            self._numbers.popitem(last=False)
        self._heard += 1
        self._local.publish(Changed(entry.kind, entry.uri))  # type: ignore[arg-type]

    def statistics(self) -> Statistics:
        """Return how the bus stands."""
        return Statistics(len(self._waiting), self._heard, self._resyncs)


def _id_of(name: object) -> str:
    """Return an entry's id as the server has given it. Raises: Garbled."""
    text = _text(name)
    if not _can_be_followed(text):
        raise Garbled(f"the server's reply cannot be understood: {text[:SHOWN_CHARS]!r} is no id", "GARBLED")
    return text


def _can_be_followed(name: str) -> bool:
    """True for an entry's id that can be read on from: any other one, once taken for the last, would be for ever."""
    return _ID.fullmatch(name) is not None and max(_order(name)) <= max(_LAST_ID) and _order(name) < _LAST_ID


def _order(name: str) -> tuple[int, int]:
    """Return what entries are ordered by, of an entry's id."""
    first, _, second = name.partition("-")
    return int(first), int(second)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
