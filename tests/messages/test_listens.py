"""Listen streams: acknowledged first, told what concerns them, ended with a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from trio.testing import MockClock

from mcpd.assembly import Parts
from mcpd.errors import InvalidParams, Overloaded
from mcpd.events import Changed, LocalBus
from mcpd.messages.flight import Done, Failed, Flight, Outcome, Stopped
from mcpd.wire.call import ANONYMOUS
from mcpd.wire.envelope import SERVER_KEY, SUBSCRIPTION_KEY
from tests.messages.memory import Wire, call, failure, make_server

ALL = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["note:///one", "note:///none"]}


class Listener:
    """A listen in flight."""

    def __init__(
        self,
        server: Parts,
        *,
        request_id: Any = 0,
        gate: trio.Event | None = None,
        wanted: dict[str, Any] = ALL,
        **more: Any,
    ) -> None:
        self.wire = Wire(gate)
        self.flight = Flight(call("subscriptions/listen", {"notifications": wanted}, id=request_id, **more), self.wire)
        self._server = server
        self.outcome: Outcome | None = None

    async def run(self) -> None:
        """Listen until the end."""
        self.outcome = await self._server.manager.serve(self.flight)

    def heard(self) -> list[str]:
        """What was said, without the acknowledgement."""
        return [method.removeprefix("notifications/") for method, _ in self.wire.said[1:]]


def subscribers(server: Parts) -> int:
    assert isinstance(server.bus, LocalBus)
    return len(server.bus._subscriptions)


async def test_the_acknowledgement_comes_first_and_everything_is_tagged(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SUB-1, SUB-2, SUB-3, SUB-9."""
    server = make_server(tmp_path)
    listener = Listener(server, request_id="0")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked()
        for event in (
            Changed("resources"),
            Changed("tools"),
            Changed("resource", "note:///one"),
            Changed("resource", "x"),
        ):
            server.bus.publish(event)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    method, params = listener.wire.said[0]
    assert method == "notifications/subscriptions/acknowledged"
    assert params["notifications"] == {**ALL, "resourceSubscriptions": ["note:///one"]}
    assert listener.heard() == ["tools/list_changed", "resources/updated"]
    assert all(params["_meta"] == {SUBSCRIPTION_KEY: "0"} for _, params in listener.wire.said)


async def test_what_changes_before_the_acknowledgement_is_written_is_told_after_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SUB-6, SUB-4."""
    server = make_server(tmp_path)
    server.bus.publish(Changed("tools"))
    gate = trio.Event()
    listener = Listener(server, gate=gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked()
        assert len(listener.wire.said) == 1
        server.bus.publish(Changed("prompts"))
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert listener.heard() == ["prompts/list_changed"], "nothing from before the listen is replayed"


async def test_a_slow_listener_delays_nobody_and_finds_each_change_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SUB-5, SUB-7, SUB-8."""
    server = make_server(tmp_path)
    gate = trio.Event()
    slow, quick = Listener(server, gate=gate), Listener(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.run)
        nursery.start_soon(quick.run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(100):
            server.bus.publish(Changed("tools"))
            await trio.testing.wait_all_tasks_blocked()
        assert quick.heard() == ["tools/list_changed"]
        await trio.sleep(1)
        assert quick.heard() == 2 * ["tools/list_changed"]
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert slow.heard() == ["tools/list_changed"]


async def test_a_listen_has_no_deadline(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SUB-10, CAN-5."""
    server = make_server(tmp_path)
    listener = Listener(server, wanted={})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await trio.sleep(80_000)
        assert listener.outcome is None
        nursery.cancel_scope.cancel()


async def test_the_end_is_a_result_with_the_subscriptions_id(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SUB-2, SUB-11, SUB-12, RES-1."""
    server = make_server(tmp_path)
    listener = Listener(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked()
        server.bus.publish(Changed("tools"))
        await server.manager.drain()
    assert isinstance(listener.outcome, Done)
    meta = {SUBSCRIPTION_KEY: 0, SERVER_KEY: server.manager.service.info}
    assert listener.outcome.result == {"resultType": "complete", "_meta": meta}
    assert listener.heard() == ["tools/list_changed"], "what was pending is still told"


async def test_a_cancelled_listen_is_forgotten_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SUB-13, CAN-3."""
    server = make_server(tmp_path, limits={"max_listen_streams": 1})
    others = subscribers(server)
    listener = Listener(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked()
        error = await failure(server, call("subscriptions/listen", {"notifications": ALL}))
        assert isinstance(error, Overloaded), "SUB-9"
        listener.flight.cancel("explicit")
    assert listener.outcome == Stopped("explicit")
    assert subscribers(server) == others
    server.bus.publish(Changed("tools"))
    assert listener.heard() == []
    other = Listener(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.run)
        await trio.testing.wait_all_tasks_blocked()
        assert other.outcome is None
        nursery.cancel_scope.cancel()


async def test_a_broken_filter_is_refused_before_anything_is_said(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SUB-1."""
    wire = Wire()
    error = await failure(make_server(tmp_path), call("subscriptions/listen", {"notifications": 1}), wire)
    assert isinstance(error, InvalidParams)
    assert wire.said == []


async def test_whoever_has_most_listens_gives_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SUB-9, SUB-11, SEC-4."""
    server = make_server(tmp_path, limits={"max_listen_streams": 3})
    here, there = (replace(ANONYMOUS, address=address) for address in ("192.0.2.1", "192.0.2.2"))
    greedy = [Listener(server, principal=here) for _ in range(3)]
    modest, late = (Listener(server, principal=principal) for principal in (there, there))
    async with trio.open_nursery() as nursery:
        for listener in greedy:
            nursery.start_soon(listener.run)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(modest.run)
        await trio.testing.wait_all_tasks_blocked()
        assert [isinstance(listener.outcome, Done) for listener in greedy] == [True, False, False], (
            "the oldest, at once"
        )
        assert modest.outcome is None
        nursery.start_soon(late.run)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(late.outcome, Failed), "two and one of three places are fair"
        nursery.cancel_scope.cancel()


async def test_a_listen_keeps_nothing_of_its_request_but_what_it_uses(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SUB-2, SEC-4."""
    server = make_server(tmp_path)
    listener = Listener(server, capabilities={"experimental": {"junk": ["x"] * 1000}})
    listener.flight.call.params["_meta"] = {"junk": ["x"] * 1000}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked()
        assert (listener.flight.call.params, listener.flight.call.capabilities) == ({}, {})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("more", [{"id": "x" * 257}, {"progress_token": "x" * 257}, {"id": 10**300}])
async def test_a_listen_with_an_absurd_name_is_refused(
    tmp_path: Path, autojump_clock: MockClock, more: dict[str, Any]
) -> None:
    """SUB-2, SEC-4."""
    error = await failure(make_server(tmp_path), call("subscriptions/listen", {"notifications": ALL}, **more))
    assert isinstance(error, InvalidParams)
