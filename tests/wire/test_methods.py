"""The method table: every method of every revision that is served, and nothing else."""

from __future__ import annotations

import pytest

from mcpd.wire.methods import STATELESS_ONLY, TABLE, lookup
from mcpd.wire.versions import STATEFUL, STATELESS

BOTH = {"tools/list", "tools/call", "resources/list", "resources/templates/list", "resources/read", "prompts/list",
        "prompts/get", "completion/complete"}  # fmt: skip
NEW = {"server/discover", "subscriptions/listen", "tasks/get", "tasks/update", "tasks/cancel"}
OLD = {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}


def test_each_era_has_its_methods() -> None:
    """ERA-7, RPC-10, LAD-2."""
    assert {name for name, row in TABLE.items() if not row.ours} == BOTH | NEW | OLD
    for method in TABLE:
        assert (lookup(method, STATELESS) is not None) == (method in BOTH | NEW), method
        for version in STATEFUL:
            assert (lookup(method, version) is not None) == (method in BOTH | OLD), method
    assert lookup("unknown/method", STATELESS) is None


def test_the_tasks_extension_exists_on_stateless_requests_alone() -> None:
    """SIE-3, TSK-11, TSK-14: and nothing of the experiment of 2025-11-25 is served."""
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        row = lookup(method, STATELESS)
        assert row is not None
        assert row.extension == "io.modelcontextprotocol/tasks"
        assert all(lookup(method, version) is None for version in STATEFUL)
    for method in ("tasks/result", "tasks/list"):
        assert all(lookup(method, version) is None for version in (STATELESS, *STATEFUL))


def test_a_bare_stateless_method_is_known_as_such() -> None:
    """ERA-8."""
    assert STATELESS_ONLY == NEW


@pytest.mark.parametrize(
    ("property_", "methods"),
    [
        ("target", {"tools/call", "prompts/get", "resources/read", "tasks/get", "tasks/update", "tasks/cancel"}),
        ("inputs", {"tools/call", "prompts/get", "resources/read"}),
        ("stream", {"subscriptions/listen"}),
        ("session", OLD),
    ],
)  # fmt: skip
def test_what_is_special_about_a_method_stands_in_its_row(property_: str, methods: set[str]) -> None:
    """HDR-4, MRT-1."""
    assert {name for name, row in TABLE.items() if getattr(row, property_)} == methods


def test_a_method_needs_the_capability_it_belongs_to() -> None:
    """DIS-4."""
    for name, row in TABLE.items():
        family = name.partition("/")[0]
        wanted = {"completion": "completions"}.get(family, family)
        free = family in ("server", "subscriptions", "initialize", "ping", "tasks", "dev.mcpd")
        assert row.capability == (None if free else wanted), name


def test_only_calling_a_tool_needs_more_than_reading() -> None:
    """TOOL-5, TSK-11: and what belongs to a call that has become a task."""
    more = {name: row.scope for name, row in TABLE.items() if row.scope != "read"}
    called = ("tools/call", "tasks/get", "tasks/update", "tasks/cancel", "dev.mcpd/calls/cancel")
    assert more == dict.fromkeys(called, "call")


def test_no_client_of_mcp_finds_the_methods_of_our_own() -> None:
    """And the other transports find no method of sessions."""
    ours = {name for name, row in TABLE.items() if row.ours}
    assert ours == {name for name in TABLE if name.startswith("dev.mcpd/")}
    for name in ours:
        assert all(lookup(name, version, "http") is None for version in (STATELESS, *STATEFUL))
    for transport in ("rest", "graphql"):
        found = {name for name in TABLE if lookup(name, STATELESS, transport) is not None}
        assert found == BOTH | NEW | ours
