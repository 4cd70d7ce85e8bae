"""The catalog, and the listing that clients page through."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.catalog import Catalog, Listing, Paging
from mcpd.errors import InvalidParams, RegistrationError
from mcpd.wire.call import ANONYMOUS, Principal
from mcpd.wire.cursors import KeyRing

RING = KeyRing([("k1", b"s" * 32)])


class Thing(NamedTuple):
    name: str
    scopes: frozenset[str] = frozenset()
    note: str = ""


def name_of(thing: Thing) -> str:
    return thing.name


def catalog(*names: str) -> Catalog[Thing]:
    return Catalog(name_of, [Thing(name) for name in names])


def listing(things: Catalog[Thing], page_size: int = 2, **hints: Any) -> Listing[Thing]:
    return Listing(
        "things",
        things,
        lambda thing: {"name": thing.name},
        lambda thing: thing.scopes,
        Paging(RING, page_size, **hints),
    )


def walk(pages: Listing[Thing], principal: Principal = ANONYMOUS) -> list[dict[str, Any]]:
    found = [pages.page(None, principal)]
    while "nextCursor" in found[-1]:
        assert len(found) < 100
        found.append(pages.page(found[-1]["nextCursor"], principal))
    return found


def names(bodies: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for body in bodies for entry in body["things"]]


def test_order_is_the_order_of_definition() -> None:
    """Law 10: listings are deterministic."""
    assert [thing.name for thing in catalog("b", "a", "c")] == ["b", "a", "c"]


def test_a_duplicate_leaves_the_old_set() -> None:
    """Law 10: snapshot, then swap."""
    things = catalog("a")
    with pytest.raises(RegistrationError, match="'b'"):
        things.replace([Thing("b"), Thing("b")])
    assert "a" in things
    assert things.get("b") is None
    assert things.version == 0


def test_a_swap_tells_whether_anything_changed() -> None:
    """PUB-1: no event without a change."""
    things = catalog("a", "b")
    assert not things.replace([Thing("a"), Thing("b")])
    assert things.replace([Thing("b"), Thing("a")])
    assert things.replace([Thing("b"), Thing("a", note="new")])
    assert things.version == 2
    assert len(things) == 2


@given(st.lists(st.text(max_size=5), unique=True, max_size=12), st.integers(1, 5))
def test_pages_together_are_the_set(keys: list[str], limit: int) -> None:
    """PAG-1: every item once, in order, and an end."""
    things, found, after = catalog(*keys), list[str](), None
    for _ in range(len(keys) + 1):
        items, after = things.page(after, limit)
        assert len(items) <= limit
        found += [thing.name for thing in items]
        if after is None:
            break
    assert found == keys
    assert after is None


def test_a_page_behind_an_unknown_key_is_an_error() -> None:
    """PAG-1."""
    with pytest.raises(KeyError):
        catalog("a").page("b", 1)


def test_a_listing_is_walked_by_its_cursors() -> None:
    """PAG-1: no `nextCursor` on the last page, and no empty last page."""
    bodies = walk(listing(catalog("a", "b", "c", "d")))
    assert names(bodies) == ["a", "b", "c", "d"]
    assert len(bodies) == 2


def test_the_empty_string_is_a_cursor_and_not_ours() -> None:
    """PAG-1: presence is tested, not truth; also when one page is all there is."""
    for page_size in (2, 10):
        with pytest.raises(InvalidParams):
            listing(catalog("a", "b", "c"), page_size).page("", ANONYMOUS)


@pytest.mark.parametrize("cursor", ["x", "a", "AAAA", "💥"])
def test_an_invented_cursor_is_refused(cursor: str) -> None:
    """PAG-1."""
    with pytest.raises(InvalidParams):
        listing(catalog("a", "b", "c")).page(cursor, ANONYMOUS)


def test_a_cursor_is_bound_to_caller_list_and_set() -> None:
    """PAG-1, SEC-5."""
    things = catalog("a", "b", "c")
    pages = listing(things)
    cursor = pages.page(None, ANONYMOUS)["nextCursor"]
    other = Listing("others", things, lambda thing: {}, lambda thing: thing.scopes, Paging(RING, 2))
    with pytest.raises(InvalidParams):
        pages.page(cursor, Principal("someone", frozenset()))
    with pytest.raises(InvalidParams):
        other.page(cursor, ANONYMOUS)
    things.replace([Thing("b"), Thing("a"), Thing("c")])
    with pytest.raises(InvalidParams):
        pages.page(cursor, ANONYMOUS)


def test_a_replica_with_the_same_set_accepts_the_cursor() -> None:
    """Law 11: stateless means no shared memory."""
    cursor = listing(catalog("a", "b", "c")).page(None, ANONYMOUS)["nextCursor"]
    assert names([listing(catalog("a", "b", "c")).page(cursor, ANONYMOUS)]) == ["c"]


def test_cache_hints_are_the_same_on_every_page() -> None:
    """RES-3, RES-4."""
    hints = [(body["ttlMs"], body["cacheScope"]) for body in walk(listing(catalog("a", "b", "c")))]
    assert hints == [(0, "private")] * 2
    public = walk(listing(catalog("a", "b", "c"), ttl_ms=5, cache_scope="public"))
    assert [(body["ttlMs"], body["cacheScope"]) for body in public] == [(5, "public")] * 2


def test_what_a_caller_may_not_use_is_not_listed_and_the_listing_is_private() -> None:
    """RES-4, SEC-5."""
    things = Catalog(name_of, [Thing("open"), Thing("both", frozenset({"x", "y"})), Thing("x", frozenset({"x"}))])
    pages = listing(things, page_size=10, cache_scope="public")
    seen = {scopes: pages.page(None, Principal("p", frozenset(scopes))) for scopes in ("", "x", "xy")}
    assert {scopes: names([body]) for scopes, body in seen.items()} == {
        "": ["open"],
        "x": ["open", "x"],
        "xy": ["open", "both", "x"],
    }
    assert {body["cacheScope"] for body in seen.values()} == {"private"}


def test_a_changed_set_is_listed_at_once() -> None:
    """Law 10."""
    things = catalog("a")
    pages = listing(things)
    assert names(walk(pages)) == ["a"]
    things.replace([Thing("b")])
    assert names(walk(pages)) == ["b"]


def test_members_added_to_a_page_stay_out_of_the_next_answer() -> None:
    """RES-2: the server's `_meta` on one answer must not leak into a stateful one."""
    pages = listing(catalog("a"))
    pages.page(None, ANONYMOUS)["_meta"] = {}
    assert "_meta" not in pages.page(None, ANONYMOUS)


def test_an_empty_set_is_an_empty_list() -> None:
    """PAG-1."""
    assert listing(catalog()).page(None, ANONYMOUS) == {"things": [], "ttlMs": 0, "cacheScope": "private"}


def test_many_different_scope_sets_do_not_fill_memory() -> None:
    """Law 8: every buffer has a number."""
    scopes = [f"s{number}" for number in range(9)]
    pages = listing(Catalog(name_of, [Thing(scope, frozenset({scope})) for scope in scopes]), page_size=20)
    for mask in range(512):
        held = frozenset(scope for bit, scope in enumerate(scopes) if mask >> bit & 1)
        assert set(names([pages.page(None, Principal("p", held))])) == held
    assert len(pages._views) <= 64
