"""`/mcp` for the revisions with sessions, on a real socket: handshake, sessions, streams, resuming, batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.wire.envelope import VERSION_KEY
from mcpd.wire.versions import STATEFUL, STATELESS, can
from tests.served import CLIENT, WAIT_S, Mcp, Reply, Server, client_of, serving, stateless

NEWEST = STATEFUL[0]
BATCHING = "2025-03-26"
SETTINGS = """
[limits]
max_streams_per_session = 4
max_batch_items = 5
max_stream_events = 8
max_subscription_uris = 1
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), SETTINGS) as running:
        yield running


def hello(version: str = NEWEST, **more: Any) -> dict[str, Any]:
    """Return an `initialize`; `more` changes its parameters, `...` leaves one out."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT, **more}
    params = {key: value for key, value in params.items() if value is not ...}
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def plainly_stateful(reply: Reply) -> bool:
    """True when no client could take this refusal for one of the stateless era, nor for an empty one."""
    return reply.code is not None and not -32099 <= reply.code <= -32020


@pytest.mark.parametrize(
    ("asked", "answered"), [*zip(STATEFUL, STATEFUL, strict=True), (STATELESS, NEWEST), ("2099-01-01", NEWEST)]
)
async def test_initialize_negotiates_the_revision(server: Server, asked: str, answered: str) -> None:
    """INI-1, INI-2, SES-1, ERA-1, ERA-2."""
    async with client_of(server) as mcp:
        reply = await mcp.post(hello(asked))
    assert (reply.status, reply.result["protocolVersion"]) == (200, answered)
    assert reply.result["serverInfo"] == {"name": "mcpd", "version": reply.result["serverInfo"]["version"]}
    assert ("completions" in reply.result["capabilities"]) == can(answered, "completions")
    assert not {"extensions", "tasks"} & reply.result["capabilities"].keys()
    assert not {"resultType", "ttlMs", "cacheScope", "_meta"} & reply.result.keys()
    key = reply.headers["mcp-session-id"]
    assert len(key) >= 22
    assert all(0x21 <= ord(character) <= 0x7E for character in key)


INCOMPLETE: list[dict[str, Any]] = [
    {"protocolVersion": ...},
    {"protocolVersion": 1},
    {"capabilities": ...},
    {"capabilities": []},
    {"clientInfo": ...},
    {"clientInfo": {}},
    {"_meta": {"progressToken": []}},
]


@pytest.mark.parametrize("wrong", INCOMPLETE, ids=str)
async def test_an_incomplete_initialize_opens_no_session(server: Server, wrong: dict[str, Any]) -> None:
    """INI-1, INI-3, ERA-10."""
    async with client_of(server) as mcp:
        reply = await mcp.post(hello(**wrong))
    assert (reply.status, reply.code) == (400, -32602)
    assert "mcp-session-id" not in reply.headers


async def test_initialize_tolerates_a_stateful_version_header_and_a_dead_session(server: Server) -> None:
    """INI-5, INI-6."""
    async with client_of(server) as mcp:
        reply = await mcp.post(hello(), {"mcp-protocol-version": "2025-06-18", "mcp-session-id": "chosen-by-me"})
        assert reply.status == 200
        assert reply.headers["mcp-session-id"] != "chosen-by-me"
        mcp.session = {"mcp-session-id": reply.headers["mcp-session-id"]}
        again = await mcp.post(hello(), mcp.session)
        assert (again.status, again.code) == (400, -32600)


async def test_requests_may_overtake_initialized_and_questions_wait_for_it(server: Server) -> None:
    """INI-4, S2C-1."""
    async with client_of(server) as mcp:
        opened = await mcp.post(hello(capabilities={"elicitation": {}}))
        mcp.session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        assert (await mcp.call("ping")).result == {}
        assert (await mcp.call("tools/list")).result["tools"]
        body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "greet"}}
        async with trio.open_nursery() as nursery:

            async def say_so() -> None:
                await trio.testing.wait_all_tasks_blocked(0.1)
                asked.append("initialized")
                await mcp.say("notifications/initialized")

            asked: list[str] = []
            nursery.start_soon(say_so)
            async with mcp.streaming("POST", body, mcp.session) as events:
                question = await events.message()
                asked.append(question["method"])
                await answer(mcp, question, {"action": "decline"})
                assert (await events.message())["result"]["content"][0]["text"] == "Hello!"
    assert asked == ["initialized", "elicitation/create"]


async def answer(mcp: Mcp, question: dict[str, Any], result: dict[str, Any]) -> None:
    reply = await mcp.post({"jsonrpc": "2.0", "id": question["id"], "result": result}, mcp.session)
    assert (reply.status, reply.text) == (202, "")


async def test_a_missing_session_is_a_bad_request_and_an_unknown_one_not_found(server: Server) -> None:
    """SES-2, SES-3, ERA-9, ERA-10, RPC-11."""
    request = {"jsonrpc": "2.0", "id": 0, "method": "tools/list"}
    async with client_of(server) as mcp:
        for body in (
            request,
            {"jsonrpc": "2.0", "id": 1, "result": {}},
            {"jsonrpc": "2.0", "method": "notifications/x"},
        ):
            missing = await mcp.post(body)
            unknown = await mcp.post(body, {"mcp-session-id": "unknown"})
            assert (missing.status, unknown.status) == (400, 404)
            assert missing.code == unknown.code == -32600
            assert plainly_stateful(missing)
        for method, missing_status in (("GET", 405), ("DELETE", 400)):
            for headers, status in [({}, missing_status), ({"mcp-session-id": "unknown"}, 404)]:
                response = await mcp.http.request(method, "/mcp", headers={"accept": "text/event-stream", **headers})
                assert (response.status_code, response.json()["error"]["code"]) == (status, -32600)
                assert response.headers.get("allow") == ("POST" if status == 405 else None)


async def test_a_deleted_session_is_gone_with_everything_in_it(server: Server) -> None:
    """SES-3, SES-4, S2C-3."""
    body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "hold", "_meta": {"progressToken": 1},
            "arguments": {"name": "deleted"}}}  # fmt: skip
    async with client_of(server) as mcp:
        await mcp.initialize()
        async with mcp.streaming("POST", body, mcp.session) as events:
            assert (await events.message())["method"] == "notifications/progress"
            response = await mcp.http.delete("/mcp", headers=mcp.session)
            assert (response.status_code, response.content) == (204, b"")
            assert await events.message() is None, "the stream ends without an answer"
        assert (await mcp.call("tools/list")).status == 404
        assert (await mcp.http.delete("/mcp", headers=mcp.session)).status_code == 404
        await wait_cancelled(mcp, "deleted")


async def wait_cancelled(mcp: Mcp, name: str) -> None:
    """Wait until the server says that the held call `name` was cancelled."""
    with trio.fail_after(WAIT_S):
        while name not in (await mcp.ask("tools/call", {"name": "cancelled_calls"})).result["structuredContent"]:
            pass


async def test_the_session_is_named_on_every_reply(server: Server) -> None:
    """STR-7, SES-1."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        for reply in (await mcp.call("ping"), await mcp.say("notifications/x"), await mcp.call("nothing/here")):
            assert reply.headers["mcp-session-id"] == mcp.session["mcp-session-id"]


@pytest.mark.parametrize("header", [None, "2024-11-05", NEWEST])
async def test_the_negotiated_revision_holds_whatever_stateful_version_a_header_says(
    server: Server, header: str | None
) -> None:
    """VER-1, VER-2."""
    async with client_of(server) as mcp:
        await mcp.initialize("2025-06-18")
        session = {"mcp-session-id": mcp.session["mcp-session-id"]}
        mcp.session = session if header is None else {**session, "mcp-protocol-version": header}
        tools = (await mcp.call("tools/list")).result["tools"]
    echo = next(tool for tool in tools if tool["name"] == "echo")
    assert echo["title"] == "Echo"
    assert "icons" not in echo


async def test_a_version_that_does_not_exist_is_a_bad_request_even_in_a_session(server: Server) -> None:
    """VER-1, ERA-5."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        mcp.session["mcp-protocol-version"] = "1999-01-01"
        assert (await mcp.call("tools/list")).status == 400


async def test_a_stateless_request_with_a_session_attached_is_served_stateless(server: Server) -> None:
    """VER-2, ERA-7, RSP-6."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        reply = await mcp.ask("tools/list", headers={"mcp-session-id": mcp.session["mcp-session-id"]})
        assert reply.result["resultType"] == "complete"
        assert "mcp-session-id" not in reply.headers
        body, _ = stateless("tools/list")
        reply = await mcp.post(body, mcp.session)
        assert (reply.status, reply.code) == (400, -32020)
        assert VERSION_KEY in body["params"]["_meta"]


async def test_ping_and_set_level_answer_an_empty_object(server: Server) -> None:
    """LOG-1."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        assert (await mcp.call("ping", request_id="")).last == {"jsonrpc": "2.0", "id": "", "result": {}}
        assert (await mcp.call("logging/setLevel", {"level": "error"})).result == {}
        assert (await mcp.call("logging/setLevel", {"level": "loud"})).code == -32602
        assert (await mcp.call("logging/setLevel")).code == -32602
        said = await mcp.call("tools/call", {"name": "say"})
        assert [message["params"]["level"] for message in said.messages[:-1]] == ["error"]
        plain = await mcp.ask("tools/call", {"name": "say"})
        assert len(plain.messages) == 1, "a session's level is no level of others"


async def test_errors_of_served_requests_have_status_200_and_the_codes_of_their_era(server: Server) -> None:
    """ERA-10, RPC-11, RSC-2, TOOL-2, LAD-1."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        for method, params, code in [
            ("unknown/method", {}, -32601),
            ("server/discover", {}, -32601),
            ("subscriptions/listen", {}, -32601),
            ("tools/call", {"name": "nope"}, -32602),
            ("tools/call", {"name": "needs_sampling"}, -32600),
            ("resources/read", {"uri": "note:///none"}, -32002),
            ("resources/subscribe", {"uri": "note:///none"}, -32002),
            ("resources/subscribe", {}, -32602),
            ("tools/call", {"name": "not_a_number"}, -32603),
        ]:
            reply = await mcp.call(method, params, request_id=0)
            assert (reply.status, reply.code, reply.last["id"]) == (200, code, 0), method
            assert plainly_stateful(reply)
        reply = await mcp.call("tools/call", {"name": "add", "arguments": {"a": "x", "b": 1}})
        assert reply.result["isError"] is True


async def test_an_id_that_is_in_flight_cannot_be_used_again(server: Server) -> None:
    """RPC-5, RPC-3."""
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "hold", "_meta": {"progressToken": 1}},
    }
    async with client_of(server) as mcp:
        await mcp.initialize()
        async with mcp.streaming("POST", body, mcp.session) as events:
            assert (await events.message())["method"] == "notifications/progress"
            second = await mcp.call("ping", request_id=1)
            assert (second.code, second.last["id"]) == (-32600, 1)
            assert (await mcp.call("ping", request_id="1")).result == {}, "1 and '1' are two ids"
            await mcp.say("notifications/cancelled", {"requestId": True})
            assert (await mcp.call("ping", request_id=1)).code == -32600, "true is not the id 1"
            await mcp.say("notifications/cancelled", {"requestId": 1})
            assert await events.message() is None
        assert (await mcp.call("ping", request_id=1)).result == {}


async def test_a_cancelled_call_without_a_stream_ends_its_exchange_with_an_error(server: Server) -> None:
    """CAN-3, STR-3, IO-7."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        async with trio.open_nursery() as nursery:
            replies: list[Reply] = []

            async def hold() -> None:
                replies.append(await mcp.call("tools/call", {"name": "hold_in_silence"}, request_id=9))

            nursery.start_soon(hold)
            with trio.fail_after(WAIT_S):
                while not replies:
                    for wrong in ({"requestId": 10}, {"requestId": [9]}, {}, {"requestId": "9"}, {"requestId": 9}):
                        assert (await mcp.say("notifications/cancelled", wrong)).status == 202
        assert (replies[0].status, replies[0].code, replies[0].last["id"]) == (200, -32800, 9)


async def test_a_reply_is_primed_numbered_and_can_be_read_again(server: Server) -> None:
    """RSM-1, RSM-2, RSM-3, STR-2, STR-5."""
    params = {"name": "count", "_meta": {"progressToken": "p"}}
    async with client_of(server) as mcp:
        await mcp.initialize()
        first = await mcp.call("tools/call", params, request_id=1)
        second = await mcp.call("tools/call", params, request_id=2)
        assert first.events[0] == {"id": first.events[0]["id"], "data": ""}
        ids = [event["id"] for event in (*first.events, *second.events)]
        assert len(set(ids)) == len(ids), "event ids are unique in the session"
        for reply in (first, second):
            for position, event in enumerate(reply.events):
                headers = {**mcp.session, "accept": "text/event-stream", "last-event-id": event["id"]}
                async with mcp.streaming("GET", None, headers) as events:
                    rest = []
                    while (message := await events.message()) is not None:
                        rest.append(message)
                assert rest == reply.messages[position:], "only that stream's later events"


@pytest.mark.parametrize("version", STATEFUL[1:])
async def test_older_clients_are_not_primed_and_their_stream_is_not_given_up(server: Server, version: str) -> None:
    """RSM-3, RSM-4."""
    async with client_of(server) as mcp:
        await mcp.initialize(version)
        reply = await mcp.call("tools/call", {"name": "count", "_meta": {"progressToken": 1}})
        assert all(event.get("data") for event in reply.events)
        async with trio.open_nursery() as nursery:

            async def stay() -> None:
                answered = await mcp.call("tools/call", {"name": "come_back"}, request_id=3)
                assert answered.result["content"][0]["text"] == "welcome back"

            nursery.start_soon(stay)
            await mcp.call("tools/call", {"name": "go_on"}, request_id=4)


async def test_a_released_stream_is_taken_up_again(server: Server) -> None:
    """RSM-2, RSM-3, RSM-4, STR-3."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "come_back", "arguments": {"retry_ms": 25, "name": "polling"}}}  # fmt: skip
    async with client_of(server) as mcp:
        await mcp.initialize()
        with trio.fail_after(WAIT_S):
            reply = await mcp.post(call, mcp.session)
        assert [set(event) for event in reply.events] == [{"id", "data"}, {"retry"}]
        assert reply.events[1]["retry"] == "25"
        headers = {**mcp.session, "accept": "text/event-stream", "last-event-id": reply.events[0]["id"]}
        async with mcp.streaming("GET", None, headers) as events, trio.open_nursery() as nursery:
            nursery.start_soon(mcp.call, "tools/call", {"name": "go_on", "arguments": {"name": "polling"}}, 2)
            message = await events.message()
            assert message["result"]["content"][0]["text"] == "welcome back"
            assert await events.message() is None


async def test_losing_the_connection_does_not_cancel_a_stateful_call(server: Server) -> None:
    """STR-3, RSM-2, RSM-5."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "tell_and_wait",
            "arguments": {"name": "lost"}, "_meta": {"progressToken": 1}}}  # fmt: skip
    async with client_of(server) as mcp:
        await mcp.initialize()
        async with mcp.streaming("POST", call, mcp.session) as events:
            prime = await events.event()
            assert prime is not None
            assert (await events.message())["params"]["progress"] == 1
        await mcp.call("tools/call", {"name": "go_on", "arguments": {"name": "lost"}}, request_id=2)
        headers = {**mcp.session, "accept": "text/event-stream", "last-event-id": prime["id"]}
        async with mcp.streaming("GET", None, headers) as events:
            assert (await events.message())["params"]["progress"] == 1
            assert (await events.message())["result"]["content"][0]["text"] == "told"
            assert await events.message() is None


@pytest.mark.parametrize("event_id", ["", "s", "s-x", "99-1", "s-99", "s--1", "s-" + "9" * 5000, "s-²", "x"])
async def test_an_event_that_is_not_kept_is_a_bad_request_and_the_session_lives(server: Server, event_id: str) -> None:
    """RSM-2, RSM-5, RPC-7."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        headers = {**mcp.session, "accept": "text/event-stream"}
        raw = [*((k.encode(), v.encode()) for k, v in headers.items()), (b"last-event-id", event_id.encode("latin-1"))]
        response = await mcp.http.get("/mcp", headers=raw)
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)
        assert (await mcp.call("ping")).status == 200


async def test_events_of_another_session_cannot_be_read(server: Server) -> None:
    """RSM-5, SEC-5."""
    async with client_of(server) as mcp, client_of(server) as other:
        await mcp.initialize()
        reply = await mcp.call("tools/call", {"name": "count", "_meta": {"progressToken": 1}})
        await other.initialize()
        headers = {**other.session, "accept": "text/event-stream", "last-event-id": reply.events[0]["id"]}
        assert (await other.http.get("/mcp", headers=headers)).status_code == 400


async def test_the_newest_reader_of_the_standalone_stream_takes_over(server: Server) -> None:
    """STR-4, STR-5, STR-6: a connection lost behind a proxy is still open here, and must not keep its successor out."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        headers = {**mcp.session, "accept": "text/event-stream"}
        async with mcp.streaming("GET", None, headers) as lost:
            for kind in ("tools", "prompts", "resources"):
                async with mcp.streaming("GET", None, headers) as events:
                    await mcp.call("tools/call", {"name": "change", "arguments": {"kind": kind}})
                    assert (await events.message())["method"] == f"notifications/{kind}/list_changed"
            assert await lost.event() is None, "the old one is ended, in good order, and told nothing"


async def test_a_refused_initialize_names_no_session(server: Server) -> None:
    """SES-1, INI-1: nor one that asks for more than there is to keep."""
    async with client_of(server) as mcp:
        refused = await mcp.post(hello(capabilities={str(number): {} for number in range(1000)}))
        assert refused.code == -32602
        assert "mcp-session-id" not in refused.headers


async def test_the_standalone_stream_is_one_and_carries_what_belongs_to_no_call(server: Server) -> None:
    """STR-4, STR-5, STR-6, PUB-1."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        headers = {**mcp.session, "accept": "application/json"}
        assert (await mcp.http.get("/mcp", headers=headers)).status_code == 406
        headers["accept"] = "text/event-stream"
        await mcp.call("tools/call", {"name": "change", "arguments": {"kind": "prompts"}})
        async with mcp.streaming("GET", None, headers) as events:
            assert (await events.message())["method"] == "notifications/prompts/list_changed", "queued while away"
            assert (await mcp.call("resources/subscribe", {"uri": "note:///one"})).result == {}
            for uri in ("note:///two/copy", "note:///one"):
                await mcp.call("tools/call", {"name": "change", "arguments": {"kind": "resource", "uri": uri}})
            updated = await events.message()
            assert updated["method"] == "notifications/resources/updated"
            assert updated["params"] == {"uri": "note:///one"}
            too_many = await mcp.call("resources/subscribe", {"uri": "note:///two/copy"})
            assert too_many.code == -32602
            assert (await mcp.call("resources/unsubscribe", {"uri": "note:///one"})).result == {}
            await mcp.call("tools/call", {"name": "change", "arguments": {"kind": "resource", "uri": "note:///one"}})
            reply = await mcp.call("tools/call", {"name": "count", "_meta": {"progressToken": 1}})
            assert len(reply.messages) == 3, "a call's messages are on its own stream"
            await mcp.call("tools/call", {"name": "change", "arguments": {"kind": "tools"}})
            assert (await events.message())["method"] == "notifications/tools/list_changed"


async def test_a_question_is_asked_on_the_stream_of_its_call_and_answered_by_a_post(server: Server) -> None:
    """S2C-1, S2C-2, S2C-4, STR-1, STR-2."""
    body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "interview"}}
    async with client_of(server) as mcp:
        await mcp.initialize(capabilities={"elicitation": {}, "sampling": {}, "roots": {}})
        async with mcp.streaming("POST", body, mcp.session) as events:
            questions = {message["method"]: message for message in [await events.message() for _ in range(3)]}
            assert set(questions) == {"elicitation/create", "sampling/createMessage", "roots/list"}
            assert len({question["id"] for question in questions.values()}) == 3
            stranger = {"jsonrpc": "2.0", "id": "nobody asked", "result": {}}
            assert (await mcp.post(stranger, mcp.session)).status == 202
            await answer(mcp, questions["roots/list"], {"roots": [{"uri": "file:///home"}]})
            said = {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}
            await answer(mcp, questions["sampling/createMessage"], said)
            await answer(mcp, questions["elicitation/create"], {"action": "accept", "content": {"name": "Ada"}})
            assert (await events.message())["result"]["content"][0]["text"] == "Ada hi file:///home"


async def test_a_client_is_asked_only_what_it_declared_at_initialize(server: Server) -> None:
    """INI-7, ERA-10."""
    async with client_of(server) as mcp:
        await mcp.initialize(capabilities={"sampling": {}})
        reply = await mcp.call("tools/call", {"name": "greet"})
        assert reply.code == -32600
        assert reply.last["error"]["data"] == {"requiredCapabilities": {"elicitation": {}}}
        assert (await mcp.call("tools/call", {"name": "needs_sampling"})).result


async def test_a_refused_question_is_the_tools_own_failure(server: Server) -> None:
    """S2C-2, S2C-3."""
    body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "greet_in_thread"}}
    async with client_of(server) as mcp:
        await mcp.initialize(capabilities={"elicitation": {}})
        async with mcp.streaming("POST", body, mcp.session) as events:
            question = await events.message()
            refusal = {"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "No time"}}
            await mcp.post(refusal, mcp.session)
            result = (await events.message())["result"]
    assert result["isError"] is True
    assert "No time" in result["content"][0]["text"]


def ping(request_id: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": "ping"}


async def test_a_batch_is_answered_with_a_batch_where_it_was_negotiated(server: Server) -> None:
    """BAT-1, BAT-4, RPC-3."""
    async with client_of(server) as mcp:
        await mcp.initialize(BATCHING)
        reply = await mcp.post([ping(1), ping("1"), ping(1), {"jsonrpc": "2.0", "method": "x"}, 7], mcp.session)
        assert reply.status == 200
        answers = reply.last
        assert sum("result" in one for one in answers) == 2
        assert sorted(str(one.get("id")) for one in answers) == ["1", "1", "1", "None"]
        assert [one["error"]["code"] for one in answers if "error" in one] == [-32600, -32600]
        only = await mcp.post(
            [{"jsonrpc": "2.0", "method": "x"}, {"jsonrpc": "2.0", "id": 1, "result": {}}], mcp.session
        )
        assert (only.status, only.text) == (202, "")
        for bad in ([], [ping(number) for number in range(6)]):
            refused = await mcp.post(bad, mcp.session)
            assert (refused.status, refused.code) == (400, -32600)


async def test_the_answers_of_a_batch_are_bounded_together(tmp_path: Path) -> None:
    """Law 8, SEC-4: what does not fit any more is an error, and the others are answered."""
    with serving(tmp_path, "[limits]\nmax_result_bytes = 4000\n") as running:
        async with client_of(running) as mcp:
            await mcp.initialize(BATCHING)
            params = {"name": "echo", "arguments": {"text": "x" * 1500}}
            calls = [{"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params} for id_ in range(4)]
            answers = (await mcp.post([*calls, ping(9)], mcp.session)).last
            alone = await mcp.post(calls[0], mcp.session)
    assert sorted(one["id"] for one in answers) == [0, 1, 2, 3, 9]
    errors = [one["error"] for one in answers if "error" in one]
    assert [error["data"]["reason"] for error in errors] == ["result_too_large"] * 2
    assert "result" in alone.last


async def test_initialize_cannot_be_part_of_a_batch(server: Server) -> None:
    """BAT-2, INI-3, INI-5."""
    async with client_of(server) as mcp:
        reply = await mcp.post([hello(BATCHING)])
        assert (reply.status, reply.code) == (400, -32600)
        await mcp.initialize(BATCHING)
        reply = await mcp.post([hello(BATCHING), ping(1)], mcp.session)
        assert {one["id"]: one.get("error", {}).get("code") for one in reply.last} == {0: -32600, 1: None}


@pytest.mark.parametrize("version", [version for version in STATEFUL if version != BATCHING])
async def test_other_revisions_have_no_batches(server: Server, version: str) -> None:
    """BAT-3."""
    async with client_of(server) as mcp:
        await mcp.initialize(version)
        reply = await mcp.post([ping(1)], mcp.session)
        assert (reply.status, reply.code) == (400, -32600)


async def test_a_session_has_a_number_of_replies_under_way(server: Server) -> None:
    """SEC-4, ERA-10."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        async with trio.open_nursery() as nursery:

            async def hold(number: int) -> None:
                body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "hold",
                        "_meta": {"progressToken": number}}}  # fmt: skip
                async with mcp.streaming("POST", body, mcp.session) as events:
                    await events.message()
                    held.append(number)
                    await events.message()

            held: list[int] = []
            for number in range(3):
                nursery.start_soon(hold, number)
            with trio.fail_after(WAIT_S):
                while len(held) < 3:
                    await mcp.ask("tools/list")
            refused = await mcp.call("ping", request_id=9)
            assert (refused.status, refused.code) == (503, -32603)
            assert refused.last["error"]["data"]["retryable"] is True
            assert int(refused.headers["retry-after"]) >= 1
            await mcp.http.delete("/mcp", headers=mcp.session)


NOT_SET: list[tuple[str, dict[str, Any]]] = [
    *[(method, {"params": None}) for method in ("ping", "tools/list", "prompts/list", "resources/templates/list")],
    ("tools/list", {"params": {"cursor": None, "_meta": None}}),
    ("tools/call", {"params": {"name": "echo", "arguments": None, "_meta": None}}),
    ("tools/call", {"params": {"name": "numbers", "arguments": None, "_meta": {"progressToken": None}}}),
]


@pytest.mark.parametrize(("method", "members"), NOT_SET)
async def test_an_optional_member_that_is_null_counts_as_absent(
    server: Server, method: str, members: dict[str, Any]
) -> None:
    """RPC-6, TOOL-2: clients whose serialiser writes out what is not set lose the whole server otherwise."""
    async with client_of(server) as mcp:
        await mcp.initialize()
        reply = await mcp.post({"jsonrpc": "2.0", "id": 1, "method": method, **members}, mcp.session)
        noticed = await mcp.post({"jsonrpc": "2.0", "method": "notifications/x", "params": None}, mcp.session)
        assert noticed.status == 202
    assert (reply.status, "result" in reply.last) == (200, True)
    assert "isError" not in reply.result
