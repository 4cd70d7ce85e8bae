"""Listen filters and what waits to be told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.errors import InvalidParams
from mcpd.wire.envelope import SUBSCRIPTION_KEY
from mcpd.wire.subscriptions import MAX_URI_CHARACTERS, Filter, Pending, notification, tag
from mcpd.wire.uris import normalise


def read(wanted: Any, *, max_uris: int = 9) -> Filter:
    return Filter.read({"notifications": wanted}, permits=lambda uri: not uri.startswith("secret:"), max_uris=max_uris)


@pytest.mark.parametrize(
    ("wanted", "honoured"),
    [
        ({}, {}),
        ({"toolsListChanged": False, "unknown": 1, "taskIds": ["t"]}, {}),
        (
            {"toolsListChanged": True, "promptsListChanged": True},
            {"toolsListChanged": True, "promptsListChanged": True},
        ),
        ({"resourcesListChanged": True}, {"resourcesListChanged": True}),
        ({"resourceSubscriptions": []}, {}),
        ({"resourceSubscriptions": ["a:1", "secret:2", "a:1", "b:3"]}, {"resourceSubscriptions": ["a:1", "b:3"]}),
    ],
)
def test_a_filter_is_acknowledged_with_what_is_honoured(wanted: dict[str, Any], honoured: dict[str, Any]) -> None:
    """SUB-1, SUB-9, SUB-10."""
    assert read(wanted).honoured() == honoured


@pytest.mark.parametrize(
    "wanted",
    [None, [], "x", {"toolsListChanged": 1}, {"promptsListChanged": None}, {"resourceSubscriptions": "a"},
     {"resourceSubscriptions": [1]}, {"resourceSubscriptions": {"a": 1}}, {"resourceSubscriptions": ["a", "b", "c"]},
     {"resourceSubscriptions": ["a" * (MAX_URI_CHARACTERS + 1)]}],
)  # fmt: skip
def test_a_filter_of_the_wrong_shape_or_size_is_refused(wanted: Any) -> None:
    """SUB-9."""
    with pytest.raises(InvalidParams):
        read(wanted, max_uris=2)


def test_a_listen_without_a_filter_is_refused() -> None:
    """SUB-1."""
    with pytest.raises(InvalidParams):
        Filter.read({}, permits=lambda _: True, max_uris=1)


EVENTS = st.sampled_from(
    [("tools", None), ("prompts", None), ("resources", None), ("resource", "a"), ("resource", "b")]
)


@given(st.lists(EVENTS), st.lists(EVENTS, unique=True))
def test_what_waits_is_each_wanted_note_once_in_the_order_of_arrival(
    events: list[tuple[str, str | None]], wanted: list[tuple[str, str | None]]
) -> None:
    """SUB-3, SUB-8: however many events, no more waits than the filter has members."""
    kinds = frozenset(kind for kind, uri in wanted if uri is None)
    pending = Pending(kinds, spelt(*(uri for _, uri in wanted if uri is not None)))
    assert [pending.offer(*event) for event in events] == [event in wanted for event in events]
    assert list(pending.take()) == list(dict.fromkeys(event for event in events if event in wanted))
    assert list(pending.take()) == []


def test_each_note_has_its_notification() -> None:
    """SUB-3, PUB-1."""
    assert notification("tools", None) == ("notifications/tools/list_changed", {})
    assert notification("resource", "a:1") == ("notifications/resources/updated", {"uri": "a:1"})


@pytest.mark.parametrize("request_id", [0, "0", "", 7])
def test_a_tag_keeps_the_type_of_the_id(request_id: str | int) -> None:
    """SUB-2."""
    params = {"uri": "a"}
    found = tag(params, request_id)["_meta"][SUBSCRIPTION_KEY]
    assert (found, type(found), params) == (request_id, type(request_id), {"uri": "a"})


def test_a_change_that_nobody_can_name_is_told_for_every_watched_resource() -> None:
    """SUB-8, PUB-1: after a change too large to list, whoever watches a resource has to read it again."""
    wanted = Filter.read(
        {"notifications": {"resourceSubscriptions": ["a:b", "a:c"]}}, permits=lambda _: True, max_uris=9
    )
    pending = Pending(wanted.kinds, spelt(*wanted.uris))
    assert pending.offer("resource", None)
    assert pending.offer("resource", "a:c")
    assert list(pending.take()) == [("resource", "a:b"), ("resource", "a:c")]
    assert not Pending(frozenset({"tools"}), {}).offer("resource", None)


def spelt(*uris: str) -> dict[str, str]:
    return {normalise(uri): uri for uri in uris}


def test_a_change_is_told_in_the_spelling_that_was_asked_for() -> None:
    """SUB-8."""
    pending = Pending((), spelt("notes://caf%c3%a9", "docs:///a%28b.md"))
    assert pending.offer("resource", "notes://café/")
    assert pending.offer("resource", "NOTES://café")
    assert pending.offer("resource", "docs:///a(b.md")
    assert not pending.offer("resource", "docs:///a(B.md")
    assert list(pending.take()) == [("resource", "notes://caf%c3%a9"), ("resource", "docs:///a%28b.md")]
    pending.offer("resource", None)
    assert len(list(pending.take())) == 2


def test_what_is_no_longer_watched_is_not_told() -> None:
    """SUB-8."""
    uris = {"a": "a", "b": "b"}
    pending = Pending((), uris)
    pending.offer("resource", None)
    del uris["a"]
    assert list(pending.take()) == [("resource", "b")]


def test_a_note_that_comes_again_while_the_notes_are_told_waits_for_the_next_time() -> None:
    """SUB-8: else a busy publisher would keep a teller in its first round for ever."""
    pending = Pending({"tools", "prompts"}, {})
    pending.offer("tools", None)
    pending.offer("prompts", None)
    told = []
    for note in pending.take():
        told.append(note)
        pending.offer("tools", None)
    assert told == [("tools", None), ("prompts", None)]
    assert list(pending.take()) == [("tools", None)]


@pytest.mark.parametrize("uris", [["a" * 2049], [f"{number:02}" + "a" * 2040 for number in range(33)]])
def test_what_is_watched_has_a_length_alone_and_in_all(uris: list[str]) -> None:
    """SUB-9, SEC-4."""
    params = {"notifications": {"resourceSubscriptions": uris}}
    with pytest.raises(InvalidParams):
        Filter.read(params, permits=lambda _: True, max_uris=99)
    params["notifications"]["resourceSubscriptions"] = [uri[:2048] for uri in uris[:31]]
    assert len(Filter.read(params, permits=lambda _: True, max_uris=99).uris) == len(uris[:31])


def test_tasks_are_told_to_who_watches_them() -> None:
    """TSK-10, SUB-8."""
    pending = Pending((), {}, ("a", "b"))
    assert [pending.offer("task", one) for one in ("a", "c", "a", "b")] == [True, False, True, True]
    assert list(pending.take()) == [("task", "a"), ("task", "b")]
    assert notification("task", "a") == ("notifications/tasks", {"taskId": "a"})
    assert Filter(frozenset(), (), ("a",)).honoured() == {"taskIds": ["a"]}
