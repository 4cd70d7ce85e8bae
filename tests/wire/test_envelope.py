"""The classifier and the ladder as tables: which era a POST belongs to, and the first step that refuses it."""

from __future__ import annotations

from typing import Any

import pytest

from mcpd.errors import HeaderMismatch, InvalidParams, UnsupportedVersion, WireError
from mcpd.wire.call import Call, Principal
from mcpd.wire.envelope import (
    CAPABILITIES_KEY,
    CLIENT_KEY,
    LOG_LEVEL_KEY,
    LOG_LEVELS,
    TIMEOUT_KEY,
    VERSION_KEY,
    is_stateless_post,
    marked,
    open_http,
    open_message,
)
from mcpd.wire.headers import RoutingHeaders
from mcpd.wire.jsonrpc import Notification, Request
from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS

OLD, OTHER_OLD, UNKNOWN = STATEFUL[0], STATEFUL[1], "v999.0.0"
ABSENT: Any = object()
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def request(method: str = "tools/list", request_id: Any = 1, **meta: Any) -> Request:
    """Return a sound request; the keywords change `_meta`, ABSENT takes a member away."""
    marks = {VERSION_KEY: STATELESS, CAPABILITIES_KEY: {}}
    keys = {"version": VERSION_KEY, "capabilities": CAPABILITIES_KEY, "client": CLIENT_KEY, "level": LOG_LEVEL_KEY,
            "timeout": TIMEOUT_KEY, "token": "progressToken", "traceparent": "traceparent"}  # fmt: skip
    marks |= {keys[name]: value for name, value in meta.items()}
    found = {key: value for key, value in marks.items() if value is not ABSENT}
    return Request(request_id, method, {"_meta": found})


def headers(version: str | None = STATELESS, method: str | None = "tools/list", **more: Any) -> RoutingHeaders:
    return RoutingHeaders(version=version, method=method, **more)


CLASSIFIER = [
    (None, ABSENT, False, None),
    (OLD, ABSENT, False, None),
    (STATELESS, ABSENT, True, InvalidParams),
    (UNKNOWN, ABSENT, True, InvalidParams),
    ("", ABSENT, True, InvalidParams),
    (None, STATELESS, True, HeaderMismatch),
    (None, OLD, True, HeaderMismatch),
    (OLD, STATELESS, True, HeaderMismatch),
    (OLD, OTHER_OLD, True, HeaderMismatch),
    (OLD, OLD, True, UnsupportedVersion),
    (STATELESS, STATELESS, True, None),
    (UNKNOWN, UNKNOWN, True, UnsupportedVersion),
    (UNKNOWN, STATELESS, True, HeaderMismatch),
    (STATELESS, UNKNOWN, True, HeaderMismatch),
    (STATELESS, None, True, InvalidParams),
    (None, None, True, InvalidParams),
]


@pytest.mark.parametrize(("header", "version", "stateless", "refusal"), CLASSIFIER)
def test_header_and_body_together_decide_era_and_outcome(
    header: str | None, version: Any, stateless: bool, refusal: type[WireError] | None
) -> None:
    """ERA-2, ERA-3, ERA-4, ERA-5, HDR-1, VER-1, LAD-1."""
    asked = request(version=version)
    assert is_stateless_post(asked, headers(header)) is stateless
    if not stateless:
        return
    if refusal is None:
        assert open_http(asked, headers(header)).version == STATELESS
    else:
        with pytest.raises(refusal):
            open_http(asked, headers(header))


def test_a_meta_without_the_version_is_no_mark() -> None:
    """ERA-6."""
    metas: list[dict[str, Any]] = [{}, {"progressToken": 1}, {CAPABILITIES_KEY: {}}]
    for meta in metas:
        assert not marked({"_meta": meta})
        assert not is_stateless_post(Request(1, "tools/list", {"_meta": meta}), headers(None))
    assert not marked({})


def test_marks_beat_method_and_session() -> None:
    """ERA-7, ERA-5."""
    assert is_stateless_post(request("initialize"), headers(None, session_id="s"))
    assert open_http(request("initialize"), headers(method="initialize", session_id="s")).method == "initialize"
    assert not is_stateless_post(Request(1, "initialize", {}), headers(None))


def test_a_stateless_method_without_any_mark_forgot_them() -> None:
    """ERA-8."""
    bare = Request(1, "server/discover", {})
    assert is_stateless_post(bare, headers(None))
    assert not is_stateless_post(bare, headers(None, session_id="s"))
    assert not is_stateless_post(bare, headers(OLD))
    assert not is_stateless_post(Notification("server/discover", {}), headers(None))


ORDER: list[tuple[dict[str, Any], dict[str, Any], type[WireError]]] = [
    ({"version": 7, "capabilities": ABSENT}, {"version": None, "duplicates": "Mcp-Method"}, InvalidParams),
    ({"capabilities": []}, {"version": None, "duplicates": "Mcp-Method"}, InvalidParams),
    ({"client": {"name": "x"}}, {"version": None}, InvalidParams),
    ({"client": None}, {"version": None}, InvalidParams),
    ({"version": UNKNOWN}, {"version": UNKNOWN, "duplicates": "Mcp-Method"}, HeaderMismatch),
    ({"version": UNKNOWN}, {"method": None}, HeaderMismatch),
    ({"version": UNKNOWN}, {"version": UNKNOWN, "method": None}, UnsupportedVersion),
    ({}, {"method": None}, HeaderMismatch),
    ({}, {"method": ""}, HeaderMismatch),
    ({}, {"method": "TOOLS/LIST"}, HeaderMismatch),
]


@pytest.mark.parametrize(("meta", "sent", "refusal"), ORDER)
def test_the_first_step_that_fails_is_raised(
    meta: dict[str, Any], sent: dict[str, Any], refusal: type[WireError]
) -> None:
    """LAD-1, LAD-2, HDR-2, HDR-5."""
    with pytest.raises(WireError) as refused:
        open_http(request(**meta), headers(**sent))
    assert type(refused.value) is refusal


def test_an_unsupported_version_is_told_with_what_is_supported() -> None:
    """DIS-2, LAD-1."""
    with pytest.raises(UnsupportedVersion) as refused:
        open_message(request(version=UNKNOWN), "stdio")
    assert refused.value.data == {"supported": SUPPORTED_STATELESS, "requested": UNKNOWN}


@pytest.mark.parametrize(
    ("method", "target"), [("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri")]
)
def test_a_method_with_a_target_needs_it_in_its_name_header(method: str, target: str) -> None:
    """HDR-4, HDR-5, HDR-6, HDR-8."""
    asked = request(method)
    asked.params[target] = "Hello, 世界"
    assert open_http(asked, headers(method=method, name="=?base64?SGVsbG8sIOS4lueVjA==?=")).method == method
    for name in (None, "", "hello", "=?base64?SGVsbG8?=", "=?BASE64?SGVsbG8sIOS4lueVjA==?="):
        with pytest.raises(HeaderMismatch):
            open_http(asked, headers(method=method, name=name))
    asked.params[target] = ""
    assert open_http(asked, headers(method=method, name="")).method == method, "an empty header is present"
    asked.params[target] = 7
    assert open_http(asked, headers(method=method, name="x")).method == method, (
        "its type is judged where the method is served"
    )


def test_other_methods_ignore_the_name_header() -> None:
    """HDR-4, HDR-12."""
    assert open_http(request(), headers(name="=?base64?!?=", given={b"mcp-param-x": b"!"})).stateless


def test_a_message_without_headers_is_judged_by_its_marks_alone() -> None:
    """IO-4, WS-4."""
    call = open_message(request("tools/call", request_id=0, client={"name": "c", "version": "1"}), "websocket")
    assert (call.id, call.transport, call.stateless) == (0, "websocket", True)
    wrongs: list[dict[str, Any]] = [{"capabilities": ABSENT}, {"version": 1}, {"client": []}]
    for wrong in wrongs:
        with pytest.raises(InvalidParams):
            open_message(request(**wrong), "stdio")
    for version in (OLD, UNKNOWN):
        with pytest.raises(UnsupportedVersion):
            open_message(request(version=version), "stdio")


def test_a_call_carries_all_that_its_meta_says() -> None:
    """STA-1, LOG-1, PRG-1, RPC-9."""
    asked = request(
        capabilities={"roots": {}}, level="notice", token="t", timeout=250, traceparent=TRACE, request_id="id"
    )
    ada = Principal("ada", frozenset({"read"}))
    assert open_http(asked, headers(), principal=ada, request_id="r-1") == Call(
        method="tools/list",
        params=asked.params,
        version=STATELESS,
        transport="http",
        id="id",
        principal=ada,
        capabilities={"roots": {}},
        log_level="notice",
        progress_token="t",
        timeout_ms=250,
        request_id="r-1",
        traceparent=TRACE,
    )


@pytest.mark.parametrize("level", [*LOG_LEVELS, None])
def test_every_log_level_of_the_specification_is_known(level: str | None) -> None:
    """LOG-1."""
    assert open_message(request(level=level), "stdio").log_level == level


@pytest.mark.parametrize(
    "meta",
    [{"level": "loud"}, {"level": 3}, {"level": []}, {"token": 1.5}, {"token": True}, {"token": {}},
     {"timeout": 0}, {"timeout": -1}, {"timeout": True}, {"timeout": "1"}, {"timeout": 1.5}],
)  # fmt: skip
def test_a_member_of_meta_with_a_meaning_has_a_type(meta: dict[str, Any]) -> None:
    """LOG-1, PRG-1, LAD-1."""
    with pytest.raises(InvalidParams):
        open_message(request(**meta), "stdio")


@pytest.mark.parametrize("token", [0, "", -1, "0", 2**60])
def test_a_progress_token_keeps_its_type(token: str | int) -> None:
    """PRG-1."""
    found = open_message(request(token=token), "stdio").progress_token
    assert (found, type(found)) == (token, type(token))


@pytest.mark.parametrize(
    "value", [None, 7, "", TRACE.upper(), TRACE[:-1], "ff" + TRACE[2:], TRACE.replace("-", "0"), "x" * 55]
)
def test_a_bad_trace_context_is_ignored(value: Any) -> None:
    """RPC-9, RPC-8."""
    assert open_message(request(traceparent=value), "stdio").traceparent is None


def test_the_trace_header_counts_where_the_body_has_none() -> None:
    """RPC-9."""
    other = TRACE.replace("4bf9", "0000")
    assert open_http(request(), headers(), traceparent=TRACE.encode()).traceparent == TRACE
    assert open_http(request(traceparent=other), headers(), traceparent=TRACE.encode()).traceparent == other
    assert open_http(request(), headers(), traceparent=b"\xff").traceparent is None
