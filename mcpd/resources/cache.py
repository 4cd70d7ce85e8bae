"""The Resource Cache: what was read lately, for as long as nobody changed it.

Read-through: `get` returns what is kept or has it loaded. Whoever asks while a load is under way waits for it instead
of loading again, and shares its failure too, so that a store that is down is not asked by one after the other. When
the loader is cancelled one of those who wait takes over: nobody pays for another caller's end.

Behind it there may be a second level that replicas share (`storage.shared.CacheStore`): then one of them loads, and the
others wait for what it loads; while that store is away each loads for itself, and nothing is kept here, because changes
elsewhere cannot be heard. Near its end a result is loaded again by one caller while the others still get it, the more
likely the longer its load takes.

Called by: `resources.manager`. Fed with changes by `app`. Deliberately not: a store, and no part of the protocol's
`ttlMs` (that is the client's cache).

Laws: a key has an owner, so that what one caller may see never reaches another; an event that comes while a load is
under way keeps its result from being stored; bytes and entries are bounded, the least recently used goes first; what is
kept here is good only in the time in which all changes were heard (`hearing`).

Sources: MCP 2026-07-28 caching (RES-4, RES-5); architecture laws 2 and 8; Vattani and others, "Optimal Probabilistic
Cache Stampede Prevention" (VLDB 2015).
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple

import msgspec
import trio

from mcpd.storage.shared import MAX_VALUE_BYTES, Apart, CacheStore, Found, Place, Turn
from mcpd.wire.uris import normalise

Result = dict[str, Any]
Observe = Callable[[str], None]
MAX_ITEMS = 10_000
"""Results kept: small ones cost, too."""

_EARLIEST = -math.log(2.0**-53)
"""How many times its load before the end a result may be loaded again: as much as can be drawn."""


class Key(NamedTuple):
    """Whose view of what: `owner` is the principal's name, None when all callers see the same.

    `local`: replicas do not share it, and its changes are not told on the bus: what is in this server's own store.
    """

    uri: str
    owner: str | None = None
    local: bool = False


class _Wish(NamedTuple):
    key: Key
    load: Callable[[], Awaitable[Result]]
    ttl_s: float
    early: float
    """How much of a load's own time before the end of a result it is loaded again, by this caller."""


class _Entry(NamedTuple):
    result: Result
    size: int
    until: float
    firm_until: float
    """Nobody loads it again before."""
    load_s: float
    since: int
    """When all changes began to be heard that it may have had."""


class _Load:
    """A load under way. `stale` once its URI changed meanwhile."""

    __slots__ = ("done", "error", "result", "since", "stale")

    def __init__(self, since: int | None) -> None:
        self.done = trio.Event()
        self.result: Result | None = None
        self.error: Exception | None = None
        self.since = since
        self.stale = False


class ResourceCache:
    """Keeps results of reads, and shares them by way of `second`, if there is one.

    `observe` hears what comes of each question: `hit` (kept here), `shared` (loaded by somebody else, here or on
    another replica), `miss` (loaded), `early` (loaded before its end), `alone` (loaded while the second level is
    away), `apart` (loaded, since it is none that is shared); and `evicted` and `stale_dropped` of results. `draw` gives
    random numbers from 0 to below 1.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        observe: Observe,
        max_items: int = MAX_ITEMS,
        second: CacheStore | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._observe = observe
        self._second = second
        self._draw = draw
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._keys: dict[str, set[Key]] = {}
        self._loads: dict[Key, _Load] = {}
        self.size = 0
        """Bytes kept, about."""

    async def get(self, key: Key, load: Callable[[], Awaitable[Result]], *, ttl_s: float) -> Result:
        """Return what `key` stands for; kept for `ttl_s` at most. The result is shared: do not change it.

        Raises: what `load` raises. Cancellation: safe; somebody else who waits then loads.
        """
        entry = self._entries.get(key)
        if entry is not None and trio.current_time() < entry.firm_until and entry.since == self._since(key):
            return self._hit(key, entry)
        return await self._find(_Wish(key, load, ttl_s, -math.log(1.0 - self._draw())))

    def _hit(self, key: Key, entry: _Entry) -> Result:
        self._entries.move_to_end(key)
        self._observe("hit")
        return entry.result

    async def _find(self, wish: _Wish) -> Result:
        key = wish.key
        while True:
            entry, running = self._usable(key), self._loads.get(key)
            if entry is not None and (running is not None or not _ends_soon(entry, wish.early)):
                return self._hit(key, entry)
            if running is None:
                return await self._load(wish)
            await running.done.wait()
            if running.error is not None:
                raise running.error
            if running.result is not None and not running.stale:
                self._observe("shared")
                return running.result

    def _usable(self, key: Key) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or entry.until <= trio.current_time() or entry.since != self._since(key):
            return None
        return entry

    def _since(self, key: Key) -> int | None:
        """Return since when all changes of `key` have been heard; None while they are not."""
        return 0 if key.local or self._second is None else self._second.hearing

    async def _load(self, wish: _Wish) -> Result:
        key = wish.key
        running = self._loads[key] = _Load(self._since(key))
        try:
            running.result = result = await self._bring(wish, running)
        except Exception as error:
            kept = self._usable(key)
            if kept is None:
                running.error = error
                raise
            running.result = result = kept.result
        finally:
            if self._loads.get(key) is running:
                del self._loads[key]
            running.done.set()
        return result

    async def _bring(self, wish: _Wish, running: _Load) -> Result:
        """Get a result from the second level, or load it."""
        if wish.key.local or self._second is None:
            return await self._make(wish, running, "miss" if self._usable(wish.key) is None else "early")
        answer = await self._second.ask(_place(wish.key), wish.early)
        if isinstance(answer, Turn):
            return await self._make_for_all(self._second, answer, wish, running)
        result = self._take(answer, wish.key, running) if isinstance(answer, Found) else None
        if result is None:
            return await self._make(wish, running, "apart" if answer == Apart(away=False) else "alone")
        self._observe("shared")
        return result

    def _take(self, found: Found, key: Key, running: _Load) -> Result | None:
        """Keep what was found, until its own end; None when it cannot be understood."""
        result = _decode(found.value)
        if result is not None:
            self._keep(key, running, result, load_s=found.load_s, left_s=found.left_s)
        return result

    async def _make_for_all(self, second: CacheStore, turn: Turn, wish: _Wish, running: _Load) -> Result:
        began = trio.current_time()
        try:
            early = turn.found is not None and self._take(turn.found, wish.key, running) is not None
            result = await self._make(wish, running, "early" if early else "miss")
            if not running.stale:
                second.keep(turn, _encode(result), load_s=trio.current_time() - began, ttl_s=wish.ttl_s)
        finally:
            second.release(turn)
        return result

    async def _make(self, wish: _Wish, running: _Load, what: str) -> Result:
        self._observe(what)
        began = trio.current_time()
        result = await wish.load()
        if running.stale:
            self._observe("stale_dropped")
        self._keep(wish.key, running, result, load_s=trio.current_time() - began, left_s=wish.ttl_s)
        return result

    def _keep(self, key: Key, running: _Load, result: Result, *, load_s: float, left_s: float) -> None:
        since = self._since(key)
        if running.stale or since is None or since != running.since:
            return
        self._drop(key)
        size = weigh(result)
        if size > self._max_bytes // 4:
            return
        until = trio.current_time() + left_s
        self._entries[key] = _Entry(result, size, until, until - _EARLIEST * load_s, load_s, since)
        self._keys.setdefault(normalise(key.uri), set()).add(key)
        self.size += size
        while self.size > self._max_bytes or len(self._entries) > self._max_items:
            self._drop(next(iter(self._entries)))
            self._observe("evicted")

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.size -= entry.size
        form = normalise(key.uri)
        keys = self._keys[form]
        keys.discard(key)
        if not keys:
            del self._keys[form]

    def forget(self, uri: str | None) -> None:
        """Drop all about `uri` (None: everything), however spelt, also what is being loaded. Not a checkpoint."""
        form = None if uri is None else normalise(uri)
        for key in list(self._entries if form is None else self._keys.get(form, ())):
            self._drop(key)
        for key, running in list(self._loads.items()):
            if form is None or normalise(key.uri) == form:
                running.stale = True
                del self._loads[key]

    def __len__(self) -> int:
        return len(self._entries)


def _ends_soon(entry: _Entry, early: float) -> bool:
    return entry.until - trio.current_time() <= entry.load_s * early


def weigh(result: Result) -> int:
    """Return about how many bytes the contents of a read take."""
    return 200 + sum(len(item.get("text") or item.get("blob") or "") for item in result.get("contents", ()))


class _Shared(msgspec.Struct):
    """A result as replicas share it."""

    contents: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]


_DECODER = msgspec.json.Decoder(_Shared)


def _encode(result: Result) -> bytes | None:
    """Return a result as bytes; None for one that is too long, or has something in it that JSON has not."""
    if weigh(result) > MAX_VALUE_BYTES:
        return None
    try:
        encoded = msgspec.json.encode(result)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return encoded if len(encoded) <= MAX_VALUE_BYTES else None


def _decode(value: bytes) -> Result | None:
    """Return a result that a replica has shared; None for anything else."""
    try:
        result = {"contents": _DECODER.decode(value).contents}
        weigh(result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError):
        return None
    return result


def _place(key: Key) -> Place:
    """Return where a result stands for all replicas: no two keys have one name."""
    owner = "" if key.owner is None else f" {key.owner}"
    return Place(f"{len(key.uri)} {key.uri}{owner}", normalise(key.uri))
