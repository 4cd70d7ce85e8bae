"""Asking a client live: ids, answers, refusals, and no wait without an end."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd.errors import ToolError
from mcpd.messages.peer import Peer
from mcpd.wire.jsonrpc import Response
from tests.messages.memory import Collector

ROOTS: dict[str, dict[str, Any]] = {"a": {"method": "roots/list"}}
TWO: dict[str, dict[str, Any]] = {**ROOTS, "b": {"method": "sampling/createMessage", "params": {"maxTokens": 1}}}


def make(*, ready: bool = True) -> Peer:
    peer = Peer(input_s=30, cleanup_s=1)
    if ready:
        peer.ready.set()
    return peer


async def test_questions_go_out_together_and_answers_come_back_by_key(autojump_clock: MockClock) -> None:
    """S2C-1, S2C-2."""
    peer, send = make(), Collector()
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            await trio.testing.wait_all_tasks_blocked()
            first, second = send.sent
            assert (first["method"], first["params"], second["params"]) == ("roots/list", {}, {"maxTokens": 1})
            assert first["id"] != second["id"]
            assert peer.answer(Response(second["id"], {"n": 2}, None))
            assert not peer.answer(Response(second["id"], {"n": 3}, None)), "an answer counts once"
            assert not peer.answer(Response("unknown", {}, None))
            assert not peer.answer(Response(1, {}, None))
            assert peer.answer(Response(first["id"], {"n": 1}, None))

        nursery.start_soon(answer)
        assert await peer.ask(TWO, send) == {"a": {"n": 1}, "b": {"n": 2}}
    assert len(send.sent) == 2


async def test_ids_are_never_used_twice_in_a_session(autojump_clock: MockClock) -> None:
    """S2C-2, RPC-5."""
    peer, send = make(), Collector()
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.ask, ROOTS, send)
            await trio.testing.wait_all_tasks_blocked()
            peer.answer(Response(send.sent[-1]["id"], {}, None))
    assert len({message["id"] for message in send.sent}) == 3


async def test_a_refusal_of_the_client_is_the_tools_failure(autojump_clock: MockClock) -> None:
    """S2C-2."""
    peer, send = make(), Collector()
    async with trio.open_nursery() as nursery:

        async def refuse() -> None:
            await trio.testing.wait_all_tasks_blocked()
            peer.answer(Response(send.sent[0]["id"], None, {"code": -1, "message": "No"}))

        nursery.start_soon(refuse)
        with pytest.raises(ToolError, match="No"):
            await peer.ask(ROOTS, send)


async def test_a_client_that_does_not_answer_is_told_that_nobody_waits(autojump_clock: MockClock) -> None:
    """S2C-3."""
    peer, send = make(), Collector()
    began = trio.current_time()
    with pytest.raises(ToolError, match="30 s"):
        await peer.ask(TWO, send)
    assert trio.current_time() - began == 30
    assert [message["params"]["requestId"] for message in send.sent[2:]] == [message["id"] for message in send.sent[:2]]
    assert not peer.answer(Response(send.sent[0]["id"], {}, None))


async def test_a_cancelled_call_withdraws_its_open_questions_only(autojump_clock: MockClock) -> None:
    """S2C-3, CAN-3."""
    peer, send = make(), Collector()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.ask, TWO, send)
            await trio.testing.wait_all_tasks_blocked()
            peer.answer(Response(send.sent[0]["id"], {}, None))
    withdrawn = [message for message in send.sent if message["method"] == "notifications/cancelled"]
    assert [message["params"]["requestId"] for message in withdrawn] == [send.sent[1]["id"]]


async def test_a_question_waits_until_the_client_has_initialized(autojump_clock: MockClock) -> None:
    """INI-4."""
    peer, send = make(ready=False), Collector()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.ask, ROOTS, send)
        await trio.testing.wait_all_tasks_blocked()
        assert send.sent == []
        peer.ready.set()
        await trio.testing.wait_all_tasks_blocked()
        peer.answer(Response(json.loads(json.dumps(send.sent[0]["id"])), {}, None))


@pytest.mark.parametrize("ready", [True, False])
async def test_the_end_of_the_session_releases_whoever_waits(ready: bool, autojump_clock: MockClock) -> None:
    """S2C-3, SES-4."""
    peer, send = make(ready=ready), Collector()
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked()
            peer.leave()

        nursery.start_soon(leave)
        with pytest.raises(ToolError, match="ended"):
            await peer.ask(ROOTS, send)
    with pytest.raises(ToolError, match="ended"):
        await peer.ask(ROOTS, send)


async def test_a_client_that_stops_reading_cannot_hold_the_withdrawal(autojump_clock: MockClock) -> None:
    """S2C-3."""
    peer, send = make(), Collector()
    began = trio.current_time()
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.ask, ROOTS, send)
            await trio.testing.wait_all_tasks_blocked()
            send.gate = trio.Event()
    assert trio.current_time() - began == 6, "five seconds, and one for the shielded farewell"
