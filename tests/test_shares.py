"""Places shared by owner: nobody's many jobs make another's one wait, and no place is ever lost."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mcpd.shares import Shares, may_take, most_of


class Jobs:
    """Jobs that run until their owner is told to end one, and what came of it."""

    def __init__(self, places: int) -> None:
        self.shares = Shares(places)
        self.running: Counter[str] = Counter()
        self.begun: list[str] = []
        self.end = {owner: trio.Semaphore(0) for owner in "abcd"}

    async def run(self, owner: str) -> None:
        await self.shares.run(owner, partial(self._job, owner))

    async def _job(self, owner: str) -> None:
        self.running[owner] += 1
        self.begun.append(owner)
        try:
            await self.end[owner].acquire()
        finally:
            self.running[owner] -= 1


async def start(nursery: trio.Nursery, jobs: Jobs, owners: str) -> None:
    for owner in owners:
        nursery.start_soon(jobs.run, owner)
        await trio.testing.wait_all_tasks_blocked()


async def test_one_with_many_jobs_leaves_places_for_others() -> None:
    jobs = Jobs(6)
    async with trio.open_nursery() as nursery:
        await start(nursery, jobs, "aaaaaaaa")
        assert jobs.running == Counter(a=3)
        await start(nursery, jobs, "bbb")
        assert jobs.running == Counter(a=3, b=2)
        await start(nursery, jobs, "c")
        assert jobs.running == Counter(a=3, b=2, c=1)
        assert jobs.shares.waiting == 6
        nursery.cancel_scope.cancel()
    assert (jobs.shares.free, jobs.shares.waiting) == (6, 0)


async def test_a_place_goes_to_who_holds_the_fewest_and_then_by_turns() -> None:
    jobs = Jobs(2)
    async with trio.open_nursery() as nursery:
        await start(nursery, jobs, "abaaabbbcc")
        assert jobs.begun == ["a", "b"]
        for at in range(6):
            jobs.end[jobs.begun[at]].release()
            await trio.testing.wait_all_tasks_blocked()
        assert "".join(jobs.begun) == "ababcabc"
        nursery.cancel_scope.cancel()


async def test_a_place_that_comes_back_leaves_one_for_a_newcomer() -> None:
    """Of two that may have it, whoever holds fewer gets it: the other would use up the last one."""
    jobs = Jobs(3)
    async with trio.open_nursery() as nursery:
        await start(nursery, jobs, "abba")
        assert jobs.running == Counter(a=1, b=1)
        jobs.end["a"].release()
        await trio.testing.wait_all_tasks_blocked()
        assert jobs.running == Counter(a=1, b=1)
        await start(nursery, jobs, "c")
        assert jobs.running == Counter(a=1, b=1, c=1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("times", "most"), [(1, 4), (3, 6)])
def test_one_owner_alone_gets_its_part(times: int, most: int) -> None:
    shares = Shares(8, times=times)
    for _ in range(most):
        assert shares.may_have_more("a")
        shares._take("a")
    assert not shares.may_have_more("a")
    assert shares.may_have_more("b")


@given(st.integers(0, 300))
def test_three_quarters_are_what_the_rule_gives(number: int) -> None:
    held = next(held for held in range(number + 1) if not may_take(held, number - held))
    assert held == most_of(number)


async def test_whoever_is_cancelled_when_a_place_is_given_hands_it_on() -> None:
    jobs = Jobs(1)
    jobs.shares._take("a")
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(run_within, scope, jobs, "b")
        await trio.testing.wait_all_tasks_blocked()
        await start(nursery, jobs, "c")
        scope.cancel()
        jobs.shares.leave("a")
        await trio.testing.wait_all_tasks_blocked()
        assert jobs.begun == ["c"]
        nursery.cancel_scope.cancel()
    assert jobs.shares.free == 1


async def run_within(scope: trio.CancelScope, jobs: Jobs, owner: str) -> None:
    with scope:
        await jobs.run(owner)


async def test_a_job_that_raises_gives_its_place_back() -> None:
    shares = Shares(1)

    async def failing() -> None:
        raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            await shares.run("a", failing)
    assert shares.free == 1


@given(st.integers(1, 5), st.integers(0, 10**6))
def test_whatever_ends_or_is_cancelled_no_place_is_lost_and_none_too_many_given(places: int, seed: int) -> None:
    draw = random.Random(seed)

    async def main() -> None:
        jobs = Jobs(places)
        scopes: list[trio.CancelScope] = []
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                owner = draw.choice("abcd")
                doing = draw.choice(["begin", "begin", "end", "cancel"])
                if doing == "begin":
                    scopes.append(trio.CancelScope())
                    nursery.start_soon(run_within, scopes[-1], jobs, owner)
                elif doing == "end" and jobs.running[owner]:
                    jobs.end[owner].release()
                elif scopes:
                    draw.choice(scopes).cancel()
                if draw.random() < 0.5:
                    await trio.testing.wait_all_tasks_blocked()
                assert jobs.running.total() <= places
            await trio.testing.wait_all_tasks_blocked()
            assert jobs.shares.free + jobs.running.total() == places
            assert not (jobs.shares.waiting and jobs.shares.free == places)
            nursery.cancel_scope.cancel()
        assert (jobs.shares.free, jobs.shares.waiting, jobs.shares._held) == (places, 0, {})

    trio.run(main)
