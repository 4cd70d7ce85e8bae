"""Nearest neighbours: binary codes in memory to find candidates, vectors from the tables to rank them.

The codes of a model are loaded when it is first asked for and then follow the journal: each search first takes in what
has been committed since, by this process or another, so they are as fresh as the search's snapshot. When the journal
no longer reaches back far enough they are loaded anew.

Called by: `documents`, in reader threads, several at a time. Lists only grow (a dead code becomes one that is far
from everything, and all is loaded anew when a fifth is dead), so a search may go on with what it has while another one
adds. Deliberately not the codes themselves: `storage.sqlite.codes`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from mcpd.drivers.sqlite import Connection
from mcpd.storage import putting
from mcpd.storage.documents import BadQuery, Hit, Near
from mcpd.storage.fields import Test, checked
from mcpd.storage.sqlite import codes, query
from mcpd.storage.sqlite.reads import beginnings, heads, spans
from mcpd.storage.sqlite.schema import CHUNK_BITS
from mcpd.storage.sqlite.writes import coder_for

CANDIDATES: Final = 400
"""Chunks to rescore exactly; with codes of 1,024 bits some 99 % of the true ten nearest are among them."""

SLICE_ITEMS: Final = 131_072
"""Codes ranked between two looks at whether anybody still waits: some 10 ms. Smaller ones cost more."""

DEAD: Final = ((1 << 16_384) - 1) << codes.MAX_DIMS
"""Further from any code than any code is."""

LOCK_LOOK_S: Final = 0.05


class _Codes:
    """The codes of one model, as of change `seq`."""

    __slots__ = ("codes", "dead", "ids", "places", "seq")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.ids: list[int] = []
        self.codes: list[int] = []
        self.places: dict[int, range] = {}
        """Document -> where its chunks stand in the lists."""
        self.dead = 0

    def add(self, chunk: int, code: int) -> None:
        """Append a chunk; those of one document come one after the other."""
        document, at = chunk >> CHUNK_BITS, len(self.ids)
        self.ids.append(chunk)
        self.codes.append(code)
        self.places[document] = range(self.places.get(document, range(at, at)).start, at + 1)

    def drop(self, document: int) -> None:
        """Forget a document's chunks."""
        for at in self.places.pop(document, range(0)):
            self.codes[at] = DEAD
            self.dead += 1

    @property
    def is_worn(self) -> bool:
        """True when a fifth and more is dead."""
        return self.dead * 5 > len(self.ids) > 1_000


class Neighbours:
    """The codes of all models that have been asked for."""

    def __init__(self) -> None:
        self._loaded: dict[int, _Codes] = {}
        self._lock = threading.Lock()

    def nearest(self, connection: Connection, query: Near) -> list[Hit]:
        """Return the documents whose nearest chunk is closest. Raises: BadQuery."""
        tests = checked(query.where)
        model = connection.one("SELECT id, dims FROM models WHERE name = ?", (query.model,))
        if model is None or query.limit < 1:
            return []
        if model[1] != len(query.vector):
            raise BadQuery(putting.wrong_dimensions(query.model, model[1], len(query.vector)))
        known = self._current(connection, model[0], model[1])
        places = _places(connection, known, tests) if tests else None
        return _hits(connection, _nearest(connection, known, places, query), begun=query.highlight > 0)

    def _current(self, connection: Connection, model: int, dims: int) -> _Codes:
        """Return the model's codes as they are in this snapshot, or newer."""
        while not self._lock.acquire(timeout=LOCK_LOOK_S):
            connection.check()
        try:
            known = self._loaded.get(model)
            if known is None or known.is_worn or not _caught_up(connection, known, model, dims):
                known = self._loaded[model] = _load(connection, model, dims)
            return known
        finally:
            self._lock.release()


def _last(connection: Connection) -> int:
    row = connection.one("SELECT seq FROM sqlite_sequence WHERE name = 'journal'")
    return int(row[0]) if row else 0


def _load(connection: Connection, model: int, dims: int) -> _Codes:
    known = _Codes(_last(connection))
    for chunk, code in _stored(connection, model, dims, 0):
        known.add(chunk, code)
    return known


def _stored(connection: Connection, model: int, dims: int, first: int) -> Iterator[tuple[int, int]]:
    """Return (chunk, code) of the chunks from `first` on; codes of another method are made anew from the vectors."""
    coder = coder_for(dims)
    sql = "SELECT id, coding, code FROM codes WHERE id >= ? AND model = ? ORDER BY id"
    for chunk, coding, code in connection.execute(sql, (first, model)):
        connection.check()
        if coding == codes.VERSION:
            yield chunk, int.from_bytes(code, "little")
        else:
            row = connection.one("SELECT data FROM vectors WHERE id = ?", (chunk,))
            yield chunk, coder.encode(codes.from_bytes(row[0])) if row else DEAD


def _caught_up(connection: Connection, known: _Codes, model: int, dims: int) -> bool:
    """Take in what has changed since; False when the journal does not tell any more."""
    last = _last(connection)
    if last <= known.seq:
        return True
    oldest = connection.one("SELECT min(seq) FROM journal")
    if oldest is None or oldest[0] is None or oldest[0] > known.seq + 1:
        return False
    gone = connection.execute("SELECT old FROM journal WHERE seq > ? AND old IS NOT NULL", (known.seq,)).fetchall()
    new = list(_stored(connection, model, dims, (known.seq + 1) << CHUNK_BITS))
    for (document,) in gone:
        known.drop(document)
    for chunk, code in new:
        known.add(chunk, code)
    known.seq = last
    return True


def _places(connection: Connection, known: _Codes, tests: Sequence[Test]) -> list[int]:
    """Return where the chunks of the documents stand that fit the conditions."""
    sql, values = query.fitting(None, tests)
    places: list[int] = []
    for (document,) in connection.execute(sql, values):
        places.extend(known.places.get(document, ()))
    return places


def _nearest(connection: Connection, known: _Codes, places: list[int] | None, query: Near) -> list[tuple[int, float]]:
    """Return (chunk, cosine) of each document's best chunk, looking further while documents are missing."""
    looked_at = known.codes[:] if places is None else [known.codes[place] for place in places]
    code = _code_of(query)
    wanted = max(CANDIDATES, 4 * query.limit)
    while True:
        near = _ranked(connection, looked_at, code, wanted)
        chunks = [known.ids[at if places is None else places[at]] for at in near]
        best = _rescored(connection, chunks, query)
        if len(best) >= query.limit or wanted >= len(looked_at):
            return best[: query.limit]
        wanted *= 4


def _code_of(query: Near) -> int:
    try:
        return coder_for(len(query.vector)).encode(query.vector)
    except ValueError as error:
        raise BadQuery(str(error)) from None


def _ranked(connection: Connection, known: Sequence[int], query: int, wanted: int) -> list[int]:
    """Return the positions of the nearest codes, ranked slice by slice."""
    if len(known) <= SLICE_ITEMS:
        return codes.rank(known, query, wanted)
    near: list[int] = []
    for first in range(0, len(known), SLICE_ITEMS):
        connection.check()
        near += (first + at for at in codes.rank(known[first : first + SLICE_ITEMS], query, wanted))
    return [near[at] for at in codes.rank([known[at] for at in near], query, wanted)]


def _rescored(connection: Connection, chunks: list[int], query: Near) -> list[tuple[int, float]]:
    connection.check()
    sql = "SELECT id, data FROM vectors WHERE id IN (SELECT value FROM json_each(?))"
    rows = connection.execute(sql, (msgspec.json.encode(chunks).decode(),))
    best: dict[int, tuple[int, float]] = {}
    for chunk, score in codes.rescore(query.vector, rows):
        best.setdefault(chunk >> CHUNK_BITS, (chunk, score))
    return list(best.values())


def _hits(connection: Connection, best: list[tuple[int, float]], *, begun: bool) -> list[Hit]:
    known = heads(connection, (chunk >> CHUNK_BITS for chunk, _ in best))
    places = spans(connection, (chunk for chunk, _ in best))
    first = beginnings(connection, places) if begun else {}
    return [
        Hit(head=known[chunk >> CHUNK_BITS], score=score, span=places.get(chunk), beginning=first.get(chunk, ""))
        for chunk, score in best
        if chunk >> CHUNK_BITS in known
    ]
