"""The state machine of tasks, as a machine: whatever events come in whatever order, its laws hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from mcpd.storage.task_states import (
    MAX_ANSWERS_BYTES,
    MAX_ASKED_BYTES,
    MAX_MESSAGE_CHARS,
    MAX_QUESTIONS_ITEMS,
    Answer,
    Ask,
    Draft,
    End,
    Event,
    Refused,
    Report,
    Task,
    WantCancel,
    Withdraw,
    lost,
    new_task,
    step,
)

NEW = new_task(Draft(id="t", principal="p", share="p", tool="work", ttl_s=100.0), "me", now_s=1000.0)
KEYS = st.sampled_from("abc")
WHO = st.sampled_from(["me", "me", "me", "other"])
QUESTION = {"method": "roots/list", "params": {}}
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Report, WHO, st.sampled_from(["", "x", "y"])),
    st.builds(Ask, WHO, st.dictionaries(KEYS, st.just(QUESTION), max_size=2)),
    st.builds(Withdraw, WHO, st.lists(KEYS, max_size=2).map(tuple)),
    st.builds(Answer, st.dictionaries(KEYS, st.integers(), max_size=3)),
    st.just(WantCancel()),
    st.builds(End, WHO, st.sampled_from(["completed", "failed", "cancelled"]), st.just(b"{}")),
)  # fmt: skip


def after(task: Task, event: Event, now_s: float = 1001.0) -> Task:
    found = step(task, event, now_s=now_s)
    assert isinstance(found, Task)
    return found


@given(st.lists(EVENTS, max_size=20))
def test_the_laws_hold_after_any_events(events: list[Event]) -> None:
    """TSK-5, TSK-6, TSK-8: final states, keys asked once, `input_required` exactly while something is asked."""
    task, asked_ever = NEW, []
    for number, event in enumerate(events):
        found = step(task, event, now_s=1000.0 + number)
        if isinstance(found, Refused):
            continue
        assert not task.ended
        assert getattr(event, "owner", "me") == "me"
        assert found is task or found.rev == task.rev + 1
        asked_ever += [key for key in found.asked if key not in task.asked]
        task = found
        assert (task.state == "input_required") == bool(task.asked)
        assert (task.owner == "") == task.ended
        assert not set(task.asked) & set(task.answers)
    assert len(set(asked_ever)) == len(asked_ever)


def test_what_others_send_is_bounded() -> None:
    """SEC-4."""
    asked = after(NEW, Ask("me", {"a": QUESTION}))
    found = step(asked, Answer({"a": "x" * MAX_ANSWERS_BYTES}), now_s=1001.0)
    assert isinstance(found, Refused)
    assert (found.why, found.task) == ("size", asked)
    wide = step(NEW, Ask("me", {"a": {"method": "m", "params": {"x": "y" * MAX_ASKED_BYTES}}}), now_s=1001.0)
    assert isinstance(wide, Refused)
    assert wide.why == "size"
    many = step(NEW, Ask("me", {str(n): QUESTION for n in range(MAX_QUESTIONS_ITEMS + 1)}), now_s=1001.0)
    assert isinstance(many, Refused)
    assert many.why == "key"
    assert len(after(NEW, Report("me", "x" * 5000)).message) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize("event", [Report("me", "x"), Answer({}), WantCancel(), End("me", "completed")])
def test_nothing_happens_to_an_expired_task(event: Any) -> None:
    """TSK-13: the time runs from the creation."""
    found = step(NEW, event, now_s=1100.0)
    assert isinstance(found, Refused)
    assert found.why == "gone"


def test_a_question_that_is_withdrawn_can_no_longer_be_answered() -> None:
    """TSK-6."""
    task = after(after(NEW, Ask("me", {"a": QUESTION, "b": QUESTION})), Withdraw("me", ("a",)))
    assert (task.state, set(task.asked)) == ("input_required", {"b"})
    assert after(task, Answer({"a": 1})) is task
    assert after(task, Withdraw("me", ("b",))).state == "working"


def test_a_clock_that_goes_back_takes_no_change_back() -> None:
    assert after(NEW, Report("me", "x"), now_s=900.0).updated_s == 1000.0


def test_the_end_of_a_lost_task_says_so_and_keeps_nothing_open() -> None:
    """TSK-13."""
    asked = after(NEW, Ask("me", {"a": QUESTION}))
    ended = after(asked, lost(asked))
    assert (ended.state, ended.owner, ended.asked, ended.outcome) == ("failed", "", {}, None)


@pytest.mark.parametrize("event", [Report("me", "half \ud800"), End("me", "failed", b"{}", "half \ud800")], ids=str)
def test_whatever_a_tool_says_the_record_can_be_written(event: Event) -> None:
    """TSK-8: an end that no store can keep would be tried for ever, and the task would never end."""
    record = after(NEW, event)
    assert json.decode(json.encode(record), type=Task) == record
    assert record.message == r"half \ud800"
