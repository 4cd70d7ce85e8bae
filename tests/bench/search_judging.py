"""How good a ranking is, whether a difference between two is more than chance, and queries with typing mistakes.

Called by: `search_quality`. Pure; everything random has a seed, so that a run can be repeated.

Sources: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), with linear gain; Efron's
percentile bootstrap over queries; Damerau's four kinds of typing mistakes.
"""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DEPTH = 10
RESAMPLES = 10_000
SEED = 1967
LEAST_LETTERS = 4
"""Shorter words are spared: with a letter less there is nothing left to recognise them by."""

TYPO_SHARE = 1 / 3
"""Of the other words of a query, and at least one."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(rf"[a-z]{{{LEAST_LETTERS},}}")


def ndcg(ranking: Sequence[int], gains: Mapping[int, int], depth: int = DEPTH) -> float:
    """Return the discounted gain of the first `depth`, as a share of what the best ranking would have."""
    best = _discounted(sorted(gains.values(), reverse=True)[:depth])
    return _discounted([gains.get(one, 0) for one in ranking[:depth]]) / best if best else 0.0


def _discounted(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


class Difference(NamedTuple):
    """The mean of paired differences, and the interval that 95 % of resamples lie in."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compare two runs over the same queries, pair by pair."""
    pairs = [our - their for our, their in zip(ours, theirs, strict=True)]
    drawing = random.Random(SEED)
    means = sorted(statistics.fmean(drawing.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return Difference(statistics.fmean(pairs), means[RESAMPLES * 25 // 1000], means[RESAMPLES * 975 // 1000 - 1])


def mistyped(query: str, number: int) -> str:
    """Return the query with a mistake in a third of its words; `number` is the query's part of the seed."""
    drawing = random.Random(f"{SEED} {number}")
    places = list(_WORD.finditer(query))
    chosen = drawing.sample(places, max(1, round(len(places) * TYPO_SHARE))) if places else []
    for word in sorted(chosen, key=re.Match.start, reverse=True):
        query = query[: word.start()] + _slip(word[0], drawing) + query[word.end() :]
    return query


def _slip(word: str, drawing: random.Random) -> str:
    """Make one mistake: two letters swapped, one left out, one too many, or a wrong one."""
    at = drawing.randrange(len(word) - 1)
    other = drawing.choice([letter for letter in _LETTERS if letter != word[at]])
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    kinds = [swapped, word[:at] + word[at + 1 :], word[:at] + other + word[at:], word[:at] + other + word[at + 1 :]]
    return drawing.choice([kind for kind in kinds if kind != word])
