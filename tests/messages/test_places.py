"""Places are shared by callers: nobody takes all of them, whoever has least comes first, and none is ever lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from trio.testing import MockClock

from mcpd.errors import Overloaded
from mcpd.messages.flight import Done, Flight
from mcpd.messages.places import Places, Ticket
from mcpd.wire.call import ANONYMOUS, Principal
from tests.messages.memory import Wire, call, failure, make_server, result

HOLD = {"name": "hold_in_silence"}


def enter(places: Places, caller: str) -> Ticket:
    ticket = places.enter(caller)
    assert ticket is not None
    return ticket


def test_one_caller_leaves_room_for_another_in_places_and_queue() -> None:
    """SEC-4."""
    places = Places(8, 8)
    greedy = [places.enter("a") for _ in range(20)]
    assert [bool(ticket and ticket.running) for ticket in greedy] == [True] * 6 + [False] * 14
    assert [ticket is None for ticket in greedy] == [False] * 12 + [True] * 8
    assert [enter(places, name).running for name in "bcde"] == [True, True, False, False]
    assert (places.running, places.waiting) == (8, 8)
    assert places.enter("g") is None, "the queue is full for everybody"


def test_a_place_goes_to_whoever_runs_least() -> None:
    """SEC-4."""
    places = Places(4, 100)
    held = [enter(places, "a") for _ in range(3)] + [enter(places, "b")]
    order: list[str] = []
    for caller in ("a", "a", "a", "b", "c"):
        ticket = enter(places, caller)
        ticket.grant = lambda caller=caller: order.append(caller)  # type: ignore[misc]
    for ticket in held:
        places.leave(ticket)
    assert order == ["c", "a", "b", "a"]


def test_a_lent_place_is_used_by_others_and_taken_again() -> None:
    """SEC-4, S2C-3."""
    places = Places(1, 1)
    asking, waiting = enter(places, "a"), enter(places, "b")
    places.lend(asking)
    assert waiting.running
    places.lend(asking)
    places.reclaim(asking)
    places.reclaim(asking)
    assert (asking.running, places.running, places.waiting) == (False, 1, 1)
    places.leave(waiting)
    assert (asking.running, places.running, places.waiting) == (True, 1, 0)


def test_a_call_that_returns_comes_before_those_of_its_caller_that_have_not_begun() -> None:
    """SEC-4, S2C-3: in the order in which they were answered."""
    places = Places(2, 8)
    first, second = enter(places, "a"), enter(places, "a")
    places.lend(first)
    places.lend(second)
    others = [enter(places, "b"), enter(places, "b")]
    late = enter(places, "a")
    places.reclaim(second)
    places.reclaim(first)
    assert places.enter("a") is not None
    order = []
    for ticket in (*others, second, first):
        places.leave(ticket)
        order.append([one.running for one in (second, first, late)])
    assert order == [[True, False, False], [True, True, False], [False, True, True], [False, False, True]]


def test_no_more_places_are_lent_than_there_are() -> None:
    """SEC-4: whoever is asked when all are lent keeps its place, also while those that lent wait for theirs."""
    places = Places(2, 4)
    first, second, third, fourth = (enter(places, name) for name in "abcd")
    for ticket in (first, second, third):
        places.lend(ticket)
    assert [ticket.lent for ticket in (first, second, third)] == [True, True, False]
    assert (third.running, fourth.running, places.running) == (True, True, 2)
    places.reclaim(first)
    places.lend(third)
    assert (first.running, third.running) == (False, True)
    places.leave(second)
    places.lend(third)
    assert (first.running, third.lent) == (True, True)


def test_a_call_that_ends_while_it_waits_to_return_counts_no_more() -> None:
    """SEC-4."""
    places = Places(1, 4)
    first = enter(places, "a")
    places.lend(first)
    second = enter(places, "b")
    places.reclaim(first)
    places.leave(first)
    places.lend(second)
    assert second.lent


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "leave", "lend", "reclaim"]), st.integers(0, 50))), st.integers(1, 6)
)
def test_no_place_is_lost_whatever_happens(steps: list[tuple[str, int]], most: int) -> None:
    """SEC-4."""
    places, alive = Places(most, 4), list[Ticket]()
    for step, number in steps:
        if step == "enter":
            ticket = places.enter("abc"[number % 3])
            alive += [] if ticket is None else [ticket]
        elif alive:
            ticket = alive[number % len(alive)]
            getattr(places, step)(ticket)
            if step == "leave":
                alive.remove(ticket)
        running = Counter(ticket.caller for ticket in alive if ticket.running)
        assert places.running == running.total()
        assert places.running <= most
        assert places.waiting == sum(not ticket.running and not ticket.lent for ticket in alive)
        assert places._away == sum(ticket.begun and not ticket.running for ticket in alive) <= most
    for ticket in alive:
        places.leave(ticket)
    assert (places.running, places.waiting, places._away, places._running, places._waiting) == (0, 0, 0, {}, {})
    assert enter(places, "a").running


@pytest.mark.parametrize(
    ("greedy", "other"),
    [
        (
            Principal("a", frozenset({"call"}), address="1.1.1.1"),
            Principal("b", frozenset({"call"}), address="1.1.1.1"),
        ),
        (structs.replace(ANONYMOUS, address="1.1.1.1"), structs.replace(ANONYMOUS, address="2.2.2.2")),
    ],
)
async def test_slow_calls_of_one_caller_do_not_keep_another_out(
    tmp_path: Path, autojump_clock: MockClock, greedy: Any, other: Any
) -> None:
    """SEC-4: by principal, and by address where there are no keys."""
    server = make_server(tmp_path, limits={"max_calls": 8, "max_queued_calls": 8})
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(server.manager.serve, Flight(call(params=HOLD, principal=greedy), Wire()))
        await trio.testing.wait_all_tasks_blocked()
        outcome = await server.manager.serve(Flight(call(principal=greedy), Wire()))
        assert isinstance(getattr(outcome, "error", None), Overloaded)
        began = trio.current_time()
        outcome = await server.manager.serve(Flight(call(principal=other), Wire()))
        assert isinstance(outcome, Done), outcome
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


async def test_a_call_that_asks_a_person_lets_others_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4, S2C-3."""
    server = make_server(tmp_path, limits={"max_calls": 1, "max_queued_calls": 1})
    flight = Flight(call(params=HOLD), Wire())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.manager.serve, flight)
        await trio.testing.wait_all_tasks_blocked()
        async with flight.waiting_for_client():
            assert await result(server, call())
        with trio.move_on_after(1) as waited:
            await failure(server, call())
        assert waited.cancelled_caught, "the place is taken again"
        flight.cancel("explicit")
    assert await result(server, call())


async def test_no_more_calls_run_than_may_when_all_are_answered_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SEC-4, S2C-3: whoever has been answered waits for a place, in each of its tasks that asked."""
    server = make_server(tmp_path, limits={"max_calls": 2, "max_queued_calls": 2})
    places, answered, working = server.manager._places, trio.Event(), set[str]()
    asking = [Flight(call(params=HOLD), Wire()) for _ in range(2)]
    others = [Flight(call(params=HOLD), Wire()) for _ in range(2)]

    async def ask(flight: Flight, name: str) -> None:
        async with flight.waiting_for_client():
            await answered.wait()
        working.add(name)

    async with trio.open_nursery() as nursery:
        for flight in asking:
            nursery.start_soon(server.manager.serve, flight)
        await trio.testing.wait_all_tasks_blocked()
        for name, flight in zip("abc", [*asking, asking[1]], strict=True):
            nursery.start_soon(ask, flight, name)
        await trio.testing.wait_all_tasks_blocked()
        for flight in others:
            nursery.start_soon(server.manager.serve, flight)
        await trio.testing.wait_all_tasks_blocked()
        assert (places.running, working) == (2, set())
        answered.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (places.running, working) == (2, set())
        others[0].cancel("explicit")
        others[1].cancel("explicit")
        await trio.testing.wait_all_tasks_blocked()
        assert (places.running, working) == (2, {"a", "b", "c"})
        nursery.cancel_scope.cancel()
