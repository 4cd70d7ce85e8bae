"""The judge of a storm: what it excuses, and above all what it does not, or no violation would mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.history import RECOVER_S, Death, History, Trouble
from tests.chaos.oracle import Failure, Owed, Run, excuse, lost_owner, runs_too_many

STORE = {"reason": "store_unavailable", "retryable": True, "retryAfterMs": 1000}
RATE = {"reason": "rate_limited", "retryable": True, "retryAfterMs": 1000}
BROKEN, SILENT = Failure("broken"), Failure("silent")
AWAY = Failure("refused", "", 503, -32603, STORE)
NO_SESSION = Failure("refused", "There is no such session", 404, -32600)
UNKNOWN_TASK = Failure("refused", "Unknown task", 400, -32602)
STOPPED_CALL = Failure("refused", "The call was cancelled", 200, -32800, {"reason": "admin"})
LIMITED = Failure("refused", "", 429, -32603, RATE)
SESSION, TASK = Owed(store=True, only_entry=True, session_since=50.0), Owed(store=True, task_since=50.0)


def history(*troubles: Trouble, deaths: tuple[float, ...] = ()) -> History:
    return History([Death(7, 1, at) for at in deaths], list(troubles))


STOPPED, EMPTIED = Trouble("stopped", 101, 103), Trouble("emptied", 60, 61)


@pytest.mark.parametrize(
    ("failure", "owed", "past", "found"),
    [
        (BROKEN, Owed(), history(deaths=(101,)), "cut"),
        (BROKEN, Owed(), history(deaths=(103,)), None),
        (BROKEN, Owed(), history(deaths=(90,)), None),
        (BROKEN, Owed(store=True), history(STOPPED), None),
        (SILENT, Owed(), history(STOPPED, deaths=(101,)), None),
        (AWAY, Owed(store=True), history(STOPPED), "store"),
        (AWAY, Owed(), history(STOPPED), None),
        (AWAY, Owed(store=True), history(), None),
        (AWAY, Owed(store=True), history(Trouble("stopped", 80, 90)), None),
        (Failure("refused", "", 503, -32603, {**STORE, "retryable": False}), Owed(store=True), history(STOPPED), None),
        (Failure("refused", "", 404, -32603, STORE), Owed(store=True), history(STOPPED), None),
        (NO_SESSION, SESSION, history(EMPTIED), "gone"),
        (NO_SESSION, SESSION, history(STOPPED, deaths=(101,)), None),
        (NO_SESSION, SESSION, history(Trouble("emptied", 30, 31)), None),
        (STOPPED_CALL, SESSION, history(EMPTIED), "gone"),
        (STOPPED_CALL, SESSION, history(STOPPED, deaths=(101,)), None),
        (UNKNOWN_TASK, TASK, history(Trouble("flushed", 60, 60)), "unknown"),
        (UNKNOWN_TASK, TASK, history(STOPPED), None),
        (UNKNOWN_TASK, Owed(), history(EMPTIED), None),
        (LIMITED, Owed(limited=True), history(), "limited"),
        (LIMITED, Owed(), history(), None),
        (Failure("refused", "Internal error", 200, -32603), SESSION, history(STOPPED, EMPTIED, deaths=(101,)), None),
    ],
)
def test_a_failure_is_excused_only_by_what_was_broken_then(
    failure: Failure, owed: Owed, past: History, found: str | None
) -> None:
    """Of a call from second 100 to 102."""
    assert excuse(failure, 100.0, 102.0, owed, past) == found


def test_a_long_call_of_a_session_that_has_found_it_is_not_excused_by_a_later_outage() -> None:
    late = history(Trouble("stopped", 105, 107))
    assert excuse(AWAY, 100.0, 108.0, SESSION, late) is None
    assert excuse(AWAY, 100.0, 108.0, Owed(store=True), late) == "store"


@pytest.mark.parametrize(
    ("runs", "told", "past", "fine"),
    [
        ([Run(7, 100, "done")], 101.0, history(), True),
        ([Run(7, 100, "done"), Run(8, 105, "done")], None, history(), False),
        ([Run(7, 100, "done"), Run(8, 105, "done")], None, history(deaths=(103,)), True),
        ([Run(7, 100, "done"), Run(8, 105, "done")], 102.0, history(deaths=(103,)), False),
        ([Run(7, 100, "done"), Run(8, 105, "done")], None, history(deaths=(106,)), False),
        ([Run(7, 100, "done"), Run(8, 105, "done")], 102.0, history(Trouble("flushed", 103, 103)), True),
        ([Run(7, 100, "done"), Run(8, 105, "done")], 102.0, history(Trouble("paused", 101, 104)), False),
        ([Run(8, 100, ""), Run(7, 102, ""), Run(8, 105, "done")], None, history(deaths=(103,)), False),
    ],
)
def test_a_key_may_run_again_only_after_a_death_before_it_was_told_or_a_loss(
    runs: list[Run], told: float | None, past: History, fine: bool
) -> None:
    assert (runs_too_many(runs, told, past) is None) == fine


def test_what_is_late_is_held_against_the_longest_calm_and_not_the_last() -> None:
    """Else troubles that follow each other would excuse that something never comes."""
    past = history(Trouble("stopped", 101, 103), Trouble("paused", 110, 112), Trouble("killed", 113))
    assert past.calm(102.0, 120.0) == 7.0
    assert past.calm(104.0, 107.0) == 3.0
    assert past.calm(114.0, 120.0) == 0.0
    assert history().calm(100.0, 104.0) == 4.0
    assert past.recovered(102.0) == 103 + RECOVER_S
    assert past.recovered(108.0) == 108.0


@pytest.mark.parametrize(
    ("runs", "past", "lost"),
    [
        ([Run(7, 100, "")], history(deaths=(101,)), True),
        ([Run(8, 100, "")], history(deaths=(101,)), False),
        ([], history(deaths=(101,)), True),
        ([], history(), False),
    ],
)
def test_a_task_has_lost_its_owner_only_when_that_process_is_dead(runs: list[Run], past: History, lost: Any) -> None:
    """TSK-13."""
    assert lost_owner(runs, 99.0, 110.0, past) == lost
