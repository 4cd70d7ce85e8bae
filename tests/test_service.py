"""The service: what is advertised, what answers what, and how a call asks for input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mcpd.assembly import Parts, build
from mcpd.authoring.content import Elicit
from mcpd.authoring.context import Context
from mcpd.authoring.declarations import CompletionDeclaration, PromptDeclaration, ResourceDeclaration, ToolDeclaration
from mcpd.catalog import Paging
from mcpd.completions import Completions
from mcpd.config import Config
from mcpd.errors import (
    InternalError,
    InvalidParams,
    MethodNotFound,
    MissingCapability,
    Overloaded,
    ResourceNotFound,
)
from mcpd.events import Changed
from mcpd.messages.flight import Flight
from mcpd.monitoring.logs import Logs
from mcpd.prompts.manager import PromptManager
from mcpd.turns import Sealing
from mcpd.wire.call import ANONYMOUS, Principal
from mcpd.wire.methods import TABLE
from mcpd.wire.sealed import KeyRing
from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS, can
from tests.in_process import server_config
from tests.messages.memory import Wire, call, failure, make_server, open_session, result, session_call
from tests.served import TOOLS

ASKABLE: dict[str, Any] = {"capabilities": {"elicitation": {}, "sampling": {}, "roots": {}}}
ADA = {"action": "accept", "content": {"name": "Ada"}}


def test_capabilities_are_those_of_the_revision_and_each_has_its_methods(tmp_path: Path) -> None:
    """DIS-3, DIS-4, EXT-0, INI-1."""
    service = make_server(tmp_path).manager.service
    for version in (STATELESS, *STATEFUL):
        offered = service.capabilities(version)
        assert ("completions" in offered) == can(version, "completions")
        assert not {"tasks", "extensions"} & offered.keys()
    for row in TABLE.values():
        assert service.offers(row) == (row.extension is None)
        assert row.capability is None or row.capability in service.capabilities(STATELESS)


async def test_discover_lists_what_can_be_used_without_a_session(tmp_path: Path, autojump_clock: MockClock) -> None:
    """DIS-1, DIS-2, RES-3."""
    found = await result(make_server(tmp_path), call("server/discover", {}))
    assert found["supportedVersions"] == SUPPORTED_STATELESS
    assert (found["ttlMs"], found["cacheScope"]) == (60_000, "public")
    assert "serverInfo" not in found


async def test_initialize_says_who_answers_in_its_body(tmp_path: Path, autojump_clock: MockClock) -> None:
    """INI-1, SIE-1."""
    server = make_server(tmp_path)
    server.manager.service.info["title"] = "Title"
    for version in STATEFUL:
        session = open_session(server, version)
        found = await result(server, session_call(session, "initialize"))
        assert found.keys() == {"protocolVersion", "capabilities", "serverInfo"}
        assert ("title" in found["serverInfo"]) == can(version, "title")


@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"])
@pytest.mark.parametrize("cursor", ["", "x", 7, [], {}])
async def test_a_cursor_that_is_none_of_ours_is_invalid(
    tmp_path: Path, autojump_clock: MockClock, method: str, cursor: Any
) -> None:
    """PAG-1."""
    assert type(await failure(make_server(tmp_path), call(method, {"cursor": cursor}))) is InvalidParams


async def test_listings_are_the_same_each_time_and_nobody_shares_what_is_added(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """STA-1, STA-2, RES-2."""
    server = make_server(tmp_path)
    first, second = [await result(server, call("tools/list", {})) for _ in range(2)]
    assert first == second
    assert "_meta" not in server.manager.service._tools.list(None, ANONYMOUS)


async def ask_again(server: Parts, params: dict[str, Any], asked: dict[str, Any], **answers: Any) -> dict[str, Any]:
    more = {"requestState": asked["requestState"], "inputResponses": answers}
    return await result(server, call(params={**params, **more}, **ASKABLE))


async def test_a_call_asks_and_is_completed_over_as_many_rounds_as_it_needs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """MRT-2, MRT-4, MRT-12."""
    server = make_server(tmp_path)
    params = {"name": "two_rounds"}
    one = await result(server, call(params=params, **ASKABLE))
    assert list(one["inputRequests"]) == ["first"]
    two = await ask_again(server, params, one, first={"action": "accept", "content": {"value": "a"}})
    assert list(two["inputRequests"]) == ["second"]
    assert two["requestState"] != one["requestState"]
    done = await ask_again(server, params, two, second={"action": "accept", "content": {"value": "b"}})
    assert done["content"][0]["text"] == "a stepped b"


async def test_several_inputs_are_asked_at_once_and_answered_one_by_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """MRT-2, MRT-8."""
    server = make_server(tmp_path)
    params = {"name": "interview"}
    asked = await result(server, call(params=params, **ASKABLE))
    assert set(asked["inputRequests"]) == {"user_name", "reply", "places"}
    asked = await ask_again(server, params, asked, user_name=ADA)
    assert set(asked["inputRequests"]) == {"reply", "places"}
    said = {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}
    asked = await ask_again(server, params, asked, reply=said, places=7)
    assert set(asked["inputRequests"]) == {"places"}
    done = await ask_again(server, params, asked, places={"roots": [{"uri": "file:///home"}]})
    assert done["content"][0]["text"] == "Ada hi file:///home"


async def test_questions_of_side_by_side_tasks_are_asked_together(tmp_path: Path, autojump_clock: MockClock) -> None:
    """MRT-2."""

    async def both(ctx: Context) -> str:
        async with trio.open_nursery() as nursery:
            for key in ("one", "two"):
                nursery.start_soon(ask_one, ctx, key)
        return "asked"

    async def ask_one(ctx: Context, key: str) -> None:
        await ctx.elicit(**{key: Elicit(f"{key}?", fields={"value": str})})

    server = make_server(tmp_path)
    server.manager.service._tools.registry.replace([ToolDeclaration(name="both", fn=both)])
    asked = await result(server, call(params={"name": "both"}, **ASKABLE))
    assert set(asked["inputRequests"]) == {"one", "two"}


async def test_rounds_and_their_lifetime_are_limited(tmp_path: Path, autojump_clock: MockClock) -> None:
    """MRT-4, MRT-6, SEC-4."""
    server = make_server(tmp_path)
    now = 0.0
    server.manager.service._sealing = Sealing(KeyRing([("k", b"x" * 32)]), ttl_s=60, max_rounds=2, clock=lambda: now)
    params = {"name": "greet"}
    one = await result(server, call(params=params, **ASKABLE))
    two = await ask_again(server, params, one)
    state = {**params, "requestState": two["requestState"]}
    assert type(await failure(server, call(params=state, **ASKABLE))) is InvalidParams
    now = 61.0
    state["requestState"] = one["requestState"]
    assert "expired" in (await failure(server, call(params=state, **ASKABLE))).message


async def test_only_three_methods_ask(tmp_path: Path, autojump_clock: MockClock) -> None:
    """MRT-1."""
    server = make_server(tmp_path)
    for method, named in [("prompts/get", {"name": "asked"}), ("resources/read", {"uri": "note:///asked"})]:
        asked = await result(server, call(method, named, **ASKABLE))
        assert asked["resultType"] == "input_required"
        assert "ttlMs" not in asked
    params: dict[str, Any] = {
        "ref": {"type": "ref/resource", "uri": "note:///{id}/copy"},
        "argument": {"name": "id", "value": "x"},
    }
    assert isinstance(await failure(server, call("completion/complete", params, **ASKABLE)), InternalError)


async def test_what_was_read_after_a_question_is_never_cacheable(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RES-4, MRT-12."""
    server = make_server(tmp_path)
    params: dict[str, Any] = {"uri": "note:///asked", "inputResponses": {"reader": ADA}}
    found = await result(server, call("resources/read", params, **ASKABLE))
    assert (found["contents"][0]["text"], found["ttlMs"], found["cacheScope"]) == ("for Ada", 0, "private")
    plain = await result(server, call("resources/read", {"uri": "note:///one"}))
    assert (plain["ttlMs"], plain["cacheScope"]) == (60_000, "public")


async def test_a_client_that_cannot_be_asked_is_told_what_is_missing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """MRT-3."""
    server = make_server(tmp_path)
    too_little: list[dict[str, Any]] = [{}, {"sampling": {}}, {"elicitation": {"url": {}}}]
    for capabilities in too_little:
        error = await failure(server, call(params={"name": "greet"}, capabilities=capabilities))
        assert isinstance(error, MissingCapability)


async def test_changes_are_published_for_everybody(tmp_path: Path, autojump_clock: MockClock) -> None:
    """PUB-1."""
    server = make_server(tmp_path)
    heard: list[Changed] = []
    server.bus.subscribe(heard.append)
    for arguments in ({"kind": "tools"}, {"kind": "resource", "uri": "note:///one"}):
        await result(server, call(params={"name": "change", "arguments": arguments}))
    assert heard == [Changed("tools"), Changed("resource", "note:///one")]
    for wrong in ({"kind": "weather"}, {"kind": "resource"}, {"kind": "tools", "uri": "note:///one"}):
        assert (await result(server, call(params={"name": "change", "arguments": wrong})))["isError"]
    assert len(heard) == 2


async def test_what_is_no_resource_cannot_be_watched_or_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SUB-9, RSC-2."""
    server = make_server(tmp_path)
    watching = call("subscriptions/listen", {})
    assert server.manager.service.watchable("note:///one", watching)
    assert server.manager.service.watchable("note:///7/copy", watching)
    assert not server.manager.service.watchable("note:///none", watching)
    error = await failure(server, call("resources/read", {"uri": "note:///none"}))
    assert isinstance(error, ResourceNotFound)


async def test_a_resource_of_another_scope_cannot_be_watched_read_or_seen(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """SUB-9, RSC-3, SEC-5: neither by name nor by template, in no way of asking."""

    async def secret(id: str = "") -> str:  # noqa: A002 - the variable of the template
        return f"secret {id}"

    uris = ("vault:///one", "vaults:///two")
    server = make_server(tmp_path)
    service = server.manager.service
    service._resources.replace(
        ResourceDeclaration(uri=uri, name="secret", fn=secret, scopes=("vault",))
        for uri in ("vault:///one", "vaults:///{id}")
    )
    keeper, stranger = (Principal(name, frozenset({"read", name})) for name in ("vault", "stranger"))
    for uri in uris:
        asked = ("resources/read", {"uri": uri})
        assert service.watchable(uri, call(*asked, principal=keeper))
        assert await result(server, call(*asked, principal=keeper))
        assert not service.watchable(uri, call(*asked, principal=stranger))
        assert isinstance(await failure(server, call(*asked, principal=stranger)), ResourceNotFound)
        session = open_session(server, principal=stranger)
        watched = session_call(session, "resources/subscribe", {"uri": uri})
        refused = await failure(server, msgspec.structs.replace(watched, principal=stranger))
        assert isinstance(refused, ResourceNotFound)
    for method, member in (("resources/list", "resources"), ("resources/templates/list", "resourceTemplates")):
        assert len((await result(server, call(method, {}, principal=keeper)))[member]) == 1
        assert (await result(server, call(method, {}, principal=stranger)))[member] == []


async def test_log_and_progress_stay_with_their_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    """PRG-2, LOG-1, LOG-2, STR-5: only what the tool itself says, and to nobody else."""
    server = make_server(tmp_path)
    mine, other = Wire(), Wire()
    await result(server, call(params={"name": "say"}, log_level="info"), mine)
    await result(server, call(params={"name": "say"}), other)
    assert [params["data"] for _, params in mine.said] == ["a line of level info", "a line of level error"]
    assert other.said == []


async def test_a_completion_that_asks_for_input_is_a_bug_of_its_author(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """MRT-1: completion/complete has no way to ask; the client must not be asked through it."""

    async def curious(value: str, ctx: Context) -> list[str]:
        await ctx.elicit(key=Elicit("which?", fields={"value": str}))
        return [value]

    server = make_server(tmp_path)
    service = server.manager.service
    declared = [CompletionDeclaration(for_="note:///{id}/copy", fn=curious)]
    service._completions = Completions(declared, service._prompts, service._resources)
    params = {"ref": {"type": "ref/resource", "uri": "note:///{id}/copy"}, "argument": {"name": "id", "value": "x"}}
    assert isinstance(await failure(server, call("completion/complete", params, **ASKABLE)), InternalError)


async def test_a_broken_block_of_a_prompt_is_an_internal_error_where_it_is_rewritten(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """RPC-10: an older revision cannot carry the block, and must not fall over it."""
    server = make_server(tmp_path)

    async def broken() -> dict[str, Any]:
        return {"role": "user", "content": {"type": "resource_link"}}

    declared = [PromptDeclaration(name="broken", fn=broken)]
    server.manager.service._prompts = PromptManager(declared, Paging(KeyRing([("k", b"x" * 32)])))
    for version in sorted(STATEFUL)[:2]:
        session = open_session(server, version)
        session.initialized()
        error = await failure(server, session_call(session, "prompts/get", {"name": "broken"}))
        assert isinstance(error, InternalError), version


async def test_listings_may_be_kept_as_long_as_is_configured(tmp_path: Path, autojump_clock: MockClock) -> None:
    """RES-3, RES-4, DIS-1: on every page alike."""
    config = server_config(tmp_path, TOOLS)
    server = build_server(replace(config, server=replace(config.server, listing_ttl_s=1.5)))
    for method in ("server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list"):
        assert (await result(server, call(method, {})))["ttlMs"] == 1500


async def test_a_server_that_tells_no_changes_advertises_none(tmp_path: Path, autojump_clock: MockClock) -> None:
    """DIS-3, DIS-4: what is not advertised does not exist."""
    config = server_config(tmp_path, TOOLS)
    server = build_server(replace(config, server=replace(config.server, change_notices=False)))
    offered = (await result(server, call("server/discover", {})))["capabilities"]
    assert (offered["tools"], offered["resources"], offered["prompts"]) == ({}, {}, {})
    session = open_session(server)
    for method in ("resources/subscribe", "resources/unsubscribe"):
        refused = await failure(server, session_call(session, method, {"uri": "note:///one"}))
        assert type(refused) is MethodNotFound


def build_server(config: Config) -> Parts:
    logs = Logs(lambda _: None, requests=False)
    server = build(config, logs)
    logs.close()
    return server


BLOCKING = """
import threading
from mcpd import completion, prompt, resource, tool

go, begun = threading.Event(), threading.Semaphore(0)

@tool
def stay() -> str:
    begun.release()
    go.wait()
    return "late"

@tool
def plain() -> str:
    return "plain"

@tool
async def count(most: int) -> list[int]:
    return list(range(most))

@tool
async def add(numbers: list[int]) -> int:
    return sum(numbers)

@resource("plain:///{name}", name="plain")
def text(name: str) -> str:
    return name

@prompt
def ask() -> str:
    return "ask"

@completion(for_="plain:///{name}")
def names(value: str) -> list[str]:
    return [value]
"""
COMPLETED = {"ref": {"type": "ref/resource", "uri": "plain:///{name}"}, "argument": {"name": "name", "value": "x"}}
IN_THREADS: list[tuple[str, dict[str, Any]]] = [
    ("tools/call", {"name": "plain"}),
    ("tools/call", {"name": "count", "arguments": {"most": 5_000}}),
    ("tools/call", {"name": "add", "arguments": {"numbers": [1] * 5_000}}),
    ("resources/read", {"uri": "plain:///x"}),
    ("prompts/get", {"name": "ask"}),
    ("completion/complete", COMPLETED),
]


async def test_whatever_runs_in_a_thread_counts_for_whoever_called(tmp_path: Path) -> None:
    """SEC-4: functions of every kind, and the checks of large arguments and results."""
    (tmp_path / "blocking.py").write_text(BLOCKING)  # noqa: ASYNC240 - once, in a test
    server = make_server(tmp_path, tools=(tmp_path / "blocking.py",), limits={"max_abandoned_threads": 3})
    stay: Any = server.manager.service._tools.registry.get("stay")
    greedy, other = (Principal(name, frozenset({"call", "read"})) for name in ("a", "b"))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                stuck = call(params={"name": "stay"}, principal=greedy, request_id=f"r-{number}")
                nursery.start_soon(server.manager.serve, Flight(stuck, Wire()))
            for _ in range(3):
                await trio.to_thread.run_sync(stay.declaration.fn.__globals__["begun"].acquire)
            nursery.cancel_scope.cancel()
        for method, params in IN_THREADS:
            refused = await failure(server, call(method, params, principal=greedy))
            assert isinstance(refused, Overloaded), method
            assert not (await result(server, call(method, params, principal=other))).get("isError"), method
    stay.declaration.fn.__globals__["go"].set()
