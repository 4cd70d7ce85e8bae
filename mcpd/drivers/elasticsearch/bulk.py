"""Many writes: cut into chunks, some in flight at once, each item with an outcome of its own.

    another chunk is begun   when one of `bulk_parallel` is through: actions are drawn from their source only then
    an item 429 or 503       is sent again after a pause, until `bulk_patience_s` of pauses let none through
    the answer was lost      `repeatable` items are sent again, of others the outcome is unknown
    413                      the chunk is halved; a single action that is too long is refused
    no node answers          nothing: `perform` has been patient already

Called by: `client`. Deliberately not: order between chunks. Actions on one document belong into one call only if their
order does not matter, or their conditions say it.

Laws: an outcome for every action, in the order given. After an item was sent twice, a refusal is OutcomeUnknown: it may
be the first that the second met.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Final

import trio

from mcpd.drivers.elasticsearch.options import Options
from mcpd.drivers.elasticsearch_api import Answer, Refresh, Request
from mcpd.drivers.elasticsearch_bulk import Action, Chunk, Outcome, outcomes, request
from mcpd.drivers.elasticsearch_errors import (
    ElasticsearchError,
    NotExecuted,
    OutcomeUnknown,
    Refused,
    Unreachable,
    passes,
    twice,
)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
TOO_LARGE: Final = 413

Send = Callable[[Request], Awaitable[Answer]]


class Bulk:
    """One call of `bulk`."""

    def __init__(self, send: Send, options: Options, refresh: Refresh) -> None:
        self._send = send
        self._options = options
        self._refresh = refresh
        self._places = trio.Semaphore(options.bulk_parallel)
        self._outcomes: list[Outcome] = []
        self._chunk = self._empty()

    async def run(self, actions: Iterable[Action] | AsyncIterable[Action]) -> list[Outcome]:
        """Send all of `actions`; see `Elasticsearch.bulk`."""
        async with trio.open_nursery() as nursery:
            if isinstance(actions, AsyncIterable):
                async for action in actions:
                    if not self._chunk.add(action):
                        await self._begin(nursery, action)
            else:
                for action in actions:
                    if not self._chunk.add(action):
                        await self._begin(nursery, action)
            if self._chunk.actions:
                await self._begin(nursery)
        return self._outcomes

    def _empty(self) -> Chunk:
        return Chunk(self._options.bulk_bytes, self._options.bulk_items)

    async def _begin(self, nursery: trio.Nursery, following: Action | None = None) -> None:
        """Send what has been collected as soon as there is a place. Its outcomes go where its actions stand."""
        await self._places.acquire()
        first, actions = len(self._outcomes), self._chunk.actions
        self._chunk = self._empty()
        if following is not None:
            self._chunk.add(following)
        self._outcomes += [_NOT_SENT] * len(actions)
        nursery.start_soon(self._deliver, actions, first)

    async def _deliver(self, actions: Sequence[Action], first: int) -> None:
        delivery = _Delivery(self._send, self._refresh, self._options.bulk_patience_s)
        self._outcomes[first : first + len(actions)] = await delivery.run(actions)
        self._places.release()


class _Delivery:
    """One chunk until each of its items has its outcome."""

    def __init__(self, send: Send, refresh: Refresh, patience_s: float) -> None:
        self._send = send
        self._refresh = refresh
        self._patience_s = patience_s
        self._doubtful: set[int] = set()

    async def run(self, actions: Sequence[Action]) -> Sequence[Outcome]:
        """Return what became of each of `actions`."""
        told = await self._tell(actions)
        if not any([isinstance(outcome, ElasticsearchError) for outcome in told]):  # noqa: C419 - the usual case, fast
            return told
        found: list[Outcome] = [_NOT_SENT] * len(actions)
        left, pause, paused_s = list(range(len(actions))), FIRST_PAUSE_S, 0.0
        while True:
            again = self._note(found, actions, left, told)
            if len(again) < len(left):
                pause, paused_s = FIRST_PAUSE_S, 0.0
            if not again or paused_s >= self._patience_s:
                return found
            left = again
            await trio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - only to fall out of step
            paused_s += pause
            pause = min(2 * pause, LONGEST_PAUSE_S)
            told = await self._tell([actions[number] for number in left])

    def _note(
        self, found: list[Outcome], actions: Sequence[Action], asked: list[int], told: Sequence[Outcome]
    ) -> list[int]:
        """Write down what was told of the actions asked about; return which of them to send again."""
        again = []
        for number, outcome in zip(asked, told, strict=True):
            found[number] = self._meaning(number, outcome)
            if _may_pass(outcome, actions[number]):
                again.append(number)
            if isinstance(outcome, OutcomeUnknown):
                self._doubtful.add(number)
        return again

    def _meaning(self, number: int, outcome: Outcome) -> Outcome:
        if number in self._doubtful and isinstance(outcome, Refused | NotExecuted):
            return twice(outcome)
        return outcome

    async def _tell(self, actions: Sequence[Action]) -> Sequence[Outcome]:
        """Send `actions` once and return what became of each."""
        try:
            return outcomes(await self._send(request(actions, refresh=self._refresh)), actions)
        except ElasticsearchError as error:
            if error.status != TOO_LARGE or len(actions) == 1:
                return [error] * len(actions)
        half = len(actions) // 2
        return [*await self._tell(actions[:half]), *await self._tell(actions[half:])]


def _may_pass(outcome: Outcome, action: Action) -> bool:
    """Return whether an action is sent again. An unreachable cluster has been waited for already."""
    if isinstance(outcome, OutcomeUnknown):
        return action.repeatable and passes(outcome)
    return isinstance(outcome, NotExecuted) and not isinstance(outcome, Unreachable)


_NOT_SENT: Final = NotExecuted("not sent")
