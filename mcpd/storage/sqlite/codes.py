"""Binary codes of vectors: nearest neighbours in plain Python, without an extension module.

    encode    a vector -> one int of `Coder.bits` bits: the signs that it has after random rotations
    rank      codes -> positions of the nearest ones by Hamming distance, `(a ^ b).bit_count()`
    rescore   the few hundred best -> exact cosine

A rotation is a random flip of signs, then a fast Walsh-Hadamard transform. The plain signs of a vector would not do:
the vector of a short query is mostly zeros. So it is mixed by one rotation first; then each of up to four independent
rotations gives one bit per dimension. Dimensions are padded to a power of two: 256 give 4 x 256 = 1,024 bits, 384 are
padded to 512 and give 2 x 512 = 1,024, from 1,024 dimensions on there is one bit for each padded dimension.

The transform runs on all dimensions at once, as lanes of 32 bits in one large int: values are whole numbers, shifted
by a bias that doubles with each addition, so that no lane ever borrows from its neighbour. That is exact, the same on
every machine, and several times faster than a list of floats.

Called by: the stores. Pure. Deliberately not an index: `rank` looks at every code.

Laws: codes of one `Coder(dims, rotations)` are comparable for ever, the signs come from a fixed seed; a change of the
method needs a new `VERSION`. Vectors given to `rescore` have length one.

Sources: Charikar, "Similarity estimation techniques from rounding algorithms" (2002); Ailon and Chazelle (2006).
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

VERSION: Final = "wht1"
"""Name of the method; stored beside codes, which only compare with codes of the same version."""

LANE_BITS: Final = 32
MAX_DIMS: Final = 8192
"""Beyond this the lanes would need more than 32 bits."""

TARGET_BITS: Final = 1024
"""Bits wanted of a code: at 256 dimensions 200 candidates then hold 97 % and more of the true ten nearest."""

SAMPLE_ITEMS: Final = 2048
"""Codes looked at to guess how near the wanted ones are; fewer codes than four times this are simply sorted."""


class Coder:
    """Makes the codes of vectors of `dims` dimensions.

    Args:
        dims: 1 to `MAX_DIMS`.
        rotations: 1, 2 or 4 bits for each padded dimension; by default as many as `TARGET_BITS` allow.
    """

    def __init__(self, dims: int, *, rotations: int | None = None) -> None:
        if not 1 <= dims <= MAX_DIMS:
            raise ValueError(f"Vectors must have 1 to {MAX_DIMS} dimensions, not {dims}")
        if rotations not in (None, 1, 2, 4):
            raise ValueError(f"A code has 1, 2 or 4 rotations, not {rotations}")
        self.dims = dims
        self.padded = 1 << (dims - 1).bit_length()
        self.rotations = rotations or _fitting_rotations(self.padded)
        self.bits = self.padded * self.rotations
        self._stages = self.padded.bit_length() - 1
        self._shrink = self._stages // 2
        self._value_bits = min(15, LANE_BITS - 1 - 2 * self._stages + self._shrink)
        self._ones = _lanes(1 for _ in range(self.padded))
        self._strides = tuple(_stride(self.padded, 1 << stage) for stage in range(self._stages))
        flips = [_flips(self.padded, number) for number in range(self.rotations + 1)]
        self._mixing, self._signs = flips[0], flips[1:]

    def encode(self, vector: Sequence[float]) -> int:
        """Return the code of `vector`; it does not depend on the vector's length. All zeros have a code as well.

        Raises: ValueError when the vector has another number of dimensions or a value that is no finite number.
        """
        bias = self._value_bits
        mixed, bias = self._rotate(self._quantised(vector), bias, self._mixing)
        mixed, bias = self._shrunk(mixed), bias - self._shrink
        gathered = 0
        for number, signs in enumerate(self._signs):
            rotated, top = self._rotate(mixed, bias, signs)
            gathered |= ((rotated >> top) & self._ones) << number
        digits = gathered.to_bytes(self.padded * 4, "little")[::4].translate(_DIGITS)
        return int(digits, 1 << self.rotations)

    def _quantised(self, vector: Sequence[float]) -> int:
        """Lanes of value + bias, the largest value scaled to just below the bias."""
        if len(vector) != self.dims:
            raise ValueError(f"The vector has {len(vector)} dimensions, not {self.dims}")
        peak = max(map(abs, vector))
        if not math.isfinite(sum(vector)):
            raise ValueError("The vector has a value that is no finite number")
        bias = 1 << self._value_bits
        scale = (bias - 1) / peak if peak > 0 else 0.0
        lanes = [int(value * scale) + bias for value in vector]
        return _lanes(lanes + [bias] * (self.padded - self.dims))

    def _rotate(self, lanes: int, bias: int, flipped: int) -> tuple[int, int]:
        """Flip the lanes in `flipped`, transform; return the new lanes and their bias as a power of two."""
        lanes += ((self._ones << (bias + 1)) & flipped) - ((lanes & flipped) << 1)
        for width, low, ones in self._strides:
            bias += 1
            first, second = lanes & low, (lanes >> width) & low
            lanes = (first + second) | ((first + (ones << bias) - second) << width)
        return lanes, bias

    def _shrunk(self, lanes: int) -> int:
        """Halve all values `_shrink` times, so that a second rotation finds room."""
        keep = (1 << (LANE_BITS - self._shrink)) - 1
        return (lanes >> self._shrink) & (self._ones * keep)


_DIGITS: Final = b"0123456789abcdef" + bytes(240)


def _fitting_rotations(padded: int) -> int:
    return max(1, min(4, TARGET_BITS // padded))


def _lanes(values: Iterable[int]) -> int:
    lanes = array("I", values)
    if sys.byteorder == "big":
        lanes.byteswap()
    return int.from_bytes(lanes.tobytes(), "little")


def _stride(padded: int, step: int) -> tuple[int, int, int]:
    """Return width in bits, mask and ones of the lanes that are first in their pair, `step` lanes apart."""
    ones = _lanes(0 if lane & step else 1 for lane in range(padded))
    return step * LANE_BITS, ones * ((1 << LANE_BITS) - 1), ones


def _flips(padded: int, number: int) -> int:
    """Return the mask of the lanes whose sign the rotation `number` flips; the same on every machine."""
    drawn = hashlib.shake_256(f"mcpd {VERSION} {number}".encode()).digest(padded)
    return _lanes(0xFFFFFFFF if byte & 1 else 0 for byte in drawn)


def rank(codes: Sequence[int], query: int, limit: int) -> list[int]:
    """Return the positions of the `limit` codes nearest to `query`, nearest first, equally near ones by position.

    Costs one pass over the codes: a sample tells about how near the best ones are, and only what is that near is
    sorted. When the sample was wrong, all are.
    """
    if limit <= 0:
        return []
    if len(codes) < 4 * SAMPLE_ITEMS or limit * 4 > len(codes):
        return _nearest(list(range(len(codes))), codes, query, limit)
    reach = _reach(codes, query, limit)
    near = [position for position, code in enumerate(codes) if (code ^ query).bit_count() <= reach]
    if len(near) < limit:
        near = list(range(len(codes)))
    return _nearest(near, codes, query, limit)


def _reach(codes: Sequence[int], query: int, limit: int) -> int:
    """Guess a distance within which a little more than `limit` codes lie."""
    sample = sorted([(code ^ query).bit_count() for code in codes[:: len(codes) // SAMPLE_ITEMS]])
    expected = limit * len(sample) / len(codes)
    return sample[min(len(sample) - 1, int(expected + 3 * math.sqrt(expected) + 2))]


def _nearest(positions: list[int], codes: Sequence[int], query: int, limit: int) -> list[int]:
    distances = [(codes[position] ^ query).bit_count() for position in positions]
    order = sorted(range(len(positions)), key=distances.__getitem__)
    return [positions[index] for index in order[:limit]]


def rescore(
    query: Sequence[float], stored: Iterable[tuple[int, bytes]], limit: int | None = None
) -> list[tuple[int, float]]:
    """Return the `limit` best of (key, vector as `to_bytes` made it) as (key, cosine), best first, equal ones by key.

    Query and vectors have length one: the cosine comes from the distance between their ends, which
    the standard library computes faster than a sum of products. A vector is unpacked, used and let go at once: a
    thousand kept ones are a quarter of a million objects.

    Raises: struct.error when a vector has not as many numbers as the query.
    """
    target, unpack = tuple(query), struct.Struct(f"<{len(query)}f").unpack
    scored = sorted([(math.dist(target, unpack(data)), key) for key, data in stored])
    return [(key, 1.0 - distance * distance / 2.0) for distance, key in scored[:limit]]


def to_bytes(vector: Sequence[float]) -> bytes:
    """Return a vector as little-endian 32-bit floats, which is how stores keep it."""
    return struct.pack(f"<{len(vector)}f", *vector)


def from_bytes(blob: bytes) -> tuple[float, ...]:
    """Return the vector in `blob`, as `to_bytes` made it.

    Raises: struct.error when the number of bytes is no multiple of four.
    """
    return struct.unpack(f"<{len(blob) // 4}f", blob)
