"""Reading documents, listings and full-text searches from the tables.

Called by: `documents`, in threads, each call in one snapshot. What fits, in which order and how much is decided
in SQL; what is shown of it (heads, spans, fragments) is read for the page's hits only. Matches are marked by SQLite
itself: the texts of the hits go into a table in memory with the same tokenizer, and `highlight` finds what `MATCH`
found, stems and phrases included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from mcpd.drivers.sqlite import Connection, Row
from mcpd.storage import cursors, words
from mcpd.storage.documents import (
    MARK_END,
    MARK_START,
    Document,
    Found,
    Head,
    Hit,
    Matching,
    Page,
    Relation,
    Sort,
    Span,
    Statistics,
    Where,
)
from mcpd.storage.fields import check_sort, checked
from mcpd.storage.putting import is_unicode
from mcpd.storage.sqlite import query as sql_query
from mcpd.storage.sqlite.schema import CHUNK_BITS, TOKENIZER
from mcpd.storage.sqlite.writes import content, passage

_HEAD: Final = "d.id, d.uri, d.title, d.mime_type, d.tags, d.metadata, d.size, d.created, d.updated, d.digest, d.origin"
_TAGS: Final = msgspec.json.Decoder(tuple[str, ...])
_METADATA: Final = msgspec.json.Decoder(dict[str, Any])
_BY_URI: Final = Sort("uri")


def prepare(connection: Connection) -> None:
    """Make the tables that reading needs on each connection, gone with it."""
    connection.scratch.execute(f"CREATE VIRTUAL TABLE marks USING fts5(text, tokenize='{TOKENIZER}')")
    connection.execute("CREATE TEMP TABLE hits (document INTEGER PRIMARY KEY)")


def ping(connection: Connection) -> None:
    """Look into the table of documents."""
    connection.one("SELECT 1 FROM documents LIMIT 1")


def document(connection: Connection, uri: str) -> Document | None:
    """Return the document, whole."""
    sql = f"SELECT {_HEAD}, d.kind FROM documents d WHERE uri = ?"  # noqa: S608 - names of ours
    row = connection.one(sql, (uri,)) if is_unicode(uri) else None
    if row is None:
        return None
    body = content(connection, row[0], row[-1])
    fields = msgspec.structs.asdict(_head(row))
    return Document(
        **fields, text=body if isinstance(body, str) else None, blob=body if isinstance(body, bytes) else None
    )


def versions(connection: Connection, uris: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return uri -> (version, digest) of those that exist."""
    sql = "SELECT uri, id, digest FROM documents WHERE uri IN (SELECT value FROM json_each(?))"
    return {
        uri: (str(number), digest)
        for uri, number, digest in connection.execute(sql, (_json(filter(is_unicode, uris)),))
    }


def page(connection: Connection, where: Where, cursor: str | None, limit: int) -> Page:
    """Return a page of what fits, in order of URI."""
    sql, values = sql_query.all_hold(checked(where))
    position = cursors.decode(cursors.listing_key(where), cursor)
    after = "" if position.uri is None else position.uri
    rows = connection.execute(
        f"SELECT {_HEAD} FROM documents d WHERE d.uri > ? AND {sql} ORDER BY d.uri LIMIT ?",  # noqa: S608 - names of ours
        (after, *values, max(0, limit) + 1),
    ).fetchall()
    shown = [_head(row) for row in rows[: max(0, limit)]]
    more = bool(shown) and len(rows) > len(shown)
    return Page(shown, cursors.encode(cursors.Position(position.query, shown[-1].uri)) if more else None)


def match(connection: Connection, query: Matching) -> Found:
    """Search by words."""
    everything = words.is_everything(query.text)
    phrases = None if everything else words.phrases(query.text)
    best = sql_query.found(phrases, checked(query.where))
    if query.sort is not None:
        check_sort(query.sort)
    position = cursors.decode(cursors.matching_key(query), query.cursor)
    limit = max(0, query.limit)
    if query.sort is None and not everything:
        rows = _best(connection, best, position, limit)
    else:
        rows = _ordered(connection, best, query.sort or _BY_URI, position, limit)
    shown = rows[:limit]
    total = rows[0][3] if rows else connection.execute(*sql_query.total(best)).fetchone()[0]
    cursor = _cursor(position, shown) if shown and len(rows) > len(shown) else None
    return Found(_hits(connection, shown, phrases or (), query.highlight), total, cursor)


def _best(connection: Connection, best: sql_query.Sql, position: cursors.Position, limit: int) -> list[Row]:
    seen = position.seen
    rows = connection.execute(*sql_query.by_score(best, len(seen) + limit + 1))
    return [row for row in rows if row[0] not in seen]


def _ordered(
    connection: Connection, best: sql_query.Sql, sort: Sort, position: cursors.Position, limit: int
) -> list[Row]:
    after = None if position.uri is None else (position.key, position.uri)
    return connection.execute(*sql_query.by_field(best, sort, after, limit + 1)).fetchall()


def _cursor(position: cursors.Position, shown: list[Row]) -> str:
    """Behind (key, URI) when the rows have them, else behind all that has been shown."""
    if len(shown[-1]) > 4:
        return cursors.encode(cursors.Position(position.query, uri=shown[-1][5], key=shown[-1][4]))
    return cursors.encode(cursors.seen_after(position.query, [*position.seen, *(row[0] for row in shown)]))


def _hits(connection: Connection, rows: list[Row], phrases: Sequence[words.Phrase], highlight: int) -> list[Hit]:
    known = heads(connection, (row[0] for row in rows))
    places = spans(connection, (row[2] for row in rows if row[2] is not None))
    marked = _marked(connection, places, phrases) if highlight > 0 else {}
    pieces = {chunk: words.fragments(text, highlight) for chunk, text in marked.items()}
    bare = {chunk: span for chunk, span in places.items() if not pieces.get(chunk)} if highlight > 0 else {}
    begun = beginnings(connection, bare)
    return [
        Hit(
            head=known[number],
            score=-score,
            span=places.get(chunk),
            fragments=pieces.get(chunk, ()),
            beginning=begun.get(chunk, ""),
        )
        for number, score, chunk, *_ in rows
    ]


def _marked(connection: Connection, places: dict[int, Span], phrases: Sequence[words.Phrase]) -> dict[int, str]:
    """Return chunk -> text with the matches between marks, of those that have any."""
    scratch = connection.scratch
    texts = ((n, words.unmarked(passage(connection, n >> CHUNK_BITS, span))) for n, span in places.items())
    scratch.execute("BEGIN")
    try:
        scratch.executemany("INSERT INTO marks (rowid, text) VALUES (?, ?)", texts)
        sql = "SELECT rowid, highlight(marks, 0, ?, ?) FROM marks WHERE marks MATCH ?"
        return dict(scratch.execute(sql, (MARK_START, MARK_END, sql_query.match_expression(phrases))).fetchall())
    finally:
        scratch.execute("ROLLBACK")


def beginnings(connection: Connection, places: Mapping[int, Span]) -> dict[int, str]:
    """Return chunk -> how it begins; of each, no more than two parts of the text are loaded."""
    first = {n: Span(span.start, min(span.end, span.start + words.LOOKED_AT)) for n, span in places.items()}
    return {n: words.beginning(passage(connection, n >> CHUNK_BITS, span)) for n, span in first.items()}


def heads(connection: Connection, numbers: Iterable[int]) -> dict[int, Head]:
    """Return id -> head."""
    sql = f"SELECT {_HEAD} FROM documents d WHERE d.id IN (SELECT value FROM json_each(?))"  # noqa: S608 - names of ours
    return {row[0]: _head(row) for row in connection.execute(sql, (_json(numbers),))}


def spans(connection: Connection, chunks: Iterable[int]) -> dict[int, Span]:
    """Return id -> span, of those that are chunks; the row of a title alone is none."""
    sql = "SELECT id, start, stop, heading FROM chunks WHERE id IN (SELECT value FROM json_each(?))"
    return {number: Span(*span) for number, *span in connection.execute(sql, (_json(chunks),))}


def _head(row: Row) -> Head:
    number, uri, title, mime_type, tags, metadata, size, created, updated, digest, origin = row[:11]
    return Head(
        uri=uri,
        title=title,
        mime_type=mime_type,
        tags=_TAGS.decode(tags),
        metadata=_METADATA.decode(metadata),
        size=size,
        created_s=created,
        updated_s=updated,
        version=str(number),
        digest=digest,
        origin=origin,
    )


def _json(items: Iterable[Any]) -> str:
    return msgspec.json.encode(list(items)).decode()


def related(connection: Connection, uri: str, limit: int) -> list[Relation]:
    """Return relations whose source or target is `uri`."""
    sql = (
        "SELECT source, kind, target FROM relations WHERE source = ?"
        " UNION SELECT source, kind, target FROM relations WHERE target = ? ORDER BY 1, 2, 3 LIMIT ?"
    )
    if not is_unicode(uri):
        return []
    return [Relation(*row) for row in connection.execute(sql, (uri, uri, max(0, limit)))]


def statistics(connection: Connection) -> Statistics:
    """Count what is there."""
    documents, size = connection.one("SELECT count(*), coalesce(sum(size), 0) FROM documents") or (0, 0)
    chunks, vectors = (
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - names of ours
        for table in ("chunks", "codes")
    )
    return Statistics(documents=documents, chunks=chunks, vectors=vectors, bytes=size)
