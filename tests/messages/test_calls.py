"""What is in flight on several processes: who sees it, who may end it, and a process that does not answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mcpd.errors import InvalidParams, NotFound, StoreUnavailable
from mcpd.messages.calls import MAX_LISTED, MAX_UNTOLD, Calls
from mcpd.messages.flight import Flight
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.memory.inbox import InboxShelf, MemoryInbox
from mcpd.wire.call import Principal
from tests.messages.memory import Wire, call

ADA, BOB = Principal("ada", frozenset({"call"}), name="Ada"), Principal("bob", frozenset({"call"}), name="Bob")
ROOT = Principal("root", frozenset({"call", "admin"}))


class Process:
    """A process with some calls in flight."""

    def __init__(self, shelf: InboxShelf) -> None:
        self.flights: list[Flight] = []
        self.inbox = MemoryInbox(shelf)
        self.calls = Calls(lambda: iter(self.flights), self.inbox)

    def fly(self, principal: Principal, name: str, **more: Any) -> Flight:
        flight = Flight(call(principal=principal, request_id=name, **more), Wire())
        self.flights.append(flight)
        return flight

    async def list(self, principal: Principal) -> list[str]:
        result = await self.calls.answer(call("dev.mcpd/calls/list", {}, principal=principal))
        assert result["silent"] == 0
        return [item["id"] for item in result["items"]]

    async def cancel(self, principal: Principal, name: Any) -> dict[str, Any]:
        return await self.calls.answer(call("dev.mcpd/calls/cancel", {"id": name}, principal=principal))


@pytest.fixture
async def three(autojump_clock: MockClock) -> AsyncIterator[list[Process]]:
    shelf = InboxShelf()
    found = [Process(shelf) for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for process in found:
            await nursery.start(process.calls.run)
        yield found
        nursery.cancel_scope.cancel()


async def test_calls_of_all_processes_are_listed_oldest_first_to_whoever_may_see_them(three: list[Process]) -> None:
    for number, (process, principal) in enumerate(zip(three, (ADA, BOB, ADA), strict=True)):
        process.fly(principal, str(number))
        await trio.sleep(1)
    three[0].fly(ROOT, "itself", method="dev.mcpd/calls/list", params={})
    assert [await three[1].list(principal) for principal in (ADA, BOB, ROOT)] == [["0", "2"], ["1"], ["0", "1", "2"]]


async def test_an_entry_says_what_runs_for_whom_and_since_when(three: list[Process]) -> None:
    three[1].fly(ADA, "r", params={"name": "n" * 9_999, "arguments": {}}, task="t")
    await trio.sleep(2)
    result = await three[0].calls.answer(call("dev.mcpd/calls/list", {}, principal=ADA))
    entry = {"id": "r", "method": "tools/call", "transport": "http", "ageMs": pytest.approx(2000, abs=100)}
    entry["target"] = "n" * 256
    assert result == {"items": [{**entry, "principal": "Ada", "task": "t"}], "silent": 0}


async def test_a_call_is_ended_wherever_it_runs_by_its_owner_or_an_administrator(three: list[Process]) -> None:
    flights = [process.fly(ADA, "one") for process in three]
    other = three[2].fly(BOB, "one")
    assert await three[0].cancel(ADA, "one") == {"cancelled": 3, "silent": 0}
    assert [flight.reason for flight in (*flights, other)] == ["explicit"] * 3 + [None]
    await three[0].cancel(ROOT, "one")
    assert other.reason == "admin"


async def test_a_call_of_somebody_else_does_not_exist(three: list[Process]) -> None:
    flight = three[1].fly(ADA, "one")
    with pytest.raises(NotFound):
        await three[0].cancel(BOB, "one")
    assert flight.reason is None


@pytest.mark.parametrize("name", [None, 1, "", "x" * 257, ["one"]])
async def test_what_is_no_name_is_refused(three: list[Process], name: Any) -> None:
    with pytest.raises(InvalidParams):
        await three[0].cancel(ADA, name)


async def test_a_process_that_does_not_answer_is_waited_for_in_vain_only_for_a_moment(three: list[Process]) -> None:
    """And whether a call is unknown is not known then."""
    three[0].fly(ADA, "one")
    MemoryInbox(three[0].inbox._shelf)
    begin = trio.current_time()
    result = await three[0].calls.answer(call("dev.mcpd/calls/list", {}, principal=ADA))
    assert ([item["id"] for item in result["items"]], result["silent"]) == (["one"], 1)
    assert trio.current_time() - begin < 1
    assert (await three[0].cancel(ADA, "one"))["cancelled"] == 1
    with pytest.raises(StoreUnavailable, match="not every process"):
        await three[0].cancel(ADA, "two")


async def test_without_the_others_the_calls_of_this_process_are_told(
    three: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_topic: str, _body: bytes) -> int:
        await trio.lowlevel.checkpoint()
        raise StoreUnreachable("away")

    monkeypatch.setattr(three[0].inbox, "send_all", away)
    three[0].fly(ADA, "one")
    begin = trio.current_time()
    result = await three[0].calls.answer(call("dev.mcpd/calls/list", {}, principal=ADA))
    assert (len(result["items"]), result["silent"]) == (1, 1)
    assert trio.current_time() == pytest.approx(begin, abs=0.1), "nobody is waited for who was not asked"


async def test_what_is_told_is_bounded(three: list[Process]) -> None:
    for number in range(MAX_LISTED + 1):
        three[1].fly(ADA, str(number))
    assert len(await three[0].list(ADA)) == MAX_LISTED


async def test_more_questions_than_can_be_answered_are_let_go(autojump_clock: MockClock) -> None:
    shelf = InboxShelf()
    asking, busy = Process(shelf), Process(shelf)
    silent = []

    async def ask() -> None:
        result = await asking.calls.answer(call("dev.mcpd/calls/list", {}, principal=ADA))
        silent.append(result["silent"])

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_UNTOLD + 5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await nursery.start(busy.calls.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(_stop_after, nursery.cancel_scope)
    assert sum(silent) == 5


async def _stop_after(scope: trio.CancelScope) -> None:
    await trio.sleep(1)
    scope.cancel()
