"""The queue for worker processes: whose turn it is, and who gives way when it is full."""

from __future__ import annotations

import pytest

from mcpd.errors import Draining, Overloaded
from mcpd.tools.waiting import Waiter, Waiting


def served(queue: Waiting[int], waiters: list[Waiter[int]], *, end: bool = True) -> str:
    """Give out places until nobody waits; return the owners in the order of their turns."""
    order = ""
    while queue.give(1):
        (waiter,) = (one for one in waiters if one.given)
        waiters.remove(waiter)
        order += waiter.owner
        queue.began(waiter.owner)
        if end:
            queue.ended(waiter.owner)
    return order


def test_owners_take_turns_whatever_each_has_waiting() -> None:
    """Law 8: round robin between owners, first come first served within one."""
    queue = Waiting[int](100)
    assert served(queue, [queue.enter(owner) for owner in "aaaabbc"]) == "abcabaa"


def test_an_owner_that_runs_less_comes_first() -> None:
    """A newcomer need not wait until one who has all places has had his turn."""
    queue = Waiting[int](100)
    for _ in range(4):
        queue.began("a")
    assert served(queue, [queue.enter(owner) for owner in "aaaabb"], end=False) == "bbaaaa"


def test_a_full_queue_makes_room_for_who_has_less_waiting() -> None:
    """The latest call of the owner with most gives way; nobody's share is taken by its own calls."""
    queue = Waiting[int](4)
    mine = [queue.enter("a") for _ in range(4)]
    with pytest.raises(Overloaded):
        queue.enter("a")
    queue.enter("b")
    assert [type(waiter.error) for waiter in mine] == [type(None)] * 3 + [Overloaded]
    queue.enter("b")
    with pytest.raises(Overloaded):
        queue.enter("b")
    assert (len(queue), queue.refused) == (4, 4)


def test_who_leaves_is_not_served_and_who_is_refused_is_told() -> None:
    """Nothing is left of either."""
    queue = Waiting[int](4)
    gone, told = queue.enter("a"), queue.enter("b")
    queue.leave(gone)
    queue.leave(gone)
    assert len(queue) == 1
    queue.refuse_all(Draining("stopping"))
    assert (gone.decided.is_set(), type(told.error), len(queue), queue.give(1)) == (False, Draining, 0, False)
