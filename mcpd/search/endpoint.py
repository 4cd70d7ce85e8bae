"""Vectors of a model behind an OpenAI-compatible endpoint: Ollama, TEI, vLLM, llama.cpp, or a hosted service.

    POST {url}/embeddings  {"model": ..., "input": [texts]}  ->  {"data": [{"index": 0, "embedding": [numbers]}, ...]}

Called by: ingestion and the searcher, as an `EmbeddingProvider`; made by `providers`. Calls `drivers.http` and
translates its errors, by the table of statuses below. Deliberately not: truncation of long texts or prefixes that some
models want, which depend on the model.

Laws
- Texts go out in batches of bounded number and size, `MAX_BATCHES` at a time for all callers together. A single text
  does not queue behind them: somebody waits for the answer to a query.
- What may work later (no answer, 429, 5xx) is tried again after a pause that doubles and is never the same twice, or
  after the one that the endpoint asks for (`Retry-After`); never when the caller's deadline comes first.
- Every vector has the same size: the configured one, or that of the first. Anything odd in a reply is an error.
- The API key is in no message.

Sources: OpenAI API reference, "Create embeddings"; RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import math
import random
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import count
from typing import Final
from urllib.parse import urlsplit

import msgspec
import trio

from mcpd.config import Embeddings
from mcpd.drivers.http import HttpClient, HttpError, Reply, Unreachable
from mcpd.errors import ConfigurationError, counted
from mcpd.search.embeddings import (
    EmbeddingError,
    EndpointUnreachable,
    VectorCache,
    from_bytes,
    normalised,
    to_bytes,
)
from mcpd.search.together import run_together
from mcpd.secret import Secret
from mcpd.storage.shared import CacheStore

_MAX_DIGITS: Final = 20
"""Of a Retry-After."""

MAX_REPLY_BYTES: Final = 32 * 1024 * 1024
"""A batch of 64 vectors of 8,192 numbers with 20 digits each is a third of this."""

MAX_BATCH_BYTES: Final = 256 * 1024
"""Of UTF-8 text in one request; a single longer text goes alone."""

MAX_BATCHES: Final = 2
"""At once. One keeps a local model busy while the next is sent; more only wait there, against the time for a reply."""

MAX_ATTEMPTS: Final = 5
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 60.0
"""An endpoint that asks for a longer pause has failed: whoever waits for vectors has something better to do."""

_EXCUSE_CHARS: Final = 200


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


class _Setback(msgspec.Struct, frozen=True):
    """An attempt that may be repeated, not before `wait_s`."""

    reason: str
    wait_s: float = 0.0


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class HttpProvider:
    """Asks `settings.url` for vectors of `settings.model`.

    `draw` gives the random numbers of pauses, from 0 to 1; `observe` hears of the cache (see `VectorCache`).
    Raises: ConfigurationError for settings that cannot work.
    """

    semantic = True

    def __init__(
        self,
        client: HttpClient,
        settings: Embeddings,
        *,
        observe: Callable[[str], None] = lambda _: None,
        second: CacheStore | None = None,
        draw: Callable[[], float] = random.random,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        if not settings.url or not settings.model:
            raise ConfigurationError("embeddings.url and embeddings.model must be given together")
        self.model = settings.model
        self.dims = settings.dims
        self._client = client
        self._url = embeddings_url(settings.url)
        self._key = settings.api_key
        self._headers = _headers(settings.api_key)
        self._max_batch_items = settings.max_batch_items
        self._observe = observe
        self._second = second
        self._cache = VectorCache(settings.max_cache_bytes, observe=observe)
        self._batches = trio.CapacityLimiter(MAX_BATCHES)
        self._draw = draw
        self._first_pause_s = first_pause_s

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """See `EmbeddingProvider`. Equal texts are asked for once, remembered ones not at all."""
        await trio.lowlevel.checkpoint_if_cancelled()
        found: dict[str, array[float]] = {}
        missing: list[str] = []
        for text in dict.fromkeys(texts):
            vector = self._cache.get(self.model, text)
            if vector is None:
                missing.append(text)
            else:
                found[text] = vector
        await self._find(missing, found)
        missing = [text for text in missing if text not in found]
        for _ in missing:
            self._observe("miss")
        await self._ask_all(missing, found)
        return [found[text] for text in texts]

    async def _find(self, texts: list[str], found: dict[str, array[float]]) -> None:
        """Add what other replicas have asked for: `second` is never waited for longer than it takes to see it away."""
        if self._second is None or not texts:
            return
        shared = await self._second.find([self._name(text) for text in texts])
        for text in texts:
            vector = from_bytes(shared.get(self._name(text), b""), self.dims)
            if vector is not None:
                self._observe("shared")
                self.dims = len(vector)
                found[text] = vector
                self._cache.put(self.model, text, vector)

    def _name(self, text: str) -> str:
        return f"{len(self.model)} {self.model} {text}"

    async def _ask_all(self, texts: list[str], found: dict[str, array[float]]) -> None:
        if len(texts) == 1:
            await self._ask(texts, found)
        elif texts:
            await run_together([partial(self._work, _batches(texts, self._max_batch_items), found)] * MAX_BATCHES)

    async def _work(self, waiting: Iterator[list[str]], found: dict[str, array[float]]) -> None:
        """Ask for one batch after the other, as long as there are any; other workers take from the same."""
        for batch in waiting:
            async with self._batches:
                await self._ask(batch, found)

    async def _ask(self, batch: list[str], found: dict[str, array[float]]) -> None:
        body = await self._answer(msgspec.json.encode({"model": self.model, "input": batch}))
        vectors = dict(zip(batch, self._vectors(body, len(batch)), strict=True))
        found.update(vectors)
        for text, vector in vectors.items():
            self._cache.put(self.model, text, vector)
        if self._second is not None:
            self._second.put({self._name(text): to_bytes(vector) for text, vector in vectors.items()})

    async def _answer(self, body: bytes) -> bytes:
        """Send one request until it is answered with 200. Raises: EndpointUnreachable, EmbeddingError."""
        pause_s = self._first_pause_s
        for attempt in count(1):
            outcome = await self._attempt(body)
            if isinstance(outcome, bytes):
                return outcome
            wait_s = max(outcome.wait_s, pause_s * (0.5 + self._draw() / 2))
            left_s = trio.current_effective_deadline() - trio.current_time()
            if attempt == MAX_ATTEMPTS or wait_s > MAX_PAUSE_S or wait_s >= left_s:
                raise EndpointUnreachable(
                    f"The embedding endpoint does not answer (tried {counted(attempt, 'time')}): {outcome.reason}"
                )
            await trio.sleep(wait_s)
            pause_s *= 2
        raise AssertionError("counting does not end")

    async def _attempt(self, body: bytes) -> bytes | _Setback:
        try:
            reply = await self._client.request("POST", self._url, headers=self._headers, body=body)
        except Unreachable as error:
            return _Setback(str(error))
        except HttpError as error:
            raise EmbeddingError(f"The embedding endpoint cannot be used: {error}") from None
        if reply.status == 200:
            return reply.body
        if reply.status in _SETBACKS:
            return _Setback(f"status {reply.status}", _retry_after_s(reply))
        raise EmbeddingError(f"The embedding endpoint refuses with status {reply.status}: {self._excuse(reply)}")

    def _excuse(self, reply: Reply) -> str:
        """Return a hint for the most likely reasons, or what the endpoint says, without the key should it repeat it."""
        if reply.status in _HINTS:
            return _HINTS[reply.status]
        text = reply.body.decode("utf-8", "replace")
        if self._key is not None:
            text = text.replace(self._key.reveal(), "***")
        return " ".join(text.split())[:_EXCUSE_CHARS] or "without a reason"

    def _vectors(self, body: bytes, count: int) -> list[array[float]]:
        """Return the vectors of a reply in the order of the texts. Raises: EmbeddingError for any other reply."""
        try:
            items = sorted(_ANSWER.decode(body).data, key=lambda item: item.index)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EmbeddingError(f"The embedding endpoint answers with something else: {_first_line(error)}") from None
        if [item.index for item in items] != list(range(count)):
            given = counted(len(items), "vector")
            raise EmbeddingError(f"The embedding endpoint gave {given} for {counted(count, 'text')}, or wrong indexes")
        vectors = [normalised(item.embedding) for item in items]
        for vector in vectors:
            self._check(vector)
        return vectors

    def _check(self, vector: array[float]) -> None:
        if self.dims is None and len(vector) > 0:
            self.dims = len(vector)
        if len(vector) != self.dims:
            raise EmbeddingError(
                f"The model {self.model} gave a vector of {counted(len(vector), 'dimension')}, not {self.dims or 1}:"
                " set embeddings.dims to what it gives, and ingest anew what was made by another"
            )
        if not math.isfinite(math.fsum(vector)):
            raise EmbeddingError(f"The model {self.model} gave a vector with numbers too small or too large to compare")


_SETBACKS: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses of replies that may be different later; every other one but 200 is final."""

_HINTS: Final = {
    401: "it wants another key; set embeddings.api_key",
    403: "the key may not do this; set embeddings.api_key",
    404: "there is no such address or model; check embeddings.url and embeddings.model",
    405: "this address takes no such request; check embeddings.url",
    413: "the batch is too large for it; lower embeddings.max_batch_items",
}


def embeddings_url(url: str) -> str:
    """Return where to post: `url` when it ends with `/embeddings`, else that below it; below a bare host, `/v1` too."""
    plain = url.rstrip("/")
    if plain.endswith("/embeddings"):
        return plain
    return f"{plain}/embeddings" if urlsplit(plain).path else f"{plain}/v1/embeddings"


def _headers(key: Secret | None) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept": "application/json"}
    if key is not None:
        if not key.reveal().isascii() or not key.reveal().isprintable() or key.reveal() != key.reveal().strip():
            raise ConfigurationError("embeddings.api_key must be printable ASCII without blanks around it")
        headers["authorization"] = f"Bearer {key.reveal()}"
    return headers


def _batches(texts: Iterable[str], max_items: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode("utf-8", "surrogatepass"))
        if batch and (len(batch) == max_items or size + length > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _retry_after_s(reply: Reply) -> float:
    """Return the pause that the endpoint asks for, in seconds or as a date; 0 when it does not."""
    text = reply.headers.get("retry-after", "").strip()
    if text.isascii() and text.replace(".", "", 1).isdecimal():
        return float(text[:_MAX_DIGITS])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:_EXCUSE_CHARS]
