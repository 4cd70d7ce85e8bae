"""Documents in memory: the contract in plain Python, for tests, and an oracle for the other backends.

Called by: tests. Everything is looked at one by one, and every answer computed
anew; there is no index and no thread. Words are folded (case, accents), endings are not. Nothing survives the process,
so "acknowledged means durable" is as true as it can be; all the rest of the contract is kept to the letter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec
import trio

from mcpd.storage import counting, cursors, putting, words
from mcpd.storage.documents import (
    BadQuery,
    Bucket,
    Change,
    Document,
    Facet,
    Found,
    Hit,
    Matching,
    Near,
    Notice,
    Outcome,
    Page,
    Put,
    Relation,
    Remove,
    Span,
    Statistics,
    Where,
)
from mcpd.storage.fields import Key, Test, check_facets, check_sort, checked, head_of, rank_of, values

K1, B = 1.2, 0.75
"""Of Okapi BM25, as SQLite has them."""


class _Stored(msgspec.Struct, frozen=True):
    number: int
    document: Document
    put: Put
    fields: dict[str, list[Key]]
    tokens: list[list[words.Token]]
    """Of each span, or of the title alone when there is none."""


class _Scored(msgspec.Struct, frozen=True):
    stored: _Stored
    score: float = 0.0
    place: int | None = None
    """Which of `tokens` fits best."""


class MemoryDocuments:
    """Implements `Documents`. `clock` gives seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stored: dict[str, _Stored] = {}
        self._relations: set[Relation] = set()
        self._last = 0
        self._watchers: set[Callable[[Notice], None]] = set()

    async def ping(self) -> None:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()

    async def write(self, changes: Sequence[Change]) -> list[Outcome]:
        """See `Documents`. A checkpoint before each change: a cancelled write has applied the first ones."""
        outcomes = []
        for change in changes:
            await trio.lowlevel.checkpoint()
            outcomes.append(self._remove(change) if isinstance(change, Remove) else self._put(change))
        return outcomes

    def _put(self, put: Put) -> Outcome:
        try:
            put = putting.prepared(put)
            self._check_dimensions(put)
        except ValueError as error:
            return Outcome(put.uri, "failed", reason=str(error))
        there = self._stored.get(put.uri)
        refused = putting.refusal(put, self._state(there))
        if refused is not None:
            return refused
        self._last += 1
        now = self._clock()
        document = msgspec.structs.replace(
            put.document,
            created_s=there.document.created_s if there else now,
            updated_s=now,
            version=str(self._last),
        )
        self._stored[put.uri] = _Stored(self._last, document, put, _by_field(document), _tokens(put))
        self._tell(Notice(put.uri, listed=there is None))
        return Outcome(put.uri, "updated" if there else "created", version=document.version)

    def _state(self, there: _Stored | None) -> putting.State | None:
        if there is None:
            return None
        document = there.document
        return putting.State(
            document.version, document.digest, document.origin, there.put.model if there.put.vectors else None
        )

    def _check_dimensions(self, put: Put) -> None:
        known = self._dimensions(put.model, besides=put.uri) if put.vectors else None
        if known is not None and put.vectors:
            putting.check_dimensions(put.model or "", known, len(put.vectors[0]))

    def _dimensions(self, model: str | None, besides: str | None = None) -> int | None:
        for uri, stored in self._stored.items():
            if stored.put.vectors and stored.put.model == model and uri != besides:
                return len(stored.put.vectors[0])
        return None

    def _remove(self, change: Remove) -> Outcome:
        there = self._stored.get(change.uri)
        refused = putting.removal_refusal(change, there.document.version if there else None)
        if refused is not None:
            return refused
        self._last += 1
        del self._stored[change.uri]
        self._relations = {relation for relation in self._relations if relation.source != change.uri}
        self._tell(Notice(change.uri, listed=True))
        return Outcome(change.uri, "removed")

    def _tell(self, notice: Notice) -> None:
        for watcher in tuple(self._watchers):
            watcher(notice)

    async def get(self, uri: str) -> Document | None:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        stored = self._stored.get(uri)
        return None if stored is None else putting.copied(stored.document)

    async def versions(self, uris: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        found = {uri: self._stored[uri].document for uri in uris if uri in self._stored}
        return {uri: (document.version, document.digest) for uri, document in found.items()}

    async def page(self, where: Where, cursor: str | None, limit: int) -> Page:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        fitting = self._fitting(checked(where))
        position = cursors.decode(query := cursors.listing_key(where), cursor)
        later = sorted(s.document.uri for s in fitting if position.uri is None or s.document.uri > position.uri)
        shown = later[: max(0, limit)]
        more = bool(shown) and len(later) > len(shown)
        heads = [head_of(putting.copied(self._stored[uri].document)) for uri in shown]
        return Page(heads, cursors.encode(cursors.Position(query, shown[-1])) if more else None)

    def _fitting(self, tests: tuple[Test, ...]) -> list[_Stored]:
        return [s for s in self._stored.values() if all(test.holds(s.fields.get(test.field, [])) for test in tests)]

    async def match(self, query: Matching) -> Found:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        tests = checked(query.where)
        if query.sort is not None:
            check_sort(query.sort)
        position = cursors.decode(key := cursors.matching_key(query), query.cursor)
        wanted = words.phrases(query.text)
        scored = list(self._scored(query.text, wanted, self._fitting(tests)))
        if query.sort is None and not words.is_everything(query.text):
            order = sorted(scored, key=lambda s: (-s.score, s.stored.number))
            left = [s for s in order if s.stored.number not in position.seen]
        else:
            left = self._sorted(scored, query, position)
        shown = left[: max(0, query.limit)]
        more = bool(shown) and len(left) > len(shown)
        cursor = cursors.encode(self._end(query, position, shown)) if more else None
        assert key == position.query
        return Found([self._hit(s, wanted, query.highlight) for s in shown], len(scored), cursor)

    def _scored(self, text: str, wanted: tuple[words.Phrase, ...], fitting: list[_Stored]) -> Iterator[_Scored]:
        if words.is_everything(text):
            yield from map(_Scored, fitting)
            return
        weights = self._weights(wanted)
        average = self._average_length()
        for stored in fitting:
            scores = [_bm25(tokens, weights, average) for tokens in stored.tokens]
            best = max(range(len(scores)), key=scores.__getitem__)
            if scores[best] > 0:
                yield _Scored(stored, scores[best], best)

    def _weights(self, wanted: tuple[words.Phrase, ...]) -> dict[words.Phrase, float]:
        """The rarer a phrase, the heavier; never zero, so that what fits has a score."""
        rows = [tokens for stored in self._stored.values() for tokens in stored.tokens]
        counts = {phrase: sum(bool(words.occurrences(phrase, tokens)) for tokens in rows) for phrase in wanted}
        return {p: max(1e-6, math.log((len(rows) - n + 0.5) / (n + 0.5))) for p, n in counts.items()}

    def _average_length(self) -> float:
        lengths = [len(tokens) for stored in self._stored.values() for tokens in stored.tokens]
        return sum(lengths) / max(1, len(lengths)) or 1.0

    def _sorted(self, scored: list[_Scored], query: Matching, position: cursors.Position) -> list[_Scored]:
        field, down = (query.sort.field, query.sort.descending) if query.sort else ("uri", False)
        with_value = [s for s in scored if self._sort_key(s.stored, field, down) is not None]
        without = [s for s in scored if self._sort_key(s.stored, field, down) is None]
        with_value.sort(key=lambda s: s.stored.document.uri)
        with_value.sort(key=lambda s: rank_of(self._sort_key(s.stored, field, down) or 0), reverse=down)
        order = with_value + sorted(without, key=lambda s: s.stored.document.uri)
        return [s for s in order if self._is_later(s.stored, field, down, position)]

    def _is_later(self, stored: _Stored, field: str, down: bool, position: cursors.Position) -> bool:
        if position.uri is None:
            return True
        key, uri = self._sort_key(stored, field, down), stored.document.uri
        if key is None or position.key is None:
            return key is None and (position.key is not None or uri > position.uri)
        mine, there = rank_of(key), rank_of(position.key)
        return uri > position.uri if mine == there else (mine < there if down else mine > there)

    def _sort_key(self, stored: _Stored, field: str, down: bool) -> Key | None:
        keys = [stored.document.title] if field == "title" else stored.fields.get(field)
        return (max if down else min)(keys, key=rank_of) if keys else None

    def _end(self, query: Matching, position: cursors.Position, shown: list[_Scored]) -> cursors.Position:
        if query.sort is None and not words.is_everything(query.text):
            return cursors.seen_after(position.query, [*position.seen, *(s.stored.number for s in shown)])
        field, down = (query.sort.field, query.sort.descending) if query.sort else ("uri", False)
        last = shown[-1].stored
        return cursors.Position(position.query, last.document.uri, self._sort_key(last, field, down))

    def _hit(self, scored: _Scored, wanted: tuple[words.Phrase, ...], highlight: int) -> Hit:
        stored, place = scored.stored, scored.place
        span = stored.put.spans[place] if place is not None and stored.put.spans else None
        pieces: tuple[str, ...] = ()
        if span is not None and highlight > 0:
            text = words.unmarked((stored.document.text or "")[span.start : span.end])
            found = list(words.tokens(text))
            places = [spot for phrase in wanted for spot in words.occurrences(phrase, found)]
            pieces = words.fragments(words.mark(text, places), highlight)
        head = head_of(putting.copied(stored.document))
        begun = _beginning(stored, span) if highlight > 0 and not pieces else ""
        return Hit(head=head, score=scored.score, span=span, fragments=pieces, beginning=begun)

    async def nearest(self, query: Near) -> list[Hit]:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        tests = checked(query.where)
        known = self._dimensions(query.model)
        if known is not None and known != len(query.vector):
            raise BadQuery(putting.wrong_dimensions(query.model, known, len(query.vector)))
        best = [near for s in self._fitting(tests) if (near := _nearest_span(s, query)) is not None]
        best.sort(key=lambda near: (-near[0], near[1].number))
        return [
            Hit(
                head=head_of(putting.copied(stored.document)),
                score=score,
                span=span,
                beginning=_beginning(stored, span) if query.highlight > 0 else "",
            )
            for score, stored, span in best[: max(0, query.limit)]
        ]

    async def facets(self, text: str, where: Where, facets: Sequence[Facet]) -> dict[str, list[Bucket]]:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        tests = checked(where)
        check_facets(facets)
        found = [s.stored.fields for s in self._scored(text, words.phrases(text), self._fitting(tests))]
        return {facet.field: counting.count(facet, [f.get(facet.field, []) for f in found]) for facet in facets}

    async def relate(self, relation: Relation) -> bool:
        """See `Documents`."""
        putting.check_relation(relation)
        await trio.lowlevel.checkpoint()
        if relation in self._relations:
            return False
        self._relations.add(relation)
        return True

    async def unrelate(self, relation: Relation) -> bool:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        if relation not in self._relations:
            return False
        self._relations.discard(relation)
        return True

    async def related(self, uri: str, limit: int) -> list[Relation]:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        found = [r for r in self._relations if uri in {r.source, r.target}]
        found.sort(key=lambda r: (r.source, r.kind, r.target))
        return list(islice(found, max(0, limit)))

    async def refresh(self) -> None:
        """See `Documents`. There is nothing to wait for."""
        await trio.lowlevel.checkpoint()

    async def statistics(self) -> Statistics:
        """See `Documents`."""
        await trio.lowlevel.checkpoint()
        puts = [stored.put for stored in self._stored.values()]
        return Statistics(
            documents=len(puts),
            chunks=sum(len(put.spans) for put in puts),
            vectors=sum(len(put.vectors or ()) for put in puts),
            bytes=sum(put.document.size for put in puts),
        )

    async def watch(
        self, notice: Callable[[Notice], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `Documents`. Notices come before `write` returns."""
        self._watchers.add(notice)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._watchers.discard(notice)


def _by_field(document: Document) -> dict[str, list[Key]]:
    fields: dict[str, list[Key]] = {"uri": [document.uri]}
    fields |= {"created": [document.created_s], "updated": [document.updated_s]}
    for name, value in values(document):
        fields.setdefault(name, []).append(value)
    return fields


def _tokens(put: Put) -> list[list[words.Token]]:
    """The words of each row, with a gap between title, heading and text, over which no phrase reaches."""
    gap = words.Token("", 0, 0)
    return [
        [*words.tokens(t), gap, *words.tokens(h), gap, *words.tokens(text)] for t, h, text in putting.searchable(put)
    ]


def _beginning(stored: _Stored, span: Span | None) -> str:
    return "" if span is None else words.beginning((stored.document.text or "")[span.start : span.end])


def _bm25(tokens: list[words.Token], weights: dict[words.Phrase, float], average: float) -> float:
    score = 0.0
    for phrase, weight in weights.items():
        count = len(words.occurrences(phrase, tokens))
        score += weight * count * (K1 + 1) / (count + K1 * (1 - B + B * len(tokens) / average))
    return score


def _nearest_span(stored: _Stored, query: Near) -> tuple[float, _Stored, Span] | None:
    if not stored.put.vectors or stored.put.model != query.model:
        return None
    cosines = [sum(map(float.__mul__, map(float, v), map(float, query.vector))) for v in stored.put.vectors]
    best = max(range(len(cosines)), key=cosines.__getitem__)
    return cosines[best], stored, stored.put.spans[best]
