"""The one path of every call: admission, budgets, cancellation, queueing, draining, and what becomes of exceptions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.assembly import Parts, build
from mcpd.authoring.declarations import PromptDeclaration, ToolDeclaration
from mcpd.catalog import Paging
from mcpd.errors import (
    REASONS,
    DeadlineExceeded,
    Draining,
    Forbidden,
    InternalError,
    MethodNotFound,
    NotFound,
    Overloaded,
    Reason,
    ResultTooLarge,
    ToolError,
    WireError,
)
from mcpd.messages.flight import Done, Failed, Flight, Outcome, Stopped, answer_to
from mcpd.messages.manager import outcome_label
from mcpd.monitoring.logs import Logs
from mcpd.prompts.manager import PromptManager
from mcpd.wire import jsonrpc
from mcpd.wire.call import Principal
from mcpd.wire.sealed import KeyRing
from mcpd.wire.versions import STATEFUL, STATELESS, can
from tests.in_process import server_config
from tests.messages.memory import Wire, call, failure, make_server, open_session, result, serve, session_call
from tests.served import TOOLS


class Odd(BaseException):
    """Not an Exception."""


HOLD = {"name": "hold_in_silence"}


def metric(server: Parts, name: str) -> list[str]:
    """Return the lines of a metric that are not zero."""
    lines = server.metrics.exposition(None)[0].decode().splitlines()
    return [line.removeprefix("mcpd_") for line in lines if line.startswith(name) and not line.endswith(" 0.0")]


def in_flight(server: Parts) -> int:
    return len(list(server.manager.in_flight()))


async def test_a_call_is_answered_in_the_dress_of_its_revision(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RES-1, RES-2, SIE-1."""
    server = make_server(tmp_path)
    assert (await result(server, call()))["resultType"] == "complete"
    for version in STATEFUL:
        session = open_session(server, version)
        found = await result(
            server, session_call(session, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
        )
        assert ("structuredContent" in found) == can(version, "structured")
        assert "resultType" not in found


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (call("unknown/method"), MethodNotFound),
        (call("ping"), MethodNotFound),
        (call("tools/list", version=STATEFUL[0]), None),
        (call("server/discover", version=STATEFUL[0]), MethodNotFound),
        (call(params={"name": "nope"}), NotFound),
        (call(principal=Principal("reader", frozenset({"read"}))), Forbidden),
        (call(params={"name": "vault"}, principal=Principal("caller", frozenset({"call"}))), Forbidden),
        (call(params={"name": "not_a_number"}), InternalError),
    ],
)
async def test_whatever_goes_wrong_is_one_wire_error(
    tmp_path: Path, autojump_clock: MockClock, asked: Any, refusal: type[WireError] | None
) -> None:
    """RPC-10, LAD-2, DIS-4, TOOL-2, SEC-6."""
    server = make_server(tmp_path)
    outcome = await serve(server, asked)
    assert isinstance(outcome, Done) if refusal is None else type(getattr(outcome, "error", None)) is refusal
    assert in_flight(server) == 0


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ExceptionGroup("many", [ValueError("a\nb"), ValueError("a"), KeyError("k")]), "ValueError: a\nKeyError: 'k'"),
        (OSError(2, "No such file", "x"), "FileNotFoundError: [Errno 2] No such file: 'x'"),
        (ValueError("mcpd_" + "k" * 20), "ValueError: ***"),
        (ValueError("x" * 4_000_000), "ValueError: " + "x" * 500),
        (ValueError("half \ud800"), "ValueError: half \\ud800"),
        (Odd(), "Odd"),
    ],
)
async def test_no_exception_of_a_tool_ends_the_server(
    tmp_path: Path, autojump_clock: MockClock, raised: BaseException, text: str
) -> None:
    """SEC-6, RPC-12, TOOL-2: the model learns the type and the first line of each message, bounded and redacted."""

    async def broken() -> str:
        raise raised

    server = make_server(tmp_path)
    server.manager.service._tools.registry.replace([ToolDeclaration(name="broken", fn=broken)])
    outcome = await serve(server, call(params={"name": "broken"}))
    assert isinstance(outcome, Done)
    assert outcome.result["content"] == [{"type": "text", "text": text}]
    assert (outcome.result["isError"], outcome_label(outcome)) == (True, "internal_error")
    assert await result(server, call("tools/list", {}))


@pytest.mark.parametrize("reason", REASONS)
async def test_a_cancelled_call_has_its_reason_and_is_counted(
    tmp_path: Path, autojump_clock: MockClock, reason: Reason
) -> None:
    """CAN-1, CAN-3, IO-7."""
    server = make_server(tmp_path)
    flight = Flight(call(params=HOLD), Wire())
    outcomes: list[Outcome] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            outcomes.append(await server.manager.serve(flight))

        nursery.start_soon(run)
        await trio.sleep(1)
        flight.cancel(reason)
        flight.cancel("admin")
    assert outcomes == [Stopped(reason)]
    assert metric(server, "mcpd_cancelled_total") == [f'cancelled_total{{reason="{reason}"}} 1.0']
    assert in_flight(server) == 0


async def test_a_call_cancelled_before_it_starts_never_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """CAN-3, CAN-1."""
    server = make_server(tmp_path)
    flight = Flight(call(params={"name": "change", "arguments": {"kind": "tools"}}), Wire())
    heard: list[Any] = []
    server.bus.subscribe(heard.append)
    flight.cancel("client_gone")
    assert await server.manager.serve(flight) == Stopped("client_gone")
    assert heard == []


async def test_a_result_that_comes_in_spite_of_a_cancellation_is_dropped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """CAN-3, IO-7: a function may be past its last checkpoint."""

    async def hasty() -> str:
        flight.cancel("explicit")
        return "done"

    server = make_server(tmp_path)
    server.manager.service._tools.registry.replace([ToolDeclaration(name="hasty", fn=hasty)])
    flight = Flight(call(params={"name": "hasty"}), Wire())
    assert await server.manager.serve(flight) == Stopped("explicit")


def test_only_those_are_told_who_neither_left_nor_asked() -> None:
    """CAN-3, CAN-5."""
    told = {reason: answer_to(Stopped(reason)) for reason in REASONS}
    assert {reason for reason, answer in told.items() if answer is not None} == {"drain", "admin"}
    assert isinstance(told["drain"], Draining)


async def test_calls_are_cancelled_by_name_for_an_operator(tmp_path: Path, autojump_clock: MockClock) -> None:
    """CAN-5."""
    server = make_server(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, server, call(params=HOLD, request_id="mine"))
        await trio.testing.wait_all_tasks_blocked()
        assert not server.manager.cancel("other")
        assert server.manager.cancel("mine")


@pytest.mark.parametrize(
    ("tool", "row"),
    [
        ("hold_in_silence", (None, 60.0, "server")),
        ("hold_in_silence", (1500, 1.5, "request")),
        ("hold_in_silence", (90_000, 90.0, "request")),
        ("hold_in_silence", (9_000_000, 600.0, "server")),
        ("slow", (None, 0.05, "tool")),
        ("slow", (20, 0.02, "request")),
        ("slow", (5000, 0.05, "tool")),
    ],
)
async def test_the_tightest_limit_that_somebody_named_ends_a_call(
    tmp_path: Path, autojump_clock: MockClock, tool: str, row: tuple[int | None, float, str]
) -> None:
    """CAN-5."""
    timeout_ms, seconds, budget = row
    server = make_server(tmp_path)
    began = trio.current_time()
    error = await failure(server, call(params={"name": tool}, timeout_ms=timeout_ms))
    assert trio.current_time() - began == pytest.approx(seconds)
    assert isinstance(error, DeadlineExceeded)
    assert error.data == {"reason": "deadline", "budget": budget, "limitMs": round(seconds * 1000)}
    assert metric(server, "mcpd_deadline_exceeded_total") == [f'deadline_exceeded_total{{budget="{budget}"}} 1.0']


async def test_calls_wait_in_line_and_too_many_are_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4."""
    server = make_server(tmp_path, limits={"max_calls": 1, "max_queued_calls": 2})
    ended: list[str] = []
    async with trio.open_nursery() as nursery:

        async def run(name: str) -> None:
            await serve(server, call(params={"name": "hold_in_silence"}, request_id=name))
            ended.append(name)

        for name in ("first", "second", "third"):
            nursery.start_soon(run, name)
            await trio.testing.wait_all_tasks_blocked()
        assert isinstance(await failure(server, call()), Overloaded)
        assert server.manager.cancel("second"), "a waiting call can be cancelled too"
        await trio.testing.wait_all_tasks_blocked()
        for name in ("first", "third"):
            server.manager.cancel(name)
            await trio.testing.wait_all_tasks_blocked()
    assert ended == ["second", "first", "third"]
    assert await result(server, call()), "every place was given back"


async def test_draining_refuses_new_calls_and_lets_the_old_ones_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    """CAN-5, IO-3."""
    server = make_server(tmp_path, grace_s=10.0)
    began = trio.current_time()
    outcomes: list[Outcome] = []
    async with trio.open_nursery() as nursery:

        async def run(timeout_ms: int | None) -> None:
            outcomes.append(await serve(server, call(params=HOLD, timeout_ms=timeout_ms)))

        nursery.start_soon(run, 4000)
        nursery.start_soon(run, None)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.manager.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(await failure(server, call()), Draining)
    assert trio.current_time() - began == 10
    assert isinstance(outcomes[0], Failed)
    assert isinstance(outcomes[0].error, DeadlineExceeded)
    assert outcomes[1] == Stopped("drain")


async def test_an_idle_server_drains_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """IO-3."""
    began = trio.current_time()
    await make_server(tmp_path).manager.drain()
    assert trio.current_time() == began


async def test_a_connection_that_is_torn_down_takes_its_calls_along(tmp_path: Path, autojump_clock: MockClock) -> None:
    """CAN-1."""
    server = make_server(tmp_path)
    with trio.move_on_after(1):
        await serve(server, call(params=HOLD))
    assert in_flight(server) == 0
    assert metric(server, "mcpd_requests_total") == [
        'requests_total{method="tools/call",outcome="cancelled",transport="http"} 1.0'
    ]


async def test_an_outcome_has_a_label_that_blames_nobody_for_leaving(tmp_path: Path, autojump_clock: MockClock) -> None:
    """CAN-1, TOOL-2."""
    server = make_server(tmp_path)
    labels = [
        outcome_label(await serve(server, call(params={"name": name}))) for name in ("echo", "fail", "nope", "crash")
    ]
    assert labels == ["ok", "tool_error", "protocol_error", "internal_error"]
    assert outcome_label(Stopped("client_gone")) == "cancelled"


async def test_what_a_tool_raises_may_be_kept_for_the_log(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TOOL-2: `tools.errors = "masked"`."""
    config = server_config(tmp_path, TOOLS)
    logs = Logs(lambda _: None, requests=False)
    server = build(replace(config, tools=replace(config.tools, errors="masked")), logs)
    logs.close()
    text = "The tool failed; the server's log says why, under r-1"
    assert (await result(server, call(params={"name": "crash"})))["content"] == [{"type": "text", "text": text}]
    assert (await result(server, call(params={"name": "fail"})))["content"][0]["text"] == "This did not work"


async def test_a_tool_error_out_of_a_nursery_keeps_its_text(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TOOL-2."""

    async def fail(error: BaseException) -> None:
        raise error

    seconds = {"tool": ToolError("too hot"), "wire": NotFound("gone"), "bug": KeyError("k")}

    async def grouped(kind: str) -> str:
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            outer.start_soon(trio.sleep_forever)
            nursery.start_soon(fail, ToolError("too hot"))
            nursery.start_soon(fail, seconds[kind])
        return ""

    server = make_server(tmp_path)
    server.manager.service._tools.registry.replace([ToolDeclaration(name="grouped", fn=grouped)])

    def asked(kind: str) -> Any:
        return call(params={"name": "grouped", "arguments": {"kind": kind}})

    found = await serve(server, asked("tool"))
    assert isinstance(found, Done)
    assert (found.result["content"][0]["text"], outcome_label(found)) == ("too hot", "tool_error")
    assert str(await failure(server, asked("wire"))) == "gone"
    found = await serve(server, asked("bug"))
    assert isinstance(found, Done)
    assert set(found.result["content"][0]["text"].split("\n")) == {"ToolError: too hot", "KeyError: 'k'"}
    assert outcome_label(found) == "internal_error"


@pytest.mark.parametrize("version", [STATELESS, *STATEFUL])
async def test_no_answer_of_any_method_is_longer_than_the_limit(
    tmp_path: Path, autojump_clock: MockClock, version: str
) -> None:
    """SEC-4."""
    server = make_server(tmp_path, limits={"max_result_bytes": 3000})
    given = {"version": version, "log_level": "info"}
    for size, fits in ((100, True), (2600, True), (4000, False)):
        text = await result(server, call(params={"name": "echo", "arguments": {"text": "x" * size}}, **given))
        assert ("isError" not in text) == fits
        assert fits or "bytes long; at most 3000 bytes are allowed" in text["content"][0]["text"]
        read = call("resources/read", {"uri": f"note:///{'x' * size}/copy"}, **given)
        got = call("prompts/get", {"name": "welcome", "arguments": {"name": "x" * size}}, **given)
        for asked in (read, got):
            outcome = await serve(server, asked)
            assert isinstance(outcome, Done) or type(outcome.error) is ResultTooLarge  # type: ignore[union-attr]
            assert isinstance(outcome, Done) == (fits and (size < 1000 or asked is got))
    assert type(await failure(server, call("tools/list", {}, **given))) is ResultTooLarge
    assert metric(server, "mcpd_rejected_total")


async def test_what_a_call_says_on_the_way_is_bounded_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4: progress, log lines and questions."""
    for write in (jsonrpc.notification, partial(jsonrpc.request, 1)):
        with pytest.raises(ValueError, match="m would be"):
            write("m", {"data": "x" * jsonrpc.MAX_SAID_BYTES})
        assert write("m", {"data": "x" * (jsonrpc.MAX_SAID_BYTES - 100)})


async def test_what_else_goes_wrong_while_a_call_is_cancelled_is_logged(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """SEC-6, CAN-1: only a cancellation that comes alone has nothing to say."""
    server, begun = make_server(tmp_path), trio.Event()

    async def clean_up() -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def ask() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up)
            nursery.start_soon(trio.sleep_forever)
        return ""

    paging = Paging(KeyRing([("k", b"x" * 32)]))
    server.manager.service._prompts = PromptManager([PromptDeclaration(name="ask", fn=ask)], paging)
    flight = Flight(call("prompts/get", {"name": "ask"}), Wire())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.manager.serve, flight)
        await begun.wait()
        flight.cancel("explicit")
    assert "ZeroDivisionError" in caplog.text
