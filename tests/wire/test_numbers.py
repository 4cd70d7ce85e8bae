"""Every number that a peer may send, at the place where it is converted: bounded or refused, never an exception.

Tables of the worst numbers that JSON can carry, for each field of a message that holds one, in both eras.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.authoring.content import Elicit, Roots, Sample
from mcpd.errors import InvalidParams, ParseError, WireError
from mcpd.messages.flight import Budget, Flight
from mcpd.wire import jsonrpc
from mcpd.wire.call import ANONYMOUS, Call
from mcpd.wire.envelope import CAPABILITIES_KEY, LOG_LEVEL_KEY, MAX_TIMEOUT_MS, TIMEOUT_KEY, VERSION_KEY, open_message
from mcpd.wire.session import SessionState
from mcpd.wire.versions import STATEFUL, STATELESS
from tests.messages.memory import Wire
from tests.served import CLIENT

NUMBERS = (
    "0", "-0", "-1", "1.0", "0.5", "-0.0", "1e308", "-1e308", "1e999", "-1e999", "NaN", "Infinity", "true", "null",
    str(2**53 + 1), str(2**63), str(2**64), str(-(2**63) - 1), str(10**312), str(-(10**312)), "9" * 4300, "9" * 4301,
    "9" * 100_000, "1" + "0" * 400 + ".5", "1e-999",
)  # fmt: skip
number = st.one_of(
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.integers(1, 6000).map("9".__mul__),
    st.tuples(st.integers(), st.integers(-2000, 2000)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
)
META = (TIMEOUT_KEY, "progressToken", LOG_LEVEL_KEY, "traceparent", VERSION_KEY, CAPABILITIES_KEY)


def text_of(field: str, written: str) -> str:
    """Return a request in which `field` is the number as it is written."""
    marks = {VERSION_KEY: json.dumps(STATELESS), CAPABILITIES_KEY: "{}"}
    members = {"id": "7", "method": '"tools/list"', "jsonrpc": '"2.0"'}
    if field in META:
        marks[field] = written
    else:
        members[field] = written
    meta = ", ".join(f'"{key}": {value}' for key, value in marks.items())
    rest = ", ".join(f'"{key}": {value}' for key, value in members.items())
    return f'{{{rest}, "params": {{"_meta": {{{meta}}}}}}}'


def opened(text: str) -> list[Call | WireError]:
    """Return what becomes of a message in each era."""
    try:
        message = jsonrpc.parse(jsonrpc.decode(text))
    except ParseError as error:
        return [error]
    if not isinstance(message, jsonrpc.Request):
        return [message.error] if isinstance(message, jsonrpc.Malformed) else []
    state = SessionState({"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": CLIENT})
    ways: list[Callable[[], Call]] = [
        lambda: open_message(message, "stdio"),
        lambda: state.open_call(message, "stdio", principal=ANONYMOUS, request_id="r", session="s"),
    ]
    found: list[Call | WireError] = []
    for open_call in ways:
        try:
            found.append(open_call())
        except WireError as error:
            found.append(error)
    return found


def check(field: str, written: str) -> None:
    for outcome in opened(text_of(field, written)):
        if isinstance(outcome, WireError):
            answer = json.loads(jsonrpc.failure_of(outcome, None, stateless=True))
            assert answer["error"]["code"] < 0
            continue
        assert outcome.timeout_ms is None or 0 < outcome.timeout_ms <= MAX_TIMEOUT_MS
        assert outcome.timeout_ms is None or outcome.timeout_ms / 1000 >= 0
        assert json.loads(jsonrpc.success(outcome.id or 0, {"token": outcome.progress_token}))


@pytest.mark.parametrize("written", NUMBERS)
@pytest.mark.parametrize("field", [*META, "id", "jsonrpc", "method", "params"])
def test_any_number_in_any_field_is_bounded_or_refused(field: str, written: str) -> None:
    """RPC-2, RPC-10, PRG-1, CAN-5."""
    check(field, written)


@given(st.sampled_from([*META, "id"]), number)
def test_any_number_at_all_is_bounded_or_refused(field: str, written: str) -> None:
    """RPC-2, RPC-10, PRG-1, CAN-5."""
    check(field, written)


@pytest.mark.parametrize("written", [*NUMBERS[:10], *NUMBERS[13:20]])
@pytest.mark.parametrize("question", [Elicit("?", fields={"value": float}), Elicit("?", fields={"value": int}),
                                      Sample("?"), Roots()])  # fmt: skip
def test_any_number_in_an_answer_fits_or_does_not(question: Any, written: str) -> None:
    """MRT-8."""
    for template in (
        '{"action": "accept", "content": {"value": NUMBER}}',
        '{"role": "assistant", "model": "m", "content": NUMBER}',
        '{"roots": NUMBER}',
        "NUMBER",
    ):
        try:
            answer = jsonrpc.decode(template.replace("NUMBER", written))
        except ParseError:
            continue
        question.answer(answer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"jsonrpc": "2.0", "id": 3, "method": "m", "params": {"a": "\\ud800"}}', 3),
        ('{"jsonrpc": "2.0", "id": "x", "method": "m", "params": {"a": 1e999}}', "x"),
        ('{"jsonrpc": "2.0", "id": "x", "method": "m", "params": {"a": [NaN, -Infinity]}}', "x"),
        ('{"jsonrpc": "2.0", "id": "\\ud800", "method": "m"}', None),
        ('{"jsonrpc": "2.0", "id": 1e999, "method": "m"}', None),
        ('{"jsonrpc": "2.0", "id": true, "method": "m", "params": "\\ud800"}', None),
        ('{"jsonrpc": "2.0", "id": 3, "result": {"a": "\\ud800"}}', None),
        ('[{"jsonrpc": "2.0", "id": 3, "method": "m", "params": {"a": "\\ud800"}}]', None),
        ('{"jsonrpc": "2.0", "id": 3, "method": "m", "params": {', None),
        ('{"jsonrpc": "2.0", "id": 3, "method": "m", "params": ' + "9" * 5000 + "}", None),
        ('{"id": 3, "method": "m", "a": ' + "[" * 100_000, None),
    ],
)
@pytest.mark.parametrize("form", [str, str.encode])
def test_what_only_a_laxer_parser_reads_is_answered_with_its_id(text: str, found: Any, form: Any) -> None:
    """RPC-2: a client that never hears of its request waits for ever."""
    with pytest.raises(ParseError) as caught:
        jsonrpc.decode(form(text))
    answer = json.loads(jsonrpc.failure_of(caught.value, None, stateless=False))
    assert (answer.get("id"), answer["error"]["code"]) == (found, -32700)


async def test_the_longest_limit_is_one_that_a_clock_can_hold() -> None:
    """CAN-5."""
    flight = Flight(Call(method="m", params={}, version=STATELESS, transport="stdio"), Wire())
    assert flight.open_scope(Budget("request", MAX_TIMEOUT_MS / 1000), most_s=1e9).deadline < float("inf")


def test_an_error_that_has_no_json_form_is_answered_all_the_same() -> None:
    """RPC-10: its message escaped, its data left out."""
    error = InvalidParams("half \ud800", {"a": float("nan"), "b": object()})
    assert json.loads(jsonrpc.failure_of(error, 5, stateless=True)) == {
        "jsonrpc": "2.0",
        "id": 5,
        "error": {"code": -32602, "message": "half \\ud800"},
    }
