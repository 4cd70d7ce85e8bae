"""Bounded threads, tried with real ones that stay on, come back late, and call back."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mcpd.errors import Overloaded
from mcpd.tools.threads import ThreadPool, _Job, call_back

ROOT = Path(__file__).parents[2]


class Stuck:
    """A function that stays in its thread until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.left = threading.Event()
        self.caught: BaseException | None = None

    def __call__(self) -> str:
        """Wait; then return what nobody wants any more."""
        self.entered.set()
        self.go.wait()
        self.left.set()
        return "late"


@pytest.fixture
def stuck() -> Iterator[Callable[[], Stuck]]:
    """A maker of stuck functions, all let go at the end."""
    made: list[Stuck] = []

    def make() -> Stuck:
        made.append(Stuck())
        return made[-1]

    yield make
    for one in made:
        one.go.set()


async def wait_for(event: threading.Event) -> None:
    """Wait for another thread."""
    with trio.fail_after(10):
        while not event.is_set():  # noqa: ASYNC110 - another thread's event
            await trio.sleep(0.001)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - another thread's doing
            await trio.sleep(0.001)


async def abandon(pool: ThreadPool, function: Stuck, name: str = "slow", owner: str = "") -> None:
    """Start `function` in `pool` and cancel its call once it is in its thread."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: pool.run(function, name=name, owner=owner))
        await wait_for(function.entered)
        nursery.cancel_scope.cancel()


async def test_a_function_runs_in_a_daemon_thread_and_its_value_comes_back() -> None:
    """A `def` tool: another thread, which cannot hold up the process."""
    pool = ThreadPool(2, 1)
    thread = await pool.run(threading.current_thread, name="who", owner="")
    assert thread is not threading.current_thread()
    assert thread.daemon


async def test_what_a_function_raises_comes_back() -> None:
    """The error is the function's own."""

    def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await ThreadPool(2, 1).run(fail, name="fail", owner="")


async def test_a_cancelled_call_returns_at_once_and_its_thread_is_counted(stuck: Callable[[], Stuck]) -> None:
    """Law 2: abandoned and counted, named, and its late result dropped; counted down when it ends."""
    pool = ThreadPool(3, 2)
    function = stuck()
    await abandon(pool, function, "slow")
    assert not function.left.is_set()
    assert (pool.abandoned, pool.stuck(), pool.degraded) == (1, ("slow",), False)
    function.go.set()
    await until(lambda: pool.abandoned == 0)
    numbers = pool.statistics()
    assert (numbers.abandoned_total, numbers.ended_late_total) == (1, 1)


async def test_an_abandoned_thread_keeps_its_place_until_it_ends(stuck: Callable[[], Stuck]) -> None:
    """Trap 16: the pool never has more threads than its maximum, abandoned ones included."""
    pool = ThreadPool(1, 5)
    function = stuck()
    await abandon(pool, function)
    assert pool.statistics().busy == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: pool.run(lambda: None, name="next", owner=""))
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().waiting == 1
        function.go.set()
    assert pool.statistics().busy == 0


async def test_too_many_abandoned_threads_refuse_new_calls_at_once(stuck: Callable[[], Stuck]) -> None:
    """Trap 16: `overloaded`, not a wait for a thread that never ends; over when one has ended."""
    pool = ThreadPool(4, 2)
    first, second = stuck(), stuck()
    await abandon(pool, first, "one")
    await abandon(pool, second, "two")
    assert pool.degraded
    assert pool.stuck() == ("one", "two")
    with pytest.raises(Overloaded):
        await pool.run(lambda: None, name="third", owner="")
    assert pool.statistics().refused_total == 1
    first.go.set()
    await until(lambda: not pool.degraded)
    assert await pool.run(lambda: "ok", name="fourth", owner="") == "ok"


async def test_stuck_calls_of_one_owner_refuse_nobody_else(stuck: Callable[[], Stuck]) -> None:
    """SEC-4: also when more of them run at once than may be stuck, and all are cancelled together."""
    pool, functions = ThreadPool(8, 4), [stuck() for _ in range(6)]
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(partial(pool.run, function, name="slow", owner="a"))
        for function in functions:
            await wait_for(function.entered)
        nursery.cancel_scope.cancel()
    assert (pool.abandoned, pool.degraded) == (6, True)
    with pytest.raises(Overloaded):
        await pool.run(lambda: None, name="more", owner="a")
    assert await pool.run(lambda: "ok", name="other", owner="b") == "ok"
    for function in functions[:4]:
        function.go.set()
    await until(lambda: not pool.degraded)
    assert await pool.run(lambda: "ok", name="again", owner="a") == "ok"


async def test_whoever_finds_no_thread_but_stuck_ones_is_refused_at_once(stuck: Callable[[], Stuck]) -> None:
    """Trap 16: nobody waits for a thread that may never end."""
    pool, functions = ThreadPool(3, 3), [stuck() for _ in range(3)]
    for function, owner in zip(functions, "abc", strict=True):
        await abandon(pool, function, owner=owner)
    for owner in "abcd":
        with trio.fail_after(10), pytest.raises(Overloaded):
            await pool.run(lambda: None, name="more", owner=owner)
    functions[0].go.set()
    await until(lambda: pool.abandoned == 2)
    assert await pool.run(lambda: "ok", name="again", owner="d") == "ok"


async def test_a_call_cancelled_in_the_queue_abandons_nothing(stuck: Callable[[], Stuck]) -> None:
    """It had no thread: nothing runs later, nothing is counted."""
    pool = ThreadPool(1, 5)
    holder, ran = stuck(), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: pool.run(holder, name="holder", owner=""))
        await wait_for(holder.entered)
        async with trio.open_nursery() as inner:
            inner.start_soon(lambda: pool.run(ran.set, name="queued", owner=""))
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
        assert pool.abandoned == 0
        holder.go.set()
    assert not ran.is_set()


async def test_a_thread_that_begins_after_its_call_has_ended_does_nothing() -> None:
    """Law 2: the cancel may come between the start of a thread and its first step."""
    pool, job, ran = ThreadPool(1, 1), _Job("too late", ""), threading.Event()
    await pool._abandon(job)
    assert pool._in_thread(job, ran.set) is None
    assert not ran.is_set()
    assert pool.abandoned == 0


async def test_call_back_runs_in_the_event_loop() -> None:
    """A `def` tool's Context blocks its thread until the loop has answered; errors pass through."""

    main = threading.current_thread()

    async def double(number: int) -> int:
        await trio.lowlevel.checkpoint()
        assert threading.current_thread() is main
        return number * 2

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("from the loop")

    pool = ThreadPool(2, 1)
    assert await pool.run(lambda: call_back(double, 21), name="double", owner="") == 42
    with pytest.raises(LookupError, match="from the loop"):
        await pool.run(lambda: call_back(fail), name="fail", owner="")


async def test_the_call_back_of_a_cancelled_call_has_ended_when_the_call_has() -> None:
    """Law 2: async work's `finally` has run; the thread sees Cancelled, which no `except Exception` swallows."""
    pool = ThreadPool(2, 1)
    begun, ended, caught = trio.Event(), trio.Event(), []

    async def wait_for_ever() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def function() -> None:
        try:
            call_back(wait_for_ever)
        except BaseException as error:
            caught.append(error)
            raise

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: pool.run(function, name="asks", owner=""))
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert ended.is_set()
    await until(lambda: pool.abandoned == 0 and bool(caught))
    assert isinstance(caught[0], trio.Cancelled)


async def test_an_abandoned_thread_can_no_longer_call_back(stuck: Callable[[], Stuck]) -> None:
    """Nothing more is sent for a call that is over: the coroutine function is not even called."""
    pool, called, caught = ThreadPool(2, 2), [], []
    gate = stuck()

    async def notify() -> None:
        called.append(True)

    def function() -> None:
        gate()
        try:
            call_back(notify)
        except BaseException as error:
            caught.append(error)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: pool.run(function, name="late", owner=""))
        await wait_for(gate.entered)
        nursery.cancel_scope.cancel()
    gate.go.set()
    await until(lambda: pool.abandoned == 0)
    assert called == []
    assert isinstance(caught[0], trio.Cancelled)


def test_a_thread_that_outlives_the_event_loop_gets_a_clear_error() -> None:
    """The loop has gone: Cancelled or RunFinishedError, never a wait for ever."""
    entered, go, caught = threading.Event(), threading.Event(), []
    done = threading.Event()

    async def nothing() -> None:
        pass

    def function() -> None:
        entered.set()
        go.wait()
        try:
            call_back(nothing)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a thread's end, looked at below
            caught.append(error)
        done.set()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: ThreadPool(2, 2).run(function, name="late", owner=""))
            await wait_for(entered)
            nursery.cancel_scope.cancel()

    trio.run(main)
    go.set()
    assert done.wait(10)
    assert isinstance(caught[0], trio.Cancelled | trio.RunFinishedError)


def test_call_back_outside_of_a_call_is_refused() -> None:
    """A thread of the tool's own making belongs to no call."""

    async def nothing() -> None:
        pass

    with pytest.raises(RuntimeError, match="thread of a call"):
        call_back(nothing)


async def test_trio_s_own_way_back_works_too() -> None:
    """A tool that knows Trio may use `trio.from_thread`."""

    async def answer() -> Any:
        await trio.lowlevel.checkpoint()
        return "yes"

    assert await ThreadPool(2, 1).run(lambda: trio.from_thread.run(answer), name="trio", owner="") == "yes"


def test_a_stuck_thread_does_not_hold_up_the_exit() -> None:
    """Trap 16: a `def` tool that never ends; the process ends all the same."""
    source = textwrap.dedent("""
        import threading, trio
        from mcpd.tools.threads import ThreadPool

        entered = threading.Event()

        def never():
            entered.set()
            threading.Event().wait()

        async def main():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: ThreadPool(2, 2).run(never, name="never", owner=""))
                    await trio.to_thread.run_sync(entered.wait)
                    scope.cancel()
            print("over")

        trio.run(main)
    """)
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, timeout=20, check=True)
    assert done.stdout == b"over\n"


async def test_one_owner_leaves_threads_for_another() -> None:
    pool, stop = ThreadPool(4, 4), threading.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(partial(pool.run, stop.wait, name="slow", owner="a"))
            await trio.testing.wait_all_tasks_blocked()
            assert await pool.run(lambda: 1, name="quick", owner="b") == 1
            assert pool.statistics().busy == 3
            assert pool.statistics().waiting == 5
            stop.set()
        assert await pool.run(lambda: 1, name="quick", owner="c") == 1
        assert pool.statistics().busy == 0
