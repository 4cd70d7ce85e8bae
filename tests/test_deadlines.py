"""The bounded shield: cleanup is protected, and not for ever."""

from __future__ import annotations

import trio
import trio.testing

from mcpd.deadlines import bounded_shield


async def test_a_cleanup_within_its_bound_is_not_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    """Law 2: an async `finally` runs under a bounded shield."""
    done = False
    with trio.CancelScope() as outer:
        outer.cancel()
        with bounded_shield(2):
            await trio.sleep(1)
            done = True
        await trio.lowlevel.checkpoint()
        done = False
    assert done
    assert outer.cancelled_caught


async def test_a_cleanup_that_hangs_is_ended_at_its_bound(autojump_clock: trio.testing.MockClock) -> None:
    """Law 8: every wait has a number."""
    begun = trio.current_time()
    with trio.CancelScope() as outer:
        outer.cancel()
        with bounded_shield(2) as shield:
            await trio.sleep_forever()
    assert trio.current_time() - begun == 2
    assert shield.cancelled_caught
