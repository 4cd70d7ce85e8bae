"""What is in flight, on this process and on the others: who may see it sees it, and may end it.

    dev.mcpd/calls/list      the calls of all processes, oldest first
    dev.mcpd/calls/cancel    ends those named `id`, wherever they run; NotFound where nobody who answers has one

A caller sees and ends its own calls; one with the scope `admin`, everybody's. Others are asked through the inbox, and
waited for no longer than `PATIENCE_S`; how many of them have not answered by then is said (`silent`: 1 at least where
they cannot be asked).

Called by: `messages.manager`, which hands in what is in flight here. Calls: an `Inbox`. Deliberately not: MCP, whose
clients cancel by their own ids; and no record of calls that have ended (`messages.recorder`).

Laws: a call that may not be seen does not exist for who asks; what is listed is bounded on each process (law 8).

Sources: surfaces "REST"; law 2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, islice
from typing import Any, Final

import msgspec
import trio

from mcpd.errors import InvalidParams, NotFound, StoreUnavailable
from mcpd.messages.flight import Flight
from mcpd.storage.documents import StorageError
from mcpd.storage.inbox import Inbox, Message
from mcpd.wire.call import Call, target_of

PATIENCE_S: Final = 0.3
"""How long other processes may take to answer: many times what one needs whose event loop is not held."""
MAX_LISTED: Final = 1_000
"""Of one process."""
MAX_UNTOLD: Final = 64
"""Answers that wait to be sent; who asks when there are more finds this process silent."""
MAX_NAME_CHARS: Final = 256

_log = logging.getLogger(__name__)
_ASK, _TOLD = "calls", "calls told"


class Entry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One call in flight, as a listing shows it."""

    id: str
    method: str
    transport: str
    age_ms: int
    target: str = ""
    principal: str = ""
    task: str | None = None


class _Ask(msgspec.Struct, array_like=True, frozen=True):
    """`owner`: whose calls; None: everybody's. `cancel`: the name of those that shall end; None: none."""

    number: int
    owner: str | None
    cancel: str | None


class _Told(msgspec.Struct, array_like=True, frozen=True):
    number: int
    entries: list[Entry]


class _Question:
    """What others have answered so far."""

    def __init__(self) -> None:
        self.answers = 0
        self.entries: list[Entry] = []
        self.news = trio.Event()

    def take(self, entries: list[Entry]) -> None:
        self.answers += 1
        self.entries += entries
        self.news.set()
        self.news = trio.Event()

    async def wait(self, answers: int) -> None:
        while self.answers < answers:
            await self.news.wait()


class Calls:
    """Answers for all processes; `in_flight` gives the calls of this one, oldest first."""

    def __init__(self, in_flight: Callable[[], Iterator[Flight]], inbox: Inbox) -> None:
        self._in_flight = in_flight
        self._inbox = inbox
        self._numbers = count(1)
        self._questions: dict[int, _Question] = {}
        self._told, self._to_tell = trio.open_memory_channel[tuple[str, bytes]](MAX_UNTOLD)
        inbox.on(_ASK, self._on_ask)
        inbox.on(_TOLD, self._on_told)

    async def answer(self, call: Call) -> dict[str, Any]:
        """Answer one of the methods above. Raises: InvalidParams, NotFound, StoreUnavailable."""
        owner = None if call.principal.has("admin") else call.principal.share
        if call.method == "dev.mcpd/calls/list":
            return await self._list(owner)
        return await self._cancel(owner, call.params.get("id"))

    async def _list(self, owner: str | None) -> dict[str, Any]:
        entries, silent = await self._gather(owner, None)
        entries.sort(key=lambda entry: -entry.age_ms)
        return {"items": msgspec.to_builtins(entries), "silent": silent}

    async def _cancel(self, owner: str | None, name: Any) -> dict[str, Any]:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidParams(f"params.id must be the id of a call, of at most {MAX_NAME_CHARS} characters")
        entries, silent = await self._gather(owner, name)
        if entries:
            return {"cancelled": len(entries), "silent": silent}
        if silent:
            raise StoreUnavailable("No call has this id where that is known; not every process has answered")
        raise NotFound("There is no such call in flight")

    async def _gather(self, owner: str | None, cancel: str | None) -> tuple[list[Entry], int]:
        """Ask this process and the others; return what they have, and how many have not answered in time."""
        number, question = next(self._numbers), _Question()
        self._questions[number] = question
        try:
            asked = await self._ask_others(_Ask(number, owner, cancel))
            entries = self._here(owner, cancel)
            with trio.move_on_after(PATIENCE_S):
                await question.wait(asked or 0)
        finally:
            del self._questions[number]
        silent = 1 if asked is None else asked - question.answers
        return [*entries, *question.entries], silent

    async def _ask_others(self, ask: _Ask) -> int | None:
        """Return how many were asked, None when not all that live could be."""
        try:
            return await self._inbox.send_all(_ASK, msgspec.json.encode(ask))
        except StorageError as error:
            _log.warning("other processes cannot be asked for their calls: %s", error)
            return None

    def _here(self, owner: str | None, cancel: str | None) -> list[Entry]:
        """Return the calls that `owner` may see, those named `cancel` alone where that is given, which end."""
        seen = (flight for flight in self._in_flight() if _is_seen(flight, owner, cancel))
        flights, now = list(islice(seen, MAX_LISTED)), trio.current_time()
        if cancel is not None:
            for flight in flights:
                flight.cancel("admin" if owner is None else "explicit")
        return [_entry(flight, now) for flight in flights]

    def _on_ask(self, message: Message) -> None:
        ask = msgspec.json.decode(message.body, type=_Ask)
        told = msgspec.json.encode(_Told(ask.number, self._here(ask.owner, ask.cancel)))
        with suppress(trio.WouldBlock):
            self._told.send_nowait((message.sender, told))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer other processes until cancelled. Raises nothing."""
        task_status.started()
        async for asker, told in self._to_tell:
            try:
                await self._inbox.send(asker, _TOLD, told)
            except StorageError as error:
                _log.debug("another process was not told of the calls here: %s", error)

    def _on_told(self, message: Message) -> None:
        told = msgspec.json.decode(message.body, type=_Told)
        question = self._questions.get(told.number)
        if question is not None:
            question.take(told.entries)


def _is_seen(flight: Flight, owner: str | None, name: str | None) -> bool:
    call = flight.call
    if call.method.startswith("dev.mcpd/calls/"):
        return False
    return owner in (None, call.principal.share) and name in (None, flight.key)


def _entry(flight: Flight, now: float) -> Entry:
    call = flight.call
    return Entry(
        id=flight.key,
        method=call.method[:MAX_NAME_CHARS],
        transport=call.transport,
        age_ms=round((now - flight.started) * 1000),
        target=target_of(call.params)[:MAX_NAME_CHARS],
        principal=call.principal.name,
        task=call.task,
    )
