"""How long what a driver is asked takes, and how it ends, told to whoever wants to count it.

    with Timed(observe, "GET", judge): ...

`observe(operation, outcome, seconds)` is called once, when the block ends; `judge` says which outcome an error is.

Called by: the drivers of stores. Deliberately not: metrics, which are the composition root's. Without an `observe` a
driver does not come here at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, Final, Literal

import trio

Outcome = Literal["ok", "unavailable", "unknown", "refused", "cancelled"]
"""`unavailable`: it did not happen, and may later. `unknown`: it may have happened. `refused`: it never will."""

OUTCOMES: Final[tuple[Outcome, ...]] = ("ok", "unavailable", "unknown", "refused", "cancelled")
Observe = Callable[[str, Outcome, float], None]


class Timed:
    """Times one block; whatever it raises goes on."""

    __slots__ = ("_judge", "_observe", "_operation", "_started")

    def __init__(self, observe: Observe, operation: str, judge: Callable[[BaseException], Outcome]) -> None:
        self._observe = observe
        self._operation = operation
        self._judge = judge
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        outcome: Outcome = "ok"
        if error is not None:
            outcome = "cancelled" if isinstance(error, trio.Cancelled) else self._judge(error)
        self._observe(self._operation, outcome, perf_counter() - self._started)


def name_of(work: Callable[..., Any]) -> str:
    """Return the name of a function, also of one whose arguments are bound already."""
    while isinstance(work, partial):
        work = work.func
    return str(getattr(work, "__name__", "other")).strip("_<>")
