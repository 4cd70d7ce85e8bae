"""The only home of cancel idioms.

A cleanup that has to talk (a last frame, a kill and its reaping) needs a shield, or it would be cancelled with the work
it cleans up after; a shield without a bound could hold shutdown for ever. `bounded_shield` is the one way to have both.

Called by: every package with a `finally` that awaits. A leaf: imports trio and nothing of ours. Deliberately not: the
home of a call's own scope and deadline, which the Message Manager opens (law 1).
"""

from __future__ import annotations

import trio


def bounded_shield(seconds: float) -> trio.CancelScope:
    """Return a scope whose body is safe from outer cancellation for at most `seconds` from entry.

    When the time is up the body is cancelled and the scope is left normally; `scope.cancelled_caught` tells. The outer
    cancellation is delivered at the next checkpoint after the scope.
    """
    return trio.move_on_after(seconds, shield=True)
