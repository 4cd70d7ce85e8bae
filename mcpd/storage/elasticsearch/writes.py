"""Changes written so that each is whole or absent: the write to `metadata` commits a version.

    read      the records of all URIs, with their sequence numbers; decide (`storage.putting`)
    content   words, chunks and vectors under a new version, which nothing names yet
    commit    the record, if nobody wrote it since; whoever was second begins again, with a new version
    clear     the version before, or what was written in vain; relations of what was removed
    then      the outcome is given, which acknowledges the change

Wherever a writer dies, a document is as `metadata` says. What is left over is removed by `reconciling`, which writes
the record first: a slow writer's commit is refused then, instead of naming content that has gone. A removed document
leaves a tombstone, so that this holds for it as well.

Called by: `documents`. Each step is one bulk request or a few. A batch has each URI once; the caller sees to that.
Cancellation: between batches; one that has begun goes on, for at most `FINISH_S`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from mcpd.drivers import elasticsearch_api as api
from mcpd.drivers import elasticsearch_bulk as bulk
from mcpd.drivers.elasticsearch import Elasticsearch, ElasticsearchError, NotExecuted
from mcpd.drivers.elasticsearch_bulk import Action, Done
from mcpd.drivers.elasticsearch_bulk import Outcome as Answered
from mcpd.storage import putting
from mcpd.storage.documents import Change, Notice, Outcome, Put, Remove
from mcpd.storage.elasticsearch import records
from mcpd.storage.elasticsearch.indices import Generation
from mcpd.storage.elasticsearch.keys import number_of, uri_key
from mcpd.storage.elasticsearch.records import Record

_CONFLICT: Final = 409
_FINAL: Final = frozenset(range(400, 500)) - {429}
"""Statuses of a refusal that stands, also of a write that was sent before without an answer."""

TRIES: Final = 16
"""Of one change whose document others write at the same time; each time somebody else was first."""

Tell = Callable[[Notice, int], None]


class Ready(msgspec.Struct, frozen=True):
    """A change that has been checked; `problem` says why it cannot be stored."""

    change: Change
    problem: str = ""


class Known(msgspec.Struct, frozen=True):
    """A record as it was read, and what a write has to name that is to replace just that one."""

    record: Record | None = None
    seq_no: int = -1
    primary_term: int = -1

    @property
    def live(self) -> Record | None:
        """The record of a document that is there."""
        return self.record if self.record is not None and self.record.live else None

    @property
    def listed(self) -> int:
        """Which write made the document, or removed it."""
        if self.record is None:
            return -1
        return self.seq_no if self.record.listed < 0 else self.record.listed

    @property
    def condition(self) -> api.Condition:
        """Holds as long as nobody else has written."""
        return api.CREATE if self.record is None else api.Condition(self.seq_no, self.primary_term)

    def action(self, index: str, record: Record) -> Action:
        """Return the write that replaces this record by another."""
        key, source = uri_key(record.uri), msgspec.json.encode(record)
        return bulk.put(index, key, source, condition=self.condition, routing=key)


class Plan(msgspec.Struct, frozen=True):
    """A change that is to be made: over which record, with which new one."""

    place: int
    change: Change
    known: Known
    record: Record


def ready(change: Change) -> Ready:
    """Check the change."""
    if isinstance(change, Remove):
        return Ready(change)
    try:
        return Ready(records.checked(change))
    except (ValueError, OverflowError) as error:
        return Ready(change, str(error))


async def read(client: Elasticsearch, index: str, uris: Iterable[str]) -> dict[str, Known]:
    """Return what `metadata` says of each URI, as of now. Raises: ElasticsearchError."""
    keys = {uri_key(uri): uri for uri in uris if putting.is_unicode(uri)}
    if not keys:
        return {}
    answer = await client.perform(api.get_documents(index, [{"_id": key, "routing": key} for key in keys]))
    found = {keys[one.id]: one for one in api.documents(answer)}
    return {uri: _known(one) for uri, one in found.items()}


def _known(one: api.Document) -> Known:
    if not one.found:
        return Known()
    return Known(msgspec.json.decode(one.source, type=Record), one.seq_no, one.primary_term)


class Batch:
    """Some changes on their way, each URI once. `told` is called with the notice of each as it is committed."""

    def __init__(self, client: Elasticsearch, names: Generation, now_s: float, told: Tell) -> None:
        self._client = client
        self._names = names
        self._now_s = now_s
        self._told = told
        self._outcomes: dict[int, Outcome] = {}

    async def apply(self, changes: Sequence[Ready]) -> list[Outcome]:
        """Make the changes and return their outcomes, in order. Raises: ElasticsearchError."""
        waiting = {n: change for n, change in enumerate(changes) if not change.problem}
        for n, change in enumerate(changes):
            if change.problem:
                self._outcomes[n] = Outcome(change.change.uri, "failed", reason=change.problem)
        for _ in range(TRIES):
            known = await read(self._client, self._names.metadata, [one.change.uri for one in waiting.values()])
            plans = [plan for n, one in waiting.items() if (plan := self._decided(n, one.change, known)) is not None]
            await self._make(plans)
            waiting = {n: change for n, change in waiting.items() if n not in self._outcomes}
            if not waiting:
                return [self._outcomes[n] for n in range(len(changes))]
        raise NotExecuted(f"others write the same documents at the same time; given up after {TRIES} tries")

    def _decided(self, place: int, change: Change, known: dict[str, Known]) -> Plan | None:
        """Return what is to be done, or note the outcome of nothing."""
        there = known.get(change.uri, Known())
        if isinstance(change, Remove):
            outcome = putting.removal_refusal(change, there.live.version if there.live else None)
        else:
            outcome = putting.refusal(change, records.state(there.live))
        if outcome is not None:
            self._outcomes[place] = outcome
            return None
        return Plan(place, change, there, self._record(change, there))

    def _record(self, change: Change, there: Known) -> Record:
        version = new_version()
        if isinstance(change, Remove):
            return tombstone(change.uri, version, self._now_s)
        live, now_s = there.live, self._now_s
        created_s = now_s if live is None else records.head_in(live.head).created_s
        document = msgspec.structs.replace(change.document, created_s=created_s, updated_s=now_s, version=version)
        return records.document_record(change, document, live, there.listed if live else -1)

    async def _make(self, plans: list[Plan]) -> None:
        plans = await self._write_content(plans)
        if not plans:
            return
        answers = await send(self._client, [plan.known.action(self._names.metadata, plan.record) for plan in plans])
        won = [plan for plan, answer in zip(plans, answers, strict=True) if isinstance(answer, Done)]
        lost = [plan for plan, answer in zip(plans, answers, strict=True) if not isinstance(answer, Done)]
        won += await self._won_after_all(lost, answers)
        places = {plan.place for plan in won}
        self._tell(plans, answers, places)
        await self._clear(won, [plan for plan in lost if plan.place not in places])
        for plan in won:
            self._outcomes[plan.place] = _outcome(plan)

    async def _won_after_all(self, lost: list[Plan], answers: list[Answered]) -> list[Plan]:
        """A commit that was sent twice may have been refused for the first one's sake. Raises what is no conflict."""
        for answer in answers:
            if isinstance(answer, ElasticsearchError) and answer.status != _CONFLICT:
                raise answer
        now = await read(self._client, self._names.metadata, [plan.change.uri for plan in lost])
        return [
            plan for plan in lost if (there := now[plan.change.uri].record) and there.version == plan.record.version
        ]

    async def _write_content(self, plans: list[Plan]) -> list[Plan]:
        """Write what the versions consist of; return the plans whose content is there."""
        actions: list[Action] = []
        owners: list[Plan] = []
        for plan in plans:
            if isinstance(plan.change, Put):
                actions += content_actions(self._names, plan.change, plan.record)
                owners += [plan] * (len(actions) - len(owners))
        failed: dict[int, str] = {}
        for plan, answer in zip(owners, await send(self._client, actions), strict=True):
            if isinstance(answer, ElasticsearchError):
                failed.setdefault(plan.place, str(answer))
        for place, reason in failed.items():
            self._outcomes[place] = Outcome(plans_uri(plans, place), "failed", reason=reason)
        await self._clear([], [plan for plan in plans if plan.place in failed])
        return [plan for plan in plans if plan.place not in failed]

    def _tell(self, plans: list[Plan], answers: list[Answered], won: set[int]) -> None:
        for plan, answer in zip(plans, answers, strict=True):
            if plan.place in won:
                listed = plan.known.live is None or not plan.record.live
                self._told(Notice(plan.change.uri, listed=listed), answer.seq_no if isinstance(answer, Done) else -1)

    async def _clear(self, won: list[Plan], lost: list[Plan]) -> None:
        """Remove what the new versions replace, and what was written in vain."""
        gone = [plan.record for plan in lost if plan.record.live]
        gone += [plan.known.live for plan in won if plan.known.live is not None]
        await send(self._client, [action for record in gone for action in removal_actions(self._names, record)])
        removed = [plan.record for plan in won if not plan.record.live]
        if removed:
            await remove_relations(self._client, self._names, removed)


async def send(client: Elasticsearch, actions: Sequence[Action], refresh: api.Refresh = "") -> list[Answered]:
    """Send the writes and return what became of each, in order: done, or refused for good.

    Raises: ElasticsearchError when the cluster did not get to one of them, or nobody knows. Others may have been done
    then. Cancellation: likewise.
    """
    answers = await client.bulk(actions, refresh=refresh)
    for answer in answers:
        if isinstance(answer, ElasticsearchError) and answer.status not in _FINAL:
            raise answer
    return answers


def plans_uri(plans: list[Plan], place: int) -> str:
    """Return the URI of the plan at a place."""
    return next(plan.change.uri for plan in plans if plan.place == place)


def new_version() -> str:
    """Return a version that there has never been."""
    return secrets.token_hex(10)


def tombstone(uri: str, version: str, now_s: float) -> Record:
    """Return the record of a document that is not there any more."""
    return Record(kind="tombstone", uri=uri, version=version, number=number_of(version), changed_s=now_s)


def content_actions(names: Generation, put: Put, record: Record) -> list[Action]:
    """Return the writes of what a version consists of."""
    key, indices = uri_key(record.uri), {"fulltext": names.fulltext, "vector": names.vector}
    return [
        bulk.put(indices[index], number, msgspec.json.encode(source), routing=key, repeatable=True)
        for index, number, source in records.content_records(put, record)
    ]


def removal_actions(names: Generation, record: Record) -> list[Action]:
    """Return the writes that remove what a version consists of."""
    key = uri_key(record.uri)
    content = [(names.fulltext, records.content_id(record))]
    content += [(names.vector, number) for number in records.vector_ids(record)]
    return [bulk.delete(index, number, routing=key, repeatable=True) for index, number in content]


async def remove_relations(client: Elasticsearch, names: Generation, tombstones: Sequence[Record]) -> None:
    """Remove the relations whose source was removed, made before it was."""
    await client.perform(api.refresh(names.metadata))
    for one in tombstones:
        query = {"bool": {"filter": [{"term": {"source": one.uri}}, {"range": {"changed_s": {"lte": one.changed_s}}}]}}
        while True:
            body = {"query": query, "size": 1_000, "_source": False}
            hits = api.found(await client.perform(api.search([names.metadata], body))).hits.hits
            if not hits:
                break
            actions = [bulk.delete(names.metadata, hit.id, routing=uri_key(one.uri), repeatable=True) for hit in hits]
            await send(client, actions, refresh="true")


def _outcome(plan: Plan) -> Outcome:
    if not plan.record.live:
        return Outcome(plan.change.uri, "removed")
    return Outcome(plan.change.uri, "updated" if plan.known.live else "created", plan.record.version)
