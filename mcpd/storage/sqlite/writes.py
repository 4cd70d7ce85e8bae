"""Changes applied to the tables: the one file that writes them.

`ready` does all that needs no database (checks, vectors to bytes and codes) before the transaction is open; `apply`
does the rest within it. A document that is written again gets a new id, so all its rows are deleted and new ones
appended. The index of words keeps no text: taking words out of it needs the very text that was put in, which is made
from contents and chunks as it was then.

Called by: `documents`, in threads. No savepoints: each makes FTS5 write a segment (see `schema`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from mcpd.drivers.sqlite import Connection
from mcpd.storage import putting
from mcpd.storage.documents import Change, Document, Outcome, Put, Relation, Remove, Span
from mcpd.storage.fields import values
from mcpd.storage.sqlite import codes
from mcpd.storage.sqlite.schema import CHUNK_BITS

_CODERS_ITEMS: Final = 16
"""Coders that are kept: one for each length of vectors in use."""

TEXT_PART: Final = 32 << 10
"""Characters of a row of `contents`."""

BLOB_PART: Final = 256 << 10
"""Bytes of a row of `contents`."""

MAX_JOURNAL: Final = 10_000
"""Changes that a watcher in another process, or the vectors in memory, can lag behind before they start afresh."""

NONE, TEXT, BLOB = 0, 1, 2
"""Values of `documents.kind`."""

_INSERT_DOCUMENT: Final = (
    "INSERT INTO documents (id, uri, title, mime_type, kind, tags, metadata, origin, digest, size, created, updated)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Ready(msgspec.Struct, frozen=True):
    """A change that has been checked; `problem` says why it cannot be stored."""

    change: Change
    vectors: tuple[bytes, ...] = ()
    codes: tuple[bytes, ...] = ()
    problem: str = ""


def ready(change: Change) -> Ready:
    """Check the change and do what can be done without the database."""
    if isinstance(change, Remove):
        return Ready(change)
    try:
        put = putting.prepared(change)
        if not put.vectors:
            return Ready(put)
        coder = coder_for(len(put.vectors[0]))
        return Ready(
            put,
            tuple(codes.to_bytes(vector) for vector in put.vectors),
            tuple(coder.encode(vector).to_bytes(coder.bits + 7 >> 3, "little") for vector in put.vectors),
        )
    except (ValueError, OverflowError) as error:
        return Ready(change, problem=str(error))


@lru_cache(maxsize=_CODERS_ITEMS)
def coder_for(dims: int) -> codes.Coder:
    """Return the coder of vectors with this many dimensions; making one costs as much as many codes."""
    return codes.Coder(dims)


def apply_all(connection: Connection, changes: Sequence[Ready], now_s: float) -> list[Outcome]:
    """Apply the changes, in order, within the transaction that is open, and trim the journal."""
    outcomes = [_apply(connection, change, now_s) for change in changes]
    connection.execute("DELETE FROM journal WHERE seq <= (SELECT max(seq) FROM journal) - ?", (MAX_JOURNAL,))
    return outcomes


def _apply(connection: Connection, change: Ready, now_s: float) -> Outcome:
    if change.problem:
        return Outcome(change.change.uri, "failed", reason=change.problem)
    if isinstance(change.change, Remove):
        return _remove(connection, change.change)
    return _put(connection, change.change, change, now_s)


def _put(connection: Connection, put: Put, change: Ready, now_s: float) -> Outcome:
    there = connection.one("SELECT id, digest, origin, created FROM documents WHERE uri = ?", (put.uri,))
    state = None
    if there is not None:
        state = putting.State(str(there[0]), there[1], there[2], _model_of(connection, there[0]))
    refused = putting.refusal(put, state)
    if refused is not None:
        return refused
    try:
        model = _model(connection, put) if put.vectors else None
    except ValueError as error:
        return Outcome(put.uri, "failed", reason=str(error))
    number = _journal(connection, put.uri, there[0] if there else None, listed=there is None)
    if there is not None:
        _delete(connection, there[0])
    _insert(connection, number, put.document, (there[3] if there else now_s, now_s))
    _insert_chunks(connection, number, put)
    if model is not None:
        _insert_vectors(connection, number, model, change)
    return Outcome(put.uri, "updated" if there else "created", str(number))


def _model_of(connection: Connection, number: int) -> str | None:
    """The model of a document's vectors; each document has vectors of one model only."""
    sql = "SELECT name FROM codes JOIN models ON models.id = model WHERE codes.id BETWEEN ? AND ? LIMIT 1"
    row = connection.one(sql, _rows(number))
    return row[0] if row else None


def _rows(number: int) -> tuple[int, int]:
    """The first and the last id that chunks of this document can have."""
    first = number << CHUNK_BITS
    return first, first | (1 << CHUNK_BITS) - 1


def _model(connection: Connection, put: Put) -> int:
    """Return the model's id. Raises: ValueError when its vectors in the store have other dimensions."""
    dims = len(put.vectors[0]) if put.vectors else 0
    row = connection.one("SELECT id, dims FROM models WHERE name = ?", (put.model,))
    if row is None:
        sql = "INSERT INTO models (name, dims) VALUES (?, ?)"
        return int(connection.execute(sql, (put.model, dims)).lastrowid or 0)
    others = "SELECT 1 FROM codes WHERE model = ? AND id >> ? IS NOT (SELECT id FROM documents WHERE uri = ?) LIMIT 1"
    if row[1] != dims:
        if connection.one(others, (row[0], CHUNK_BITS, put.uri)) is not None:
            putting.check_dimensions(put.model or "", row[1], dims)
        connection.execute("UPDATE models SET dims = ? WHERE id = ?", (dims, row[0]))
    return int(row[0])


def _journal(connection: Connection, uri: str, old: int | None, *, listed: bool) -> int:
    sql = "INSERT INTO journal (uri, old, listed) VALUES (?, ?, ?)"
    return int(connection.execute(sql, (uri, old, listed)).lastrowid or 0)


def _insert(connection: Connection, number: int, document: Document, times: tuple[float, float]) -> None:
    kind = TEXT if document.text is not None else BLOB if document.blob is not None else NONE
    tags, metadata = (msgspec.json.encode(part).decode() for part in (document.tags, document.metadata))
    described = (document.uri, document.title, document.mime_type, kind, tags, metadata)
    connection.execute(_INSERT_DOCUMENT, (number, *described, document.origin, document.digest, document.size, *times))
    parts = ((number << CHUNK_BITS | n, part) for n, part in enumerate(_parts(document)))
    connection.executemany("INSERT INTO contents (id, data) VALUES (?, ?)", parts)
    for name, value in values(document):
        connection.execute(
            "INSERT OR IGNORE INTO fields (document, name, value) VALUES (?, ?, ?)",
            (number, _name(connection, name), value),
        )


def _parts(document: Document) -> Iterator[str | bytes]:
    if document.text is not None:
        yield from (document.text[at : at + TEXT_PART] for at in range(0, len(document.text), TEXT_PART))
    elif document.blob is not None:
        yield from (document.blob[at : at + BLOB_PART] for at in range(0, len(document.blob), BLOB_PART))


def _name(connection: Connection, name: str) -> int:
    row = connection.one("SELECT id FROM names WHERE name = ?", (name,))
    if row is None:
        return int(connection.execute("INSERT INTO names (name) VALUES (?)", (name,)).lastrowid or 0)
    return int(row[0])


def _insert_chunks(connection: Connection, number: int, put: Put) -> None:
    first = number << CHUNK_BITS
    spans = ((first | n, span.start, span.end, span.heading) for n, span in enumerate(put.spans))
    connection.executemany("INSERT INTO chunks (id, start, stop, heading) VALUES (?, ?, ?, ?)", spans)
    words = ((first | n, *texts) for n, texts in enumerate(putting.searchable(put)))
    connection.executemany("INSERT INTO fts (rowid, title, heading, text) VALUES (?, ?, ?, ?)", words)


def _insert_vectors(connection: Connection, number: int, model: int, change: Ready) -> None:
    first = number << CHUNK_BITS
    vectors = ((first | n, vector) for n, vector in enumerate(change.vectors))
    connection.executemany("INSERT INTO vectors (id, data) VALUES (?, ?)", vectors)
    coded = ((first | n, model, codes.VERSION, code) for n, code in enumerate(change.codes))
    connection.executemany("INSERT INTO codes (id, model, coding, code) VALUES (?, ?, ?, ?)", coded)


def _remove(connection: Connection, change: Remove) -> Outcome:
    there = (
        connection.one("SELECT id FROM documents WHERE uri = ?", (change.uri,))
        if putting.is_unicode(change.uri)
        else None
    )
    refused = putting.removal_refusal(change, str(there[0]) if there else None)
    if refused is not None or there is None:
        return refused or Outcome(change.uri, "absent")
    _journal(connection, change.uri, there[0], listed=True)
    _delete(connection, there[0])
    connection.execute("DELETE FROM relations WHERE source = ?", (change.uri,))
    return Outcome(change.uri, "removed")


def _delete(connection: Connection, number: int) -> None:
    rows = _rows(number)
    sql = "INSERT INTO fts (fts, rowid, title, heading, text) VALUES ('delete', ?, ?, ?, ?)"
    words = enumerate(putting.searchable(_as_it_was(connection, number)))
    connection.executemany(sql, ((rows[0] | n, *texts) for n, texts in words))
    for table in ("contents", "chunks", "vectors", "codes"):
        connection.execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", rows)  # noqa: S608 - names of ours
    connection.execute("DELETE FROM fields WHERE document = ?", (number,))
    connection.execute("DELETE FROM documents WHERE id = ?", (number,))


def _as_it_was(connection: Connection, number: int) -> Put:
    """Return as much of the change that wrote this document as decides about its words."""
    row = connection.one("SELECT title, kind FROM documents WHERE id = ?", (number,)) or ("", NONE)
    spans = connection.execute("SELECT start, stop, heading FROM chunks WHERE id BETWEEN ? AND ?", _rows(number))
    text = content(connection, number, row[1]) if row[1] == TEXT else None
    document = Document(uri="", title=row[0], mime_type="", digest="", text=text if isinstance(text, str) else None)
    return Put(document=document, spans=tuple(Span(*span) for span in spans))


def content(connection: Connection, number: int, kind: int) -> str | bytes | None:
    """Return text or blob of a document, whole."""
    if kind == NONE:
        return None
    rows = connection.execute("SELECT data FROM contents WHERE id BETWEEN ? AND ? ORDER BY id", _rows(number))
    parts: list[Any] = [row[0] for row in rows]
    return "".join(parts) if kind == TEXT else b"".join(parts)


def passage(connection: Connection, number: int, span: Span) -> str:
    """Return the text of a span, loading no more of the document than the parts that it lies in."""
    first, last = span.start // TEXT_PART, max(span.start, span.end - 1) // TEXT_PART
    base = number << CHUNK_BITS
    sql = "SELECT data FROM contents WHERE id BETWEEN ? AND ? ORDER BY id"
    text = "".join(row[0] for row in connection.execute(sql, (base | first, base | last)))
    return text[span.start - first * TEXT_PART : span.end - first * TEXT_PART]


def relate(connection: Connection, relation: Relation) -> bool:
    """Store a relation; False when it was there already."""
    sql = "INSERT OR IGNORE INTO relations (source, kind, target) VALUES (?, ?, ?)"
    return connection.execute(sql, (relation.source, relation.kind, relation.target)).rowcount > 0


def unrelate(connection: Connection, relation: Relation) -> bool:
    """Remove a relation; False when there was none."""
    sql = "DELETE FROM relations WHERE source = ? AND kind = ? AND target = ?"
    return connection.execute(sql, (relation.source, relation.kind, relation.target)).rowcount > 0
