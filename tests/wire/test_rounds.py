"""What a call knows from its earlier rounds: sealed answers, kept results, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mcpd.errors import InvalidParams
from mcpd.wire.call import Call, Principal
from mcpd.wire.rounds import Rounds
from mcpd.wire.sealed import KeyRing
from mcpd.wire.versions import STATEFUL, STATELESS

RING = KeyRing([("k1", b"x" * 32)])
NOW = 1_000_000.0


def call(version: str = STATELESS, principal: str = "ada", method: str = "tools/call", **params: Any) -> Call:
    who = Principal(principal, frozenset())
    return Call(method=method, params={"name": "t", **params}, version=version, transport="http", principal=who)


def opened(of: Call, *, now: float = NOW, max_rounds: int = 3) -> Rounds:
    return Rounds.open(of, RING, now=now, max_rounds=max_rounds)


def accept_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def state_after(rounds: Rounds, of: Call) -> str:
    return rounds.seal(of, RING, now=NOW, ttl_s=60)


def test_the_first_round_knows_nothing() -> None:
    """MRT-4, MRT-8."""
    for first in (call(), call(requestState=None, inputResponses=None)):
        rounds = opened(first)
        assert rounds.count == 0
        assert rounds.answer("a", accept_text) is None
        assert not rounds.has_result("step")


def test_accepted_answers_and_results_come_back_in_the_next_round() -> None:
    """MRT-4, MRT-12, S2C-4."""
    first = opened(call(inputResponses={"a": "one", "unknown": 1}))
    assert first.answer("a", accept_text) == "one"
    first.keep("step", [1, {"two": 2}])
    second = opened(call(requestState=state_after(first, call())))
    assert second.count == 1
    assert second.answer("a", accept_text) == "one"
    assert second.answer("unknown", accept_text) is None, "what was not asked is not kept"
    assert second.result("step") == [1, {"two": 2}]


def test_an_answer_that_does_not_fit_is_asked_again_and_never_kept() -> None:
    """MRT-8."""
    first = opened(call(inputResponses={"a": 12345}))
    assert first.answer("a", accept_text) is None
    second = opened(call(requestState=state_after(first, call())))
    assert second.answer("a", accept_text) is None


def test_a_fresh_answer_wins_over_a_kept_one_unless_it_does_not_fit() -> None:
    """MRT-8."""
    first = opened(call(inputResponses={"a": "one"}))
    first.answer("a", accept_text)
    state = state_after(first, call())
    assert opened(call(requestState=state, inputResponses={"a": "two"})).answer("a", accept_text) == "two"
    assert opened(call(requestState=state, inputResponses={"a": 2})).answer("a", accept_text) == "one"


def test_kept_answers_are_judged_again() -> None:
    """MRT-8."""
    first = opened(call(inputResponses={"a": "one"}))
    first.answer("a", accept_text)
    second = opened(call(requestState=state_after(first, call())))
    assert second.answer("a", lambda _: None) is None


FOREIGN: list[Call] = [call(principal="bob"), call(name="other"), call(arguments={"x": 1}), call(method="prompts/get")]


@pytest.mark.parametrize("other", FOREIGN, ids=["caller", "target", "arguments", "method"])
def test_a_state_is_bound_to_caller_method_target_and_arguments(other: Call) -> None:
    """MRT-5, MRT-6, SEC-5."""
    other.params["requestState"] = state_after(Rounds(), call())
    with pytest.raises(InvalidParams, match="Invalid or expired requestState"):
        opened(other)


def test_meta_and_answers_are_no_part_of_what_a_state_is_bound_to() -> None:
    """MRT-4."""
    state = state_after(Rounds(), call(_meta={"progressToken": 1}, inputResponses={}))
    assert opened(call(requestState=state, _meta={"progressToken": 2}, inputResponses={"a": "b"})).count == 1


@pytest.mark.parametrize("state", ["", "x", 7, {}, [], False])
def test_what_is_no_state_of_ours_is_refused(state: Any) -> None:
    """MRT-5."""
    with pytest.raises(InvalidParams, match="Invalid or expired requestState"):
        opened(call(requestState=state))


def test_a_state_expires_and_rounds_are_counted() -> None:
    """MRT-4, MRT-6, SEC-4."""
    state = state_after(Rounds(2), call())
    with pytest.raises(InvalidParams):
        opened(call(requestState=state), now=NOW + 61)
    assert opened(call(requestState=state), max_rounds=4).count == 3
    with pytest.raises(InvalidParams, match="start it anew"):
        opened(call(requestState=state), max_rounds=3)


@pytest.mark.parametrize("responses", [[], "x", 7])
def test_answers_are_an_object(responses: Any) -> None:
    """MRT-8."""
    with pytest.raises(InvalidParams):
        opened(call(inputResponses=responses))


@pytest.mark.parametrize("version", STATEFUL)
def test_a_stateful_call_knows_neither_states_nor_answers(version: str) -> None:
    """RPC-8, MRT-12."""
    rounds = opened(call(version, requestState="not ours", inputResponses=7))
    assert (rounds.count, rounds.answer("a", accept_text)) == (0, None)


@pytest.mark.parametrize("value", [float("nan"), "\ud800", object()])
def test_a_result_that_is_no_json_cannot_be_kept(value: Any) -> None:
    """MRT-12, RPC-7."""
    rounds = Rounds()
    with pytest.raises((ValueError, TypeError)):
        rounds.keep("step", value)
    assert not rounds.has_result("step")
