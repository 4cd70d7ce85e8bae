"""Each worker's part of the limits, and of the rates; and how long a dead one is missed."""

from __future__ import annotations

from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcpd.config import Config, Limits
from mcpd.rates import Rate
from mcpd.supervision.parts import DIVIDED, part_of
from mcpd.supervisor import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause_after


@given(st.integers(1, 64), st.integers(1, 10_000))
def test_the_parts_of_what_processes_count_add_up_to_no_less_and_hardly_more(workers: int, whole: int) -> None:
    config = Config()
    limits = replace(config.limits, **dict[str, Any](dict.fromkeys(DIVIDED, whole)))
    part = part_of(replace(config, server=replace(config.server, workers=workers), limits=limits)).limits
    for name in DIVIDED:
        assert whole <= getattr(part, name) * workers < whole + workers


def test_what_bounds_one_message_or_one_session_or_what_all_share_is_not_divided() -> None:
    config = Config()
    part = part_of(replace(config, server=replace(config.server, workers=4))).limits
    kept = {field.name for field in fields(Limits)} - set(DIVIDED)
    assert kept >= {"max_body_bytes", "max_streams_per_session", "max_tasks", "max_calls_per_connection", "page_size"}
    assert all(getattr(part, name) == getattr(config.limits, name) for name in kept)


@given(st.integers(1, 10_000), st.integers(1, 86_400), st.integers(1, 64))
def test_the_parts_of_a_rate_are_the_whole_rounded_up(items: int, period_s: int, workers: int) -> None:
    part = Rate(items, period_s).among(workers)
    together, whole = Fraction(part.items * workers, part.period_s), Fraction(items, period_s)
    assert whole <= together < 2 * whole
    assert items <= part.items * workers < items + workers
    assert Rate(100, 60).among(2) == Rate(50, 60)
    assert Rate(1, 10).among(2) == Rate(1, 20)


def test_a_worker_that_dies_again_and_again_is_started_ever_later_up_to_a_bound() -> None:
    pauses = [pause_after(deaths) for deaths in range(1, 12)]
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pause_after(5_000) == pauses[-1] == LONGEST_PAUSE_S, "a week of them overflows nothing"
