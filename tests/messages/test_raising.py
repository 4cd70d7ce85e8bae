"""Nothing that a function raises ends more than its call: all kinds of functions, all that can be raised (law 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mcpd.assembly import Parts
from mcpd.messages.flight import Done, Flight, Stopped
from tests.messages import raising
from tests.messages.memory import Wire, call, make_server, result, serve
from tests.messages.raising import RAISED

MODULE = raising.__name__
TOOLS = (
    "in_call", "in_nursery", "after_cleanup", "in_thread", "in_asyncio", "in_process", "in_once", "in_resource",
    "in_callback", "in_another_loop", "out_of_order",
)  # fmt: skip
PROMPTS = ("raise_prompt", "raise_prompt_in_thread")
ABSORBING = ("in_nursery", "after_cleanup")
"""Tools with a scope of their own that is being cancelled: it takes every `Cancelled` for its own."""


@pytest.fixture
async def server(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Parts]:
    parts = make_server(tmp_path, tools=(MODULE,))
    await nursery.start(parts.workers.run)
    yield parts
    nursery.cancel_scope.cancel()


def of_tool(name: str, what: str) -> Any:
    return call(params={"name": name, "arguments": {"what": what}})


def of_completion(name: str, what: str) -> Any:
    params = {"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "what", "value": what}}
    return call("completion/complete", params)


def all_calls(what: str) -> list[Any]:
    return [
        *(of_tool(name, what) for name in TOOLS),
        *(call("resources/read", {"uri": f"{scheme}:///{what}"}) for scheme in ("raise", "raise-in-thread")),
        *(call("prompts/get", {"name": name, "arguments": {"what": what}}) for name in PROMPTS),
        *(of_completion(name, what) for name in PROMPTS),
    ]


@pytest.mark.parametrize("what", RAISED)
async def test_whatever_is_raised_fails_its_call_and_nothing_else(server: Parts, what: str) -> None:
    """SEC-6, RPC-12."""
    with trio.fail_after(30):
        for asked in all_calls(what):
            outcome = await serve(server, asked)
            failed = outcome.result.get("isError") if isinstance(outcome, Done) else getattr(outcome, "error", None)
            absorbed = "stray" in what and asked.params.get("name") in ABSORBING
            assert failed or absorbed, (asked.method, asked.params)
            assert len(getattr(failed, "message", "")) < 100_000
            assert not list(server.manager.in_flight())
            await trio.lowlevel.checkpoint()
        assert await result(server, call("tools/list", {}))


@pytest.mark.parametrize("what", RAISED)
@pytest.mark.parametrize("name", ["in_call", "in_nursery", "in_once", "in_resource"])
async def test_what_is_raised_while_a_call_is_being_cancelled_does_not_matter(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    """CAN-1, CAN-3."""
    server = make_server(tmp_path, tools=(MODULE,))
    flight = Flight(of_tool(name, what), Wire())
    monkeypatch.setattr(raising, "before", lambda: flight.cancel("explicit"))
    assert await server.manager.serve(flight) == Stopped("explicit")
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("what", RAISED)
async def test_a_cancellation_from_outside_passes_whatever_is_raised_instead(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """CAN-1: the scope of a connection that is torn down is not the call's."""
    server = make_server(tmp_path, tools=(MODULE,))
    with trio.CancelScope() as connection:
        monkeypatch.setattr(raising, "before", connection.cancel)
        await server.manager.serve(Flight(of_tool("in_call", what), Wire()))
        await trio.lowlevel.checkpoint()
    assert connection.cancelled_caught
    assert not list(server.manager.in_flight())
