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

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from mcpd.drivers.elasticsearch_api import ALWAYS, NDJSON, Answer, Body, Condition, Refresh, Request, encoded, shaped
from mcpd.drivers.elasticsearch_errors import ElasticsearchError, Failure, Garbled, judge

FILTER: Final = "errors,items.*._id,items.*.status,items.*.error,items.*._seq_no,items.*._primary_term,items.*._version"
"""What is asked of the answer: two thirds of it is nothing that anybody reads."""


class Action(NamedTuple):
    """One write: its lines, each ended. `repeatable`: may be sent again when nobody knows what became of it."""

    key: str
    lines: bytes
    repeatable: bool


class Done(NamedTuple):
    """A write that was done. `status`: 200 or 201, and 404 for a deletion of what was not there."""

    key: str
    status: int
    seq_no: int = -1
    primary_term: int = -1
    version: int = -1


Outcome = Done | ElasticsearchError
"""What became of one action: done, or the error that a single write would have raised."""


def put(
    index: str, key: str, source: Body, *, condition: Condition = ALWAYS, routing: str = "", repeatable: bool = False
) -> Action:
    """Write one document. `repeatable` allows a second time without a condition: the same again does no harm."""
    name = "create" if condition.create else "index"
    head = msgspec.json.encode({name: _metadata(index, key, condition, routing)})
    return Action(key, b"%b\n%b\n" % (head, encoded(source)), repeatable or condition != ALWAYS)


def delete(
    index: str, key: str, *, condition: Condition = ALWAYS, routing: str = "", repeatable: bool = False
) -> Action:
    """Delete one document."""
    head = msgspec.json.encode({"delete": _metadata(index, key, condition, routing)})
    return Action(key, head + b"\n", repeatable or condition != ALWAYS)


def _metadata(index: str, key: str, condition: Condition, routing: str) -> Mapping[str, Any]:
    found: dict[str, Any] = {"_index": index, "_id": key}
    if routing:
        found["routing"] = routing
    found.update(condition.metadata())
    return found


class Chunk:
    """Actions that are collected until they make a request."""

    __slots__ = ("_max_bytes", "_max_items", "actions", "size")

    def __init__(self, max_bytes: int, max_items: int) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self.actions: list[Action] = []
        self.size = 0

    def takes(self, action: Action) -> bool:
        """Return whether there is room for `action`."""
        if not self.actions:
            return True
        return len(self.actions) < self._max_items and self.size + len(action.lines) <= self._max_bytes

    def add(self, action: Action) -> None:
        """Take `action` in."""
        self.actions.append(action)
        self.size += len(action.lines)


def request(actions: Sequence[Action], *, refresh: Refresh = "") -> Request:
    """Return the request that sends `actions`, in order. Which of them may be sent again is decided item by item."""
    query = {"filter_path": FILTER, **({"refresh": refresh} if refresh else {})}
    body = b"".join([action.lines for action in actions])
    return Request("bulk", "POST", "/_bulk", query, body, NDJSON, writes=True, deadline="query")


class _Item(msgspec.Struct, frozen=True):
    status: int
    id: str = msgspec.field(name="_id", default="")
    seq_no: int = msgspec.field(name="_seq_no", default=-1)
    primary_term: int = msgspec.field(name="_primary_term", default=-1)
    version: int = msgspec.field(name="_version", default=-1)
    error: Failure | None = None


class _Items(msgspec.Struct, frozen=True):
    items: list[dict[str, _Item]]


def outcomes(answer: Answer, actions: Sequence[Action]) -> list[Outcome]:
    """Read what became of each of `actions`. Raises: Garbled when the answer is of other actions."""
    items = [item for pair in shaped(answer.body, _Items).items for item in pair.values()]
    if [item.id for item in items] != [action.key for action in actions]:
        raise Garbled("the answer of _bulk is not of what was sent")
    return [_outcome(item) for item in items]


def _outcome(item: _Item) -> Outcome:
    if item.error is not None:
        return judge(item.status, item.error.root)
    return Done(item.id, item.status, item.seq_no, item.primary_term, item.version)
