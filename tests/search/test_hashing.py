"""The built-in embedding: the same everywhere, of length one, near for like writing, and no more than that."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.search.hashing import _BATCH_WORDS, MAX_WORD_CHARS, HashEmbedding

EMBEDDING = HashEmbedding()


def likeness(first: str, second: str) -> float:
    return sum(a * b for a, b in zip(EMBEDDING.embed(first), EMBEDDING.embed(second), strict=True))


@given(st.text())
def test_a_vector_has_length_one_or_is_all_zeros(text: str) -> None:
    vector = EMBEDDING.embed(text)
    assert len(vector) == 256
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-6) or not any(vector)
    assert any(vector) or not any(letter.isalnum() for letter in text)


def test_another_process_makes_the_same_vector() -> None:
    """Python's own hash differs from process to process; ours may not: vectors are stored."""
    program = (
        "from mcpd.search.hashing import HashEmbedding as H; print(H(8).embed('Größe of the naïve чашка').tolist())"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] == f"{HashEmbedding(8).embed('Größe of the naïve чашка').tolist()}\n"


def test_vectors_stay_what_they_are_from_release_to_release() -> None:
    """Vectors are stored: another one for the same text needs a new VERSION."""
    assert [round(value, 4) for value in HashEmbedding(8).embed("a stable vector")] == [
        0.3528,
        -0.1646,
        0.3998,
        0.1881,
        0.3293,
        -0.1646,
        -0.1411,
        0.7055,
    ]


@pytest.mark.parametrize(
    ("like", "unlike"),
    [
        (("cancellation of requests", "the request was cancelled"), ("cancellation of requests", "a red apple")),
        (("temperature", "temprature"), ("temperature", "timetable")),
        (("соединение закрыто", "закрытие соединения"), ("соединение закрыто", "красное яблоко")),
        (("naïve café", "NAÏVE CAFÉ"), ("naïve café", "naval caf")),
        (("ﬁle size", "file size"), ("ﬁle size", "tile prize")),
    ],
    ids=["inflection", "typo", "russian", "case", "compatibility form"],
)
def test_like_writing_is_nearer_than_unlike_writing(like: tuple[str, str], unlike: tuple[str, str]) -> None:
    assert likeness(*like) > likeness(*unlike) + 0.15


def test_it_knows_no_meanings() -> None:
    """Said in the docstring, so it must be true: no semantics."""
    assert abs(likeness("car", "automobile")) < 0.2


def test_function_words_count_little() -> None:
    assert likeness("the socket of a server", "socket server") > 0.9


def test_a_repeated_word_does_not_drown_the_others() -> None:
    assert likeness("socket " * 50 + "harbour", "harbour") > 0.1


def test_the_order_of_words_does_not_count() -> None:
    assert EMBEDDING.embed("one two three") == EMBEDDING.embed("three one two")


def test_more_words_than_a_lane_may_add_up_are_added_in_parts_exactly() -> None:
    """Words that all add to the same lane, in the same direction, would overflow sixteen bits without batches."""
    small = HashEmbedding(2)
    sums = {word: [lane - 32768 for lane in small._summed([word])] for word in map(str, range(20_000))}
    words = [word for word, lanes in sums.items() if lanes[0] > 20]
    exact = [sum(sums[word][lane] for word in words) for lane in (0, 1)]
    assert exact[0] > 2 * 32768
    assert list(small.embed(" ".join(words))) == pytest.approx([x / math.hypot(*exact) for x in exact], abs=1e-6)


@pytest.mark.parametrize("word", ["a", "x" * MAX_WORD_CHARS, "щ" * MAX_WORD_CHARS])
def test_a_batch_of_the_heaviest_words_fits_into_a_lane(word: str) -> None:
    lanes = [lane - 32768 for lane in HashEmbedding(1)._summed([word])]
    assert abs(lanes[0]) * _BATCH_WORDS < 32768


def test_forgetting_words_changes_nothing() -> None:
    text = "many different words that do not fit into a memory of two"
    assert HashEmbedding(max_cached_words=2).embed(text) == EMBEDDING.embed(text)


def test_lone_surrogates_are_written_too() -> None:
    assert any(EMBEDDING.embed("a\ud800b"))


def test_the_model_name_tells_vectors_apart() -> None:
    assert HashEmbedding(128).model != EMBEDDING.model


def test_no_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension"):
        HashEmbedding(0)


def test_a_long_word_costs_no_more_than_its_length() -> None:
    """Two megabytes without a blank: bounded by the clock generously, quadratic work would take minutes."""
    began = time.perf_counter()
    EMBEDDING.embed("x" * 2_000_000)
    assert time.perf_counter() - began < 10
