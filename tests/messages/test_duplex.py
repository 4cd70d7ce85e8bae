"""One duplex connection in memory: what the reader does while writers are slow, and how everything ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.assembly import Parts
from mcpd.events import Changed
from mcpd.gateway.asgi import RequestNames
from mcpd.messages.duplex import Duplex
from mcpd.wire.call import ANONYMOUS, Principal
from mcpd.wire.versions import HEADERLESS, STATEFUL
from tests.messages.memory import Collector, make_server, open_session
from tests.served import CLIENT, stateless

HELLO = {"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": CLIENT}


class Line:
    """The client's end: `say` what it sends, read `sent` of its collector."""

    def __init__(self, server: Parts, principal: Principal = ANONYMOUS) -> None:
        self.parts = server
        self.heard = Collector()
        self._say, self._receive = trio.open_memory_channel[str | None](1000)
        self.duplex = Duplex(
            server.manager,
            server.sessions,
            limits=server.config.limits,
            transport="stdio",
            principal=principal,
            name_request=RequestNames(),
        )

    async def run(self) -> None:
        """Serve until the client hangs up."""
        await self.duplex.run(self._receive.receive, self.heard)

    async def say(self, *messages: Any) -> None:
        """Send messages (a string as it is) and let the server do what it can."""
        for message in messages:
            text = message if isinstance(message, str) else json.dumps({"jsonrpc": "2.0", **message})
            self._say.send_nowait(text)
        await trio.testing.wait_all_tasks_blocked()

    async def ask(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> None:
        """Send a stateless request."""
        await self.say(stateless(method, params, **more)[0])

    def hang_up(self) -> None:
        """Leave."""
        self._say.send_nowait(None)

    def answers(self) -> dict[Any, Any]:
        """Return responses by id."""
        return {message["id"]: message for message in self.heard.sent if "method" not in message and "id" in message}


@asynccontextmanager
async def line(folder: Path, **limits: int) -> AsyncIterator[Line]:
    opened = Line(make_server(folder, limits=limits))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.run)
        yield opened
        opened.hang_up()


async def test_a_cancellation_is_heard_although_the_client_does_not_read(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """IO-8, IO-7, CAN-3."""
    async with line(tmp_path, max_outbox_items=3) as client:
        client.heard.gate = trio.Event()
        for number in range(4):
            await client.ask("tools/call", {"name": "hold"}, request_id=number, meta={"progressToken": number})
        assert len(list(client.parts.manager.in_flight())) == 4, "and their progress fills the outbox"
        await client.say(*({"method": "notifications/cancelled", "params": {"requestId": n}} for n in range(4)))
        assert list(client.parts.manager.in_flight()) == []
        client.heard.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        await client.ask("server/discover", request_id="last")
        assert list(client.answers()) == ["last"], "no answer for what was cancelled"


async def test_hanging_up_cancels_everything_and_ends_the_session(tmp_path: Path, autojump_clock: MockClock) -> None:
    """IO-3, WS-4, CAN-1."""
    began = trio.current_time()
    async with line(tmp_path) as client:
        await client.say({"id": 0, "method": "initialize", "params": HELLO}, {"method": "notifications/initialized"})
        await client.say({"id": 1, "method": "tools/call", "params": {"name": "hold_in_silence"}})
        server = client.parts
        assert len(list(server.manager.in_flight())) == 1
    assert list(server.manager.in_flight()) == []
    assert trio.current_time() == began, "and not by its deadline"
    assert not server.sessions._by_key
    assert list(client.answers()) == [0]


async def test_hanging_up_cancels_calls_without_a_session_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    """IO-3, WS-4, CAN-1."""
    began = trio.current_time()
    async with line(tmp_path) as client:
        await client.ask("tools/call", {"name": "hold_in_silence"}, request_id=1)
        manager = client.parts.manager
        assert len(list(manager.in_flight())) == 1
    assert list(manager.in_flight()) == []
    assert trio.current_time() == began, "and not by its deadline"


async def test_a_listen_ends_with_its_result_and_then_a_cancellation(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SUB-11, CAN-6, SUB-12."""
    async with line(tmp_path) as client:
        await client.ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, request_id="l")
        await client.parts.manager.drain()
        await trio.testing.wait_all_tasks_blocked()
        last = client.heard.sent[-2:]
    assert last[0]["id"] == "l"
    assert last[0]["result"]["resultType"] == "complete"
    assert last[1] == {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "l"}}


async def test_a_connection_has_a_number_of_calls_in_flight(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4, RPC-5."""
    async with line(tmp_path, max_calls_per_connection=2) as client:
        for number in range(3):
            await client.ask("tools/call", {"name": "hold_in_silence"}, request_id=number)
        await client.ask("tools/call", {"name": "hold_in_silence"}, request_id=1)
        errors = [message["error"]["code"] for message in client.heard.sent]
        assert errors == [-32603, -32600]


@pytest.mark.parametrize("wrong", [{}, {**HELLO, "clientInfo": None}, {**HELLO, "_meta": {"progressToken": []}}])
async def test_a_failed_initialize_leaves_no_session_and_can_be_repeated(
    tmp_path: Path, autojump_clock: MockClock, wrong: dict[str, Any]
) -> None:
    """IO-5, INI-3."""
    async with line(tmp_path) as client:
        await client.say({"id": 1, "method": "initialize", "params": wrong})
        await client.say({"id": 2, "method": "tools/list"})
        assert not client.parts.sessions._by_key
        await client.say({"id": 3, "method": "initialize", "params": HELLO})
        answers = client.answers()
        assert [answers[1]["error"]["code"], answers[2]["error"]["code"]] == [-32602, -32602]
        assert answers[3]["result"]["protocolVersion"] == STATEFUL[0]


async def test_a_session_lasts_as_long_as_its_connection(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-6, IO-3: silent for hours, asking, or with a call in flight; neither age nor a newcomer ends it."""
    async with line(tmp_path, max_sessions=1) as client:
        sessions = client.parts.sessions
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.expire)
            await client.say({"id": 1, "method": "initialize", "params": HELLO})
            await trio.sleep(3 * client.parts.config.timeouts.session_idle_s)
            await client.say({"id": 2, "method": "tools/call", "params": {"name": "hold_in_silence"}})
            await client.say({"id": 3, "method": "logging/setLevel", "params": {"level": "error"}})
            await trio.testing.wait_all_tasks_blocked()
            assert client.answers()[3]["result"] == {}
            other = Line(client.parts)
            nursery.start_soon(other.run)
            await other.say({"id": 1, "method": "initialize", "params": HELLO})
            refused = other.answers()[1]["error"]
            assert (refused["code"], refused["data"]["reason"]) == (-32603, "overloaded")
            assert list(client.answers()) == [1, 3], "and the call goes on"
            nursery.cancel_scope.cancel()


async def test_a_session_that_gives_way_takes_its_connection_with_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SES-6: a connection whose session is gone could never initialize again."""
    server = make_server(tmp_path, limits={"max_sessions": 2})
    greedy = [Line(server), Line(server)]
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            for client in greedy:
                nursery.start_soon(client.run)
                await client.say({"id": 1, "method": "initialize", "params": HELLO})
            open_session(server, principal=Principal("somebody else", frozenset()))
            await trio.testing.wait_all_tasks_blocked()
            assert [client.duplex.hung_up for client in greedy].count(True) == 1
            assert len(nursery.child_tasks) == 1
            for client in greedy:
                client.hang_up()


async def test_a_client_that_does_not_read_finds_each_change_told_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """STR-6, PUB-1, IO-8: a full outbox delays a notice, and loses none."""
    async with line(tmp_path, max_outbox_items=2) as client:
        await client.say({"id": 1, "method": "initialize", "params": HELLO}, {"method": "notifications/initialized"})
        await client.say({"id": 2, "method": "resources/subscribe", "params": {"uri": "note:///one"}})
        client.heard.gate = trio.Event()
        for number in range(300):
            client.parts.bus.publish(Changed("resource", "note:///one"))
            if number == 150:
                client.parts.bus.publish(Changed("tools"))
            await trio.testing.wait_all_tasks_blocked()
        client.heard.gate.set()
        await trio.sleep(5)
        await client.say({"id": 3, "method": "ping"})
        told = [message["method"] for message in client.heard.sent if "method" in message]
        assert told.count("notifications/tools/list_changed") == 1
        assert 1 <= told.count("notifications/resources/updated") <= 3
        assert client.answers()[3]["result"] == {}


async def test_a_refused_initialize_keeps_no_session_and_what_was_asked_beside_it_is_answered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """IO-5, INI-3, SEC-4: a key without the scope for it, over and over."""
    server = make_server(tmp_path)
    client = Line(server, principal=Principal("scraper", frozenset({"metrics"})))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        for number in range(9):
            await client.say(
                {"id": number, "method": "initialize", "params": HELLO}, {"id": f"p{number}", "method": "ping"}
            )
        assert not server.sessions._by_key
        answers = client.answers()
        assert len(answers) == 18
        assert all("error" in answers[number] for number in range(9))
        client.hang_up()


async def test_a_response_of_a_stateless_client_is_ignored(tmp_path: Path, autojump_clock: MockClock) -> None:
    """IO-2, S2C-2."""
    async with line(tmp_path) as client:
        await client.say({"id": 1, "result": {}}, {"id": "x", "error": {"code": 1, "message": ""}})
        await client.ask("server/discover", request_id=1)
        assert [message["id"] for message in client.heard.sent] == [1]


async def test_a_broken_writer_ends_the_connection(tmp_path: Path, autojump_clock: MockClock) -> None:
    """IO-3."""
    client = Line(make_server(tmp_path))
    client.heard.broken = True

    async def converse() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await client.ask("tools/call", {"name": "hold_in_silence"})
            await client.ask("server/discover", request_id=2)

    with pytest.RaisesGroup(trio.BrokenResourceError, flatten_subgroups=True):
        await converse()
    assert list(client.parts.manager.in_flight()) == []


@pytest.mark.parametrize("batched", [False, True])
async def test_a_client_that_asks_on_without_reading_cannot_pile_up_answers(
    batched: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SEC-4: what is refused then is not even told, and what was answered is all there once it reads."""
    async with line(tmp_path, max_outbox_items=4) as client:
        if batched:
            await client.say({"id": 0, "method": "initialize", "params": {**HELLO, "protocolVersion": HEADERLESS}})
        before = len(client.heard.sent)
        client.heard.gate = trio.Event()
        for number in range(1, 101):
            if batched:
                await client.say(json.dumps([{"jsonrpc": "2.0", "id": number, "method": "ping"}]))
            else:
                await client.ask("server/discover", request_id=number)
        client.heard.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert 4 <= len(client.heard.sent) - before <= 6
        if not batched:
            await client.ask("server/discover", request_id=200)
            assert "result" in client.answers()[200]


async def test_a_connection_that_is_stopped_before_it_runs_has_nothing_to_write(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A signal may come while the services are still starting."""
    with trio.fail_after(1):
        await Line(make_server(tmp_path)).duplex.flush()


async def test_the_answers_of_a_batch_are_bounded_together(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 8, SEC-4: what does not fit any more is an error, and the others are answered."""
    async with line(tmp_path, max_result_bytes=4000) as client:
        await client.say({"id": 99, "method": "initialize", "params": {**HELLO, "protocolVersion": HEADERLESS}})
        params = {"name": "echo", "arguments": {"text": "x" * 1500}}
        calls = [{"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params} for id_ in range(4)]
        await client.say(json.dumps(calls))
        (batch,) = [sent for sent in client.heard.sent if isinstance(sent, list)]
    assert sorted(one["id"] for one in batch) == [0, 1, 2, 3]
    assert [one["error"]["data"]["reason"] for one in batch if "error" in one] == ["result_too_large"] * 2
