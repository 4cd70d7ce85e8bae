"""The watch on the event loop: what holds it is counted, measured and named, and an idle loop costs nothing."""

from __future__ import annotations

import logging
import time

import pytest
import trio
import trio.lowlevel

from mcpd.monitoring.loop import STALL_S, LoopWatch
from mcpd.monitoring.metrics import Metrics
from tests.in_process import eventually
from tests.served import WAIT_S


def hold(seconds: float) -> None:
    """Hold the loop; the watch's thread can run."""
    time.sleep(seconds)


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


async def test_a_held_loop_is_counted_measured_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The log says where while it lasts, and for how long afterwards."""
    metrics = Metrics()
    with trio.fail_after(WAIT_S), caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            await nursery.start(LoopWatch(metrics, lambda: ["tools/call culprit"]).run)
            await trio.lowlevel.checkpoint()
            hold(3 * STALL_S)
            await eventually(lambda: metrics.loop_stalls.of().value, "it is counted")
            nursery.cancel_scope.cancel()
    told = messages(caplog)
    assert metrics.loop_stalls.of().value == 1
    assert metrics.loop_lag.of().total >= 3 * STALL_S
    assert "the event loop is held at " in told
    assert " hold; calls in flight: tools/call culprit" in told
    assert "the event loop was held for 1." in told


async def test_a_loop_that_works_in_short_passes_or_waits_is_no_stall(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a busy loop nor an idle one is told of, however long it is so."""
    metrics = Metrics()
    with trio.fail_after(WAIT_S), caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            await nursery.start(LoopWatch(metrics, list).run)
            until = time.monotonic() + 2 * STALL_S
            while time.monotonic() < until:  # noqa: ASYNC110 - to keep the loop busy is the point
                await trio.lowlevel.checkpoint()
            await trio.sleep(2 * STALL_S)
            nursery.cancel_scope.cancel()
    assert metrics.loop_stalls.of().value == 0
    assert sum(metrics.loop_lag.of().counts) > 100
    assert messages(caplog) == ""
