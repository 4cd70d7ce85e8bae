"""One ordered set of named things, replaced as a whole, and the paged listing that clients see of it.

`Catalog` holds what a registry or a loader has found: snapshot first, then one swap (law 10), so that a reader never
meets a half-loaded set. `Listing` turns a catalog into the body of a `*/list` result: one prepared view for each set
of scopes that callers have, pages with sealed cursors, cache hints that are the same on every page.

Called by: `tools`, `resources`, `prompts`. Calls `wire.cursors` and nothing else. Pure: no trio, no clock, no logging.
Deliberately not: a registry (it checks nothing but that keys are unique) and no publisher of change events.

Laws: order is the order of definition; a cursor names the last key of its page and is bound to the keys of the view
it was made from, so every replica with the same set accepts it and a changed set refuses it.

Sources: MCP 2026-07-28 (PAG-1, RES-3, RES-4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from mcpd.errors import InvalidParams, RegistrationError
from mcpd.wire.call import Principal
from mcpd.wire.cursors import KeyRing, decode_cursor, encode_cursor

_FINGERPRINT_DIGITS = 16
"""Two sets of names are equal by accident once in 10^19."""

T = TypeVar("T")

MAX_VIEWS_ITEMS = 64
"""Prepared views of one listing; when there would be more (many keys with different scopes), all are made anew."""


class Catalog(Generic[T]):
    """An ordered set of things, each with a unique key."""

    def __init__(self, key: Callable[[T], str], items: Iterable[T] = ()) -> None:
        self.key = key
        self._items: dict[str, T] = {}
        self._positions: dict[str, int] = {}
        self.fingerprint = ""
        """Digest of the keys in their order; equal on all processes that hold the same keys."""
        self.version = 0
        """Counts the swaps that changed something."""
        self._swap(self._snapshot(items))

    def replace(self, items: Iterable[T]) -> bool:
        """Swap in a new set and say whether it differs from the old one.

        Raises: RegistrationError when two items share a key; the old set then stays.
        """
        snapshot = self._snapshot(items)
        if list(snapshot.items()) == list(self._items.items()):
            return False
        self._swap(snapshot)
        self.version += 1
        return True

    def _snapshot(self, items: Iterable[T]) -> dict[str, T]:
        snapshot: dict[str, T] = {}
        for item in items:
            key = self.key(item)
            if key in snapshot:
                raise RegistrationError(f"{key!r} is declared twice")
            snapshot[key] = item
        return snapshot

    def _swap(self, snapshot: dict[str, T]) -> None:
        self._items = snapshot
        self.get = snapshot.get
        """Returns the item of a key, None when there is none."""
        self._positions = {key: position for position, key in enumerate(snapshot)}
        names = "\n".join(snapshot).encode("utf-8", "surrogatepass")
        self.fingerprint = hashlib.sha256(names).hexdigest()[:_FINGERPRINT_DIGITS]

    def page(self, after: str | None, limit: int) -> tuple[list[T], str | None]:
        """Return at most `limit` items behind the key `after` (None: from the start), and a key when more follow.

        That key, the last item's, is the `after` of the next page.
        Raises: KeyError when `after` is not in the set.
        """
        start = 0 if after is None else self._positions[after] + 1
        items = list(self._items.values())[start : start + limit]
        more = start + limit < len(self._items)
        return items, (self.key(items[-1]) if more and items else None)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items


class Paging(msgspec.Struct, frozen=True):
    """How a listing is cut and how long its pages may be kept."""

    ring: KeyRing
    page_size: int = 100
    ttl_ms: int = 0
    cache_scope: str = "private"


class Listing(Generic[T]):
    """The `*/list` body of one catalog.

    `member` names the array in the body and binds the cursors; `describe` gives an item's entry; `scopes` gives the
    scopes a caller needs, all of them, to see the item.
    """

    def __init__(
        self,
        member: str,
        catalog: Catalog[T],
        describe: Callable[[T], dict[str, Any]],
        scopes: Callable[[T], frozenset[str]],
        paging: Paging,
    ) -> None:
        self._member = member
        self._catalog = catalog
        self._describe = describe
        self._scopes = scopes
        self._paging = paging
        self._seen = -1
        self._needed: frozenset[str] = frozenset()
        self._views: dict[frozenset[str], _View] = {}

    def page(self, cursor: str | None, principal: Principal) -> dict[str, Any]:
        """Return one page: `{member: [...], "nextCursor"?, "ttlMs", "cacheScope"}`.

        The body is the caller's to add members to; the array and its entries are shared and must not be changed.
        `cursor` None means the first page; "" is a cursor like any other, and one that we never gave.

        Raises: InvalidParams for a cursor that is not ours, not this caller's, or of another set.
        """
        view = self._view(principal)
        if cursor is None and view.single is not None:
            return view.single.copy()
        return self._cut(view.entries, cursor, principal.id)

    def _view(self, principal: Principal) -> _View:
        if self._seen != self._catalog.version:
            self._views.clear()
            self._needed = frozenset().union(*(self._scopes(item) for item in self._catalog))
            self._seen = self._catalog.version
        held = principal.held(self._needed)
        view = self._views.get(held)
        if view is None:
            if len(self._views) >= MAX_VIEWS_ITEMS:
                self._views.clear()
            view = self._views[held] = self._prepare(held)
        return view

    def _prepare(self, held: frozenset[str]) -> _View:
        visible = [item for item in self._catalog if self._scopes(item) <= held]
        entries = Catalog(_first, [(self._catalog.key(item), self._describe(item)) for item in visible])
        whole = len(visible) <= self._paging.page_size
        return _View(entries, self._body([entry for _, entry in entries]) if whole else None)

    def _cut(self, entries: Catalog[tuple[str, dict[str, Any]]], cursor: str | None, caller: str) -> dict[str, Any]:
        ring, version = self._paging.ring, entries.fingerprint
        after = None if cursor is None else decode_cursor(ring, self._member, cursor, version, caller)
        try:
            items, last = entries.page(after, self._paging.page_size)
        except KeyError:
            raise InvalidParams("Invalid cursor") from None
        body = self._body([entry for _, entry in items])
        if last is not None:
            body["nextCursor"] = encode_cursor(ring, self._member, last, version, caller)
        return body

    def _body(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        scope = "private" if self._needed else self._paging.cache_scope
        return {self._member: entries, "ttlMs": self._paging.ttl_ms, "cacheScope": scope}


class _View:
    def __init__(self, entries: Catalog[tuple[str, dict[str, Any]]], single: dict[str, Any] | None) -> None:
        self.entries = entries
        self.single = single


def _first(pair: tuple[str, dict[str, Any]]) -> str:
    return pair[0]
