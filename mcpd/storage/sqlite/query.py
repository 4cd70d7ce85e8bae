"""Conditions, sort orders and words as SQL.

Called by: `storage.sqlite.reads`, `storage.sqlite.facets`, `storage.sqlite.vectors`. Pure: text and values in, text
and values out. Nothing that a user wrote is ever part of the SQL; words go into a match expression as quoted strings.

In all statements `d` is the table of documents. Types come apart by SQLite's own order (numbers, texts, blobs):
`value < ''` holds for numbers only, `value < x''` for numbers and texts. The check that is off here (S608) looks for
SQL made of strings, which is all this file does.
"""

# ruff: noqa: S608
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mcpd.storage.documents import Sort
from mcpd.storage.fields import Key, Test
from mcpd.storage.sqlite.schema import CHUNK_BITS
from mcpd.storage.words import Phrase

Sql = tuple[str, list[Any]]
"""A piece of SQL and the values of its parameters."""

COLUMNS: Final = {"uri": "d.uri", "title": "d.title", "created": "d.created", "updated": "d.updated"}
"""Fields that are a column of their own."""

NAME: Final = "(SELECT id FROM names WHERE name = ?)"
WEIGHTS: Final = "bm25(1.0, 1.0, 1.0)"
"""Of title, heading and text."""


def match_expression(phrases: Sequence[Phrase]) -> str:
    """Return the phrases ORed, in FTS5's syntax; none fits nothing."""
    return " OR ".join(f'"{" ".join(words)}"{"*" if prefix else ""}' for words, prefix in phrases) or '""'


def all_hold(tests: Sequence[Test]) -> Sql:
    """Return the condition that all tests hold for the document `d`."""
    pieces: list[str] = []
    values: list[Any] = []
    for test in tests:
        sql, more = _holds(test)
        pieces.append(sql)
        values += more
    return " AND ".join(pieces) or "1", values


def _holds(test: Test) -> Sql:
    if not test.asks_values and test.exists is None:
        return "1", []
    column = COLUMNS.get(test.field)
    if column is not None:
        sql, values = _fits(test, column)
        return ("0" if test.exists is False else sql), ([] if test.exists is False else values)
    sql, values = _fits(test, "value")
    some = f"d.id IN (SELECT document FROM fields WHERE name = {NAME} AND {sql})"
    if test.exists is False:
        none = f"d.id NOT IN (SELECT document FROM fields WHERE name = {NAME})"
        return ("0", []) if test.asks_values else (none, [test.field])
    return some, [test.field, *values]


def _fits(test: Test, value: str) -> Sql:
    """Return the condition that one value is what is asked for."""
    pieces: list[str] = []
    values: list[Any] = []
    if test.any_of is not None:
        pieces.append(f"{value} IN ({', '.join('?' * len(test.any_of))})")
        values += test.any_of
    for bound, sign in ((test.least, ">" if test.least_open else ">="), (test.most, "<" if test.most_open else "<=")):
        if bound is not None:
            pieces += [f"{value} {sign} ?", _of_type(value, bound)]
            values.append(bound)
    if test.prefix is not None:
        after = _after_prefix(test.prefix)
        pieces.append(f"{value} >= ? AND {value} < {'?' if after else 'x' + repr('')}")
        values += [test.prefix, after] if after else [test.prefix]
    return " AND ".join(pieces) or "1", values


def _of_type(value: str, bound: Key) -> str:
    return f"{value} >= '' AND {value} < x''" if isinstance(bound, str) else f"{value} < ''"


def _after_prefix(prefix: str) -> str:
    """Return the least text greater than all that begin with `prefix`; "" when there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return ""
    code = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if code == 0xD800 else code)


def found(phrases: Sequence[Phrase] | None, tests: Sequence[Test]) -> Sql:
    """Return the query for (document, score, chunk) of what fits, each document once, by its best chunk.

    `phrases` None: words do not matter; the score is 0 and the chunk NULL then. Scores are lower for the better.
    """
    sql, values = all_hold(tests)
    if phrases is None:
        return f"SELECT d.id AS document, 0.0 AS score, NULL AS chunk FROM documents d WHERE {sql}", values
    within = f" AND rowid >> {CHUNK_BITS} IN (SELECT d.id FROM documents d WHERE {sql})" if tests else ""
    text = (
        f"SELECT rowid >> {CHUNK_BITS} AS document, min(rank) AS score, rowid AS chunk FROM fts"
        f" WHERE fts MATCH ? AND rank MATCH '{WEIGHTS}'{within} GROUP BY document"
    )
    return text, [match_expression(phrases), *values]


def fitting(phrases: Sequence[Phrase] | None, tests: Sequence[Test]) -> Sql:
    """Return the query for the ids of the documents that fit, without scores."""
    sql, values = all_hold(tests)
    if phrases is None:
        return f"SELECT d.id FROM documents d WHERE {sql}", values
    within = f" AND rowid >> {CHUNK_BITS} IN (SELECT d.id FROM documents d WHERE {sql})" if tests else ""
    text = f"SELECT DISTINCT rowid >> {CHUNK_BITS} FROM fts WHERE fts MATCH ?{within}"
    return text, [match_expression(phrases), *values]


def by_score(best: Sql, limit: int) -> Sql:
    """Return the query for (document, score, chunk, total) of the `limit` best of `best`."""
    sql = (
        f"WITH best AS MATERIALIZED ({best[0]}) SELECT document, score, chunk, (SELECT count(*) FROM best) FROM best"
        " ORDER BY score, document LIMIT ?"
    )
    return sql, [*best[1], limit]


def by_field(best: Sql, sort: Sort, after: tuple[Key | None, str] | None, limit: int) -> Sql:
    """Return the query for (document, score, chunk, total, key, uri) in the order of a field, then of URIs.

    `after`: go on behind this key and URI.
    """
    key, values = _sort_key(sort)
    later, bounds = _later(sort, after)
    sql = (
        f"WITH best AS MATERIALIZED ({best[0]}), keyed AS (SELECT document, score, chunk, {key} AS key, d.uri AS uri"
        " FROM best JOIN documents d ON d.id = document)"
        f" SELECT document, score, chunk, (SELECT count(*) FROM best), key, uri FROM keyed WHERE {later}"
        f" ORDER BY key IS NULL, key{' DESC' if sort.descending else ''}, uri LIMIT ?"
    )
    return sql, [*best[1], *values, *bounds, limit]


def total(best: Sql) -> Sql:
    """Return the query for how many documents `best` has."""
    return f"SELECT count(*) FROM ({best[0]})", best[1]


def _sort_key(sort: Sort) -> Sql:
    column = COLUMNS.get(sort.field)
    if column is not None:
        return column, []
    extreme = "max" if sort.descending else "min"
    return f"(SELECT {extreme}(value) FROM fields f WHERE f.document = d.id AND f.name = {NAME})", [sort.field]


def _later(sort: Sort, after: tuple[Key | None, str] | None) -> Sql:
    if after is None:
        return "1", []
    key, uri = after
    if key is None:
        return "key IS NULL AND uri > ?", [uri]
    sign = "<" if sort.descending else ">"
    return f"(key {sign} ? OR key = ? AND uri > ? OR key IS NULL)", [key, key, uri]
