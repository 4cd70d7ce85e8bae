"""`_bulk` as values: actions, the chunks they are sent in, and what became of each.

    actions = [bulk.put("docs", "1", source, condition=CREATE), bulk.delete("docs", "2")]
    for outcome in await client.bulk(actions): ...

An action holds its encoded lines, made once. A chunk is bounded by bytes and items; an action that is longer than a
chunk is one by itself. Answers come in the order of the request, each with a status of its own.

Called by: adapters in `storage`, `drivers.elasticsearch.bulk`. Pure. Deliberately not: sending, retries.

Law: as for a single write, an action is repeatable only with a fixed id and a condition (`elasticsearch_api`), or where
its caller says that writing the same again does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from mcpd.drivers.elasticsearch_api import ALWAYS, NDJSON, Answer, Body, Condition, Refresh, Request, shaped
from mcpd.drivers.elasticsearch_errors import ElasticsearchError, Failure, Garbled, judge

_encode: Final = msgspec.json.Encoder().encode
FILTER: Final = "errors,items.*._id,items.*.status,items.*.error,items.*._seq_no,items.*._primary_term,items.*._version"
"""What is asked of the answer: two thirds of it is nothing that anybody reads."""


MAX_OPENINGS: Final = 64
"""Of indices whose usual head is kept; there are a few in use at a time."""

_NAMES: Final = {"key": "_id", "status": "status", "error": "error"}


class Action(msgspec.Struct, frozen=True):
    """One write: its lines, each ended. `repeatable`: may be sent again when nobody knows what became of it."""

    key: str
    lines: bytes
    repeatable: bool


class Done(msgspec.Struct, frozen=True, rename=lambda name: _NAMES.get(name, f"_{name}")):
    """A write that was done. `status`: 200 or 201, and 404 for a deletion of what was not there."""

    key: str = ""
    status: int = 0
    seq_no: int = -1
    primary_term: int = -1
    version: int = -1


Outcome = Done | ElasticsearchError
"""What became of one action: done, or the error that a single write would have raised."""


def put(
    index: str, key: str, source: Body, *, condition: Condition = ALWAYS, routing: str = "", repeatable: bool = False
) -> Action:
    """Write one document. `repeatable` allows a second time without a condition: the same again does no harm."""
    body = source if isinstance(source, bytes) else _encode(source)
    if condition is ALWAYS and not routing:
        return Action(key, b"%b%b}}\n%b\n" % (_opening(index), _encode(key), body), repeatable)
    head = _head("create" if condition.create else "index", index, key, condition, routing)
    return Action(key, b"%b\n%b\n" % (head, body), repeatable or condition is not ALWAYS)


def delete(
    index: str, key: str, *, condition: Condition = ALWAYS, routing: str = "", repeatable: bool = False
) -> Action:
    """Delete one document."""
    head = _head("delete", index, key, condition, routing)
    return Action(key, head + b"\n", repeatable or condition is not ALWAYS)


@lru_cache(maxsize=MAX_OPENINGS)
def _opening(index: str) -> bytes:
    """Return how the head of the usual action begins."""
    return b'{"index":{"_index":%b,"_id":' % _encode(index)


def _head(operation: str, index: str, key: str, condition: Condition, routing: str) -> bytes:
    found: dict[str, Any] = {"_index": index, "_id": key}
    if routing:
        found["routing"] = routing
    if condition is not ALWAYS:
        found.update(condition.metadata())
    return _encode({operation: found})


class Chunk:
    """Actions that are collected until they make a request."""

    __slots__ = ("_max_bytes", "_max_items", "actions", "size")

    def __init__(self, max_bytes: int, max_items: int) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self.actions: list[Action] = []
        self.size = 0

    def add(self, action: Action) -> bool:
        """Take `action` in if there is room; the first always finds some."""
        size = self.size + len(action.lines)
        if self.actions and (size > self._max_bytes or len(self.actions) >= self._max_items):
            return False
        self.actions.append(action)
        self.size = size
        return True


def request(actions: Sequence[Action], *, refresh: Refresh = "") -> Request:
    """Return the request that sends `actions`, in order. Which of them may be sent again is decided item by item."""
    query = {"filter_path": FILTER, **({"refresh": refresh} if refresh else {})}
    body = b"".join([action.lines for action in actions])
    return Request("bulk", "POST", "/_bulk", query, body, NDJSON, writes=True, deadline="query")


class _Item(Done, frozen=True):
    error: Failure | None = None


class _Items(msgspec.Struct, frozen=True):
    items: list[dict[str, _Item]]


def outcomes(answer: Answer, actions: Sequence[Action]) -> list[Outcome]:
    """Read what became of each of `actions`. Raises: Garbled when the answer is of other actions."""
    items = [item for pair in shaped(answer.body, _Items).items for item in pair.values()]
    if [item.key for item in items] != [action.key for action in actions]:
        raise Garbled("the answer of _bulk is not of what was sent")
    return [item if item.error is None else judge(item.status, item.error.root) for item in items]
