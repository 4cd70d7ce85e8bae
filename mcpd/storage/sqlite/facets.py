"""Facets counted in the tables.

Called by: `documents`, in threads, in one snapshot. What fits is worked out once, into a temporary table that the
end of the snapshot empties. Terms are counted by SQL; ranges and calendars by `storage.counting` over rows that stream
by, document after document, so that they mean the same in every backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from mcpd.drivers.sqlite import Connection
from mcpd.storage import counting, words
from mcpd.storage.documents import Bucket, Facet, Where
from mcpd.storage.fields import Key, check_facets, checked, label
from mcpd.storage.sqlite import query as sql_query
from mcpd.storage.sqlite.query import COLUMNS, NAME


def facets(connection: Connection, text: str, where: Where, wanted: Sequence[Facet]) -> dict[str, list[Bucket]]:
    """Count what fits the words and the conditions, by field."""
    check_facets(wanted)
    phrases = None if words.is_everything(text) else words.phrases(text)
    sql, values = sql_query.fitting(phrases, checked(where))
    connection.execute(f"INSERT INTO hits {sql}", values)
    return {facet.field: _buckets(connection, facet) for facet in wanted}


def _buckets(connection: Connection, facet: Facet) -> list[Bucket]:
    return _terms(connection, facet) if facet.kind == "terms" else counting.count(facet, _values(connection, facet))


def _terms(connection: Connection, facet: Facet) -> list[Bucket]:
    sql = (
        f"SELECT value, count(*) AS found FROM hits JOIN fields USING (document) WHERE name = {NAME}"  # noqa: S608 - names of ours
        " GROUP BY value ORDER BY found DESC, value LIMIT ?"
    )
    rows = connection.execute(sql, (facet.field, max(0, facet.size)))
    return [Bucket(label(value), found) for value, found in rows]


def _values(connection: Connection, facet: Facet) -> Iterator[list[Key]]:
    """Return each document's values, for those that have any."""
    column = COLUMNS.get(facet.field)
    if column is not None:
        sql = f"SELECT document, {column} FROM hits JOIN documents d ON d.id = document"  # noqa: S608 - names of ours
        rows = connection.execute(sql)
    else:
        sql = f"SELECT document, value FROM hits JOIN fields USING (document) WHERE name = {NAME} ORDER BY document"  # noqa: S608 - names of ours
        rows = connection.execute(sql, (facet.field,))
    for _, group in groupby(rows, key=itemgetter(0)):
        connection.check()
        yield [value for _, value in group]
