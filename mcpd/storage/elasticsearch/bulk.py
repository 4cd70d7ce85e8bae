"""Several writes in one request, each with an outcome of its own.

Called by: `writes`, `reconciling`. What a full queue has turned away is sent again for a while; what a batch is made
of, and in which order, is the caller's. Deliberately not the client's `bulk`, which streams: a step here is complete
or has failed, and the next one depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import msgspec
import trio

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Elasticsearch, ElasticsearchError
from mcpd.drivers.elasticsearch_errors import Failure, judge

MAX_BYTES: Final = 8 << 20
"""Of one request, or one larger item; the server takes 100 MB."""
MAX_ITEMS: Final = 1_000

TRIES: Final = 6
PAUSE_S: Final = 0.1
"""Before the second try of what was turned away; each further one waits twice as long: 3 s in all."""

TURNED_AWAY: Final = 429
_REFUSED: Final = 400


class Action(NamedTuple):
    """One write. `condition` is metadata of the item, such as `if_seq_no`."""

    operation: Literal["index", "create", "delete"]
    place: str
    id: str
    routing: str
    source: bytes = b""
    condition: Mapping[str, int] = MappingProxyType({})

    def lines(self) -> bytes:
        """Return the item as it is sent."""
        meta = {"_index": self.place, "_id": self.id, "routing": self.routing, **self.condition}
        line = msgspec.json.encode({self.operation: meta}) + b"\n"
        return line if self.operation == "delete" else b"".join((line, self.source, b"\n"))


class Item(msgspec.Struct, frozen=True, rename={"seq_no": "_seq_no"}):
    """What became of one write."""

    status: int
    seq_no: int = -1
    error: Failure | None = None

    @property
    def failure(self) -> ElasticsearchError | None:
        """Why it was not done; None when it was, or there was nothing to delete."""
        return None if self.error is None else judge(self.status, self.error.root)


class _Answer(msgspec.Struct, frozen=True):
    items: list[dict[str, Item]]


async def send(client: Elasticsearch, actions: Sequence[Action], refresh: str = "") -> list[Item]:
    """Send the writes and return what became of each, in order.

    Raises: ElasticsearchError when a request as a whole failed, or an item was turned away to the last. Some of the
    writes may have been done then. Cancellation: likewise.
    """
    items: list[Item] = []
    for batch in _batches(actions):
        items += await _send(client, batch, refresh)
    return items


async def _send(client: Elasticsearch, batch: list[bytes], refresh: str) -> list[Item]:
    items: dict[int, Item] = {}
    waiting, pause = list(range(len(batch))), PAUSE_S
    for attempt in range(TRIES):
        if attempt:
            await trio.sleep(pause)
            pause *= 2
        answer = await client.perform(_request(b"".join([batch[n] for n in waiting]), refresh))
        items |= zip(waiting, _items(answer), strict=True)
        waiting = [n for n in waiting if items[n].status == TURNED_AWAY]
        if not waiting:
            return [items[n] for n in range(len(batch))]
    raise items[waiting[0]].failure or AssertionError("turned away without a reason")


def _request(body: bytes, refresh: str) -> api.Request:
    query = {"refresh": refresh} if refresh else {}
    return api.Request(
        "bulk", "POST", "/_bulk", query, body, api.NDJSON, repeatable=True, writes=True, deadline="query"
    )


def _items(answer: api.Answer) -> list[Item]:
    return [item for named in api.shaped(answer.body, _Answer).items for item in named.values()]


def _batches(actions: Sequence[Action]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for action in actions:
        lines = action.lines()
        if batch and (len(batch) == MAX_ITEMS or size + len(lines) > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(lines)
        size += len(lines)
    if batch:
        yield batch


def refused(item: Item) -> bool:
    """Return whether the write was not done for good."""
    return item.status >= _REFUSED
