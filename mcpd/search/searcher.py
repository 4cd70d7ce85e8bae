"""Search as every transport offers it: a `Search` in, the JSON answer out (see `answers`).

    text       BM25 of the store, page by page; exact total; any sort
    semantic   the nearest vectors of the provider's model
    hybrid     both at once, merged by reciprocal rank (`fusion`)

Without a mode it is hybrid when the provider knows meaning, and text when it only knows spelling, when a field sorts or
when nothing is looked for. Semantic and hybrid page through a window: `candidates` of each retriever. Facets count
what fits the filters and, but for semantic mode, has one of the words.

Called by: the `search_documents` tool, REST, GraphQL, the command line. Calls the store and the embedding provider.
Deliberately not the grammar (`query`), and not a cache.

A search asks its store in `shares`, by owner: heavy searches of one caller do not make another's wait.

Laws: equal stores give equal answers, ties are ordered by URI; an embedding endpoint that is down or slower than
`patience_s` costs a hybrid search its semantic part, never the answer, which says so (`"degraded": "semantic"`); after
that it is left alone for `REST_S`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final, Literal

import msgspec
import trio

from mcpd.search import answers, cursors
from mcpd.search.answers import PLAIN, Marks, Ranked
from mcpd.search.embeddings import EmbeddingProvider
from mcpd.search.fusion import Fused, K, fuse
from mcpd.search.query import Mode, Search
from mcpd.search.together import Job, run_together
from mcpd.shares import Shares
from mcpd.storage.documents import Bucket, Documents, Found, Hit, Json, Matching, Near, StorageError
from mcpd.storage.refusals import DOCUMENTS, answering

PLACES: Final = 6
"""Questions that all searches may have at the store at once; below the readers of the embedded one, so that whoever
reads or lists documents never waits for a search."""

REST_S: Final = 10.0
"""How long an endpoint that failed a hybrid search is not asked by the next ones."""

_log = logging.getLogger("mcpd.search")


class Blend(msgspec.Struct, frozen=True, kw_only=True):
    """How lists are merged: see `fusion.fuse`. `candidates` is how many hits each retriever gives."""

    k: float = K
    text: float = 1.0
    semantic: float = 1.0
    candidates: int = 100


LEXICAL: Final = Blend(k=10, semantic=0.5)
MEANING: Final = Blend(k=40, semantic=1.5)
"""For vectors of spelling and of meaning: the best on half of a judged collection (`just bench-quality`)."""


class _Gathered:
    """Whose search it is and what its jobs have found so far; each fills in its own part."""

    def __init__(self, owner: Hashable) -> None:
        self.owner = owner
        self.found = Found([], 0)
        self.near: list[Hit] = []
        self.counted: dict[str, list[Bucket]] = {}
        self.degraded: Literal["semantic"] | None = None


class Searcher:
    """Searches one store. `patience_s` is how long a hybrid search waits for the vector of its query."""

    def __init__(
        self,
        documents: Documents,
        provider: EmbeddingProvider,
        *,
        patience_s: float,
        observe: Callable[[str, float], None] = lambda *_: None,
        blend: Blend | None = None,
    ) -> None:
        """`observe` hears of each answered search: its mode and how long it took."""
        self._documents = documents
        self._provider = provider
        self._patience_s = patience_s
        self._observe = observe
        self._shares = Shares(PLACES)
        self._blend = blend or (MEANING if provider.semantic else LEXICAL)
        self._ask_again_at = -math.inf

    async def search(self, request: Search, *, marks: Marks = PLAIN, owner: Hashable = None) -> Json:
        """Return the answer to `request`, as JSON. Searches of one `owner` share its places at the store.

        Raises: InvalidParams for a field, facet or cursor that the store does not take; StoreUnavailable.
        Cancellation: safe; reading stops soon.
        """
        began = trio.current_time()
        mode = self._mode(request)
        with answering(DOCUMENTS):
            answer = await self._answer(request, mode, marks if request.highlight else None, _Gathered(owner))
        took_s = trio.current_time() - began
        self._observe(mode, took_s)
        return answer | {"took": answers.milliseconds(took_s), "mode": mode}

    def _mode(self, request: Search) -> Mode:
        if request.mode is not None:
            return request.mode
        is_plain = request.sort is not None or not request.has_words
        return "hybrid" if self._provider.semantic and not is_plain else "text"

    async def _answer(self, request: Search, mode: Mode, marks: Marks | None, gathered: _Gathered) -> Json:
        first = cursors.first_position(request, mode, self._provider.model)
        position = cursors.decode(request.cursor, first)
        await run_together(self._jobs(request, mode, position, gathered))
        if mode == "text":
            ranked, following = _as_found(request, position, gathered.found)
        else:
            ranked, following = self._window(request, mode, position, gathered)
        return answers.clean(
            {
                "hits": [answers.hit(one, marks) for one in ranked],
                "facets": answers.facets(request.facets, gathered.counted) if request.facets else None,
                "total": gathered.found.total if mode == "text" else None,
                "degraded": gathered.degraded,
                "nextCursor": None if following is None else cursors.encode(following),
            }
        )

    def _jobs(self, request: Search, mode: Mode, position: cursors.Position, gathered: _Gathered) -> list[Job]:
        jobs: list[Job] = []
        if mode != "semantic":
            jobs.append(partial(self._match, request, mode, position.inner, gathered))
        if mode != "text":
            jobs.append(partial(self._nearest, request, mode, gathered))
        if request.facets:
            jobs.append(partial(self._count, request, mode, gathered))
        return jobs

    async def _match(self, request: Search, mode: Mode, cursor: str | None, gathered: _Gathered) -> None:
        matching = Matching(
            text=request.query,
            where=request.where,
            sort=request.sort,
            limit=request.size if mode == "text" else self._candidates(request),
            cursor=cursor if mode == "text" else None,
            highlight=request.highlight,
        )
        gathered.found = await self._shares.run(gathered.owner, partial(self._documents.match, matching))

    def _candidates(self, request: Search) -> int:
        return max(self._blend.candidates, request.size)

    async def _count(self, request: Search, mode: Mode, gathered: _Gathered) -> None:
        words = "" if mode == "semantic" else request.query
        count = partial(self._documents.facets, words, request.where, request.facets)
        gathered.counted = await self._shares.run(gathered.owner, count)

    async def _nearest(self, request: Search, mode: Mode, gathered: _Gathered) -> None:
        vector = await (self._embed(request.query) if mode == "semantic" else self._embed_soon(request.query))
        if vector is None:
            gathered.degraded = "semantic"
        elif any(vector):
            near = Near(
                vector=vector,
                model=self._provider.model,
                where=request.where,
                limit=self._candidates(request),
                highlight=request.highlight,
            )
            gathered.near = await self._shares.run(gathered.owner, partial(self._documents.nearest, near))

    async def _embed(self, query: str) -> Sequence[float]:
        return (await self._provider.embed([query]))[0]

    async def _embed_soon(self, query: str) -> Sequence[float] | None:
        """Return the vector of the query, or None when the provider fails or takes too long."""
        if trio.current_time() < self._ask_again_at:
            return None
        reason = f"no vector within {self._patience_s:g} s"
        with trio.move_on_after(self._patience_s):
            try:
                return await self._embed(query)
            except StorageError as error:
                reason = str(error)
        self._ask_again_at = trio.current_time() + REST_S
        _log.warning("Hybrid search goes on without its semantic part for %g s: %s", REST_S, reason)
        return None

    def _window(
        self, request: Search, mode: Mode, position: cursors.Position, gathered: _Gathered
    ) -> tuple[list[Ranked], cursors.Position | None]:
        """Return the page of the merged lists that begins at `position`, and where the next one begins."""
        lists = {"semantic": gathered.near} | ({"text": gathered.found.hits} if mode == "hybrid" else {})
        by_uri = {name: {hit.head.uri: hit for hit in hits} for name, hits in lists.items()}
        weights = {"semantic": self._blend.semantic, "text": self._blend.text}
        fused = fuse(
            {name: list(hits) for name, hits in by_uri.items()},
            k=self._blend.k,
            weights={name: weights[name] for name in by_uri},
        )
        left = [one for one in fused if not position.has_shown(one.key)]
        shown = left[: request.size]
        more = bool(shown) and len(left) > len(shown)
        ranked = [
            _merged(one, [by_uri[name][one.key] for name in ("text", "semantic") if name in one.ranks]) for one in shown
        ]
        if mode == "semantic":
            ranked = [msgspec.structs.replace(one, score=by_uri["semantic"][one.head.uri].score) for one in ranked]
        return ranked, position.after([one.key for one in shown]) if more else None


def _as_found(
    request: Search, position: cursors.Position, found: Found
) -> tuple[list[Ranked], cursors.Position | None]:
    """Return a page of text search as the store gave it, and where the next one begins."""
    by_score = request.sort is None and request.has_words
    ranked = [
        Ranked(
            head=hit.head,
            score=hit.score,
            ranks={"text": position.before + at} if by_score else {},
            span=hit.span,
            fragments=_shown(hit),
        )
        for at, hit in enumerate(found.hits, 1)
    ]
    if found.cursor is None:
        return ranked, None
    return ranked, cursors.Position(position.search, position.before + len(ranked), inner=found.cursor)


def _merged(one: Fused[str], hits: list[Hit]) -> Ranked:
    """Return a merged hit: its place in the text is where words were found, else where the nearest chunk is."""
    best = next((hit for hit in hits if hit.span is not None), hits[0])
    return Ranked(head=best.head, score=one.score, ranks=one.ranks, span=best.span, fragments=_shown(best))


def _shown(hit: Hit) -> tuple[str, ...]:
    """Return the fragments of a hit; without a marked word, how its chunk begins."""
    return hit.fragments or ((hit.beginning,) if hit.beginning else ())
