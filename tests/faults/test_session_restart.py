"""Sessions over HTTP outlive their server: killed or stopped, and started again, it knows them as they were."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.gateway.keys import KeyStore
from tests.faults.restarting import HOWS, Restarting, restarting
from tests.in_process import eventually
from tests.replicas.replica import Ear, attending
from tests.served import CLIENT, Mcp, client_at

pytestmark = pytest.mark.slow
WAIT_S = 90.0
NOTE = "note:///one"
SETTINGS = "[limits]\nmax_sessions_per_principal = 3\n[timeouts]\ngrace_s = 0.5\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Restarting]:
    with restarting(tmp_path, SETTINGS) as running:
        yield running


@asynccontextmanager
async def hearing(mcp: Mcp, **headers: str) -> AsyncIterator[Ear]:
    """Read the GET stream of a session."""
    wanted = {**mcp.session, "accept": "text/event-stream", **headers}
    async with mcp.streaming("GET", None, wanted) as reader, attending(reader) as ear:
        yield ear


async def change(mcp: Mcp, uri: str) -> None:
    assert (await mcp.call("tools/call", {"name": "change", "arguments": {"kind": "resource", "uri": uri}})).result


async def levels(mcp: Mcp) -> list[str]:
    """Return the levels of what the client is told of a call."""
    said = await mcp.call("tools/call", {"name": "say"})
    return [message["params"]["level"] for message in said.messages[:-1]]


@pytest.mark.parametrize("how", HOWS)
async def test_a_session_is_as_it_was(server: Restarting, how: signal.Signals) -> None:
    """SES-3, SES-7, INI-7: revision, level, subscriptions; its client is told that anything may have changed."""
    with trio.fail_after(WAIT_S):
        async with client_at(server.url) as mcp:
            await mcp.initialize("2025-06-18")
            assert (await mcp.call("logging/setLevel", {"level": "error"})).result == {}
            assert (await mcp.call("resources/subscribe", {"uri": NOTE})).result == {}
            assert await levels(mcp) == ["error"]
        for _ in range(2):
            server.restart(how)
            async with client_at(server.url) as again:
                again.session = mcp.session
                tools = (await again.call("tools/list")).result["tools"]
                assert "icons" not in next(tool for tool in tools if tool["name"] == "echo"), "of its own revision"
                assert await levels(again) == ["error"]
                async with hearing(again) as ear:
                    for word in ("tools", "prompts", NOTE):
                        await ear.wait(word)
                    ear.heard.clear()
                    await change(again, "note:///two")
                    await change(again, NOTE)
                    await ear.wait(NOTE)
                    assert ear.heard == [NOTE]


@pytest.mark.parametrize("how", HOWS)
async def test_an_ended_session_stays_ended(server: Restarting, how: signal.Signals) -> None:
    """SES-3, SES-4."""
    with trio.fail_after(WAIT_S):
        async with client_at(server.url) as one, client_at(server.url) as two:
            for mcp in (one, two):
                await mcp.initialize()
            assert (await one.http.delete("/mcp", headers=one.session)).status_code == 204
        server.restart(how)
        async with client_at(server.url) as mcp:
            mcp.session = one.session
            assert (await mcp.call("ping")).status == 404
            assert (await mcp.http.delete("/mcp", headers=two.session)).status_code == 204
            mcp.session = two.session
            assert (await mcp.call("ping")).status == 404
        server.restart(how)
        async with client_at(server.url) as mcp:
            mcp.session = two.session
            assert (await mcp.call("ping")).status == 404


async def test_an_id_that_was_told_is_known_to_the_next_process(server: Restarting) -> None:
    """Law 12: killed as soon as the reply is there, also before `notifications/initialized`."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}, "clientInfo": CLIENT}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    with trio.fail_after(WAIT_S):
        for _ in range(3):
            async with client_at(server.url) as mcp:
                opened = await mcp.post(hello)
                server.restart(signal.SIGKILL)
                mcp.session = {"mcp-session-id": opened.headers["mcp-session-id"]}
                assert (await mcp.say("notifications/initialized")).status == 202
                server.restart(signal.SIGKILL)
                await asked_and_answered(mcp)


async def asked_and_answered(mcp: Mcp) -> None:
    """A tool asks: the client's capabilities are known, and that it is initialized."""
    body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "greet"}}
    async with mcp.streaming("POST", body, mcp.session) as events:
        question = await events.message()
        assert question["method"] == "elicitation/create"
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
        assert (await mcp.post(answer, mcp.session)).status == 202
        assert (await events.message())["result"]["content"][0]["text"] == "Hello!"


@pytest.mark.parametrize("how", HOWS)
async def test_old_streams_are_gone_and_the_session_lives(server: Restarting, how: signal.Signals) -> None:
    """RSM-1, RSM-2, STR-4: a new stream in place of the session's own, an error for a reply that cannot come."""
    with trio.fail_after(WAIT_S):
        async with client_at(server.url) as mcp:
            await mcp.initialize()
            assert (await mcp.call("resources/subscribe", {"uri": NOTE})).result == {}
            counted = await mcp.call("tools/call", {"name": "count", "_meta": {"progressToken": 1}})
            async with mcp.streaming("GET", None, {**mcp.session, "accept": "text/event-stream"}) as reader:
                await change(mcp, NOTE)
                event = await reader.event()
                assert event is not None
        server.restart(how)
        async with client_at(server.url) as again:
            again.session = mcp.session
            gone = await resumed(again, counted.events[0]["id"])
            assert (gone[0]["id"], gone[0]["error"]["data"]["reason"]) == (1, "owner_lost")
            assert await resumed(again, counted.events[0]["id"]) == gone
            async with hearing(again, **{"last-event-id": event["id"]}) as ear:
                await ear.wait(NOTE)
            fresh = await again.call("tools/call", {"name": "count", "_meta": {"progressToken": 1}})
            names = [{one["id"].rpartition("-")[0] for one in reply.events} for reply in (counted, fresh)]
            assert not names[0] & names[1], "no event of before has the name of one of now"


async def resumed(mcp: Mcp, event_id: str) -> list[Any]:
    """Return what a resumed reply has still to say."""
    headers = {**mcp.session, "accept": "text/event-stream", "last-event-id": event_id}
    found = []
    async with mcp.streaming("GET", None, headers) as reader:
        while (message := await reader.message()) is not None:
            found.append(message)
    return found


async def cut(mcp: Mcp, name: str) -> str:
    """Call a tool and cut the connection after its first event; return that event's id."""
    params = {"name": name, "arguments": {"name": "cut"}, "_meta": {"progressToken": 1}}
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    async with mcp.streaming("POST", body, mcp.session) as reader:
        event = await reader.event()
        assert event is not None
        return event["id"]


@pytest.mark.parametrize("how", HOWS)
async def test_an_answer_that_nobody_has_fetched_is_there_after_a_restart(
    server: Restarting, how: signal.Signals
) -> None:
    """STR-3, RSM-2, RSM-5: also after a second one."""
    with trio.fail_after(WAIT_S):
        async with client_at(server.url) as mcp:
            await mcp.initialize()
            at = await cut(mcp, "tell_and_wait")
            await mcp.call("tools/call", {"name": "go_on", "arguments": {"name": "cut"}})
            await eventually(lambda: kept(server), "it is kept")
        for _ in range(2):
            server.restart(how)
            async with client_at(server.url) as again:
                again.session = mcp.session
                assert [message.get("id") for message in await resumed(again, at)][-1] == 7
                assert "result" in (await resumed(again, at))[-1]


def kept(server: Restarting) -> bool:
    with closing(sqlite3.connect(server.folder / "data" / "sessions.db")) as connection:
        return bool(connection.execute("SELECT 1 FROM replies").fetchall())


async def test_a_call_that_was_cut_off_by_a_stop_says_so_after_the_restart(server: Restarting) -> None:
    """STR-3, RPC-12: the last word of a server that stops in order is kept, too."""
    with trio.fail_after(WAIT_S):
        async with client_at(server.url) as mcp:
            await mcp.initialize()
            at = await cut(mcp, "tell_and_wait")
        server.restart(signal.SIGTERM)
        async with client_at(server.url) as again:
            again.session = mcp.session
            last = (await resumed(again, at))[-1]
            assert (last["id"], last["error"]["data"]["reason"]) == (7, "draining")


@pytest.mark.parametrize("how", HOWS)
async def test_a_caller_has_no_more_sessions_than_before(server: Restarting, how: signal.Signals) -> None:
    """SES-6, SEC-4: the longest unused gives way, whichever process has made it."""
    with trio.fail_after(WAIT_S):
        keys = []
        async with client_at(server.url) as mcp:
            for _ in range(3):
                await mcp.initialize()
                keys.append(mcp.session)
        server.restart(how)
        async with client_at(server.url) as mcp:
            mcp.session = keys[0]
            assert (await mcp.call("ping")).status == 200
            server.end(signal.SIGTERM)
            server.begin()
            await mcp.initialize()
            statuses = []
            for session in (*keys, mcp.session):
                mcp.session = session
                statuses.append((await mcp.call("ping")).status)
            assert statuses == [200, 404, 200, 200]


async def test_a_session_is_its_keys_and_no_others(tmp_path: Path) -> None:
    """SES-5, SEC-5, AUT-11: nor anybody's once the key is revoked."""
    file = tmp_path / "data" / "keys.toml"
    ada, bob = (f"Bearer {KeyStore(file).new(name).reveal()}" for name in ("ada", "bob"))
    with trio.fail_after(WAIT_S), restarting(tmp_path) as server:
        async with client_at(server.url, authorization=ada) as mcp:
            await mcp.initialize()
        server.restart(signal.SIGKILL)
        async with client_at(server.url, authorization=bob) as other:
            other.session = mcp.session
            assert (await other.call("ping")).status == 404
        async with client_at(server.url, authorization=ada) as again:
            again.session = mcp.session
            assert (await again.call("ping")).status == 200
            server.end(signal.SIGTERM)
            KeyStore(file).revoke("ada")
            server.begin()
            assert (await again.call("ping")).status == 401
