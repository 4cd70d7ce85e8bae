"""A naive idea of what a store should answer: a dict of documents, and loops. For property tests only.

Written from the contract, not from any backend: it knows no index, no keys and no SQL, and takes the long way where the
backends share a short one. Deliberately without scores: two backends may rank differently, but not find differently.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from mcpd.storage.documents import Bucket, Condition, Facet, Put, Remove, Sort


def stored(changes: Iterable[Put | Remove]) -> dict[str, Put]:
    """What is there after these changes, all without expectations and origins."""
    there: dict[str, Put] = {}
    for change in changes:
        there.pop(change.uri, None)
        if isinstance(change, Put):
            there[change.uri] = change
    return there


def has_words(put: Put, text: str) -> bool:
    """Whether a chunk (or the title) has one of the words, or a phrase, of a query made of plain words."""
    if not text.strip():
        return True
    places = [(put.document.text or "")[span.start : span.end] for span in put.spans] + [put.document.title]
    return any(f" {wanted} " in f" {place} " for wanted in _wanted(text) for place in places if wanted)


def _wanted(text: str) -> list[str]:
    pieces = text.split('"')
    loose = [word for piece in pieces[::2] for word in piece.split()]
    return loose + [" ".join(piece.split()) for piece in pieces[1::2]]


def values(put: Put, field: str) -> list[Any]:
    if field == "uri":
        return [put.uri]
    if field == "tags":
        return list(put.document.tags)
    if field == "mimeType":
        return [put.document.mime_type]
    if field == "title":
        return [put.document.title]
    place: Any = put.document.metadata
    for name in field.split(".")[1:]:
        place = place.get(name) if isinstance(place, dict) else None
    members = place if isinstance(place, list) else [place]
    return [member for member in members if member is not None and not isinstance(member, (dict, list))]


def kind(value: Any) -> int:
    return 2 if isinstance(value, bool) else 1 if isinstance(value, str) else 0


def equal(one: Any, other: Any) -> bool:
    return kind(one) == kind(other) and one == other


def holds(condition: Condition, put: Put) -> bool:
    there = values(put, condition.field)
    if condition.exists is not None and condition.exists != (len(there) > 0):
        return False
    tests = [condition.any_of, condition.least, condition.most, condition.prefix]
    return all(test is None for test in tests) or any(_fits(condition, value) for value in there)


def _fits(condition: Condition, value: Any) -> bool:
    if condition.any_of is not None and not any(equal(value, wanted) for wanted in condition.any_of):
        return False
    if condition.prefix is not None and (kind(value) != 1 or not value.startswith(condition.prefix)):
        return False
    low, high = condition.least, condition.most
    if low is not None and (kind(value) != kind(low) or value < low or (condition.least_open and value == low)):
        return False
    return high is None or (kind(value) == kind(high) and (value < high or (not condition.most_open and value == high)))


def found(there: dict[str, Put], text: str, where: Iterable[Condition]) -> dict[str, Put]:
    conditions = list(where)
    return {uri: put for uri, put in there.items() if has_words(put, text) and all(holds(c, put) for c in conditions)}


def in_order(there: dict[str, Put], sort: Sort) -> list[str]:
    """URIs by value, then by URI; those without a value last."""
    keyed = [(_sort_key(values(put, sort.field), sort), uri) for uri, put in there.items()]
    having = sorted((key, uri) for key, uri in keyed if key is not None)
    if sort.descending:
        groups = sorted({key for key, _ in having}, reverse=True)
        having = [item for group in groups for item in having if item[0] == group]
    return [uri for _, uri in having] + sorted(uri for key, uri in keyed if key is None)


def _sort_key(there: list[Any], sort: Sort) -> tuple[int, Any] | None:
    keys = [(kind(value), value) for value in there]
    if not keys:
        return None
    return max(keys) if sort.descending else min(keys)


def counted(there: dict[str, Put], facet: Facet) -> list[Bucket]:
    if facet.kind == "range":
        return [Bucket(_range(edge), _in_range(there, facet.field, edge)) for edge in facet.edges]
    names = Counter(name for put in there.values() for name in {_name(value) for value in values(put, facet.field)})
    order = {_name(value): (kind(value), value) for put in there.values() for value in values(put, facet.field)}
    best = sorted(names, key=lambda name: (-names[name], order[name]))[: facet.size]
    return [Bucket(name[1], names[name]) for name in best]


def _name(value: Any) -> tuple[int, str]:
    if isinstance(value, bool):
        return 2, str(value).lower()
    return kind(value), value if isinstance(value, str) else f"{value:g}"


def _range(edge: tuple[float | None, float | None]) -> str:
    return "-".join("*" if end is None else f"{end:g}" for end in edge)


def _in_range(there: dict[str, Put], field: str, edge: tuple[float | None, float | None]) -> int:
    low, high = (-math.inf if edge[0] is None else edge[0]), (math.inf if edge[1] is None else edge[1])
    return sum(any(kind(v) == 0 and low <= v < high for v in values(put, field)) for put in there.values())


def distance(put: Put, vector: tuple[float, ...]) -> float:
    return min(math.dist(mine, vector) for mine in put.vectors or ())
