"""What an author's function can do through its Context: progress, log, questions, side effects that run once."""

from __future__ import annotations

from typing import Any

import pytest

from mcpd.authoring.content import Elicit, ElicitAnswer, Roots, Sample
from mcpd.authoring.context import BlockingContext, Context, InputRequired
from mcpd.errors import MissingCapability, ToolError
from mcpd.wire.call import Call, Principal
from mcpd.wire.rounds import Rounds
from mcpd.wire.sealed import KeyRing
from mcpd.wire.versions import STATEFUL, STATELESS, can

RING = KeyRing([("k1", b"x" * 32)])
NAME = Elicit("Name?", fields={"name": str})
ADA = {"action": "accept", "content": {"name": "Ada"}}
CAPABLE: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}


class Client:
    """The other end of a call: what was said to it, and the answers it gives when it is asked live."""

    def __init__(self, **answers: Any) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[dict[str, Any]] = []
        self.released: list[int] = []
        self._answers = answers

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Keep a notification."""
        self.said.append((method.removeprefix("notifications/"), params))

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Answer."""
        self.asked.append(requests)
        return {key: self._answers[key] for key in requests}

    def release(self, retry_ms: int) -> None:
        """Keep that the stream was given up."""
        self.released.append(retry_ms)


class Parts:
    """The rest of the server."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str | None]] = []

    async def read(self, uri: str) -> list[dict[str, Any]]:
        """Return one text."""
        return [{"uri": uri, "text": "t"}]

    async def search(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return what was asked."""
        return body

    def changed(self, kind: str, uri: str | None) -> None:
        """Keep a change."""
        self.changes.append((kind, uri))


def make(
    client: Client | None = None, version: str = STATELESS, rounds: Rounds | None = None, **call: Any
) -> tuple[Context, Client]:
    client = client or Client()
    given: dict[str, Any] = {"params": {"name": "t"}, "transport": "http", "capabilities": CAPABLE, **call}
    return Context(
        Call(method="tools/call", version=version, **given), client, Parts(), rounds or Rounds(), 9.0
    ), client


def next_round(call_params: dict[str, Any], rounds: Rounds, **answers: Any) -> Rounds:
    """Return what the next call knows, after the state has travelled."""

    def call(**params: Any) -> Call:
        return Call(method="tools/call", params={**call_params, **params}, version=STATELESS, transport="http")

    state = rounds.seal(call(), RING, now=0, ttl_s=9)
    return Rounds.open(call(requestState=state, inputResponses=answers), RING, now=1, max_rounds=9)


async def test_progress_rises_or_is_dropped_and_first_and_last_are_always_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """PRG-1."""
    now = 100.0
    monkeypatch.setattr("mcpd.authoring.spacing.time.monotonic", lambda: now)
    ctx, client = make(progress_token=0)
    for done in (0, 0, 1, 2, -1, 10, 10):
        await ctx.progress(done, 10)
    now += 1
    await ctx.progress(9)
    await ctx.progress(10.5)
    assert [params["progress"] for _, params in client.said] == [0, 10, 10.5]
    assert client.said[0] == ("progress", {"progressToken": 0, "progress": 0, "total": 10})


async def test_progress_without_a_token_is_not_sent() -> None:
    """PRG-1, PRG-2."""
    ctx, client = make()
    await ctx.progress(1, 2, "x")
    assert client.said == []


@pytest.mark.parametrize("version", [STATELESS, *STATEFUL])
async def test_a_progress_message_is_for_revisions_that_know_it(version: str) -> None:
    """PRG-1, SIE-1."""
    ctx, client = make(version=version, progress_token="t")
    await ctx.progress(1, 2, "half")
    assert ("message" in client.said[0][1]) == can(version, "progress_message")


@pytest.mark.parametrize(("wanted", "heard"), [(None, ""), ("debug", "dwe"), ("warning", "we"), ("emergency", "")])
async def test_log_lines_go_out_from_the_wanted_level_on(wanted: str | None, heard: str) -> None:
    """LOG-1, LOG-2."""
    ctx, client = make(log_level=wanted)
    for level in ("debug", "warning", "error"):
        await ctx.log(level, {"level": level}, logger="l")
    assert "".join(params["level"][0] for _, params in client.said) == heard
    assert all(
        params == {"level": params["level"], "data": {"level": params["level"]}, "logger": "l"}
        for _, params in client.said
    )


async def test_a_level_that_does_not_exist_is_the_authors_mistake() -> None:
    """LOG-1."""
    ctx, _ = make()
    with pytest.raises(ValueError, match="unknown log level"):
        await ctx.log("loud", "x")


async def test_the_rest_of_the_server_is_within_reach() -> None:
    """PUB-1, RSM-4, SEC-5."""
    ctx, client = make(request_id="r", principal=Principal("k1", frozenset(), name="ada"))
    assert await ctx.read("a:1") == [{"uri": "a:1", "text": "t"}]
    assert await ctx.search("words", mode="text", size=3) == {"query": "words", "mode": "text", "size": 3}
    ctx.changed("resource", "a:1")
    ctx.release_stream(50)
    assert client.released == [50]
    assert (ctx.request_id, ctx.principal.name, ctx.deadline) == ("r", "ada", 9.0)


async def test_a_capability_that_is_needed_is_named_as_an_object() -> None:
    """MRT-3, RPC-10."""
    ctx, _ = make(capabilities={"sampling": {}})
    ctx.require("sampling")
    with pytest.raises(MissingCapability) as missing:
        ctx.require("roots")
    assert missing.value.data == {"requiredCapabilities": {"roots": {}}}


@pytest.mark.parametrize("version", [STATELESS, STATEFUL[0]])
@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"url": {}}}, {"sampling": {}}])
async def test_nobody_is_asked_what_they_did_not_declare(version: str, capabilities: dict[str, Any]) -> None:
    """MRT-3, INI-7."""
    ctx, client = make(version=version, capabilities=capabilities)
    with pytest.raises(MissingCapability):
        await ctx.elicit(name=NAME)
    assert client.asked == []


async def test_a_stateless_call_asks_by_ending() -> None:
    """MRT-2, S2C-4, IO-2."""
    ctx, client = make()
    with pytest.raises(InputRequired) as needed:
        await ctx.ask(name=NAME, reply=Sample("Hi", max_tokens=5), places=Roots())
    methods = {key: request["method"] for key, request in needed.value.requests.items()}
    assert methods == {"name": "elicitation/create", "reply": "sampling/createMessage", "places": "roots/list"}
    assert client.asked == []
    assert not isinstance(needed.value, Exception), "a function's own except must not swallow it"


async def test_answers_of_earlier_rounds_are_not_asked_for_again() -> None:
    """MRT-4, MRT-8, MRT-12."""
    rounds = next_round({"name": "t"}, Rounds(), name=ADA)
    ctx, _ = make(rounds=rounds)
    with pytest.raises(InputRequired) as needed:
        await ctx.ask(name=NAME, places=Roots())
    assert list(needed.value.requests) == ["places"]
    rounds = next_round({"name": "t"}, rounds, places={"roots": []})
    ctx, _ = make(rounds=rounds)
    assert await ctx.ask(name=NAME, places=Roots()) == {"name": ElicitAnswer("accept", {"name": "Ada"}), "places": []}
    assert await ctx.roots("places") == []


async def test_a_step_runs_once_over_all_rounds() -> None:
    """MRT-12, S2C-4."""
    runs: list[str] = []

    async def step() -> str:
        runs.append("async")
        return "done"

    ctx, _ = make(rounds=(rounds := Rounds()))
    assert await ctx.once("a", step) == "done"
    assert await ctx.once("b", lambda: runs.append("plain")) is None
    ctx, _ = make(rounds=next_round({"name": "t"}, rounds))
    assert await ctx.once("a", step) == "done"
    assert await ctx.once("b", lambda: runs.append("again")) is None
    assert runs == ["async", "plain"]


async def test_a_stateful_call_asks_live_and_judges_the_answer() -> None:
    """S2C-1, S2C-4, MRT-8."""
    ctx, client = make(Client(name=ADA), STATEFUL[0])
    assert (await ctx.elicit(name=NAME)).content == {"name": "Ada"}
    assert client.asked[0]["name"]["method"] == "elicitation/create"
    for wrong in (12345, {"action": "accept", "content": {"name": 7}}, {"action": "perhaps"}):
        ctx, _ = make(Client(name=wrong), STATEFUL[0])
        with pytest.raises(ToolError, match="name"):
            await ctx.elicit(name=NAME)


async def test_one_question_is_one_keyword() -> None:
    """MRT-2."""
    ctx, _ = make()
    for ask in (ctx.elicit, ctx.sample):
        with pytest.raises(TypeError):
            await ask()


def test_a_blocking_context_does_the_same_from_a_thread() -> None:
    """S2C-4."""

    def run(fn: Any) -> Any:
        """Run a coroutine that never waits, as the event loop would for a thread."""
        with pytest.raises(StopIteration) as done:
            fn().send(None)
        return done.value.value

    context, client = make(Client(name=ADA), STATEFUL[0], progress_token="t")
    ctx: Any = BlockingContext(context, run)
    ctx.progress(1, 2)
    assert ctx.elicit(name=NAME).content == {"name": "Ada"}
    ctx.release_stream(5)
    assert (ctx.once("a", lambda: 1), ctx.once("a", lambda: 2)) == (1, 1)
    assert (client.said[0][0], client.released, ctx.deadline) == ("progress", [5], 9.0)
    with pytest.raises(AttributeError):
        _ = ctx.nothing
