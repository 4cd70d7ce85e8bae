"""Embedding providers: what turns texts into vectors, as the rest of mcpd sees it.

`EmbeddingProvider` is the Protocol; `HashProvider` is built in and needs nothing: lexical vectors, no semantics (see
`hashing`). The other one, `endpoint.HttpProvider`, asks a model behind HTTP. `VectorCache` remembers what an endpoint
answered; `to_bytes` and `from_bytes` are for those that replicas share.

Called by: the searcher for queries, ingestion for chunks; `providers` makes them. Deliberately not: storage of vectors,
which is the store's, or choosing texts, which is `chunking`'s.

Laws: a vector has length one (a text without any letter may give all zeros), and vectors compare only with those of the
same `model`; nothing here holds the event loop for more than a few milliseconds.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import trio

from mcpd.search.hashing import DIMS, HashEmbedding
from mcpd.storage.documents import StorageError, StoreUnreachable

SLICE_CHARS: Final = 16_000
"""Of texts between two checkpoints: some two milliseconds of hashing."""

ENTRY_BYTES: Final = 240
"""What a cache entry takes besides its numbers: key, array object, and its place in the table."""


_SERVICE: Final = "embedding service"


class EmbeddingError(StorageError):
    """The endpoint answers, but with no vectors that can be used; the text says what to mend. It never holds a key."""

    store = _SERVICE


class EndpointUnreachable(StoreUnreachable):
    """The endpoint does not answer now; the text says why, and never holds a key."""

    store = _SERVICE


class EmbeddingProvider(Protocol):
    """Makes vectors of texts."""

    @property
    def model(self) -> str:
        """Names the vectors; another model's do not compare with them."""

    @property
    def dims(self) -> int | None:
        """Numbers in a vector; None as long as the endpoint has not been asked."""

    @property
    def semantic(self) -> bool:
        """Whether texts that mean the same in other words are near each other."""

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Return one vector of length one for each text, in order.

        Raises: EndpointUnreachable when it may work later; EmbeddingError when it will not.
        Cancellation: safe.
        """


class HashProvider:
    """The built-in vectors: deterministic, offline, lexical. Texts should be chunks: a long one is made in one go."""

    semantic = False

    def __init__(self, dims: int = DIMS) -> None:
        self._embedding = HashEmbedding(dims)
        self.model = self._embedding.model
        self.dims: int | None = dims

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """See `EmbeddingProvider`. Lets other tasks run every few milliseconds, and raises nothing."""
        vectors: list[Sequence[float]] = []
        await trio.lowlevel.checkpoint()
        waiting = 0
        for text in texts:
            waiting += len(text)
            if waiting > SLICE_CHARS:
                await trio.lowlevel.checkpoint()
                waiting = len(text)
            vectors.append(self._embedding.embed(text))
        return vectors


class CacheStatistics(msgspec.Struct, frozen=True):
    """What a cache holds."""

    items: int
    bytes: int


class VectorCache:
    """Vectors used lately, by model and text, in at most `max_bytes`; the ones not used for longest go first.

    `observe` is told `hit` or `evicted` for each. Keys are hashes: the texts themselves are not kept.
    """

    def __init__(self, max_bytes: int, *, observe: Callable[[str], None] = lambda _: None) -> None:
        self._max_bytes = max_bytes
        self._observe = observe
        self._vectors: OrderedDict[bytes, array[float]] = OrderedDict()
        self._bytes = 0

    def get(self, model: str, text: str) -> array[float] | None:
        """Return the vector, which becomes the one used last."""
        key = _key(model, text)
        vector = self._vectors.get(key)
        if vector is not None:
            self._observe("hit")
            self._vectors.move_to_end(key)
        return vector

    def put(self, model: str, text: str, vector: array[float]) -> None:
        """Remember a vector; one that is larger than the whole cache is not kept."""
        key = _key(model, text)
        known = self._vectors.pop(key, None)
        if known is not None:
            self._bytes -= _cost(known)
        self._vectors[key] = vector
        self._bytes += _cost(vector)
        while self._bytes > self._max_bytes:
            _, oldest = self._vectors.popitem(last=False)
            self._bytes -= _cost(oldest)
            self._observe("evicted")

    def statistics(self) -> CacheStatistics:
        """Count what is held."""
        return CacheStatistics(len(self._vectors), self._bytes)


def _key(model: str, text: str) -> bytes:
    return hashlib.blake2b(f"{model}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _cost(vector: array[float]) -> int:
    return len(vector) * vector.itemsize + ENTRY_BYTES


def normalised(vector: Sequence[float]) -> array[float]:
    """Return the vector with length one, as 32-bit floats; all zeros stay what they are."""
    length = math.hypot(*vector)
    scale = 1.0 / length if length > 0 else 0.0
    return array("f", [value * scale for value in vector])


def to_bytes(vector: array[float]) -> bytes:
    """Return a vector as replicas share it: 32-bit floats, the lowest byte first."""
    return _lowest_first(array("f", vector)).tobytes()


def from_bytes(value: bytes, dims: int | None) -> array[float] | None:
    """Return the vector of `dims` numbers and length one that a replica has shared; None for anything else."""
    vector = array("f")
    if not value or len(value) % vector.itemsize:
        return None
    vector.frombytes(value)
    vector = _lowest_first(vector)
    length = math.hypot(*vector)
    is_unit = math.isclose(length, 1.0, rel_tol=1e-3) or length == 0
    return vector if is_unit and len(vector) == (dims or len(vector)) else None


def _lowest_first(vector: array[float]) -> array[float]:
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
