"""Cursors: opaque, stateless, bound to list, set and caller; everything else is -32602."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.errors import InvalidParams, facing
from mcpd.wire.cursors import KeyRing, decode_cursor, encode_cursor

RING = KeyRing([("k", b"k" * 32)])
CURSOR = encode_cursor(RING, "tools", "echo", 3, "alice")


def test_a_cursor_gives_its_position_back_to_any_process_with_the_ring() -> None:
    """PAG-1: nothing is remembered."""
    assert decode_cursor(KeyRing([("k", b"k" * 32)]), "tools", CURSOR, 3, "alice") == "echo"


@pytest.mark.parametrize(
    ("kind", "version", "principal"),
    [
        ("prompts", 3, "alice"),
        ("tools", 4, "alice"),
        ("tools", "3", "alice"),
        ("tools", 3, "bob"),
        ("tools", 3, ""),
    ],
)
def test_a_cursor_of_another_list_set_or_caller_is_invalid(kind: str, version: int | str, principal: str) -> None:
    """PAG-1."""
    with pytest.raises(InvalidParams, match="Invalid cursor"):
        decode_cursor(RING, kind, CURSOR, version, principal)


@pytest.mark.parametrize("cursor", ["", " ", "0", CURSOR + "x", CURSOR[:-1], None, 0, 1, True, {}, [CURSOR]])
def test_what_is_no_cursor_of_ours_is_invalid_params(cursor: object) -> None:
    """PAG-1: the empty string is present, and never one of ours."""
    with pytest.raises(InvalidParams, match="Invalid cursor") as caught:
        decode_cursor(RING, "tools", cursor, 3, "alice")
    assert facing(caught.value).code == -32602


@given(st.text(), st.text(), st.integers() | st.text(), st.text())
def test_any_position_comes_back(kind: str, position: str, version: int | str, principal: str) -> None:
    """PAG-1."""
    cursor = encode_cursor(RING, kind, position, version, principal)
    assert cursor.isascii()
    assert decode_cursor(RING, kind, cursor, version, principal) == position
