"""The built-in embedding `hash`: vectors of what a text is written with, made without a model and without a network.

Signed feature hashing: each word, its beginning, and each of its runs of three and four letters add or subtract a
weight at one of `dims` places that a checksum chooses; the sum is brought to length one. **These are lexical vectors.**
Texts are near each other when they share words or parts of words, so a typo, a plural or a word within a compound still
meets its like. There are no semantics: "car" and "automobile" are unrelated. Function words count little, repeated
words count by the logarithm of their number. Writing is compared in compatibility form and without case.

Speed: what a word adds is remembered as one large int with a lane of 16 bits for each dimension, so that a text is a
sum of some hundred ints. The sum is exact, hence the same on every machine.

Called by: `embeddings`, and tests as a source of vectors that are lumpy like real ones. Pure; the memory of words is
bounded and no part of the result. Deliberately not: a tokenizer for any one language; a text without spaces is cut
every `MAX_WORD_CHARS` letters and compared by its runs of letters.

Sources: Weinberger et al., "Feature hashing for large scale multitask learning" (2009); the subword idea is fastText's.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from array import array
from collections import Counter
from functools import lru_cache
from itertools import islice
from typing import Final
from zlib import crc32

VERSION: Final = "1"
DIMS: Final = 256
CACHED_WORDS_ITEMS: Final = 16_384
"""Words remembered: 0.6 KB each at 256 dimensions, 10 MB when full; more than nine in ten words of a text are there."""

MAX_WORD_CHARS: Final = 40
WORD_WEIGHT: Final = 8
STEM_WEIGHT: Final = 16
"""Of the first five letters, a poor man's stem: "cancelled" and "cancellation" share it."""

PART_WEIGHT: Final = 24
"""Of all runs of letters together (root of the sum of squares)."""

FUNCTION_WORD_SHARE: Final = 12
"""A function word counts a twelfth of another. These four numbers were tuned on the odd queries of Cranfield."""

_PART_BYTES: Final = (12, 16)
"""Runs of three and four letters, of four bytes each."""

_STEM_BYTES: Final = 24
"""Five letters, and the mark before them."""

_LANE_BITS: Final = 16
_CENTRE: Final = 1 << (_LANE_BITS - 1)
_MOST_PARTS: Final = 2 * MAX_WORD_CHARS
_BATCH_WORDS: Final = int(
    _CENTRE / (WORD_WEIGHT + STEM_WEIGHT + PART_WEIGHT * math.sqrt(_MOST_PARTS) + _MOST_PARTS / 2 + 2)
)
"""So many words cannot overflow a lane, whatever they are."""

_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 40) - 1
_SIGN: Final = 1 << 39

_WORD: Final = re.compile(rf"[^\W_]{{1,{MAX_WORD_CHARS}}}")
_ENGLISH: Final = (
    "a an and are as at be been but by can could did do does for from had has have he her his how i if in into is"
    " it its me my no nor not of on or our she should so some such than that the their them then there these they"
    " this those to was we were what when where which who why will with would you your"
)
_RUSSIAN: Final = (
    "а без бы был была были было быть в вы да для до его ее если же за и из или им их к как ко ли на не него нет"
    " но о об от по при с со так то только у уже что чтобы эта эти это я"
)
_FUNCTION_WORDS: Final = frozenset(_ENGLISH.split() + _RUSSIAN.split())


class HashEmbedding:
    """Makes vectors of `dims` dimensions; one object may serve several threads."""

    def __init__(self, dims: int = DIMS, *, max_cached_words: int = CACHED_WORDS_ITEMS) -> None:
        if dims < 1:
            raise ValueError(f"A vector has at least one dimension, not {dims}")
        self.dims = dims
        self.model = f"hash-{dims}-v{VERSION}"
        """Names the vectors: those of another model do not compare with them."""
        self._lanes = lru_cache(max_cached_words)(self._word)
        self._centres = sum(_CENTRE << (_LANE_BITS * place) for place in range(dims))
        self._zero = (_CENTRE,) * dims
        self._centre_lanes = array("H", [_CENTRE]) * dims

    def embed(self, text: str) -> array[float]:
        """Return the vector of `text`, of length one; all zeros when it has no letter and no digit.

        Time is linear in the text; about 0.1 ms for 800 characters once their words have been met.
        """
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
        counts = Counter(words)
        terms = list(counts)
        if len(terms) < len(words):
            for word, count in counts.items():
                if count > 1:
                    terms += [word] * (count.bit_length() - 1)
        if len(terms) <= _BATCH_WORDS:
            return self._brought_to_length_one(self._summed(terms))
        return self._brought_to_length_one(self._summed_in_batches(terms))

    def _summed(self, terms: list[str]) -> array[int]:
        """Add up what at most `_BATCH_WORDS` words add; each lane holds its sum + `_CENTRE`."""
        total = sum(map(self._lanes, terms), self._centres)
        lanes = array("H")
        lanes.frombytes(total.to_bytes(self.dims * 2, "little"))
        if sys.byteorder == "big":
            lanes.byteswap()
        return lanes

    def _summed_in_batches(self, terms: list[str]) -> list[int]:
        sums, remaining = [_CENTRE] * self.dims, iter(terms)
        while batch := list(islice(remaining, _BATCH_WORDS)):
            sums = [old + new - _CENTRE for old, new in zip(sums, self._summed(batch), strict=True)]
        return sums

    def _brought_to_length_one(self, sums: array[int] | list[int]) -> array[float]:
        length = math.dist(sums, self._zero)
        scale = 1.0 / length if length > 0 else 0.0
        return array("f", [(value - _CENTRE) * scale for value in sums])

    def _word(self, word: str) -> int:
        """Return what a word adds: signed numbers in lanes, which is to say their sum, each shifted to its lane.

        Its parts are its runs of three and four letters, the ends marked, so that beginnings and endings count. The
        checksum is multiplied, else like features would differ in like places.
        """
        letters = f"<{word}>".encode("utf-32-le", "surrogatepass")
        parts = [letters[at : at + size] for size in _PART_BYTES for at in range(0, len(letters) - size + 1, 4)]
        share = FUNCTION_WORD_SHARE if word in _FUNCTION_WORDS else 1
        weights = [round(PART_WEIGHT / (share * math.sqrt(len(parts))))] * len(parts)
        weights += [round(WORD_WEIGHT / share), round(STEM_WEIGHT / share)]
        lanes, dims = self._centre_lanes[:], self.dims
        for feature, weight in zip([*parts, b"=" + letters, b"^" + letters[:_STEM_BYTES]], weights, strict=True):
            mixed = crc32(feature) * _MULTIPLIER & _MASK
            lanes[(mixed >> 16) % dims] += weight if mixed & _SIGN else -weight
        if sys.byteorder == "big":
            lanes.byteswap()
        return int.from_bytes(lanes.tobytes(), "little") - self._centres
