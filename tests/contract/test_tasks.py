"""What every store of tasks does: records, states under several owners, their death, room, expiry, notices."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest
import trio

from mcpd.storage.shared import NoRoom, Room, TaskStore
from mcpd.storage.task_states import Answer, Ask, End, Event, Refused, Report, Task, WantCancel
from tests.contract.backends import Clock
from tests.contract.task_backends import Owners, draft, made, question

WAIT_S = 20.0


def refusal(after: Task | Refused) -> str:
    assert isinstance(after, Refused)
    return after.why


async def seen(store: TaskStore, name: str = "one") -> Task:
    task = await store.get(name)
    assert task is not None
    return task


async def test_a_created_task_is_found_by_another_process_at_once(owners: Owners, clock: Clock) -> None:
    """TSK-4."""
    first, second = await owners.open(), await owners.open()
    created = await made(first, principal="alice", tool="work", ttl_s=9.5)
    assert created == Task(
        id="one", principal="alice", share="alice", tool="work", ttl_s=9.5, owner=first.owner,
        created_s=clock.now_s, updated_s=clock.now_s,
    )  # fmt: skip
    assert await seen(second) == created
    assert await second.get("another") is None


async def test_a_task_is_asked_answered_in_parts_and_completed(owners: Owners, clock: Clock) -> None:
    """TSK-5, TSK-6: the answered key is gone for whoever asks next, whichever process took the answer."""
    runner, other = await owners.open(), await owners.open()
    await made(runner)
    await runner.apply("one", Ask(runner.owner, {"a": question("a"), "b": question("b")}))
    asked = await seen(other)
    assert (asked.state, asked.asked) == ("input_required", {"a": question("a"), "b": question("b")})
    clock.now_s += 1
    await other.apply("one", Answer({"a": {"x": [1, None]}, "nobody asked": 1}))
    half = await seen(runner)
    assert (half.state, set(half.asked), half.answers) == ("input_required", {"b"}, {"a": {"x": [1, None]}})
    assert half.updated_s == clock.now_s
    await other.apply("one", Answer({"b": 2, "a": "too late"}))
    whole = await seen(runner)
    assert (whole.state, whole.asked, whole.answers) == ("working", {}, {"a": {"x": [1, None]}, "b": 2})
    await runner.apply("one", End(runner.owner, "completed", b'{"content":[]}', "done"))
    done = await seen(other)
    assert (done.state, done.outcome, done.message, done.owner) == ("completed", b'{"content":[]}', "done", "")
    assert done.answers == {}


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_an_ended_task_never_changes(owners: Owners, state: str) -> None:
    """TSK-7, TSK-8."""
    runner, other = await owners.open(), await owners.open()
    await made(runner)
    end = End(runner.owner, state, b"{}", "the end")  # type: ignore[arg-type]
    await runner.apply("one", end)
    before = await seen(other)
    late: list[Event] = [
        Report(runner.owner, "late"),
        end,
        WantCancel(),
        Answer({"a": 1}),
        Ask(runner.owner, {"a": question()}),
    ]
    for event in late:
        assert refusal(await other.apply("one", event)) == "ended"
    assert await seen(other) == before


async def test_a_key_is_asked_once(owners: Owners) -> None:
    """TSK-6: not even after it was answered."""
    runner = await owners.open()
    await made(runner)
    await runner.apply("one", Ask(runner.owner, {"a": question()}))
    assert refusal(await runner.apply("one", Ask(runner.owner, {"b": question(), "a": question()}))) == "key"
    await runner.apply("one", Answer({"a": 1}))
    assert refusal(await runner.apply("one", Ask(runner.owner, {"a": question()}))) == "key"
    assert (await seen(runner)).state == "working"


async def test_answers_that_come_at_the_same_time_are_all_taken(owners: Owners) -> None:
    """TSK-6: one order of changes, also between processes; the second answer to a key is left alone."""
    runner, other = await owners.open(), await owners.open()
    await made(runner)
    keys = [f"k{number}" for number in range(8)]
    await runner.apply("one", Ask(runner.owner, {key: question(key) for key in keys}))
    async with trio.open_nursery() as nursery:
        for number, key in enumerate(keys):
            for store in (runner, other):
                nursery.start_soon(store.apply, "one", Answer({key: number}))
    task = await seen(other)
    assert (task.state, task.answers) == ("working", {key: number for number, key in enumerate(keys)})
    assert task.rev == 2 + len(keys)


async def test_only_its_owner_runs_a_task(owners: Owners) -> None:
    runner, other = await owners.open(), await owners.open()
    await made(runner)
    for event in (Report(other.owner, "mine"), Ask(other.owner, {"a": question()}), End(other.owner, "completed", b"")):
        assert refusal(await other.apply("one", event)) == "owner"
    assert (await seen(runner)).rev == 1


async def test_a_task_of_a_dead_owner_has_failed(owners: Owners) -> None:
    """TSK-13: whoever asks for it sees it, and nothing that the dead one sends later changes that."""
    runner, other = await owners.open(), await owners.open()
    await made(runner)
    await runner.apply("one", Ask(runner.owner, {"a": question()}))
    assert (await seen(other)).state == "input_required"
    await owners.kill(runner)
    task = await seen(other)
    assert (task.state, task.owner, task.asked, task.outcome) == ("failed", "", {}, None)
    assert "has ended" in task.message
    assert refusal(await runner.apply("one", End(runner.owner, "completed", b"{}"))) == "ended"
    assert await seen(other) == task


async def test_an_answer_to_a_dead_owners_task_finds_it_failed(owners: Owners) -> None:
    """TSK-13."""
    runner, other = await owners.open(), await owners.open()
    await made(runner)
    await runner.apply("one", Ask(runner.owner, {"a": question()}))
    await owners.kill(runner)
    assert refusal(await other.apply("one", Answer({"a": 1}))) == "ended"
    assert (await seen(other)).state == "failed"


async def test_recovery_ends_the_tasks_of_the_dead_and_no_others(owners: Owners) -> None:
    """TSK-13."""
    dead, living = await owners.open(), await owners.open()
    for store, name in ((dead, "a"), (dead, "b"), (dead, "c"), (living, "d")):
        await made(store, name)
    await dead.apply("c", End(dead.owner, "completed", b"{}"))
    await owners.kill(dead)
    newcomer = await owners.open()
    assert await newcomer.recover() == 2
    assert await newcomer.recover() == 0
    assert [(await seen(newcomer, name)).state for name in "abcd"] == ["failed", "failed", "completed", "working"]
    assert dict(await newcomer.count()) == {"failed": 2, "completed": 1, "working": 1}


async def test_room_is_counted_in_all_and_by_share_until_tasks_are_forgotten(owners: Owners, clock: Clock) -> None:
    """SEC-4: an ended task counts, an expired one does not."""
    store = await owners.open()
    room = Room(3, 2)
    for name, share in (("a", "alice"), ("b", "alice"), ("c", "bob")):
        await store.create(draft(name, share=share), room)
    await store.apply("a", End(store.owner, "completed", b"{}"))
    with pytest.raises(NoRoom) as mine:
        await store.create(draft("d", share="alice"), room)
    with pytest.raises(NoRoom) as everybodys:
        await store.create(draft("d", share="carol"), room)
    assert (mine.value.whose, everybodys.value.whose) == ("share", "all")
    clock.now_s += 61
    await store.create(draft("d", share="alice"), room)


async def test_an_expired_task_is_unknown_and_then_gone(owners: Owners, clock: Clock) -> None:
    """TSK-5, TSK-13: from its creation, whatever its state."""
    store = await owners.open()
    await made(store, "short", ttl_s=10.0)
    await made(store, "long", ttl_s=11.0)
    clock.now_s += 9.9
    await store.apply("short", Report(store.owner, "nearly"))
    clock.now_s += 0.1
    assert await store.get("short") is None
    assert refusal(await store.apply("short", End(store.owner, "completed", b"{}"))) == "gone"
    assert await store.purge() == 1
    assert await store.purge() == 0
    assert dict(await store.count()) == {"working": 1}


async def test_a_wish_to_cancel_reaches_the_owner(owners: Owners) -> None:
    """TSK-7: it changes no state; the runner ends the task."""
    runner, other = await owners.open(), await owners.open()
    await made(runner)
    heard: list[Task] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.watch, heard.append)
        await other.apply("one", WantCancel())
        with trio.fail_after(WAIT_S):
            while not (heard and heard[-1].cancel_wanted):  # noqa: ASYNC110 - another process rings no bell
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert heard[-1].state == "working"


async def test_every_change_is_told_own_ones_at_once(owners: Owners) -> None:
    """TSK-10: without the outcome, which may be large."""
    runner, other = await owners.open(), await owners.open()
    near: list[Task] = []
    far: list[Task] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.watch, near.append)
        await nursery.start(other.watch, far.append)
        await made(runner)
        await runner.apply("one", Report(runner.owner, "half way"))
        await runner.apply("one", Report(runner.owner, "half way"))
        await runner.apply("one", End(runner.owner, "completed", b"{}"))
        assert [(task.rev, task.state, task.message) for task in near] == [
            (1, "working", ""), (2, "working", "half way"), (3, "completed", "half way"),
        ]  # fmt: skip
        with trio.fail_after(WAIT_S):
            while not (far and far[-1].rev == 3):  # noqa: ASYNC110 - another process rings no bell
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert near[-1] == far[-1]
    assert near[-1].outcome is None
    assert (await seen(other)).outcome == b"{}"


async def test_a_cancelled_creation_has_happened_wholly_or_not_at_all(owners: Owners) -> None:
    """Law 12 from the other side."""
    store = await owners.open()
    for number in range(20):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(made, store, f"t{number}"))
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        task = await store.get(f"t{number}")
        assert task is None or (task.state, task.rev) == ("working", 1)


@pytest.mark.parametrize(("end", "kept_s"), [(End("", "completed", b"{}", keep_s=10.0), 10), (End("", "failed"), 100)])
async def test_an_ended_task_has_a_place_no_longer_than_it_is_kept(
    owners: Owners, clock: Clock, end: End, kept_s: int
) -> None:
    """Law 8, TSK-13: what it did not need of its time goes back; without a word on it, it stays for all of that."""
    store, room = await owners.open(), Room(1000, 1)
    await store.create(draft("one", ttl_s=105.0), room)
    clock.now_s += 5
    await store.apply("one", msgspec.structs.replace(end, owner=store.owner))
    clock.now_s += kept_s - 1
    assert (await seen(store)).expires_s == clock.now_s + 1
    with pytest.raises(NoRoom):
        await store.create(draft("two"), room)
    clock.now_s += 2
    assert await store.get("one") is None
    await store.create(draft("two"), room)


async def test_a_task_that_nobody_knows_of_gives_its_place_back_at_once(owners: Owners) -> None:
    store, room = await owners.open(), Room(1, 1)
    await store.create(draft("one"), room)
    await store.apply("one", End(store.owner, "cancelled", forget=True))
    await store.create(draft("two"), room)


async def test_a_look_at_a_task_brings_no_outcome(owners: Owners, clock: Clock) -> None:
    """Law 8: who only wants to know whose it is reads no megabyte."""
    runner, other = await owners.open(), await owners.open()
    await made(runner, ttl_s=50.0)
    await runner.apply("one", Report(runner.owner, "half"))
    assert await other.peek("one") == await seen(other)
    await runner.apply("one", End(runner.owner, "completed", b"x" * 100_000))
    ended = await other.peek("one")
    assert ended == msgspec.structs.replace(await seen(other), outcome=None)
    clock.now_s += 60
    assert await other.peek("one") is None
    assert await other.peek("another") is None
