"""The era lock as a table, the handshake's parameters, and what a session remembers."""

from __future__ import annotations

from typing import Any

import pytest

from mcpd.errors import InvalidParams, InvalidRequest, UnsupportedVersion, WireError, facing
from mcpd.wire.call import ANONYMOUS
from mcpd.wire.envelope import CAPABILITIES_KEY, VERSION_KEY
from mcpd.wire.jsonrpc import Malformed, Notification, Request
from mcpd.wire.session import Action, Era, Lifecycle, SessionState, parse_batch
from mcpd.wire.subscriptions import watched_of
from mcpd.wire.versions import STATEFUL, STATELESS

MARKS = {"_meta": {VERSION_KEY: STATELESS, CAPABILITIES_KEY: {}}}
HELLO = {"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
REQUESTS = {
    "discover": Request(1, "server/discover", MARKS),
    "bare discover": Request(1, "server/discover", {}),
    "marked": Request(1, "tools/list", MARKS),
    "marked initialize": Request(1, "initialize", MARKS),
    "initialize": Request(1, "initialize", HELLO),
    "ping": Request(1, "ping", {}),
    "other": Request(1, "tools/list", {"_meta": {"progressToken": 1}}),
}
LOCK = [
    (Era.UNDECIDED, "discover", Action.SERVE_STATELESS, Era.UNDECIDED),
    (Era.UNDECIDED, "bare discover", InvalidParams, Era.UNDECIDED),
    (Era.UNDECIDED, "marked", Action.SERVE_STATELESS, Era.STATELESS),
    (Era.UNDECIDED, "marked initialize", Action.SERVE_STATELESS, Era.STATELESS),
    (Era.UNDECIDED, "initialize", Action.OPEN_SESSION, Era.STATEFUL),
    (Era.UNDECIDED, "ping", Action.SERVE_STATEFUL, Era.UNDECIDED),
    (Era.UNDECIDED, "other", InvalidParams, Era.UNDECIDED),
    (Era.STATEFUL, "discover", Action.SERVE_STATELESS, Era.STATEFUL),
    (Era.STATEFUL, "bare discover", Action.SERVE_STATEFUL, Era.STATEFUL),
    (Era.STATEFUL, "marked", InvalidRequest, Era.STATEFUL),
    (Era.STATEFUL, "initialize", InvalidRequest, Era.STATEFUL),
    (Era.STATEFUL, "ping", Action.SERVE_STATEFUL, Era.STATEFUL),
    (Era.STATEFUL, "other", Action.SERVE_STATEFUL, Era.STATEFUL),
    (Era.STATELESS, "discover", Action.SERVE_STATELESS, Era.STATELESS),
    (Era.STATELESS, "marked", Action.SERVE_STATELESS, Era.STATELESS),
    (Era.STATELESS, "initialize", UnsupportedVersion, Era.STATELESS),
    (Era.STATELESS, "ping", InvalidParams, Era.STATELESS),
    (Era.STATELESS, "other", InvalidParams, Era.STATELESS),
]


@pytest.mark.parametrize(("era", "name", "outcome", "after"), LOCK)
def test_the_first_requests_lock_the_era_of_a_connection(
    era: Era, name: str, outcome: Action | type[WireError], after: Era
) -> None:
    """IO-5, WS-4, INI-5, ERA-2, ERA-6."""
    lifecycle = Lifecycle()
    lifecycle.era = era
    if isinstance(outcome, Action):
        assert lifecycle.receive(REQUESTS[name]) is outcome
    else:
        with pytest.raises(WireError) as refused:
            lifecycle.receive(REQUESTS[name])
        assert type(refused.value) is outcome
    assert lifecycle.era is after


def test_an_unmarked_request_is_told_which_versions_there_are() -> None:
    """IO-5."""
    with pytest.raises(InvalidParams) as refused:
        Lifecycle().receive(REQUESTS["other"])
    assert all(version in refused.value.message for version in (STATELESS, *STATEFUL))


def test_a_refused_initialize_leaves_the_choice_open() -> None:
    """IO-5, INI-3."""
    lifecycle = Lifecycle()
    lifecycle.receive(REQUESTS["initialize"])
    lifecycle.reopen()
    assert lifecycle.receive(REQUESTS["initialize"]) is Action.OPEN_SESSION


@pytest.mark.parametrize("version", [*STATEFUL, STATELESS, "2099-01-01", ""])
def test_a_session_speaks_the_asked_revision_or_the_newest(version: str) -> None:
    """INI-1, INI-2."""
    assert SessionState({**HELLO, "protocolVersion": version}).version == (
        version if version in STATEFUL else STATEFUL[0]
    )


@pytest.mark.parametrize(
    "wrong",
    [{"protocolVersion": None}, {"protocolVersion": 7}, {"capabilities": None}, {"capabilities": []},
     {"clientInfo": None}, {"clientInfo": {}}, {"clientInfo": {"name": 1}}, {"_meta": {"progressToken": 1.5}}],
)  # fmt: skip
def test_an_incomplete_handshake_is_refused(wrong: dict[str, Any]) -> None:
    """INI-1, INI-3."""
    with pytest.raises(InvalidParams):
        SessionState({**HELLO, **wrong})


def test_a_session_keeps_the_names_of_capabilities_and_nothing_that_is_in_them() -> None:
    """INI-1, SEC-4."""
    declared = {
        "sampling": {"tools": {"deep": [1]}},
        "roots": True,
        "extensions": {"io.example/ui": {"mimeTypes": ["x"]}},
    }
    kept: dict[str, Any] = {"sampling": {"tools": {}}, "roots": None, "extensions": {"io.example/ui": {}}}
    assert SessionState({**HELLO, "capabilities": declared}).capabilities == kept


@pytest.mark.parametrize(
    "capabilities",
    [
        {str(number): {} for number in range(257)},
        {"experimental": {str(number): {} for number in range(257)}},
        {"a" * 257: {}},
        {"experimental": {"a" * 257: {}}},
    ],
)
def test_more_capabilities_than_any_client_has_are_refused(capabilities: dict[str, Any]) -> None:
    """INI-1, SEC-4."""
    with pytest.raises(InvalidParams):
        SessionState({**HELLO, "capabilities": capabilities})


def test_what_a_session_watches_has_a_length_alone_and_in_all() -> None:
    """RSC-2, SEC-4."""
    state = SessionState(HELLO)
    with pytest.raises(InvalidParams):
        state.subscribe({"uri": "a" * 2049}, max_uris=99)
    for number in range(32):
        state.subscribe({"uri": f"{number:02}".ljust(2048, "a")}, max_uris=99)
    with pytest.raises(InvalidParams):
        state.subscribe({"uri": "b"}, max_uris=99)
    assert len(state.subscriptions) == 32


def test_a_session_remembers_capabilities_level_and_subscriptions() -> None:
    """INI-7, LOG-1."""
    state = SessionState({**HELLO, "capabilities": {"sampling": {}}})
    state.set_level({"level": "error"})
    state.subscribe({"uri": "a"}, max_uris=1)
    state.subscribe({"uri": "a"}, max_uris=1)
    asked = Request("x", "tools/call", {"name": "t", "_meta": {"progressToken": 0}})
    call = state.open_call(asked, "stdio", principal=ANONYMOUS, request_id="r", session="s")
    assert (call.capabilities, call.log_level, call.progress_token) == ({"sampling": {}}, "error", 0)
    assert (call.id, call.session, call.stateless, state.subscriptions) == ("x", "s", False, {"a": "a"})
    with pytest.raises(InvalidParams):
        state.subscribe({"uri": "b"}, max_uris=1)
    state.unsubscribe({"uri": "unknown"})
    state.unsubscribe({"uri": "a"})
    assert not state.subscriptions


def test_a_session_watches_a_resource_however_it_spells_the_uri() -> None:
    """INI-7."""
    state = SessionState(HELLO)
    state.subscribe({"uri": "notes://caf%c3%a9"}, max_uris=1)
    state.subscribe({"uri": "Notes://café"}, max_uris=1)
    assert list(watched_of("notes://café/", state.subscriptions)) == ["Notes://café"]
    assert list(watched_of(None, state.subscriptions)) == ["Notes://café"]
    assert not watched_of("notes://tea", state.subscriptions)
    state.unsubscribe({"uri": "notes://CAF%C3%89"})
    assert not state.subscriptions


def test_a_capability_that_the_revision_has_no_word_for_is_never_used() -> None:
    """INI-7, S2C-1."""
    declared: dict[str, Any] = {"elicitation": {}, "roots": {}}
    old = SessionState({**HELLO, "protocolVersion": "2025-03-26", "capabilities": declared})
    assert old.capabilities == {"roots": {}}
    assert SessionState({**HELLO, "capabilities": declared}).capabilities == declared


@pytest.mark.parametrize("level", [None, "loud", 3])
def test_a_level_that_does_not_exist_is_refused(level: Any) -> None:
    """LOG-1."""
    with pytest.raises(InvalidParams):
        SessionState(HELLO).set_level({"level": level})


@pytest.mark.parametrize("uri", [None, "", 7, []])
def test_a_subscription_needs_a_uri(uri: Any) -> None:
    """INI-3, RSC-3."""
    for change in (SessionState(HELLO).unsubscribe, lambda params: SessionState(HELLO).subscribe(params, max_uris=9)):
        with pytest.raises(InvalidParams):
            change({"uri": uri})


def test_a_batch_may_hold_anything_but_initialize() -> None:
    """BAT-2, INI-3."""
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}
    note = {"jsonrpc": "2.0", "method": "initialize"}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    refused, told, asked = parse_batch([hello, note, ping], max_items=3)
    assert isinstance(refused, Malformed)
    assert (refused.id, facing(refused.error).stateful_code) == (0, -32600)
    assert isinstance(told, Notification)
    assert isinstance(asked, Request)
