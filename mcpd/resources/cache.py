"""The Resource Cache: what was read lately, for as long as nobody changed it.

Read-through: `get` returns what is kept or has it loaded. Whoever asks while a load is under way waits for it instead
of loading again, and shares its failure too, so that a store that is down is not asked by one after the other. When
the loader is cancelled one of those who wait takes over: nobody pays for another caller's end.

Called by: `resources.manager`. Fed with changes by `app`. Deliberately not: a store, and no part of the protocol's
`ttlMs` (that is the client's cache).

Laws: a key has an owner, so that what one caller may see never reaches another; an event that comes while a load is
under way keeps its result from being stored; bytes and entries are bounded, the least recently used goes first.

Sources: MCP 2026-07-28 caching (RES-4, RES-5); architecture laws 2 and 8.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import trio

from mcpd.wire.uris import normalise

Result = dict[str, Any]
Observe = Callable[[str], None]
MAX_ITEMS = 10_000
"""Results kept: small ones cost, too."""


class Key(NamedTuple):
    """Whose view of what: `owner` is the principal's name, None when all callers see the same."""

    uri: str
    owner: str | None = None


class _Entry(NamedTuple):
    result: Result
    size: int
    until: float


class _Load:
    """A load under way. `stale` once its URI changed meanwhile."""

    __slots__ = ("done", "error", "result", "stale")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Result | None = None
        self.error: Exception | None = None
        self.stale = False


class ResourceCache:
    """Keeps results of reads. `observe` hears `hit`, `miss`, `shared` and `evicted`."""

    def __init__(self, *, max_bytes: int, observe: Observe, max_items: int = MAX_ITEMS) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._observe = observe
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._keys: dict[str, set[Key]] = {}
        self._loads: dict[Key, _Load] = {}
        self.size = 0
        """Bytes kept, about."""

    async def get(self, key: Key, load: Callable[[], Awaitable[Result]], *, ttl_s: float) -> Result:
        """Return what `key` stands for; kept for `ttl_s` at most. The result is shared: do not change it.

        Raises: what `load` raises. Cancellation: safe; somebody else who waits then loads.
        """
        while True:
            entry = self._entries.get(key)
            if entry is not None and entry.until > trio.current_time():
                self._entries.move_to_end(key)
                self._observe("hit")
                return entry.result
            running = self._loads.get(key)
            if running is None:
                return await self._load(key, load, ttl_s)
            await running.done.wait()
            if running.error is not None:
                raise running.error
            if running.result is not None and not running.stale:
                self._observe("shared")
                return running.result

    async def _load(self, key: Key, load: Callable[[], Awaitable[Result]], ttl_s: float) -> Result:
        self._observe("miss")
        running = self._loads[key] = _Load()
        try:
            running.result = result = await load()
        except Exception as error:
            running.error = error
            raise
        finally:
            if self._loads.get(key) is running:
                del self._loads[key]
            running.done.set()
        if not running.stale:
            self._keep(key, _Entry(result, weigh(result), trio.current_time() + ttl_s))
        return result

    def _keep(self, key: Key, entry: _Entry) -> None:
        self._drop(key)
        if entry.size > self._max_bytes // 4:
            return
        self._entries[key] = entry
        self._keys.setdefault(normalise(key.uri), set()).add(key)
        self.size += entry.size
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


def weigh(result: Result) -> int:
    """Return about how many bytes the contents of a read take."""
    return 200 + sum(len(item.get("text") or item.get("blob") or "") for item in result.get("contents", ()))
