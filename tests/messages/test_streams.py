"""Resumable streams: numbering, bounds, one reader at a time."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock

from mcpd.messages.streams import EventStream


def make(max_events: int = 100, max_bytes: int = 10_000) -> tuple[EventStream, list[int]]:
    dropped: list[int] = []
    return EventStream("7", max_events=max_events, max_bytes=max_bytes, on_drop=lambda: dropped.append(1)), dropped


async def test_events_are_numbered_and_read_from_any_place(autojump_clock: MockClock) -> None:
    """RSM-1, RSM-2."""
    stream, _ = make()
    for data in (b"a", b"b", b"c"):
        stream.append(data)
    assert stream.since(0) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert stream.since(2) == [(3, b"c")]
    assert [stream.event_id(number) for number in (0, 3)] == ["7-0", "7-3"]
    assert [number for number in range(-1, 6) if stream.holds(number)] == [0, 1, 2, 3]


async def test_when_it_is_full_the_oldest_notification_goes_and_a_response_never(autojump_clock: MockClock) -> None:
    """RSM-5, STR-6."""
    stream, dropped = make(max_events=3)
    stream.append(b"response", final=True)
    for data in (b"a", b"b", b"c", b"d"):
        stream.append(data)
    assert [data for _, data in stream.since(0)] == [b"response", b"c", b"d"]
    assert len(dropped) == 2
    for _ in range(9):
        stream.append(b"x", final=True)
    assert b"response" in [data for _, data in stream.since(0)]


async def test_a_reader_that_missed_dropped_events_is_not_served_a_gap(autojump_clock: MockClock) -> None:
    """RSM-2, RSM-5."""
    stream, _ = make(max_events=2)
    for data in (b"a", b"b", b"c", b"d"):
        stream.append(data)
    assert [number for number in range(1, 5) if stream.holds(number)] == [2, 3, 4]


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), max_size=40))
@example([(bytes(20), False)] * 4)
@example([(b"", False)] * 6)
def test_whatever_is_written_notifications_stay_within_both_bounds(events: list[tuple[bytes, bool]]) -> None:
    """RSM-5, SEC-4."""
    stream, dropped = make(max_events=5, max_bytes=50)
    for data, final in events:
        stream.append(data, final=final)
    kept = stream.since(0)
    finals = [data for data, final in events if final]
    assert [data for _, data in kept if data in finals][-len(finals) :] if finals else True
    assert len(kept) + len(dropped) == len(events)
    over = len(kept) > 5 or sum(len(data) for _, data in kept) > 50
    assert not over or len(kept) == len(finals), "only responses may exceed the bounds"


async def test_news_wake_the_reader(autojump_clock: MockClock) -> None:
    """STR-2, RSM-2."""
    stream, _ = make()
    changes: list[Callable[[], object]] = [lambda: stream.release(10), lambda: stream.append(b"a"), stream.finish]
    woken: list[int] = []

    async def read() -> None:
        await stream.wait_news()
        woken.append(1)

    for number, change in enumerate(changes):
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                assert len(woken) == number, "not by what is no news"
                change()


async def test_a_stream_is_quiet_until_something_but_a_response_was_written(autojump_clock: MockClock) -> None:
    """RSP-4, STR-1."""
    stream, _ = make()
    seen = [stream.quiet]
    stream.append(b"response", final=True)
    seen.append(stream.quiet)
    stream.append(b"note")
    other, _ = make()
    other.release(10)
    assert [*seen, stream.quiet, other.quiet] == [True, True, False, False]


async def test_the_latest_reader_takes_over(autojump_clock: MockClock) -> None:
    """STR-5, RSM-2, RSM-4."""
    stream, _ = make()
    first, second = object(), object()
    stream.release(10)
    stream.take_over(first)
    assert (stream.attended, stream.retry_ms) == (True, None)
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.wait_news)
            await trio.testing.wait_all_tasks_blocked()
            stream.take_over(second)
    assert stream.reader is second, "and the first one is woken to see it"
    stream.leave(first)
    assert stream.attended, "the first one's leaving is not the second one's"
    stream.leave(second)
    assert not stream.attended


async def test_an_emptied_stream_serves_nobody_who_missed_something(autojump_clock: MockClock) -> None:
    """RSM-2, RSM-5."""
    stream, _ = make()
    for data in (b"a", b"b"):
        stream.append(data, final=True)
    assert stream.empty() == 2
    assert (stream.held_bytes, stream.since(0)) == (0, [])
    stream.append(b"c")
    assert [number for number in range(4) if stream.holds(number)] == [2, 3]


async def test_a_finished_stream_is_not_given_up(autojump_clock: MockClock) -> None:
    """RSM-4."""
    stream, _ = make()
    stream.finish()
    stream.release(10)
    assert stream.retry_ms is None
