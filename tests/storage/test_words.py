"""Words of texts: how a chunk begins, where no word of it is marked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcpd.storage.words import BEGINNING_CHARACTERS, beginning


@given(st.text(max_size=600))
def test_a_beginning_is_one_short_line(text: str) -> None:
    shown = beginning(text)
    assert len(shown) <= BEGINNING_CHARACTERS
    assert "\n" not in shown
    assert " ".join(text.split()).startswith(shown)


def test_a_beginning_ends_between_words_where_it_can() -> None:
    assert beginning("word " * 50) == ("word " * 32).strip()
    assert beginning("x" * 1_000) == "x" * BEGINNING_CHARACTERS
