"""Rates as they are written, and the decision of one attempt: pure, by tables and by Hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.rates import Rate, decide, read_rate

US = 1_000_000


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/m", Rate(100, 60)),
        ("5/10s", Rate(5, 10)),
        (" 1 / h ", Rate(1, 3600)),
        ("1/31d", Rate(1, 31 * 86400)),
        ("1000000/s", Rate(1_000_000, 1)),
    ],
)
def test_a_rate_is_calls_and_time(text: str, rate: Rate) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "5", "0/s", "5/0s", "-1/s", "5/w", "5/1.5s", "5//s", "1000001/s", "1/32d", "9" * 5000 + "/s", "٥/s"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        read_rate(text)


def test_a_whole_rate_may_go_at_once_and_comes_back_bit_by_bit() -> None:
    rate, free, now = Rate(5, 10), 0, 1_000 * US
    for left in (4, 3, 2, 1, 0):
        (taken,), (free,) = decide([free], now, [rate])
        assert (taken.allowed, taken.remaining, taken.retry_after_s) == (True, left, 0)
        assert taken.reset_s == 2 * (5 - left)
    (taken,), (same,) = decide([free], now, [rate])
    assert (taken.allowed, taken.remaining, taken.retry_after_s, taken.reset_s) == (False, 0, 2, 10)
    assert same == free, "what was refused has cost nothing"
    assert not decide([free], now + 2 * US - 1, [rate])[0][0].allowed
    assert decide([free], now + 2 * US, [rate])[0][0].allowed
    assert decide([free], now + 10 * US, [rate])[0][0].remaining == 4


def test_what_one_rate_refuses_costs_nothing_under_another() -> None:
    rates, now = [Rate(1, 10), Rate(5, 10)], 1_000 * US
    _, free = decide([0, 0], now, rates)
    taken, after = decide(free, now, rates)
    assert [one.allowed for one in taken] == [False, True]
    assert [one.remaining for one in taken] == [0, 4]
    assert after == free


def test_what_lies_further_ahead_than_a_period_is_one_period_ahead() -> None:
    """The clock was put back, or another rate bound the caller before: nobody waits for longer than the rate says."""
    rate, now = Rate(5, 10), 1_000 * US
    (taken,), (free,) = decide([now + 3600 * US], now, [rate])
    assert (taken.allowed, taken.retry_after_s, taken.reset_s) == (False, 2, 10)
    assert decide([free], now + 2 * US, [rate])[0][0].allowed


@given(
    items=st.integers(1, 50),
    period_s=st.integers(1, 100),
    steps=st.lists(st.integers(0, 3 * US), min_size=1, max_size=200),
    span=st.integers(0, 20),
)
def test_no_span_of_time_has_more_than_the_rate_and_what_came_back_meanwhile(
    items: int, period_s: int, steps: list[int], span: int
) -> None:
    """The promise of a leaky bucket, for spans that begin with any attempt."""
    rate, free, now = Rate(items, period_s), 0, US
    passed = []
    for step in steps:
        now += step
        (taken,), (free,) = decide([free], now, [rate])
        if taken.allowed:
            passed.append(now)
            assert free > now
    for number, begin in enumerate(passed):
        within = [at for at in passed[number:] if at <= begin + span * US]
        assert len(within) <= items + span * US // rate.interval_us
