"""The Tool Manager on real tools: listing, work classes, refusals, limits, results that must fit."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
import trio.testing
from msgspec import Struct
from trio.testing import MockClock

from mcpd.assembly import Parts
from mcpd.authoring.context import Context
from mcpd.authoring.declarations import ToolDeclaration
from mcpd.errors import Forbidden, InternalError, InvalidParams, NotFound, Overloaded, RegistrationError, ToolError
from mcpd.messages.flight import Flight, Stopped
from mcpd.tools.threads import ThreadPool
from mcpd.wire.call import ANONYMOUS, Principal
from tests.messages.memory import Wire, call, failure, make_server, result, serve


def server_of(folder: Path, *tools: ToolDeclaration) -> Parts:
    server = make_server(folder)
    server.manager.service._tools.registry.replace(tools)
    return server


def asked(name: str, principal: Principal | None = None, **arguments: Any) -> Any:
    return call(params={"name": name, "arguments": arguments}, principal=principal or ANONYMOUS)


async def double(number: int) -> dict[str, int]:
    """Double a number."""
    return {"doubled": 2 * number}


def thread_name(ctx: Context) -> str:
    """Say where it runs."""
    return f"{threading.current_thread() is threading.main_thread()} {ctx.request_id}"


async def test_an_async_tool_runs_in_the_call_and_a_plain_one_in_a_thread(tmp_path: Path) -> None:
    """TOOL-2, TOOL-3."""
    server = server_of(
        tmp_path, ToolDeclaration(name="double", fn=double), ToolDeclaration(name="where", fn=thread_name)
    )
    found = await result(server, asked("double", number=4))
    assert found["structuredContent"] == {"doubled": 8}
    assert found["content"] == [{"type": "text", "text": '{"doubled":8}'}]
    assert (await result(server, asked("where")))["content"][0]["text"] == "False r-1"


async def test_arguments_that_break_the_schema_and_a_tools_own_failure_are_results(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """TOOL-2."""

    async def grumpy() -> str:
        raise ToolError("not today")

    server = server_of(tmp_path, ToolDeclaration(name="double", fn=double), ToolDeclaration(name="grumpy", fn=grumpy))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"number": "x"}, "number"),
        ({}, "number"),
        ({"number": 1, "more": 2}, "more"),
    ]
    for arguments, path in wrong:
        found = await result(server, asked("double", **arguments))
        assert found["isError"] is True
        assert path in found["content"][0]["text"]
    assert (await result(server, asked("grumpy")))["content"] == [{"type": "text", "text": "not today"}]


@pytest.mark.parametrize(
    ("params", "refusal"),
    [
        ({}, InvalidParams),
        ({"name": 7}, InvalidParams),
        ({"name": None}, InvalidParams),
        ({"name": "double", "arguments": []}, InvalidParams),
        ({"name": "double", "arguments": False}, InvalidParams),
        ({"name": "nope"}, NotFound),
        ({"name": ""}, NotFound),
    ],
)
async def test_a_malformed_call_is_a_protocol_error(
    tmp_path: Path, autojump_clock: MockClock, params: dict[str, Any], refusal: type[Exception]
) -> None:
    """TOOL-2."""
    error = await failure(server_of(tmp_path, ToolDeclaration(name="double", fn=double)), call(params=params))
    assert type(error) is refusal


async def test_a_tool_of_another_scope_is_neither_listed_nor_called_nor_mirrored(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """STA-2, RES-4, HDR-13, TOOL-5."""
    schema = {"type": "object", "properties": {"n": {"type": "string", "x-mcp-header": "N"}}}

    async def secret(**_: Any) -> str:
        return "s"

    hidden = ToolDeclaration(name="secret", fn=secret, scopes=("vault",), input_schema=schema)
    tools = server_of(tmp_path, hidden, ToolDeclaration(name="double", fn=double)).manager.service._tools
    caller, keeper = (Principal(name, frozenset({"call", name})) for name in ("caller", "vault"))
    assert [tool["name"] for tool in tools.list(None, caller)["tools"]] == ["double"]
    assert [tool["name"] for tool in tools.list(None, keeper)["tools"]] == ["secret", "double"]
    assert tools.header_parameters("secret", caller) == tools.header_parameters("nope", keeper) == ()
    assert [parameter.header for parameter in tools.header_parameters("secret", keeper)] == ["mcp-param-n"]
    with pytest.raises(Forbidden):
        tools.find("secret", caller)


async def test_a_listing_shows_schemas_as_they_were_declared(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TOOL-1, JSC-4."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "if": {}, "then": True,
              "$defs": {"a": {"$anchor": "b"}}}  # fmt: skip

    async def raw(**_: Any) -> str:
        """Take anything."""
        return ""

    declaration = ToolDeclaration(
        name="raw", fn=raw, input_schema=schema, title="Raw", annotations={"readOnlyHint": True}
    )
    (entry,) = (await result(server_of(tmp_path, declaration), call("tools/list", {})))["tools"]
    assert entry == {
        "name": "raw",
        "title": "Raw",
        "description": "Take anything.",
        "inputSchema": schema,
        "annotations": {"readOnlyHint": True},
    }


async def test_a_result_that_breaks_its_own_schema_is_a_bug(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TOOL-3."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    async def liar(fail: bool = False) -> Any:
        if fail:
            raise ToolError("no result")
        return {"n": "x"}

    server = server_of(tmp_path, ToolDeclaration(name="liar", fn=liar, output_schema=schema))
    assert isinstance(await failure(server, asked("liar")), InternalError)
    assert (await result(server, asked("liar", fail=True)))["isError"] is True
    tool = server.manager.service._tools.registry.get("liar")
    assert tool is not None
    tool.check_output({"content": [], "isError": True})


async def test_a_tool_may_limit_how_often_it_runs_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4, TOOL-5."""
    gate = trio.Event()

    async def one_at_a_time() -> str:
        await gate.wait()
        return "done"

    server = server_of(tmp_path, ToolDeclaration(name="narrow", fn=one_at_a_time, concurrency=1))
    flight = Flight(asked("narrow"), Wire())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.manager.serve, flight)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(await failure(server, asked("narrow")), Overloaded)
        flight.cancel("explicit")
    gate.set()
    assert (await result(server, asked("narrow")))["content"][0]["text"] == "done", (
        "a cancelled call gives its place back"
    )


async def test_a_late_result_of_a_cancelled_thread_is_dropped(tmp_path: Path) -> None:
    """CAN-1, CAN-3."""
    began, go_on = threading.Event(), threading.Event()

    def stubborn() -> str:
        began.set()
        go_on.wait(20)
        return "late"

    server = server_of(tmp_path, ToolDeclaration(name="stubborn", fn=stubborn))
    flight = Flight(asked("stubborn"), Wire())
    outcomes = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            outcomes.append(await server.manager.serve(flight))

        nursery.start_soon(run)
        await trio.to_thread.run_sync(began.wait, 20)
        flight.cancel("client_gone")
    go_on.set()
    assert outcomes == [Stopped("client_gone")]


@pytest.mark.parametrize("name", ["", "with space", "ü", "a" * 129, "a/b"])
def test_a_name_that_clients_would_refuse_is_refused_at_registration(tmp_path: Path, name: str) -> None:
    """TOOL-1."""
    with pytest.raises(RegistrationError, match="a name is 1 to 128"):
        server_of(tmp_path, ToolDeclaration(name=name, fn=double))


def test_two_tools_of_one_name_and_bad_work_classes_are_refused(tmp_path: Path) -> None:
    """TOOL-1, HDR-9."""
    plain = ToolDeclaration(name="double", fn=double)
    with pytest.raises(RegistrationError, match="declared twice"):
        server_of(tmp_path, plain, plain)
    with pytest.raises(RegistrationError, match="plain def"):
        server_of(tmp_path, ToolDeclaration(name="double", fn=double, isolation="process"))
    mirrored = {"type": "object", "properties": {"number": {"type": "number", "x-mcp-header": "N"}}}
    with pytest.raises(RegistrationError, match="x-mcp-header"):
        server_of(tmp_path, ToolDeclaration(name="double", fn=double, input_schema=mirrored))


async def test_every_call_is_measured_by_its_outcome(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TOOL-2, CAN-1."""
    server = make_server(tmp_path)
    for name in ("echo", "fail", "crash", "slow"):
        await serve(server, call(params={"name": name}))
    text = server.metrics.exposition(None)[0].decode()
    wanted = {"echo": "ok", "fail": "tool_error", "crash": "internal_error", "slow": "cancelled"}
    for tool, outcome in wanted.items():
        assert f'mcpd_tool_calls_total{{outcome="{outcome}",tool="{tool}"}} 1.0' in text


class Box(Struct):
    """Notes which thread made it."""

    name: str

    def __post_init__(self) -> None:
        """Called while arguments are decoded."""
        Box.threads.add(threading.current_thread() is threading.main_thread())

    threads: ClassVar[set[bool]] = set()


@pytest.mark.parametrize(("boxes", "on_the_loop"), [(1, True), (2_000, False)])
async def test_large_arguments_are_checked_in_a_thread(tmp_path: Path, boxes: int, on_the_loop: bool) -> None:
    async def pack(boxes: list[Box]) -> int:
        return len(boxes)

    server = server_of(tmp_path, ToolDeclaration(name="pack", fn=pack))
    Box.threads.clear()
    found = await result(server, asked("pack", boxes=[{"name": "a"}] * boxes))
    assert found["structuredContent"] == boxes
    assert Box.threads == {on_the_loop}
    wrong = await result(server, asked("pack", boxes=[{"name": 1}] * boxes))
    assert wrong["content"][0]["text"] == "arguments.boxes[0].name: expected `str`, got `int`"


async def test_large_results_are_checked_in_a_thread(tmp_path: Path) -> None:
    async def count(most: int) -> list[int]:
        return list(range(most))

    server = server_of(tmp_path, ToolDeclaration(name="count", fn=count, output_schema={"items": {"maximum": 1_000}}))
    server.manager.service._tools._threads = ThreadPool(1, max_abandoned=0)
    assert (await result(server, asked("count", most=10)))["structuredContent"] == list(range(10))
    assert "stuck" in (await failure(server, asked("count", most=1_000))).message


@pytest.mark.parametrize("isolation", [None, "thread"])
async def test_a_key_in_the_text_of_an_exception_is_masked(tmp_path: Path, isolation: str | None) -> None:
    """SEC-6."""

    async def loud() -> str:
        raise ValueError("refused: Authorization: Bearer abc.def with mcpd_0123456789abcdef")

    def loud_in_a_thread() -> str:
        raise ValueError("refused: Authorization: Bearer abc.def with mcpd_0123456789abcdef")

    fn = loud if isolation is None else loud_in_a_thread
    found = await result(server_of(tmp_path, ToolDeclaration(name="loud", fn=fn)), asked("loud"))
    assert found["content"][0]["text"] == "ValueError: refused: Authorization: *** with ***"
