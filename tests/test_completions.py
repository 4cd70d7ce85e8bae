"""Argument completion."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from mcpd.authoring.declarations import CompletionDeclaration, PromptDeclaration, ResourceDeclaration
from mcpd.catalog import Paging
from mcpd.completions import Completions
from mcpd.errors import InvalidParams, NotFound, RegistrationError
from mcpd.prompts.manager import PromptManager
from mcpd.resources.cache import ResourceCache
from mcpd.resources.manager import ResourceManager
from mcpd.wire.call import Principal
from mcpd.wire.cursors import KeyRing

STRANGER = Principal("q", frozenset())
"""A caller with a key that has no scope."""

PAGING = Paging(KeyRing([("k1", b"s" * 32)]), 100)
PROMPT = {"type": "ref/prompt", "name": "greet"}
TEMPLATE = {"type": "ref/resource", "uri": "t://{day}/{hour}"}


class ScopedPrompt(PromptDeclaration, frozen=True, kw_only=True):
    scopes: tuple[str, ...] = ()


class ScopedResource(ResourceDeclaration, frozen=True, kw_only=True):
    scopes: tuple[str, ...] = ()


def greet(name: str, mood: str = "") -> str:
    """Greet."""
    return name + mood


def completions(*declarations: CompletionDeclaration, scopes: tuple[str, ...] = ()) -> Completions:
    prompts = PromptManager([ScopedPrompt(name="greet", fn=greet, scopes=scopes)], PAGING)
    template = ScopedResource(uri="t://{day}/{hour}", name="hours", fn=lambda day, hour: day, scopes=scopes)
    cache = ResourceCache(max_bytes=1, max_items=1, observe=lambda _: None)
    return Completions(declarations, prompts, ResourceManager([template], PAGING, cache=cache))


def declared(for_: str, argument: str | None, fn: Callable[..., Any]) -> CompletionDeclaration:
    return CompletionDeclaration(for_=for_, argument=argument, fn=fn)


def params(ref: Any, argument: Any, context: Any = None) -> dict[str, Any]:
    return {"ref": ref, "argument": argument, "context": context}


async def run(fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    value = fn(**arguments)
    return await value if inspect.isawaitable(value) else value


def people(value: str, arguments: dict[str, str]) -> list[str]:
    return [name + arguments.get("mood", "") for name in ("Ann", "Anton", "Bob") if name.startswith(value)]


async def test_the_function_of_the_argument_answers() -> None:
    """CMP-1: with the value so far and the arguments already known."""
    made = completions(declared("greet", "name", people))
    answer = await made.complete(params(PROMPT, {"name": "name", "value": "An"}, {"arguments": {"mood": "!"}}), run)
    assert answer == {"completion": {"values": ["Ann!", "Anton!"], "total": 2, "hasMore": False}}


async def test_the_variables_of_a_template_are_completed() -> None:
    """CMP-1."""

    async def hours(value: str, arguments: dict[str, str]) -> list[str]:
        return [value + "0"]

    made = completions(declared("t://{day}/{hour}", "hour", hours))
    answer = await made.complete(params(TEMPLATE, {"name": "hour", "value": "1"}), run)
    assert answer["completion"]["values"] == ["10"]


async def test_a_function_without_an_argument_serves_those_without_their_own() -> None:
    """CMP-1."""
    made = completions(
        declared("greet", None, lambda value, arguments: ["any"]),
        declared("greet", "name", lambda value, arguments: ["name"]),
    )
    answers = [await made.complete(params(PROMPT, {"name": name, "value": ""}), run) for name in ("name", "mood")]
    assert [answer["completion"]["values"] for answer in answers] == [["name"], ["any"]]


async def test_what_exists_without_a_function_has_no_values() -> None:
    """CMP-1."""
    answer = await completions().complete(params(PROMPT, {"name": "name", "value": "A"}), run)
    assert answer == {"completion": {"values": [], "total": 0, "hasMore": False}}


async def test_at_most_a_hundred_values_are_given_and_the_rest_is_counted() -> None:
    """CMP-1."""
    made = completions(declared("greet", "name", lambda value, arguments: [str(n) for n in range(250)]))
    found = (await made.complete(params(PROMPT, {"name": "name", "value": ""}), run))["completion"]
    assert found["values"] == [str(n) for n in range(100)]
    assert (found["total"], found["hasMore"]) == (250, True)


@pytest.mark.parametrize(
    "ref",
    [
        {"type": "ref/prompt", "name": "x"},
        {"type": "ref/resource", "uri": "t://{x}"},
        {"type": "ref/resource", "uri": "t://1/2"},
    ],
)
async def test_an_unknown_reference_is_not_found(ref: Any) -> None:
    """CMP-1."""
    with pytest.raises(NotFound):
        await completions().complete(params(ref, {"name": "name", "value": ""}), run)


@pytest.mark.parametrize("ref", [PROMPT, TEMPLATE])
async def test_a_reference_of_another_scope_is_not_found(ref: Any) -> None:
    """SEC-5."""
    name = "name" if ref is PROMPT else "day"
    made = completions(scopes=("secret",))
    with pytest.raises(NotFound):
        await made.complete(params(ref, {"name": name, "value": ""}), run, STRANGER)
    assert await made.complete(params(ref, {"name": name, "value": ""}), run, Principal("p", frozenset({"secret"})))


@pytest.mark.parametrize(
    ("ref", "argument", "context"),
    [
        (None, {"name": "name", "value": ""}, None),
        ({"type": "ref/tool", "name": "greet"}, {"name": "name", "value": ""}, None),
        ({"type": "ref/prompt"}, {"name": "name", "value": ""}, None),
        ({"type": "ref/resource", "uri": 3}, {"name": "name", "value": ""}, None),
        (PROMPT, None, None),
        (PROMPT, {"name": "name"}, None),
        (PROMPT, {"name": "name", "value": 3}, None),
        (PROMPT, {"name": "age", "value": ""}, None),
        (PROMPT, {"name": "name", "value": ""}, []),
        (PROMPT, {"name": "name", "value": ""}, {"arguments": {"mood": 3}}),
    ],
)
async def test_members_of_a_wrong_shape_are_refused(ref: Any, argument: Any, context: Any) -> None:
    """CMP-1."""
    with pytest.raises(InvalidParams):
        await completions().complete(params(ref, argument, context), run)


@pytest.mark.parametrize("value", [None, "abc", [3], {"a": 1}])
async def test_a_function_that_returns_no_strings_is_named(value: Any) -> None:
    """A bug of the author's: the log must say where."""

    def faulty(value: str, arguments: dict[str, str]) -> Any:
        return found

    found = value
    with pytest.raises(TypeError, match="faulty"):
        await completions(declared("greet", "name", faulty)).complete(
            params(PROMPT, {"name": "name", "value": ""}), run
        )


def test_two_functions_for_one_argument_are_refused() -> None:
    """Law 10: what answers is not a matter of order."""
    with pytest.raises(RegistrationError, match="'greet'"):
        completions(declared("greet", "name", people), declared("greet", "name", people))


async def test_the_parameters_of_a_function_may_have_any_names() -> None:
    """Surfaces, Writing tools: `@completion` takes a function of the value, and of the known arguments if it wants."""
    made = completions(
        declared("greet", "name", lambda prefix: [prefix]), declared("greet", "mood", lambda typed, known: [*known])
    )
    only = await made.complete(params(PROMPT, {"name": "name", "value": "v"}), run)
    both = await made.complete(params(PROMPT, {"name": "mood", "value": "v"}, {"arguments": {"name": "n"}}), run)
    assert (only["completion"]["values"], both["completion"]["values"]) == (["v"], ["name"])


def test_a_function_that_takes_something_else_is_refused() -> None:
    """Found at registration, not at the first call."""

    def nothing() -> list[str]:
        return []

    with pytest.raises(RegistrationError, match="value"):
        completions(declared("greet", "name", nothing))
