"""Reciprocal rank fusion: the formula, its ties, and what it does not depend on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.search.fusion import Fused, fuse

rankings = st.dictionaries(st.sampled_from(["text", "semantic", "title"]), st.lists(st.integers(0, 9), unique=True))


def test_the_score_is_the_sum_of_reciprocal_ranks() -> None:
    found = fuse({"text": ["a", "b"], "semantic": ["b", "c"]})
    assert [(hit.key, hit.ranks) for hit in found] == [
        ("b", {"semantic": 1, "text": 2}), ("a", {"text": 1}), ("c", {"semantic": 2}),
    ]  # fmt: skip
    assert [hit.score for hit in found] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_being_in_two_lists_beats_being_first_in_one() -> None:
    assert fuse({"text": ["a", "b"], "semantic": ["c", "b"]})[0].key == "b"


def test_a_weight_makes_a_list_count_more() -> None:
    lists = {"text": ["a", "b"], "semantic": ["b", "a"]}
    assert fuse(lists, weights={"semantic": 2})[0].key == "b"
    assert fuse(lists, weights={"text": 2})[0].key == "a"
    assert fuse(lists, weights={"text": 0})[0] == Fused("b", 1 / 61, {"semantic": 1, "text": 2})


def test_equal_scores_are_ordered_by_best_rank_then_by_key() -> None:
    assert [hit.key for hit in fuse({"one": [3, 1], "two": [2, 4]})] == [2, 3, 1, 4]
    found = fuse({"one": [1, 2, 9], "two": [5, 6, 9, 1]}, k=0, weights={"one": 0, "two": 0})
    assert [hit.key for hit in found] == [1, 5, 2, 6, 9]


def test_a_key_named_twice_keeps_its_better_rank() -> None:
    assert fuse({"text": ["a", "b", "a"]})[0].ranks == {"text": 1}


def test_a_small_k_lets_the_top_count_more() -> None:
    lists = {"one": ["a", "b", "c", "d"], "two": ["x", "y", "z", "d"]}
    assert fuse(lists, k=60)[0].key == "d"
    assert fuse(lists, k=0)[0].key == "a"


def test_only_the_best_are_returned_when_fewer_are_wanted() -> None:
    lists = {"text": ["a", "b", "c"]}
    assert [hit.key for hit in fuse(lists, limit=2)] == ["a", "b"]
    assert fuse(lists, limit=0) == fuse({}) == fuse({"text": []}) == []


@pytest.mark.parametrize(("k", "weights"), [(-1, {}), (60, {"text": -1}), (60, {"txt": 1})])
def test_what_makes_no_sense_is_refused(k: float, weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"negative|called 'txt'"):
        fuse({"text": ["a"]}, k=k, weights=weights)


@given(rankings)
def test_every_key_comes_once_with_its_ranks(lists: dict[str, list[int]]) -> None:
    found = fuse(lists)
    assert sorted(hit.key for hit in found) == sorted({key for keys in lists.values() for key in keys})
    for hit in found:
        assert hit.ranks == {name: keys.index(hit.key) + 1 for name, keys in lists.items() if hit.key in keys}
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in hit.ranks.values()))


@given(rankings)
def test_the_order_in_which_lists_are_given_does_not_count(lists: dict[str, list[int]]) -> None:
    one, other = fuse(lists), fuse(dict(reversed(lists.items())))
    assert one == other
    assert [list(hit.ranks) for hit in one] == [list(hit.ranks) for hit in other]


@given(rankings, st.integers(0, 9))
def test_a_better_rank_never_lowers_a_key(lists: dict[str, list[int]], key: int) -> None:
    before = [hit.key for hit in fuse(lists)]
    if key in before:
        raised = {
            name: ([key, *(k for k in keys if k != key)] if key in keys else keys) for name, keys in lists.items()
        }
        assert [hit.key for hit in fuse(raised)].index(key) <= before.index(key)
