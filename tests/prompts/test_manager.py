"""Prompts: listed, checked, turned into messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from mcpd.authoring.content import Embedded, Image, Text
from mcpd.authoring.declarations import PromptDeclaration
from mcpd.catalog import Paging
from mcpd.errors import InvalidParams, NotFound, RegistrationError
from mcpd.prompts.manager import PromptManager, to_messages
from mcpd.wire.call import Principal
from mcpd.wire.cursors import KeyRing

STRANGER = Principal("q", frozenset())
"""A caller with a key that has no scope."""

PAGING = Paging(KeyRing([("k1", b"s" * 32)]), 100)


class Scoped(PromptDeclaration, frozen=True, kw_only=True):
    scopes: tuple[str, ...] = ()


def greet(name: str, mood: str = "good") -> str:
    """Greet somebody.

    Args:
        name: Whom.
        mood: In which mood.
    """
    return f"Hello {name}, feeling {mood}"


def declared(name: str, fn: Callable[..., Any] = greet, **options: Any) -> PromptDeclaration:
    return Scoped(name=name, fn=fn, **options)


def manager(*declarations: PromptDeclaration) -> PromptManager:
    return PromptManager(declarations, PAGING)


async def run(fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    value = fn(**arguments)
    return await value if inspect.isawaitable(value) else value


def test_an_entry_has_its_arguments_from_the_signature() -> None:
    """PRM-1."""
    assert manager(declared("greet", title="Greet")).list(None)["prompts"] == [
        {
            "name": "greet",
            "title": "Greet",
            "description": "Greet somebody.",
            "arguments": [
                {"name": "name", "description": "Whom.", "required": True},
                {"name": "mood", "description": "In which mood.", "required": False},
            ],
        }
    ]


async def test_a_string_is_one_user_message() -> None:
    """PRM-1."""
    assert await manager(declared("greet")).get("greet", {"name": "Ann"}, run) == {
        "description": "Greet somebody.",
        "messages": [{"role": "user", "content": {"type": "text", "text": "Hello Ann, feeling good"}}],
    }


async def test_arguments_are_converted_to_the_types_of_the_function() -> None:
    """PRM-1: they are strings on the wire."""

    def times(count: int) -> str:
        return "x" * count

    prompts = manager(declared("times", times))
    assert (await prompts.get("times", {"count": "3"}, run))["messages"][0]["content"]["text"] == "xxx"
    with pytest.raises(InvalidParams, match=r"arguments\.count"):
        await prompts.get("times", {"count": "many"}, run)


async def test_a_prompt_without_arguments_is_got_without_arguments() -> None:
    """PRM-1: the member may be missing."""

    async def plain() -> str:
        return "text"

    assert (await manager(declared("plain", plain)).get("plain", None, run))["messages"][0]["role"] == "user"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (None, "'name'"),
        ({}, "'name'"),
        ({"mood": "bad"}, "'name'"),
        ({"name": "Ann", "age": "3"}, "'age'"),
        ({"name": 3}, "'name'"),
        ({"name": None}, "'name'"),
        ([], "'arguments'"),
        ("name", "'arguments'"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_by_name(arguments: Any, named: str) -> None:
    """PRM-1."""
    with pytest.raises(InvalidParams, match=named):
        await manager(declared("greet")).get("greet", arguments, run)


@pytest.mark.parametrize("name", ["other", ""])
async def test_an_unknown_prompt_is_not_found(name: str) -> None:
    """PRM-1."""
    with pytest.raises(NotFound):
        await manager(declared("greet")).get(name, {}, run)


@pytest.mark.parametrize("name", [None, 3, ["greet"]])
async def test_a_name_that_is_no_string_is_refused(name: Any) -> None:
    """PRM-1."""
    with pytest.raises(InvalidParams, match="'name'"):
        await manager(declared("greet")).get(name, {}, run)


async def test_a_prompt_of_another_scope_does_not_exist() -> None:
    """SEC-5, RES-4."""
    prompts = manager(declared("greet", scopes=("secret",)))
    assert prompts.list(None, STRANGER) == {"prompts": [], "ttlMs": 0, "cacheScope": "private"}
    with pytest.raises(NotFound):
        await prompts.get("greet", {"name": "Ann"}, run, STRANGER)
    assert await prompts.get("greet", {"name": "Ann"}, run, Principal("p", frozenset({"secret"})))


def test_every_shape_of_message_is_understood() -> None:
    """PRM-1: role user or assistant, one content block each."""
    block = {"type": "text", "text": "d"}
    messages = to_messages(
        [
            "a",
            Text("b"),
            ("assistant", "c"),
            {"role": "assistant", "content": block},
            ("user", Image(b"i", mime_type="image/png")),
        ],
        greet,
    )
    assert [message["role"] for message in messages] == ["user", "user", "assistant", "assistant", "user"]
    assert [message["content"]["type"] for message in messages] == ["text", "text", "text", "text", "image"]
    assert messages[3]["content"] == block


def test_an_embedded_resource_is_a_message() -> None:
    """PRM-1: fixture test_prompt_with_embedded_resource."""
    [message] = to_messages(Embedded("t://x", text="t", mime_type="text/plain"), greet)
    assert message["content"] == {
        "type": "resource",
        "resource": {"uri": "t://x", "mimeType": "text/plain", "text": "t"},
    }


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        ("system", "x"),
        ("user", 3),
        ("user",),
        {"role": "user"},
        {"role": ["user"], "content": "x"},
        [["a"]],
        {"role": "user", "content": {"type": "odd"}},
    ],
)
def test_a_function_that_returns_no_messages_is_named(value: Any) -> None:
    """A bug of the author's: the log must say where."""
    with pytest.raises(TypeError, match="greet"):
        to_messages(value, greet)


def test_a_prompt_in_code_wins_over_one_from_a_file() -> None:
    """Law 10: the loader's swap, and what it may not replace."""
    prompts = manager(declared("greet"))
    loaded = [declared("greet", description="from a file"), declared("extra")]
    assert prompts.adopt(loaded)
    assert [(entry["name"], entry["description"]) for entry in prompts.list(None)["prompts"]] == [
        ("greet", "Greet somebody."),
        ("extra", "Greet somebody."),
    ]
    assert not prompts.adopt(list(loaded))
    assert prompts.adopt([])
    assert len(prompts) == 1


def test_a_duplicate_in_what_is_loaded_leaves_the_old_set() -> None:
    """Law 10."""
    prompts = manager(declared("greet"))
    with pytest.raises(RegistrationError):
        prompts.adopt([declared("a"), declared("a")])
    assert len(prompts) == 1
