"""Changes of others, by polling the sequence numbers of `metadata`.

Elasticsearch numbers the writes of a shard, and `metadata` has one. Whoever watches asks for the records with a number
above the last one seen; a tombstone is the record of a removal. Of several changes between two questions the last one
is there, and says which write made or removed the document, so that it is known whether the listing changed.

A number may show up after a higher one, when two writes overlap: what is younger than `SETTLE_S` is asked for again.

Called by: `documents`. A question costs one search that finds nothing, `poll_s` apart. Deliberately not own changes:
they are told as they are committed, and left out here by their numbers (`own`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import Final

import msgspec

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers.elasticsearch import Elasticsearch
from mcpd.storage.documents import Notice

PAGE_ITEMS: Final = 1_000
MAX_ITEMS: Final = 10_000
"""Changes between two questions that are told one by one; more are told as "everything may be different"."""

SETTLE_S: Final = 5.0
"""After so long a number that has not shown up belongs to no record any more."""


class _Changed(msgspec.Struct, frozen=True):
    uri: str
    listed: int = -1


class Follower:
    """Where one watcher is. `own` holds the numbers of this process's writes."""

    def __init__(self, client: Elasticsearch, index: str, own: Container[int]) -> None:
        self._client = client
        self._index = index
        self._own = own
        self._floor = -1
        self._told: set[int] = set()
        self._reached: deque[tuple[float, int]] = deque()

    async def start(self) -> None:
        """Begin behind everything that has been written. Raises: ElasticsearchError."""
        await self._client.perform(api.refresh(self._index))
        body = {"size": 1, "_source": False, "sort": [{"_seq_no": "desc"}]}
        hits = api.found(await self._client.perform(api.search([self._index], body))).hits.hits
        self._floor = int(hits[0].sort[0]) if hits else -1

    async def poll(self, now_s: float) -> list[Notice]:
        """Return what others have changed since, as far as searches see it. Raises: ElasticsearchError."""
        changed: list[api.Hit] = []
        after = self._floor
        while len(changed) < MAX_ITEMS:
            page = await self._page(after)
            changed += page
            if len(page) < PAGE_ITEMS:
                break
            after = int(page[-1].sort[0])
        else:
            self._floor = int(changed[-1].sort[0])
            return [Notice(None, listed=True)]
        return self._notices(changed, now_s)

    async def _page(self, after: int) -> list[api.Hit]:
        query = {
            "bool": {"filter": [{"terms": {"kind": ["document", "tombstone"]}}, {"range": {"_seq_no": {"gt": after}}}]}
        }
        body = {"query": query, "size": PAGE_ITEMS, "_source": ["uri", "listed"], "sort": [{"_seq_no": "asc"}]}
        body["track_total_hits"] = False
        return api.found(await self._client.perform(api.search([self._index], body))).hits.hits

    def _notices(self, changed: list[api.Hit], now_s: float) -> list[Notice]:
        notices = []
        for hit in changed:
            number = int(hit.sort[0])
            if number not in self._told and number not in self._own:
                record = msgspec.json.decode(hit.source, type=_Changed)
                made = number if record.listed < 0 else record.listed
                told = made != number and (made in self._told or made in self._own)
                notices.append(Notice(record.uri, listed=made > self._floor and not told))
                self._told.add(made)
            self._told.add(number)
        self._settle(int(changed[-1].sort[0]) if changed else self._floor, now_s)
        return notices

    def _settle(self, highest: int, now_s: float) -> None:
        self._reached.append((now_s, highest))
        while self._reached and self._reached[0][0] <= now_s - SETTLE_S:
            self._floor = self._reached.popleft()[1]
        self._told = {number for number in self._told if number > self._floor}
