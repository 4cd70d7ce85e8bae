"""Reciprocal rank fusion: several ranked lists of the same things become one.

A thing at rank r of a list (1 is best) gains `weight / (k + r)` from it; the sums order the result. Scores of the
lists themselves are never compared: BM25 and a cosine have no common scale, ranks have. `k` flattens the top, so that
being in two lists counts for more than being first in one.

Called by: `hybrid` search of every store. Pure. Deliberately not: normalisation or learning of weights.

Laws: the result depends on the lists and their names only, not on the order in which they are given; equal scores are
ordered by best rank, then by key.

Sources: Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet ..." (2009), where k is 60.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

import msgspec

K: Final = 60.0

Key = TypeVar("Key", str, int)


class Fused(msgspec.Struct, Generic[Key], frozen=True):
    """One thing of the merged list."""

    key: Key
    score: float
    ranks: dict[str, int]
    """Name of the list -> rank in it, from 1; lists that do not have the thing are absent."""


def fuse(
    rankings: Mapping[str, Sequence[Key]],
    *,
    k: float = K,
    weights: Mapping[str, float] | None = None,
    limit: int | None = None,
) -> list[Fused[Key]]:
    """Merge named lists, each best first, and return the best `limit` (all when None), best first.

    A list without a weight has weight 1; a key that a list names twice has the better of its ranks.

    Raises: ValueError for a negative `k` or weight, and for a weight of a list that is not there.
    """
    shares = _shares(rankings, k, weights or {})
    ranks: dict[Key, dict[str, int]] = {}
    for name in sorted(rankings):
        for rank, key in enumerate(rankings[name], 1):
            ranks.setdefault(key, {}).setdefault(name, rank)
    fused = [Fused(key, _score(found, k, shares), found) for key, found in ranks.items()]
    fused.sort(key=_place)
    return fused[:limit]


def _shares(rankings: Mapping[str, object], k: float, weights: Mapping[str, float]) -> dict[str, float]:
    if k < 0 or any(weight < 0 for weight in weights.values()):
        raise ValueError("k and weights of a fusion must not be negative")
    unknown = sorted(set(weights) - set(rankings))
    if unknown:
        raise ValueError(f"There is no ranked list called {unknown[0]!r}")
    return {name: weights.get(name, 1.0) for name in rankings}


def _score(ranks: Mapping[str, int], k: float, shares: Mapping[str, float]) -> float:
    return math.fsum(shares[name] / (k + rank) for name, rank in ranks.items())


def _place(hit: Fused[Key]) -> tuple[float, int, Key]:
    return -hit.score, min(hit.ranks.values()), hit.key
