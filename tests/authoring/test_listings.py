"""Schemas from type hints in the keywords that clients in use understand, meaning what msgspec's mean."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import jsonschema_rs
import msgspec
import pytest
from msgspec import Meta, Struct

from mcpd.authoring.forms import form_of
from mcpd.authoring.listings import MAX_INLINED_NODES, schema_of


class Size(enum.Enum):
    """A choice in an order that is not the alphabet's."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Level(enum.IntEnum):
    """Numbers from high to low."""

    HIGH = 3
    LOW = 1


class Point(Struct):
    """Used twice in other types."""

    x: int
    note: Annotated[str | None, Meta(description="anything")] = None


class Line(Struct):
    """Has its parts in place."""

    ends: tuple[Point, Point]
    mode: Literal["solid", "dashed", "dotted"]
    start: Annotated[Point, Meta(description="where it begins")]


class Tree(Struct):
    """Contains itself."""

    size: Size
    children: list[Tree] = []
    at: Point | None = None


class Cat(Struct, tag=True):
    """One of two."""

    lives: int


class Dog(Struct, tag=True):
    """The other."""

    tricks: list[str]


@dataclass
class Data:
    """A dataclass with choices."""

    order: Literal["up", "down", "across"]


class Row(TypedDict):
    """A typed dict with choices."""

    order: Literal["z", "a"]


class Pair(NamedTuple):
    """A tuple with names."""

    first: Literal["b", "a"]
    second: int


Wrapped = NewType("Wrapped", Data)
HINTS: list[Any] = [
    Point, Line, Tree, list[Tree], Tree | None, Cat | Dog, list[Cat | Dog], Data, Row, Pair, Size, Level, Wrapped,
    Literal["b", "a"] | None, Literal[2, 1, "x"], Literal["only"], None, Size | None, Literal["b"] | int | None,
    tuple[int, str], tuple[int, int], tuple[()], tuple[int, ...], tuple, list, list[Any], dict[str, Line], set[int],
    Any, dict[str, tuple[Point, Size]], Annotated[Line, Meta(description="a line")],
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 1, 2, 3, 3.0, "x", "a", "b", "only", "small", "large", "z", [], [1], [1, "a"], [1, 2], [1, 2, 3], {},
    {"x": 1}, {"x": 1, "note": None}, {"x": "1"}, [{"x": 1}], ["b", 1], ["c", 1], {"order": "z"}, {"order": "down"},
    {"size": "small"}, {"size": "tiny"}, [{"size": "large", "children": [{"size": "medium", "at": {"x": 2}}]}],
    {"size": "large", "children": [{"size": "medium", "at": {"x": 2}}]}, {"size": "large", "children": [{"size": 1}]},
    {"type": "Cat", "lives": 9}, {"type": "Dog", "lives": 9}, [{"type": "Dog", "tricks": ["sit"]}], {"type": "Cow"},
    {"ends": [{"x": 1}, {"x": 2}], "mode": "solid", "start": {"x": 0}}, {"ends": [], "mode": "solid", "start": {}},
    {"a": {"ends": [{"x": 1}, {"x": 2}], "mode": "solid", "start": {"x": 0}}}, {"k": [{"x": 1}, "large"]},
]  # fmt: skip


def places(schema: Any) -> list[dict[str, Any]]:
    """Return every schema within one, as a client would walk it."""
    found, todo = [], [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            found.append(node)
            todo += [*node.get("properties", {}).values(), *node.get("$defs", {}).values(), *node.get("anyOf", [])]
            todo += [*node.get("prefixItems", []), node.get("items"), node.get("additionalProperties")]
    return found


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_what_is_valid_stays_valid_and_nothing_else(hint: Any) -> None:
    theirs = jsonschema_rs.validator_for(msgspec.json.schema(hint), offline=True)
    ours = jsonschema_rs.validator_for(schema_of(hint), offline=True)
    for value in VALUES:
        assert ours.is_valid(value) == theirs.is_valid(value), value
    assert any(map(ours.is_valid, VALUES))


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_the_keywords_are_those_that_clients_understand(hint: Any) -> None:
    schema = schema_of(hint)
    for node in places(schema):
        if node.get("type") == "array":
            assert isinstance(node["items"], dict)
        if "enum" in node:
            assert isinstance(node["type"], str)
        assert not isinstance(node.get("type"), list)
        assert True not in node.get("properties", {}).values()
        assert "discriminator" not in node
    recursive = "Tree" in str(hint)
    assert ("$ref" in json.dumps(schema)) == recursive
    assert list(schema.get("$defs", {})) == (["Tree"] if recursive else [])


@pytest.mark.parametrize(
    ("hint", "order"),
    [
        (Literal["small", "medium", "large"], ["small", "medium", "large"]),
        (Size, ["small", "medium", "large"]),
        (list[Size], ["small", "medium", "large"]),
        (Level, [3, 1]),
        (Line, ["solid", "dashed", "dotted"]),
        (Data, ["up", "down", "across"]),
        (Row, ["z", "a"]),
        (Pair, ["b", "a"]),
        (Wrapped, ["up", "down", "across"]),
        (Literal["z", "a"] | None, ["z", "a"]),
        (dict[str, Annotated[Literal["z", "a"], Meta(description="d")]], ["z", "a"]),
        (Tree, ["small", "medium", "large"]),
    ],
)
def test_choices_keep_their_authors_order(hint: Any, order: list[Any]) -> None:
    found = [node["enum"] for node in places(schema_of(hint)) if "enum" in node]
    assert found
    assert all(values == order for values in found)


def test_a_form_keeps_its_choices_in_order_too() -> None:
    form = form_of({"size": Literal["small", "medium", "large"], "many": list[Literal["b", "a"]], "may": Size | None})
    assert form["properties"]["size"] == {"type": "string", "enum": ["small", "medium", "large"]}
    assert form["properties"]["many"]["items"] == {"type": "string", "enum": ["b", "a"]}
    assert form["properties"]["may"]["enum"] == ["small", "medium", "large"]
    assert form["required"] == ["size", "many"]


def test_what_is_said_where_a_definition_is_used_stays_beside_it() -> None:
    start = schema_of(Line)["properties"]["start"]
    assert start["description"] == "where it begins"
    assert start["properties"]["x"] == {"type": "integer"}


def test_definitions_that_would_multiply_stay_references() -> None:
    kind: Any = Point
    for step in range(14):
        kind = msgspec.defstruct(f"Level{step}", [("left", kind), ("right", kind)])
    schema = schema_of(kind)
    assert len(places(schema)) < 100 < MAX_INLINED_NODES
    assert len(schema["$defs"]) == 14
    assert schema["type"] == "object"
