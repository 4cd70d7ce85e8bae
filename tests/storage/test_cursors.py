"""Cursors of the stores: what goes in comes out, and only into the same query."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.storage import cursors
from mcpd.storage.documents import BadCursor, Matching

numbers = st.sets(st.integers(1, 1 << 43), max_size=50)
keys = st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | st.text() | st.binary()


@given(numbers)
def test_what_has_been_shown_comes_back(shown: set[int]) -> None:
    cursor = cursors.encode(cursors.seen_after(b"query", shown))
    assert cursors.decode(b"query", cursor).seen == shown


@given(keys, st.text())
def test_a_place_in_an_order_comes_back(key: object, uri: str) -> None:
    position = cursors.Position(b"query", uri, key)
    assert cursors.decode(b"query", cursors.encode(position)) == position


@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    with suppress(BadCursor):
        assert cursors.decode(b"query", text).query == b"query"


def test_a_cursor_of_another_query_is_refused() -> None:
    cursor = cursors.encode(cursors.Position(cursors.matching_key(Matching(text="one")), "a"))
    with pytest.raises(BadCursor, match="another query"):
        cursors.decode(cursors.matching_key(Matching(text="two")), cursor)
    assert cursors.decode(cursors.matching_key(Matching(text="one", limit=3, highlight=2)), cursor).uri == "a"


def test_ten_thousand_shown_hits_fit_and_more_are_refused() -> None:
    cursor = cursors.encode(cursors.seen_after(b"q", range(1, 100 * cursors.MAX_SEEN, 100)))
    assert len(cursors.decode(b"q", cursor).seen) == cursors.MAX_SEEN
    assert len(cursor) < 15_000
    with pytest.raises(BadCursor, match="narrow the query"):
        cursors.decode(b"q", cursors.encode(cursors.seen_after(b"q", range(cursors.MAX_SEEN + 1))))


def test_a_key_of_no_known_type_is_refused() -> None:
    with pytest.raises(BadCursor):
        cursors.decode(b"q", cursors.encode(cursors.Position(b"q", "a", key=["list"])))
