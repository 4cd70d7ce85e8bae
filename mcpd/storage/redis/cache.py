"""The second level of caches in Redis: what one replica has loaded is there for all, and one loads at a time.

    ask       one script finds the value, or claims the load; who finds it claimed looks again every few milliseconds
    keep      the value goes out with `run`, so that no answer waits for it
    run       sends what is kept and released, and renews the claims of loads that go on
    find, put values that depend on nothing but their name: vectors of texts

Looking again needs no connection and no message that could be missed. A claim lives `CLAIM_MS` without being renewed,
which bounds what the death of a replica costs the others.

Each URI has a state with a random name. A value shows the state that it was loaded in, and what shows another one is
not there; the bus gives a URI another state in the script that tells of its change. A state that was lost gets a new
name, so that nothing of before a FLUSHALL is kept after it.

Called by: `storage.redis.shared`. Implements `storage.shared.CacheStore`. Deliberately not: what a value means.

Laws: a question waits for Redis for `PATIENCE_S` at most, and a quarter of its caller's time; after one that has waited
in vain none is asked for `REST_S`. Bytes are bounded: of a value, of what waits here, and of all that is kept of a kind
(`MAX_KEPT_BYTES`), where what would end soonest goes first. Values of more than `LARGE_BYTES` use connections of their
own.

Sources: A. Vattani, F. Chierichetti, K. Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Final, NamedTuple

import msgspec
import trio

from mcpd.drivers.redis import Garbled, Redis, RedisError, shaped
from mcpd.drivers.resp import Argument
from mcpd.storage.redis import cache_scripts as scripts
from mcpd.storage.redis.bus import RedisBus
from mcpd.storage.redis.keys import CACHE_TTL_MS, CLAIM_MS, STATE_SPARE_MS, Keys
from mcpd.storage.shared import MAX_VALUE_BYTES, Answer, Apart, Found, Place, Turn

PATIENCE_S: Final = 0.5
"""Hundreds of times what a question takes; longer, and callers would notice that Redis is away."""

REST_S: Final = 1.0
SILENCE_S: Final = 0.1
"""Who has waited so long in vain has met a server that is away; with less, it was a caller who had no time."""

SHORTEST_PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.05
"""Between two looks at a load elsewhere: what it adds to loads of seconds."""

MAX_KEPT_BYTES: Final = 64 << 20
"""Of all replicas' resources in Redis, and again of vectors."""

MAX_WAITING_BYTES: Final = 16 << 20
"""What waits to be sent; what comes when it is full is not shared."""

LARGE_BYTES: Final = 64 << 10
MAX_VECTORS: Final = 64
"""In one command."""

_log = logging.getLogger(__name__)
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_S: Final = 1000


class _Asked(NamedTuple):
    """The reply of ASK."""

    kind: bytes
    state: bytes
    left_ms: _Milliseconds
    load_ms: _Milliseconds
    size: Annotated[int, msgspec.Meta(ge=0)]
    value: bytes


class _Kept(NamedTuple):
    """A turn that ends: with a value, apart with none, or without anything. Waits to be sent."""

    turn: Turn
    value: bytes = b""
    is_apart: bool = False
    load_s: float = 0.0
    ttl_s: float = 0.0


class RedisCache:
    """Implements `CacheStore`; works while `run`, the client and the bus do.

    `observe` hears of each value that was refused because something had changed meanwhile.
    """

    def __init__(
        self, redis: Redis, keys: Keys, bus: RedisBus, *, observe: Callable[[str], None] = lambda _: None
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._bus = bus
        self._observe = observe
        self._rests_until = 0.0
        self._trouble = ""
        self._turns: dict[str, Place] = {}
        """What is being loaded here, by token."""
        self._endings: dict[str, _Kept | Place] = {}
        """What waits to be sent, by token; a place is one whose claim is released, if there is one."""
        self._vectors: dict[str, bytes] = {}
        self._waiting_bytes = 0
        self._news = trio.Event()

    @property
    def hearing(self) -> int | None:
        """See `CacheStore`."""
        return self._bus.hearing

    async def ask(self, place: Place, early: float) -> Answer:
        """See `CacheStore`."""
        token, pause_s = secrets.token_hex(8), SHORTEST_PAUSE_S
        while True:
            answer = await self._ask(place, token, early)
            if answer is not None:
                return answer
            await trio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)

    async def _ask(self, place: Place, token: str, early: float) -> Answer | None:
        """Ask once; None while somebody else loads. A claim that nobody here would know of is released."""
        if not self._is_there() or (self._bus.trouble and self._bus.owes(place.about)):
            return Apart(away=True)
        may_hold, patience_s = False, self._patience_s()
        try:
            with trio.move_on_after(patience_s):
                await self._bus.settle(place.about)
                may_hold = True
                answer = await self._answer(place, token, early)
                may_hold = False
                self._note(None)
                return answer
        except RedisError as error:
            self._note(error)
            patience_s = PATIENCE_S
        finally:
            if may_hold:
                self._end(token, place)
        self._rest(patience_s)
        return Apart(away=True)

    def _rest(self, waited_s: float) -> None:
        """Leave Redis alone for a while after a wait in vain."""
        if waited_s >= SILENCE_S:
            self._rests_until = trio.current_time() + REST_S

    def _is_there(self) -> bool:
        return trio.current_time() >= self._rests_until and self._redis.statistics().connected

    def _patience_s(self) -> float:
        left_s = trio.current_effective_deadline() - trio.current_time()
        return min(PATIENCE_S, max(0.0, left_s / 4))

    def _note(self, error: RedisError | None) -> None:
        """Log what the server refuses, once; that it is away is told elsewhere."""
        trouble = "" if error is None or not error.code else str(error)
        if trouble and trouble != self._trouble:
            _log.error("redis: what is cached is not shared (mcpd check says more): %s", trouble)
        self._trouble = trouble

    async def _answer(self, place: Place, token: str, early: float) -> Answer | None:
        keys = self._places(place)
        arguments = (token, f"{early:.6f}", CLAIM_MS, LARGE_BYTES, CACHE_TTL_MS, STATE_SPARE_MS)
        reply = await self._redis.run_script(scripts.ASK, keys=keys, arguments=arguments, idempotent=True)
        asked = shaped(reply, _Asked)
        if asked.kind == b"BUSY":
            return None
        if asked.kind == b"APART":
            return Apart(away=False)
        found = await self._found(keys[0], asked) if asked.left_ms else None
        if asked.kind == b"FOUND":
            return found
        if asked.kind != b"TURN":
            raise Garbled(f"{asked.kind!r} is no answer about a cache", "GARBLED")
        self._turns[token] = place
        return Turn(place, token, asked.state.decode("ascii", "replace"), found)

    def _places(self, place: Place) -> tuple[str, ...]:
        """Return the keys that scripts decide on: value, claim, state of all, state of one URI."""
        keys = self._keys
        about, name = place.about, place.name
        return keys.cached(about, name), keys.cache_claim(about, name), keys.cache_state, keys.cache_state_of(about)

    async def _found(self, key: str, asked: _Asked) -> Found | None:
        """Return what is there; None when it is long and has gone meanwhile."""
        value: bytes | None = asked.value
        if asked.size > LARGE_BYTES:
            async with self._redis.lease() as connection:
                (value,) = shaped([await connection.call("HGET", key, "value")], list[bytes | None])
        return None if value is None else Found(value, asked.left_ms / _S, asked.load_ms / _S)

    def keep(self, turn: Turn, value: bytes | None, *, load_s: float, ttl_s: float) -> None:
        """See `CacheStore`."""
        place = self._turns.pop(turn.token, None)
        if place is None:
            return
        is_apart = value is None or len(value) > MAX_VALUE_BYTES
        kept = _Kept(turn, b"" if value is None or is_apart else value, is_apart, load_s, ttl_s)
        is_full = self._waiting_bytes + len(kept.value) > MAX_WAITING_BYTES
        self._end(turn.token, place if is_full or ttl_s * _S < 1 else kept)

    def release(self, turn: Turn) -> None:
        """See `CacheStore`."""
        place = self._turns.pop(turn.token, None)
        if place is not None:
            self._end(turn.token, place)

    def _end(self, token: str, ending: _Kept | Place) -> None:
        self._endings[token] = ending
        self._waiting_bytes += len(ending.value) if isinstance(ending, _Kept) else 0
        self._news.set()

    async def find(self, names: Sequence[str]) -> dict[str, bytes]:
        """See `CacheStore`."""
        found: dict[str, bytes] = {}
        for start in range(0, len(names), MAX_VECTORS):
            some = names[start : start + MAX_VECTORS]
            values = await self._find(some)
            found.update((name, value) for name, value in zip(some, values, strict=False) if value)
        return found

    async def _find(self, names: Sequence[str]) -> list[bytes | None]:
        if not self._is_there():
            return []
        patience_s = self._patience_s()
        with trio.move_on_after(patience_s):
            try:
                return await self._read([self._keys.vector(name) for name in names])
            except RedisError as error:
                self._note(error)
                patience_s = PATIENCE_S
        self._rest(patience_s)
        return []

    async def _read(self, keys: list[str]) -> list[bytes | None]:
        """Return some vectors: many are long, and go over a connection of their own."""
        if len(keys) == 1:
            return shaped([await self._redis.execute("GET", *keys, idempotent=True)], list[bytes | None])
        async with self._redis.lease() as connection:
            return shaped(await connection.call("MGET", *keys), list[bytes | None])

    def put(self, values: Mapping[str, bytes]) -> None:
        """See `CacheStore`."""
        for name, value in values.items():
            if name not in self._vectors and self._waiting_bytes + len(value) <= MAX_WAITING_BYTES:
                self._vectors[name] = value
                self._waiting_bytes += len(value)
        self._news.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what waits, and renew claims, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew)
            task_status.started()
            while True:
                await self._news.wait()
                self._news = trio.Event()
                while self._endings or self._vectors:
                    await self._send()

    async def _send(self) -> None:
        """Send one thing, or drop it: a claim ends by itself, and a value is loaded again."""
        if self._endings:
            token = next(iter(self._endings))
            ending = self._endings.pop(token)
            self._waiting_bytes -= len(ending.value) if isinstance(ending, _Kept) else 0
            job = partial(self._send_kept, ending) if isinstance(ending, _Kept) else partial(self._free, token, ending)
        else:
            some = {name: self._vectors.pop(name) for name in list(self._vectors)[:MAX_VECTORS]}
            self._waiting_bytes -= sum(map(len, some.values()))
            job = partial(self._send_vectors, some)
        await trio.lowlevel.checkpoint()
        if self._redis.statistics().connected:
            with trio.move_on_after(PATIENCE_S):
                try:
                    await job()
                except RedisError as error:
                    self._note(error)

    async def _send_kept(self, kept: _Kept) -> None:
        place, keys = kept.turn.place, self._keys
        name = keys.cached(place.about, place.name)
        prefix = keys.cached_prefix("cache")
        said = await self._redis.run_script(
            scripts.KEEP,
            keys=[*self._places(place), *keys.cached_index("cache")],
            arguments=(
                kept.turn.token,
                kept.turn.state,
                kept.value,
                "1" if kept.is_apart else "0",
                round(kept.load_s * _S),
                min(round(kept.ttl_s * _S), CACHE_TTL_MS),
                name.removeprefix(prefix),
                prefix,
                f"{keys.cache_state}:",
                MAX_KEPT_BYTES,
                CACHE_TTL_MS,
                STATE_SPARE_MS,
            ),
            idempotent=True,
        )
        if said == b"STALE":
            self._observe("stale_dropped")

    async def _free(self, token: str, place: Place) -> None:
        key = self._keys.cache_claim(place.about, place.name)
        await self._redis.run_script(scripts.RELEASE, keys=[key], arguments=(token,), idempotent=True)

    async def _send_vectors(self, values: Mapping[str, bytes]) -> None:
        prefix = self._keys.cached_prefix("vector")
        named: list[Argument] = []
        for name, value in values.items():
            named += (self._keys.vector(name).removeprefix(prefix), value)
        await self._redis.run_script(
            scripts.PUT,
            keys=self._keys.cached_index("vector"),
            arguments=(prefix, CACHE_TTL_MS, MAX_KEPT_BYTES, *named),
            idempotent=True,
        )

    async def _renew(self) -> None:
        while True:
            await trio.sleep(CLAIM_MS / _S / 3)
            if self._turns and self._redis.statistics().connected:
                with trio.move_on_after(PATIENCE_S):
                    await self._renew_all(dict(self._turns))

    async def _renew_all(self, turns: Mapping[str, Place]) -> None:
        keys = chain.from_iterable(self._places(place)[1::2] for place in turns.values())
        arguments: list[Argument] = [CLAIM_MS, STATE_SPARE_MS, *turns]
        try:
            await self._redis.run_script(scripts.RENEW, keys=list(keys), arguments=arguments, idempotent=True)
        except RedisError as error:
            self._note(error)
