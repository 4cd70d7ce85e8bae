"""Real clients against a real server: each lane of `lanes` takes each row, and each row is one test.

What a client cannot do is a row too (`lacks`): the client program looks, and the test fails when the client has learnt
it. Whether a cancelled call was stopped is told by the server: the tool's `finally`, the reason that was counted, and
`mcpd_calls_in_flight`, read while the client is still connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import needs
from tests.e2e import lanes
from tests.e2e.lanes import LANES, Lane, Report
from tests.e2e.server import PASSAGE, Server, serving

pytestmark = pytest.mark.slow

NOTE = "notes://today"
SEES = {
    "call": "héllo",
    "structured": {"words": 4, "longest": "nought"},
    "tool_error": {"isError": True, "text": "not today"},
    "progress": [[1, 3, "step 1"], [2, 3, "step 2"], [3, 3, "step 3"]],
    "elicitation": "Hello, Ada!",
    "read": "the note of monday",
    "search": PASSAGE,
    "prompt": {"role": "user", "text": "Please review the draft."},
}
"""What every client that has the ability must see."""

ROWS = ("connect", "list", *SEES, "subscribe", "cancel_json", "cancel_stream")
IDS = [lane.name.replace(" ", "-") for lane in LANES]
ABLE = [(lane, row) for lane in LANES for row in ROWS if row not in lane.lacks]
UNABLE = [(lane, row) for lane in LANES for row in lane.lacks]


def named(pairs: list[tuple[Lane, str]]) -> list[Any]:
    return [pytest.param(lane, row, id=f"{lane.name}: {row}".replace(" ", "-")) for lane, row in pairs]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all lanes that do not start their own; it must also stop cleanly after them."""
    with serving(tmp_path_factory.mktemp("e2e")) as running:
        yield running


@pytest.fixture(scope="session")
def report_of(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Lane], Report]:
    """Return the function that runs a lane, once, and gives its report; a lane that broke is not run again."""
    known: dict[str, Report | BaseException] = {}

    def report(lane: Lane) -> Report:
        require(lane)
        if lane.name not in known:
            known[lane.name] = outcome(lane, server, tmp_path_factory.mktemp("lane"))
        found = known[lane.name]
        if isinstance(found, BaseException):
            pytest.fail(f"{lane.name}: {describe(found)}", pytrace=False)
        return found

    return report


def outcome(lane: Lane, server: Server, folder: Path) -> Report | BaseException:
    try:
        return trio.run(lanes.run, lane, server, folder)
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - each of the lane's tests tells it
        return error


def describe(error: BaseException) -> str:
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return "; ".join(map(describe, inner)) if inner else repr(error).replace("\\n", "\n")


def require(lane: Lane) -> None:
    """Skip a lane whose programs are not on this machine, naming what to install; in CI that is a failure."""
    if lane.node:
        needs.need("node")
        needs.need("tests/e2e/node_modules")


@pytest.mark.parametrize(("lane", "row"), named(ABLE))
def test_a_real_client_gets_what_it_asks_for(report_of: Callable[[Lane], Report], lane: Lane, row: str) -> None:
    """ERA-1, DIS-1, INI-1, TOOL-3, PRG-1, MRT-4, S2C-1, S2C-4, SUB-1, SUB-3, CAN-1, CAN-3, STR-3, WS-1."""
    seen = report_of(lane)[row]
    assert "failed" not in seen, seen["failed"]
    assert seen == expected(lane, row, seen)


def expected(lane: Lane, row: str, seen: Any) -> Any:
    """Return what a lane must see in a row."""
    if row == "connect":
        return {"version": lane.version, "server": "mcpd"}
    if row == "list":
        assert {"list_files", "read_file"} <= set(seen["tools"])
        tools = [name for name in seen["tools"] if name.endswith(("_file", "_files"))]
        tools += ["echo", "measure", "refuse", "count", "greet", "touch", "linger"]
        templates = ["notes://past/{day}", "docs:///{+path}"]
        tools = ["search_documents", *tools]
        resources = [NOTE, "docs:///almanac/sea.md"]
        return {"tools": tools, "resources": resources, "templates": templates, "prompts": ["review"]}
    if row == "subscribe":
        honoured = {"honoured": {"toolsListChanged": True, "resourceSubscriptions": [NOTE]}}
        return {"updated": NOTE, "same": True} | (honoured if lane.era == "stateless" else {})
    if row.startswith("cancel"):
        return stopped(lane)
    return SEES[row]


def stopped(lane: Lane) -> Any:
    """Return what a cancelled call comes to: over stateless HTTP it is the disconnect that cancels, else a message."""
    told: dict[str, Any] = {"how": "cancelled", "then": "still here"}
    if lane.node:
        told["here"] = "rejected"
    if lane.transport == "stdio":
        return told
    gone = lane.transport == "http" and lane.era == "stateless"
    return {**told, "in_flight": [1, 0], "why": {"client_gone" if gone else "explicit": 1}}


@pytest.mark.parametrize(("lane", "row"), named(UNABLE))
def test_an_ability_that_a_client_lacks_is_named_and_still_lacking(
    report_of: Callable[[Lane], Report], lane: Lane, row: str
) -> None:
    """ERA-11, MRT-3, S2C-1: when this fails because the client has learnt it, give the lane the row."""
    seen = report_of(lane)[row]
    assert "failed" not in seen, seen["failed"]
    assert isinstance(seen, dict), f"{lane.name} has learnt it: {seen}"
    assert lane.lacks[row] in str(seen["lacks"])


def test_every_row_of_every_report_is_looked_at(report_of: Callable[[Lane], Report]) -> None:
    """A row that no test reads would prove nothing; the Python lanes stand for the rest."""
    unread = {}
    for lane in LANES:
        if not lane.node:
            unread[lane.name] = set(report_of(lane)) ^ (set(ROWS) | set(lane.lacks))
    assert not {name: rows for name, rows in unread.items() if rows}
