"""JSON-RPC values: what parses, what is refused and with which id, and what may be written.

Tables for the rules of JSON-RPC, Hypothesis for the laws: `decode` answers any bytes with a value or a ParseError,
and what we write is JSON that reads back as the same value.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd import errors
from mcpd.wire import jsonrpc
from mcpd.wire.call import MAX_ID_CHARS, is_request_id
from mcpd.wire.jsonrpc import Malformed, Notification, Request, Response

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


def message(**members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", **members}


NOT_JSON: list[bytes | str] = [
    b"",
    b" ",
    b"{",
    b"1 2",
    b"01",
    b"nul",
    b"{'a': 1}",
    b"[1,]",
    b'"a\nb"',
    b"NaN",
    b"[Infinity]",
    b"-Infinity",
    b"1e999",
    b"[-1e400]",
    b"9" * 5000,
    b"\xef\xbb\xbf\xef\xbb\xbf{}",
    "\ufeff\ufeff{}",
    "{}".encode("utf-16"),
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\\ud800"',
    b'"\\udc00 and more"',
    b'"\\ud800\\u0041"',
    '"\ud800"',
    b"[" * 100_000,
    b"[" * 5_000 + b"]" * 5_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
]


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:24]))
def test_what_is_not_one_json_text_is_a_parse_error(body: bytes | str) -> None:
    """RPC-7: never a crash, whatever the bytes."""
    with pytest.raises(errors.ParseError):
        jsonrpc.decode(body)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, bytes.decode])
def test_every_form_of_a_body_decodes_alike(kind: Any) -> None:
    """RPC-1."""
    assert jsonrpc.decode(kind('{"ключ":[1,2.5,null]}'.encode()), max_depth=8) == {"ключ": [1, 2.5, None]}
    assert jsonrpc.decode(kind(b"[" + b"[]," * 20 + b"[]]"), max_depth=3) == [[]] * 21
    with pytest.raises(errors.ParseError, match="deep"):
        jsonrpc.decode(kind(b"[" * 9 + b"]" * 9), max_depth=8)


@pytest.mark.parametrize("depth", [1, 2, 63, 64, 65, 200])
def test_depth_counts_nested_containers_and_not_brackets(depth: int) -> None:
    """RPC-7: 64 deep is served, 65 is not; wide or quoted brackets are no depth."""
    body = b"[" * depth + b"1" + b"]" * depth
    wide = b"[" + b",".join([b'{"[[[":"{{{"}'] * 300) + b"]"
    assert len(jsonrpc.decode(wide, max_depth=2)) == 300
    if depth <= 64:
        assert jsonrpc.decode(body)
    else:
        with pytest.raises(errors.ParseError, match="64 deep"):
            jsonrpc.decode(body)


@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_a_message_of_too_many_containers_is_refused_before_they_are_made(pair: bytes) -> None:
    """Four megabytes of them took two seconds to make."""
    most = jsonrpc.MAX_CONTAINERS_ITEMS
    fits = b"[" + b",".join([pair] * (most - 1)) + b"]"
    assert len(jsonrpc.decode(fits)) == most - 1
    for body in (fits[:-1] + b"," + pair + b"]", (fits[:-1] + b"," + pair + b"]").decode()):
        with pytest.raises(errors.ParseError, match="more than 100000 objects and arrays"):
            jsonrpc.decode(body)


@pytest.mark.parametrize("text", [b"[{" * 60_000, b'\\"[{' * 60_000, b"[\\\\" * 120_000])
def test_brackets_inside_of_strings_are_no_containers(text: bytes) -> None:
    assert len(jsonrpc.decode(b'["' + text + b'", "a"]')) == 2


@pytest.mark.parametrize("body", [b'["' + b'\\"[' * 150_000, b'["' + b'[\\"' * 150_000 + b"\\", b'"[' * 150_000])
def test_a_string_that_does_not_end_is_looked_at_once(body: bytes) -> None:
    with pytest.raises(errors.ParseError, match="Parse error"):
        jsonrpc.decode(body)


def test_objects_count_as_depth_like_arrays() -> None:
    """RPC-7."""
    body = b'{"a":' * 5 + b"1" + b"}" * 5
    assert jsonrpc.decode(body, max_depth=5)
    with pytest.raises(errors.ParseError):
        jsonrpc.decode(body, max_depth=4)


def test_the_last_of_duplicate_keys_wins() -> None:
    """RPC-7: the parser cannot see them; documented."""
    assert jsonrpc.decode(b'{"a":1,"a":2}') == {"a": 2}


@given(st.binary(max_size=200) | st.text(max_size=100))
def test_any_input_decodes_as_the_standard_library_does_or_is_a_parse_error(body: bytes | str) -> None:
    """RPC-7."""
    try:
        value = jsonrpc.decode(body)
    except errors.ParseError:
        return
    assert value == json.loads(body)


@given(JSON)
def test_json_of_other_writers_is_read(value: Any) -> None:
    """RPC-1: escaped or not."""
    for ascii_only in (True, False):
        assert jsonrpc.decode(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


SOUND: list[tuple[Any, jsonrpc.Message]] = [
    (message(id=1, method="ping"), Request(1, "ping", {})),
    (message(id=0, method="ping"), Request(0, "ping", {})),
    (message(id=-7, method="m", params={}), Request(-7, "m", {})),
    (message(id="", method="m", params={"a": None}), Request("", "m", {"a": None})),
    (message(id="1", method="m", params={"_meta": {"x": 1}}), Request("1", "m", {"_meta": {"x": 1}})),
    (message(id=2**64 - 1, method="m", other=[1]), Request(2**64 - 1, "m", {})),
    (message(method="notifications/initialized"), Notification("notifications/initialized", {})),
    (message(method="n", params={"a": 1}), Notification("n", {"a": 1})),
    (message(id=1, result={}), Response(1, {}, None)),
    (message(id="a", error={"code": -1, "message": "no"}), Response("a", None, {"code": -1, "message": "no"})),
]


@pytest.mark.parametrize(("value", "expected"), SOUND)
def test_a_sound_message_is_classified_by_its_members(value: Any, expected: jsonrpc.Message) -> None:
    """RPC-1, RPC-3, RPC-8: ids keep their type, unknown members are ignored."""
    parsed = jsonrpc.parse(value)
    assert parsed == expected
    assert type(getattr(parsed, "id", None)) is type(getattr(expected, "id", None))


REFUSED: list[tuple[Any, type[errors.WireError], Any]] = [
    (None, errors.InvalidRequest, None),
    (1, errors.InvalidRequest, None),
    ("text", errors.InvalidRequest, None),
    ([], errors.InvalidRequest, None),
    ([message(id=1, method="ping")], errors.InvalidRequest, None),
    ({}, errors.InvalidRequest, None),
    (message(), errors.InvalidRequest, None),
    (message(id=1), errors.InvalidRequest, 1),
    ({"id": 1, "method": "ping"}, errors.InvalidRequest, 1),
    ({"jsonrpc": "1.0", "id": "x", "method": "ping"}, errors.InvalidRequest, "x"),
    ({"jsonrpc": 2.0, "id": 3, "method": "ping"}, errors.InvalidRequest, 3),
    (message(id=1, method=None), errors.InvalidRequest, 1),
    (message(id=1, method=["ping"]), errors.InvalidRequest, 1),
    (message(id=None, method="ping"), errors.InvalidRequest, None),
    (message(id=True, method="ping"), errors.InvalidRequest, None),
    (message(id=1.0, method="ping"), errors.InvalidRequest, None),
    (message(id={}, method="ping"), errors.InvalidRequest, None),
    (message(id=[1], method="ping"), errors.InvalidRequest, None),
    (message(id=1, method="ping", params=[1]), errors.InvalidParams, 1),
    (message(id=True, method="ping", params="no"), errors.InvalidParams, None),
    (message(id=0, method="ping", params={"_meta": 0}), errors.InvalidParams, 0),
    (message(id="a", method="ping", params={"_meta": []}), errors.InvalidParams, "a"),
    (message(method="n", params={"_meta": 1}), errors.InvalidParams, None),
    (message(result={}), errors.InvalidRequest, None),
    (message(id=None, result={}), errors.InvalidRequest, None),
    (message(id=1, result={}, error={"code": 1, "message": ""}), errors.InvalidRequest, None),
    (message(id=1, result=[]), errors.InvalidRequest, None),
    (message(id=1, result=None), errors.InvalidRequest, None),
    (message(id=1, error=None), errors.InvalidRequest, None),
    (message(id=1, error={"code": "1", "message": ""}), errors.InvalidRequest, None),
    (message(id=1, error={"code": True, "message": ""}), errors.InvalidRequest, None),
    (message(id=1, error={"code": 1}), errors.InvalidRequest, None),
]


@pytest.mark.parametrize(("value", "error", "request_id"), REFUSED)
def test_a_malformed_message_carries_its_refusal_and_its_id_if_it_has_one(
    value: Any, error: type[errors.WireError], request_id: Any
) -> None:
    """RPC-1, RPC-2, RPC-4, RPC-6, LAD-1: a response's id is never used, it names a request of ours."""
    parsed = jsonrpc.parse(value)
    assert isinstance(parsed, Malformed)
    assert type(parsed.error) is error
    assert parsed.id == request_id
    assert type(parsed.id) is type(request_id)


@given(JSON | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error"]), JSON))
def test_any_json_value_parses_to_a_message_or_a_refusal(value: Any) -> None:
    """RPC-7."""
    assert isinstance(jsonrpc.parse(value), (Request, Notification, Response, Malformed))


def test_a_batch_keeps_its_order_and_refuses_the_second_use_of_an_id() -> None:
    """BAT-1, BAT-4, RPC-3: 1 and "1" are different ids."""
    first, second = message(id=1, method="a"), message(id="1", method="b")
    batch = [first, second, message(method="n"), message(id=1, method="c"), [first], message(id=1, result={})]
    parsed = jsonrpc.parse_batch(batch, max_items=6)
    assert parsed[:3] == [Request(1, "a", {}), Request("1", "b", {}), Notification("n", {})]
    assert isinstance(parsed[3], Malformed)
    assert (type(parsed[3].error), parsed[3].id) == (errors.InvalidRequest, 1)
    assert isinstance(parsed[4], Malformed)
    assert parsed[5] == Response(1, {}, None)


@pytest.mark.parametrize("size", [0, 4])
def test_a_batch_that_is_empty_or_too_long_is_refused_whole(size: int) -> None:
    """BAT-1, BAT-4."""
    with pytest.raises(errors.InvalidRequest):
        jsonrpc.parse_batch([message(method="n")] * size, max_items=3)


@given(JSON)
def test_what_is_written_reads_back_and_stays_on_one_line(value: Any) -> None:
    """RPC-7, IO-1: no raw line break ever leaves."""
    text = jsonrpc.encode(value)
    assert json.loads(text) == value
    assert b"\n" not in text
    assert b"\r" not in text


class Point(msgspec.Struct):
    x: Any


@dataclasses.dataclass
class Pair:
    x: Any


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: [1, [x]],
        lambda x: {"a": {"b": (None, x)}},
        lambda x: {x},
        lambda x: [Point(x)],
        lambda x: Pair([x]),
        lambda x: {"a": "null", "b": [Point({"c": x})]},
    ],
)
def test_not_a_number_is_never_written_as_null(number: float, wrap: Any) -> None:
    """RPC-7: wherever it hides."""
    with pytest.raises(ValueError, match="no JSON form"):
        jsonrpc.encode(wrap(number))


def test_null_and_the_word_null_are_written() -> None:
    """RPC-8: finding a number that is none does not cost the nulls."""
    value = {"a": None, "null": "null", "b": [1.5, None], "c": Point(None)}
    assert json.loads(jsonrpc.encode(value)) == {"a": None, "null": "null", "b": [1.5, None], "c": {"x": None}}


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, cyclic(), 10**5000, object(), {None: 1}], ids=range(6))
def test_what_has_no_json_form_is_a_value_error(value: Any) -> None:
    """RPC-7."""
    with pytest.raises(ValueError, match=r"."):
        jsonrpc.encode({"content": value})


def test_the_writers_leave_out_what_is_absent() -> None:
    """RPC-3, RPC-4: no `id: null`, no `data: null`."""
    assert jsonrpc.success("1", {"a": 1}) == b'{"jsonrpc":"2.0","id":"1","result":{"a":1}}'
    assert jsonrpc.failure(None, -32700, "no") == b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"no"}}'
    assert jsonrpc.failure(0, -1, "n", {}) == b'{"jsonrpc":"2.0","id":0,"error":{"code":-1,"message":"n","data":{}}}'
    assert jsonrpc.notification("n", {"a": 1}) == b'{"jsonrpc":"2.0","method":"n","params":{"a":1}}'
    assert jsonrpc.request(4, "m", {}) == b'{"jsonrpc":"2.0","id":4,"method":"m","params":{}}'


@pytest.mark.parametrize(
    ("error", "stateless", "stateful"),
    [
        (errors.HeaderMismatch("x"), -32020, -32600),
        (errors.ResourceNotFound("a://b"), -32602, -32002),
        (errors.ParseError("x"), -32700, -32700),
    ],
)
def test_an_error_has_the_code_of_its_era(error: errors.WireError, stateless: int, stateful: int) -> None:
    """RPC-10, RPC-11, ERA-10."""
    for era, code in ((True, stateless), (False, stateful)):
        written = json.loads(jsonrpc.failure_of(error, 7, stateless=era))
        assert written["error"]["code"] == code
        assert written["error"]["message"] == error.message
        assert written["error"].get("data") == error.data
        assert written["id"] == 7


IDS = st.integers(-(2**63), 2**64 - 1) | st.text()


@given(IDS, st.text(), st.dictionaries(st.text(), JSON).filter(lambda p: "_meta" not in p))
def test_a_request_survives_the_way_to_bytes_and_back(request_id: Any, method: str, params: dict[str, Any]) -> None:
    """RPC-3."""
    body = jsonrpc.request(request_id, method, params)
    assert jsonrpc.parse(jsonrpc.decode(body)) == Request(request_id, method, params)


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf{}", bytearray(b"\xef\xbb\xbf{}"), memoryview(b"\xef\xbb\xbf{}"), "\ufeff{}"]
)
def test_one_byte_order_mark_is_passed_over(body: Any) -> None:
    """RFC 8259 section 8.1."""
    assert jsonrpc.decode(body, max_depth=4) == {}


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("", True), ("x" * MAX_ID_CHARS, True), ("x" * (MAX_ID_CHARS + 1), False), (-(2**63), True),
        (-(2**63) - 1, False), (2**64 - 1, True), (2**64, False), (True, False), (1.0, False), (None, False),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_an_id_is_a_text_of_bounded_length_or_an_integer_of_64_bits(value: Any, good: bool) -> None:
    assert is_request_id(value) is good
