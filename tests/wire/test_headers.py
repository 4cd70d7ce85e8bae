"""Routing headers: reading them in one pass, the Base64 form, `x-mcp-header` annotations.

The vectors are those of the specification's transport page; Hypothesis holds `encode_value` against `decode_value`.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.errors import HeaderMismatch, RegistrationError
from mcpd.wire.headers import (
    HeaderParameter,
    RoutingHeaders,
    by_name,
    check_parameters,
    decode_value,
    find_parameters,
)
from tests.mirrored import encode_value


def read(*raw: tuple[bytes, bytes]) -> RoutingHeaders:
    return RoutingHeaders.read(*by_name(raw))


def test_one_pass_finds_our_headers_among_the_others() -> None:
    """HDR-1..4: white space around a value is not part of it; other headers are left alone."""
    raw = [
        (b"accept", b"*/*"),
        (b"host", b"localhost"),
        (b"last-event-id", b"s1-7"),
        (b"mcp-method", b"  tools/call\t"),
        (b"mcp-name", b""),
        (b"mcp-param-region", b" eu "),
        (b"mcp-param-zone", b"\xe9"),
        (b"mcp-protocol-version", b"2026-07-28"),
        (b"mcp-session-id", b"abc"),
        (b"mcp-something", b"x"),
        (b"user-agent", b"test"),
        (b"", b""),
    ]
    headers = read(*raw)
    assert headers == RoutingHeaders(
        version="2026-07-28",
        method="tools/call",
        name="",
        session_id="abc",
        last_event_id="s1-7",
        given=dict(raw),
    )
    found = [headers.parameter(f"mcp-param-{name}") for name in ("region", "zone", "other")]
    assert found == ["eu", "\xe9", None]
    assert read(*reversed(raw)) == headers


def test_absent_headers_are_none_and_empty_ones_are_not() -> None:
    """HDR-5: an empty header is present."""
    assert read() == RoutingHeaders()
    assert read((b"mcp-name", b"  ")).name == ""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"mcp-protocol-version", "MCP-Protocol-Version"),
        (b"mcp-method", "Mcp-Method"),
        (b"mcp-name", "Mcp-Name"),
        (b"mcp-param-region", "mcp-param-region"),
    ],
)
@pytest.mark.parametrize("second", [b"a", b"b"])
def test_a_routing_header_sent_twice_is_named(name: bytes, shown: str, second: bytes) -> None:
    """Ladder step 5: also when both values are equal."""
    assert read((name, b"a"), (b"accept", b"*/*"), (name, second)).duplicates == shown


@pytest.mark.parametrize("name", [b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id"])
def test_two_lines_and_one_with_a_comma_are_the_same_value(name: bytes) -> None:
    """RFC 9110 section 5.3: what a proxy may join on the way must not change the answer."""
    twice, joined = read((name, b"a"), (name, b" a")), read((name, b"a, a"))
    assert msgspec.structs.replace(twice, duplicates=None) == joined


def test_a_session_sent_twice_matches_no_session_but_is_no_routing_error() -> None:
    """RSP-6: a stateless request ignores it."""
    headers = read((b"mcp-session-id", b"a"), (b"mcp-session-id", b" b"), (b"last-event-id", b"1"))
    assert (headers.session_id, headers.last_event_id, headers.duplicates) == ("a, b", "1", None)


def test_other_headers_may_repeat() -> None:
    """HDR-5: only routing headers are ours to judge."""
    headers = [(b"accept", b"a"), (b"accept", b"b"), (b"x-y", b"1")] * 2
    assert read(*headers).duplicates is None
    assert by_name(headers) == ({b"accept": b"b", b"x-y": b"1"}, {b"accept": b"a, b, a, b", b"x-y": b"1, 1"})


VECTORS = [
    ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
    (" padded ", "=?base64?IHBhZGRlZCA=?="),
    ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
    ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ("", ""),
    ("plain", "plain"),
    ("with\ttab and space", "with\ttab and space"),
]


@pytest.mark.parametrize(("text", "header"), VECTORS)
def test_the_vectors_of_the_specification_hold_both_ways(text: str, header: str) -> None:
    """HDR-6."""
    assert encode_value(text) == header
    assert decode_value(header) == text


@pytest.mark.parametrize(
    "literal",
    [
        "SGVsbG8=",
        "SGVsbG8=?=",
        "=?base64?SGVsbG8=",
        "=?BASE64?SGVsbG8=?=",
        "=?Base64?!?=",
        "=?base64?=",
        "=?utf-8?q?x?=",
        " =?base64?SGVsbG8=?=",
    ],
)
def test_what_does_not_look_encoded_is_literal(literal: str) -> None:
    """HDR-8."""
    assert decode_value(literal) == literal


@pytest.mark.parametrize(
    "bad",
    [
        "=?base64?SGVsbG8?=",
        "=?base64?SGVs!!!bG8=?=",
        "=?base64?SGVsbG9=?=",
        "=?base64?SGVs bG8=?=",
        "=?base64?SGVs\tbG8=?=",
        "=?base64? SGVsbG8=?=",
        "=?base64?SGVsbG8==?=",
        "=?base64?=SGVsbG8?=",
        "=?base64?_-8=?=",
        "=?base64?/w==?=",
        "=?base64?7aCA?=",
        "caf\xe9",
        "a\x7f",
        "a\x00b",
        "a\nb",
        "世",
    ],
)
def test_decoding_is_strict(bad: str) -> None:
    """HDR-5, HDR-7: alphabet, padding, trailing bits, UTF-8, visible ASCII."""
    with pytest.raises(HeaderMismatch):
        decode_value(bad)


def test_an_encoded_empty_text_is_empty() -> None:
    """HDR-6."""
    assert decode_value("=?base64??=") == ""


@given(st.text() | st.text(st.sampled_from("=?base64 \t\n世A")) | st.text().map("=?base64?{}?=".format))
def test_any_text_survives_the_way_through_a_header(text: str) -> None:
    """HDR-6: and what is sent is visible ASCII without white space at its ends."""
    header = encode_value(text)
    assert decode_value(header) == text
    assert read((b"mcp-name", header.encode("ascii"))).name == header


@given(st.binary())
def test_only_canonical_base64_is_accepted(data: bytes) -> None:
    """HDR-7."""
    header = f"=?base64?{data.decode('latin-1')}?="
    try:
        text = decode_value(header)
    except HeaderMismatch:
        return
    assert base64.b64encode(text.encode()) == data


def test_annotations_are_found_along_properties_in_order() -> None:
    """HDR-9: nested objects count; a property may itself be called x-mcp-header; data is no schema."""
    schema = {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "nested": {"properties": {"deep": {"type": "boolean", "x-mcp-header": "Deep-Flag"}}},
            "count": {"type": "integer", "x-mcp-header": "n_1"},
            "x-mcp-header": {"type": "object", "default": {"x-mcp-header": ""}, "properties": {}},
            "anything": True,
        },
        "examples": [{"x-mcp-header": 1}],
    }
    assert find_parameters(schema) == (
        HeaderParameter("mcp-param-region", ("region",), "string"),
        HeaderParameter("mcp-param-deep-flag", ("nested", "deep"), "boolean"),
        HeaderParameter("mcp-param-n_1", ("count",), "integer"),
    )


def test_a_schema_without_annotations_has_no_parameters() -> None:
    """HDR-9."""
    assert find_parameters({"type": "object"}) == ()
    assert find_parameters({"type": "object", "properties": None, "items": True, "allOf": [True]}) == ()


GOOD = {"type": "string", "x-mcp-header": "Region"}


def properties(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members}


@pytest.mark.parametrize("label", ["", " ", "a b", "a:b", "a\r\nb", "é", "a\x00", "(x)", 1, None, ["a"], True])
def test_an_annotation_that_is_no_token_is_refused(label: Any) -> None:
    """HDR-9."""
    with pytest.raises(RegistrationError, match="region"):
        find_parameters(properties(region={"type": "string", "x-mcp-header": label}))


@pytest.mark.parametrize("kind", ["number", "object", "array", "null", None, ["string", "null"], ["string"]])
def test_only_strings_integers_and_booleans_can_be_mirrored(kind: Any) -> None:
    """HDR-9."""
    with pytest.raises(RegistrationError, match="type"):
        find_parameters(properties(a={"type": kind, "x-mcp-header": "A"}))


@pytest.mark.parametrize(
    "schema",
    [
        GOOD,
        properties(a={"type": "array", "items": GOOD}),
        properties(a={"type": "array", "items": [GOOD]}),
        properties(a={"prefixItems": [{}, GOOD]}),
        properties(a={"additionalProperties": GOOD}),
        {"anyOf": [properties(a=GOOD)]},
        {"oneOf": [properties(a=GOOD)]},
        {"allOf": [{"properties": {"a": {"properties": {"b": GOOD}}}}]},
        {"not": properties(a=GOOD)},
        {"if": properties(a=GOOD)},
        {"then": properties(a=GOOD)},
        {"else": properties(a=GOOD)},
        {"$defs": {"a": properties(a=GOOD)}},
        {"patternProperties": {"^a": GOOD}},
        {"dependentSchemas": {"a": properties(b=GOOD)}},
    ],
)
def test_an_annotation_off_the_properties_path_is_refused(schema: dict[str, Any]) -> None:
    """HDR-9."""
    with pytest.raises(RegistrationError, match="x-mcp-header"):
        find_parameters(schema)


def test_two_annotations_that_differ_in_case_only_are_refused() -> None:
    """HDR-9."""
    other = {"type": "string", "x-mcp-header": "REGION"}
    with pytest.raises(RegistrationError, match="twice"):
        find_parameters(properties(a=GOOD, b=properties(c=other)))


PARAMETERS = (
    HeaderParameter("mcp-param-s", ("s",), "string"),
    HeaderParameter("mcp-param-i", ("deep", "i"), "integer"),
    HeaderParameter("mcp-param-b", ("b",), "boolean"),
)


def sent(**params: str) -> RoutingHeaders:
    return read(*((f"mcp-param-{name}".encode(), value.encode("latin-1")) for name, value in params.items()))


AGREE: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"s": None, "deep": None, "b": None}),
    ({}, {"deep": {}}),
    ({}, {"deep": "not an object"}),
    ({"other": "x", "unknown": "\xe9"}, {}),
    ({"s": "eu"}, {"s": "eu"}),
    ({"s": ""}, {"s": ""}),
    ({"s": "=?base64?SGVsbG8=?="}, {"s": "Hello"}),
    ({"s": "true"}, {"s": "true"}),
    ({"i": "42"}, {"deep": {"i": 42}}),
    ({"i": "42.0"}, {"deep": {"i": 42}}),
    ({"i": "42"}, {"deep": {"i": 42.0}}),
    ({"i": "4.2e1"}, {"deep": {"i": 42}}),
    ({"i": "-9007199254740991"}, {"deep": {"i": -(2**53 - 1)}}),
    ({"i": "0"}, {"deep": {"i": 0}}),
    ({"b": "true"}, {"b": True}),
    ({"b": "false"}, {"b": False}),
    ({"s": "a", "i": "=?base64?MQ==?=", "b": "true"}, {"s": "a", "deep": {"i": 1}, "b": True}),
]


@pytest.mark.parametrize(("headers", "arguments"), AGREE)
def test_headers_that_mirror_the_arguments_pass(headers: dict[str, str], arguments: dict[str, Any]) -> None:
    """HDR-10, HDR-11, HDR-12."""
    check_parameters(PARAMETERS, sent(**headers), arguments)


DISAGREE: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {"s": "eu"}),
    ({}, {"s": ""}),
    ({}, {"b": False}),
    ({}, {"deep": {"i": 0}}),
    ({"s": "EU"}, {"s": "eu"}),
    ({"s": "eu"}, {}),
    ({"s": ""}, {"s": None}),
    ({"i": "1"}, {"deep": "not an object"}),
    ({"s": "SGVsbG8="}, {"s": "Hello"}),
    ({"s": "=?base64?SGVsbG8?="}, {"s": "Hello"}),
    ({"s": "=?base64?SGVs!!!bG8=?="}, {"s": "Hello"}),
    ({"s": "caf\xe9"}, {"s": "caf\xe9"}),
    ({"s": "{}"}, {"s": {}}),
    ({"b": "True"}, {"b": True}),
    ({"b": "1"}, {"b": True}),
    ({"b": "false"}, {"b": True}),
    ({"i": "43"}, {"deep": {"i": 42}}),
    ({"i": ""}, {"deep": {"i": 0}}),
    ({"i": "+42"}, {"deep": {"i": 42}}),
    ({"i": "042"}, {"deep": {"i": 42}}),
    ({"i": "4_2"}, {"deep": {"i": 42}}),
    ({"i": "0x2a"}, {"deep": {"i": 42}}),
    ({"i": "true"}, {"deep": {"i": 1}}),
    ({"i": "1"}, {"deep": {"i": True}}),
    ({"i": "NaN"}, {"deep": {"i": 1}}),
    ({"i": "1e999"}, {"deep": {"i": 1}}),
    ({"i": "=?base64?IDQy?="}, {"deep": {"i": 42}}),
    ({"i": "9007199254740992"}, {"deep": {"i": 2**53}}),
    ({"i": "9" * 5000}, {"deep": {"i": 1}}),
]


@pytest.mark.parametrize(("headers", "arguments"), DISAGREE)
def test_headers_that_do_not_mirror_the_arguments_are_refused(
    headers: dict[str, str], arguments: dict[str, Any]
) -> None:
    """HDR-5, HDR-7, HDR-10, HDR-11; integers beyond 2**53 - 1 (HDR-9)."""
    with pytest.raises(HeaderMismatch):
        check_parameters(PARAMETERS, sent(**headers), arguments)


@given(st.text(), st.integers(-(2**53) + 1, 2**53 - 1), st.booleans())
def test_what_a_client_encodes_is_accepted(s: str, i: int, b: bool) -> None:
    """HDR-6, HDR-11."""
    headers = sent(s=encode_value(s), i=str(i), b=str(b).lower())
    check_parameters(PARAMETERS, headers, {"s": s, "deep": {"i": i}, "b": b})
    with pytest.raises(HeaderMismatch):
        check_parameters(PARAMETERS, headers, {"s": s + "x", "deep": {"i": i}, "b": b})
