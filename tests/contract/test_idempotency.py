"""What every store of idempotency keys does: one run at a time, outcomes, the death of a process, room, expiry."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mcpd.storage.shared import Begun, Busy, Claim, Idempotency, Kept, Mismatch, New, NoRoom, Room
from tests.contract.idempotency_backends import LEASE_S, Processes

WAIT_S = 20.0
ROOM = Room(1000, 1000)
HOLD_S = 600.0


def claim(name: str = "one", *, token: str = "t", digest: str = "d", share: str = "alice") -> Claim:
    return Claim(name, share, digest, token)


async def begun(store: Idempotency, name: str = "one", **more: Any) -> Begun:
    return await store.begin(claim(name, **more), ROOM, HOLD_S)


async def held(store: Idempotency, name: str = "one", **more: Any) -> str:
    """Claim a key that is free; return its holder."""
    new = await begun(store, name, **more)
    assert isinstance(new, New), new
    return new.holder


async def until_free(store: Idempotency, **more: Any) -> Begun:
    """Claim a key until nobody has it any more."""
    with trio.move_on_after(WAIT_S):
        while isinstance(found := await begun(store, **more), Busy | Mismatch):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)
        return found
    raise AssertionError("the key is still somebody's")


async def test_a_key_runs_once_and_its_outcome_is_everybodys(processes: Processes) -> None:
    one, two = await processes.open(), await processes.open()
    holder = await held(one, token="a")
    for store in (one, two):
        assert await begun(store, token="b") == Busy(holder)
    assert await one.finish(claim(), holder, b"outcome", 60)
    for store in (one, two):
        assert await begun(store, token="c") == Kept(b"outcome")


async def test_a_claim_that_is_made_again_is_the_same(processes: Processes) -> None:
    """After an unknown outcome a store asks again."""
    store = await processes.open()
    assert await held(store) == await held(store)


async def test_an_end_that_is_told_again_is_the_same(processes: Processes) -> None:
    store = await processes.open()
    holder = await held(store)
    assert await store.finish(claim(), holder, b"x", 60)
    assert await store.finish(claim(), holder, b"x", 60)
    assert await begun(store) == Kept(b"x")


async def test_of_forty_at_once_one_runs(processes: Processes) -> None:
    stores = [await processes.open(), await processes.open()]
    found: list[Begun] = []

    async def ask(number: int) -> None:
        found.append(await begun(stores[number % 2], token=str(number)))

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(ask, number)
    assert sum(isinstance(one, New) for one in found) == 1
    assert sum(isinstance(one, Busy) for one in found) == 39


async def test_a_key_stands_for_one_thing_while_it_runs_and_afterwards(processes: Processes) -> None:
    one, two = await processes.open(), await processes.open()
    holder = await held(one, digest="d")
    assert await begun(two, digest="e", token="b") == Mismatch()
    await one.finish(claim(), holder, b"x", 60)
    assert await begun(two, digest="e", token="b") == Mismatch()


async def test_a_released_key_is_free_for_anything(processes: Processes) -> None:
    store = await processes.open()
    holder = await held(store)
    await store.release(claim(), holder)
    assert isinstance(await begun(store, digest="e", token="b"), New)


async def test_a_kept_outcome_is_not_released_nor_somebody_elses_key(processes: Processes) -> None:
    store = await processes.open()
    holder = await held(store)
    await store.release(claim(), "another.holder")
    assert await begun(store, token="b") == Busy(holder)
    await store.finish(claim(), holder, b"x", 60)
    await store.release(claim(), holder)
    assert await begun(store, token="b") == Kept(b"x")


async def test_the_key_of_a_dead_process_is_free_and_its_end_is_refused(processes: Processes) -> None:
    """Fencing: whoever was taken for dead finds the key another's."""
    dead, living = await processes.open(), await processes.open()
    old = await held(dead, token="a")
    assert await begun(living, token="b") == Busy(old)
    await processes.kill(dead)
    new = await until_free(living, token="b")
    assert isinstance(new, New)
    assert not await dead.finish(claim(), old, b"late", 60)
    await dead.release(claim(), old)
    assert await living.finish(claim(), new.holder, b"x", 60)
    assert await begun(living, token="c") == Kept(b"x")


async def test_the_key_of_a_dead_process_may_stand_for_something_else(processes: Processes) -> None:
    dead, living = await processes.open(), await processes.open()
    await held(dead, digest="d")
    await processes.kill(dead)
    assert isinstance(await until_free(living, digest="e", token="b"), New)


async def test_an_outcome_outlives_its_process(processes: Processes) -> None:
    dead, living = await processes.open(), await processes.open()
    await dead.finish(claim(), await held(dead), b"x", 60)
    await processes.kill(dead)
    await processes.elapse(3 * LEASE_S)
    assert await begun(living, token="b") == Kept(b"x")


async def test_an_owner_that_beats_keeps_its_key_for_longer_than_a_lease(processes: Processes) -> None:
    one, two = await processes.open(), await processes.open()
    holder = await held(one)
    for _ in range(4):
        await processes.elapse(LEASE_S)
        assert await begun(two, token="b") == Busy(holder)


async def test_outcomes_are_forgotten_in_time(processes: Processes) -> None:
    store = await processes.open()
    await store.finish(claim(), await held(store), b"x", 0.2)
    await store.finish(claim("two"), await held(store, "two"), b"y", 60)
    assert await begun(store, token="b") == Kept(b"x")
    await processes.elapse(0.25)
    assert await store.purge() == 1
    assert isinstance(await begun(store, token="b"), New)
    assert await begun(store, "two") == Kept(b"y")


async def test_room_is_counted_in_all_and_by_share_until_keys_are_forgotten(processes: Processes) -> None:
    """SEC-4: a finished key counts, an expired or released one does not, and one that is there needs none."""
    store, room = await processes.open(), Room(3, 2)

    async def begin(name: str, share: str) -> Begun:
        return await store.begin(claim(name, share=share), room, HOLD_S)

    first = await begin("a", "alice")
    assert isinstance(first, New)
    await store.finish(claim("a"), first.holder, b"x", 0.2)
    second, third = await begin("b", "alice"), await begin("c", "bob")
    assert isinstance(second, New) and isinstance(third, New)  # noqa: PT018 - both are claims
    with pytest.raises(NoRoom) as mine:
        await begin("d", "alice")
    with pytest.raises(NoRoom) as everybodys:
        await begin("d", "carol")
    assert (mine.value.whose, everybodys.value.whose) == ("share", "all")
    assert await begin("a", "alice") == Kept(b"x")
    await processes.elapse(0.25)
    assert isinstance(await begin("d", "alice"), New)
    await store.release(claim("c", share="bob"), third.holder)
    assert isinstance(await begin("e", "carol"), New)


async def test_a_cancelled_claim_has_happened_wholly_or_not_at_all(processes: Processes) -> None:
    store = await processes.open()
    for number in range(20):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(begun, store, f"k{number}")
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert isinstance(await begun(store, f"k{number}"), New), "the same claim"
