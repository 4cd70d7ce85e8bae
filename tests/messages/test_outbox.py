"""The outbox: order, bounds, back-pressure, one writer at a time, and what a broken connection does."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.messages.outbox import MAX_BEHIND_BYTES, MAX_BYTES, Outbox
from tests.messages.memory import Collector


async def test_messages_leave_in_the_order_in_which_they_entered(autojump_clock: MockClock) -> None:
    """IO-8."""
    send = Collector()
    outbox = Outbox(send, max_items=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        await outbox.put(b"1")
        assert outbox.offer(b"2")
        await outbox.deliver(b"3")
        await outbox.put(b"4")
        await outbox.flush()
        nursery.cancel_scope.cancel()
    assert send.sent == [1, 2, 3, 4]


async def test_a_slow_reader_holds_back_notifications_but_neither_answers_nor_the_reader_loop(
    autojump_clock: MockClock,
) -> None:
    """IO-8, SUB-8."""
    send = Collector()
    send.gate = trio.Event()
    outbox = Outbox(send, max_items=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        await outbox.put(b"1")
        await trio.testing.wait_all_tasks_blocked()
        await outbox.put(b"2")
        await outbox.put(b"3")
        with trio.move_on_after(5) as waited:
            await outbox.put(b"4")
        assert waited.cancelled_caught, "a notification waits for room"
        assert not outbox.offer(b"5"), "what may be lost is dropped"
        await outbox.deliver(b"6")
        send.gate.set()
        await outbox.flush()
        nursery.cancel_scope.cancel()
    assert send.sent == [1, 2, 3, 6], "a cancelled put has queued nothing"


async def test_a_waiting_notification_is_queued_as_soon_as_there_is_room(autojump_clock: MockClock) -> None:
    """IO-8."""
    send = Collector()
    send.gate = trio.Event()
    outbox = Outbox(send, max_items=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        async with trio.open_nursery() as senders:
            for number in range(4):
                senders.start_soon(outbox.put, b"%d" % number)
            await trio.testing.wait_all_tasks_blocked()
            send.gate.set()
        await outbox.flush()
        nursery.cancel_scope.cancel()
    assert sorted(send.sent) == [0, 1, 2, 3]


async def test_only_one_task_writes_at_a_time(autojump_clock: MockClock) -> None:
    """IO-8: messages are written whole."""
    writing = 0

    async def send(_: bytes) -> None:
        nonlocal writing
        writing += 1
        assert writing == 1
        await trio.sleep(0.1)
        writing -= 1

    outbox = Outbox(send, max_items=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        async with trio.open_nursery() as senders:
            for number in range(6):
                senders.start_soon(outbox.deliver if number % 2 else outbox.put, b"x")
        await outbox.flush()
        nursery.cancel_scope.cancel()


async def test_silence_is_filled_with_pings(autojump_clock: MockClock) -> None:
    """RSP-3, STR-7."""
    sent: list[tuple[float, bytes]] = []
    began = trio.current_time()

    async def send(item: bytes) -> None:
        sent.append((trio.current_time() - began, item))
        await trio.lowlevel.checkpoint()

    outbox = Outbox(send, max_items=3)
    with trio.move_on_after(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: outbox.run(ping=b"ping", ping_s=15))
            await trio.sleep(20)
            await outbox.put(b"message")
    assert sent == [(15.0, b"ping"), (20.0, b"message"), (35.0, b"ping")]


async def test_a_broken_connection_closes_the_outbox_and_releases_whoever_waits(autojump_clock: MockClock) -> None:
    """IO-3, CAN-1."""
    send = Collector()
    send.gate = trio.Event()
    send.broken = True
    outbox = Outbox(send, max_items=1)

    async def fill_and_break() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.run)
            for _ in range(3):
                nursery.start_soon(outbox.put, b"1")
            await trio.testing.wait_all_tasks_blocked()
            send.gate.set()

    with pytest.RaisesGroup(trio.BrokenResourceError):
        await fill_and_break()
    assert outbox.closed
    await outbox.put(b"2")
    await outbox.deliver(b"3")
    await outbox.flush()
    assert send.sent == []


async def test_closing_releases_whoever_waits_for_room(autojump_clock: MockClock) -> None:
    """CAN-1."""
    outbox = Outbox(Collector(), max_items=1)
    await outbox.put(b"1")
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.put, b"2")
            nursery.start_soon(outbox.put, b"3")
            await trio.testing.wait_all_tasks_blocked()
            outbox.close()


async def test_closing_drops_what_is_queued(autojump_clock: MockClock) -> None:
    """CAN-3: nothing is sent behind the end."""
    send = Collector()
    outbox = Outbox(send, max_items=5)
    await outbox.put(b"1")
    outbox.close()
    outbox.close()
    assert outbox.offer(b"2"), "a closed outbox takes everything and forgets it"
    await outbox.flush()
    assert send.sent == []
    send.gate = trio.Event()
    outbox = Outbox(send, max_items=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.deliver, b"3")
        await trio.testing.wait_all_tasks_blocked()
        await outbox.deliver(b"4")
        outbox.close()
        send.gate.set()
    assert send.sent == [3], "a writer stops behind what it was sending"


async def test_bytes_are_bounded_as_well_as_items(autojump_clock: MockClock) -> None:
    """Law 8: what one slow reader makes a server keep does not grow with the length of what it is told."""
    gate, long = trio.Event(), b"x" * (MAX_BYTES // 2)

    async def send(_data: bytes) -> None:
        await gate.wait()

    outbox = Outbox(send, max_items=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        await outbox.put(long)
        await trio.testing.wait_all_tasks_blocked()
        await outbox.put(long)
        await outbox.put(long)
        with trio.move_on_after(5) as waited:
            await outbox.put(b"short")
        assert waited.cancelled_caught
        assert outbox.offer(b"a refusal that somebody waits for")
        await outbox.deliver(bytes(MAX_BEHIND_BYTES))
        assert not outbox.offer(b"one more")
        gate.set()
        await outbox.flush()
        assert outbox.offer(b"again")
        nursery.cancel_scope.cancel()
