"""The one table of errors: codes, statuses and labels, as clients, dashboards and outside tests rely on them."""

from __future__ import annotations

import inspect

import pytest

from mcpd import errors
from mcpd.errors import (
    TABLE,
    CallCancelled,
    ConfigurationError,
    DeadlineExceeded,
    Draining,
    Forbidden,
    HeaderMismatch,
    InternalError,
    InvalidParams,
    InvalidRequest,
    McpdError,
    MethodNotFound,
    MissingCapability,
    NotFound,
    Overloaded,
    ParseError,
    RateLimited,
    RegistrationError,
    ReplyLost,
    ResourceNotFound,
    ResultTooLarge,
    RpcError,
    StoreUnavailable,
    ToolError,
    UnsupportedVersion,
    WireError,
    facing,
)
from mcpd.monitoring.metrics import OUTCOMES

ROWS = [
    (ParseError("x"), -32700, -32700, 400, 400),
    (InvalidRequest("x"), -32600, -32600, 400, 400),
    (MethodNotFound("x"), -32601, -32601, 404, 404),
    (InvalidParams("x"), -32602, -32602, 400, 422),
    (NotFound("x"), -32602, -32602, 400, 404),
    (ResourceNotFound("x:"), -32602, -32002, 400, 404),
    (HeaderMismatch("x"), -32020, -32600, 400, 400),
    (MissingCapability({"roots": {}}), -32021, -32600, 400, 422),
    (UnsupportedVersion("x", []), -32022, -32602, 400, 400),
    (Forbidden("admin"), -32600, -32600, 403, 403),
    (DeadlineExceeded("tool", 5), -32603, -32603, 200, 504),
    (CallCancelled("admin"), -32800, -32800, 200, 503),
    (Overloaded("x"), -32603, -32603, 503, 503),
    (Draining("x"), -32603, -32603, 503, 503),
    (RateLimited("x"), -32603, -32603, 429, 429),
    (StoreUnavailable("x"), -32603, -32603, 503, 503),
    (ReplyLost("x"), -32603, -32603, 200, 503),
    (ResultTooLarge(9, 5), -32603, -32603, 200, 500),
    (RpcError(7, "x"), 7, 7, 200, 500),
    (InternalError("r-1"), -32603, -32603, 200, 500),
    (WireError("x"), -32603, -32603, 200, 500),
]


@pytest.mark.parametrize(
    ("error", "code", "stateful", "mcp", "rest"), ROWS, ids=[type(row[0]).__name__ for row in ROWS]
)
def test_an_error_has_one_face_on_each_surface(error: WireError, code: int, stateful: int, mcp: int, rest: int) -> None:
    """RPC-10, RPC-11, RPC-12, RSC-2."""
    row = facing(error)
    assert (row.code, row.stateful_code, row.mcp_status, row.rest_status) == (code, stateful, mcp, rest)


def test_every_wire_error_is_in_the_table_and_in_this_test() -> None:
    """RPC-12."""
    classes = {found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, WireError)}
    assert classes - TABLE.keys() == {errors.Retryable}
    assert {type(row[0]) for row in ROWS} == TABLE.keys()


def test_a_class_without_a_row_looks_like_its_nearest_ancestor() -> None:
    """RPC-12."""

    class Special(NotFound):
        pass

    class Orphan(WireError):
        pass

    assert facing(Special("x")) == TABLE[NotFound]
    assert facing(Orphan("x")) == TABLE[WireError]


def test_no_stateful_code_is_one_that_means_the_stateless_era() -> None:
    """ERA-10, RPC-11."""
    assert not {row.stateful_code for row in TABLE.values()} & {-32020, -32021, -32022}


def test_no_stateless_code_is_a_historic_one_and_own_codes_lie_outside_the_reserved_range() -> None:
    """RPC-11."""
    standard = {-32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022}
    own = {row.code for row in TABLE.values()} - standard
    assert all(not -32768 <= code <= -32000 for code in own)


def test_outcomes_are_those_that_dashboards_know() -> None:
    """RPC-12."""
    assert {row.outcome for row in TABLE.values()} <= set(OUTCOMES)


@pytest.mark.parametrize(
    "error",
    [Overloaded("x", retry_after_ms=1500), Draining("x"), RateLimited("x"), StoreUnavailable("x"), ReplyLost("x")],
)
def test_what_may_succeed_later_says_so(error: errors.Retryable) -> None:
    """RPC-12."""
    assert facing(error).retryable
    assert error.data == {"reason": error.reason, "retryable": True, "retryAfterMs": error.retry_after_ms}


def test_other_errors_are_not_retryable() -> None:
    """RPC-12."""
    retryable = {Overloaded, Draining, RateLimited, StoreUnavailable, ReplyLost}
    assert {cls for cls, row in TABLE.items() if row.retryable} == retryable


def test_errors_carry_the_data_that_clients_read() -> None:
    """RPC-10, MRT-3, RSC-2, CAN-5."""
    assert MissingCapability({"sampling": {}}).data == {"requiredCapabilities": {"sampling": {}}}
    assert str(MissingCapability({"sampling": {}, "extensions": {"a.b/c": {}}})).endswith(
        "sampling, extensions['a.b/c']"
    )
    assert UnsupportedVersion("v9", ["a"]).data == {"supported": ["a"], "requested": "v9"}
    assert ResourceNotFound("a:1").data == {"uri": "a:1"}
    assert DeadlineExceeded("tool", 5).data == {"reason": "deadline", "budget": "tool", "limitMs": 5}


def test_a_bug_tells_a_request_id_and_nothing_else() -> None:
    """SEC-6."""
    error = InternalError("r-1")
    assert (error.message, error.data) == ("Internal error", {"requestId": "r-1"})


def test_an_unsupported_version_of_any_length_gives_a_short_text() -> None:
    """SEC-4."""
    assert len(UnsupportedVersion("v" * 10_000, []).message) < 200


def test_errors_for_people_and_tools_are_no_wire_errors() -> None:
    """TOOL-2."""
    for cls in (ConfigurationError, RegistrationError, ToolError):
        assert issubclass(cls, McpdError)
        assert not issubclass(cls, WireError)


def test_an_author_chooses_a_code_that_means_nothing_else() -> None:
    """RPC-11."""
    for code in (-32700, -32600, -32603, 0, 7, -31999, -32769, 2**31 - 1):
        assert facing(RpcError(code, "x")).code == code
    for wrong in (-32000, -32021, -32099, -32768, -32604, 2**31, True, "7", None, 1.0):
        with pytest.raises(ValueError, match="no code that a tool may use"):
            RpcError(wrong, "x")  # type: ignore[arg-type]
