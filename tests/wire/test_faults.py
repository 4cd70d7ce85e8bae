"""`wire.faults`: the first fault is found in bounded work, whatever the schema and the value."""

from collections import Counter
from typing import Any

import pytest
from msgspec import Struct, json

from mcpd.wire.faults import SMALL_ITEMS, Faults, is_small
from mcpd.wire.schema import MAX_PROBLEM_CHARS, Validator, compile_schema


class Leaf(Struct, tag=True):
    child: "Leaf | Twig | None"


class Twig(Struct, tag=True):
    child: "Leaf | Twig | None"


SCALAR = {"anyOf": [{"type": "string"}, {"type": "number"}]}
LISTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": SCALAR, "maxItems": 1000}]}
TREE = {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"type": "array", "items": {"$ref": "#"}}, {"const": 1}]}


def counted(schema: Any, questions: Counter[str]) -> Faults:
    """Ask as `Validator` does, and count."""
    validator = compile_schema(schema, where="a test")
    asked = validator.faults()

    def valid(pointer: str, value: Any) -> bool:
        questions["valid"] += 1
        return asked.valid(pointer, value)

    def judge(keyword: str, operand: Any, value: Any) -> bool:
        questions["judge"] += 1
        return asked.judge(keyword, operand, value)

    def quote(keyword: str, operand: Any, value: Any) -> str:
        questions["quote"] += 1
        return asked.quote(keyword, operand, value)

    return Faults(schema, valid=valid, judge=judge, quote=quote)


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 5
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"properties": {"a": LISTS}}, {"a": [[]] * 50_000}),
        ({"properties": {"a": {"items": SCALAR}}}, {"a": [[]] * 50_000}),
        ({"items": {"anyOf": [{"const": n} for n in range(200)]}}, [-1] * 50_000),
        ({"additionalProperties": SCALAR}, {str(n): [] for n in range(50_000)}),
        ({"additionalProperties": False}, {str(n): [] for n in range(50_000)}),
        ({"required": [f"r{n}" for n in range(500)]}, {str(n): [] for n in range(50_000)}),
        ({"uniqueItems": True, "items": {"type": "string"}}, [7] * 50_000),
        ({"items": {"type": "array", "items": {"type": "string"}}}, [[1] * 50] * 1_000),
        ({"pattern": "^(a|b)*$"}, "ab" * 500_000 + "c"),
        ({"enum": ["x", "y"]}, "x" * 1_000_000),
        ({"const": {"a": 1}}, {"a": [1] * 50_000}),
        ({"not": {"type": "array"}}, [[]] * 50_000),
        ({"contains": {"const": 5}}, [[]] * 50_000),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_the_first_fault_of_a_large_value_costs_few_questions_and_few_characters(schema: Any, value: Any) -> None:
    questions: Counter[str] = Counter()
    _, text = counted(schema, questions).locate(value)
    assert questions.total() < 250
    assert len(text) < MAX_PROBLEM_CHARS
    problem = compile_schema(schema, where="a test").check(value)
    assert problem is not None
    assert len(problem) <= MAX_PROBLEM_CHARS


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (TREE, nested(60, lambda value: [value])),
        (json.schema(Leaf | Twig), nested(60, lambda value: {"type": "Leaf", "child": value})),
    ],
)
def test_branches_inside_branches_do_not_multiply(schema: Any, value: Any) -> None:
    """Two hundred bytes held the event loop for hours when errors were listed."""
    questions: Counter[str] = Counter()
    counted(schema, questions).locate(value)
    assert questions.total() < 2_000
    assert compile_schema(schema, where="a test").check(value) is not None


def test_a_late_fault_is_found_by_asking_about_each_part_once() -> None:
    questions: Counter[str] = Counter()
    schema = {"items": {"properties": {"a": {"type": "integer"}}}}
    path, text = counted(schema, questions).locate([{"a": 1}] * 5_000 + [{"a": "x"}])
    assert (path, text) == ([5_000, "a"], '"x" is not of type "integer"')
    assert questions["valid"] <= 5_010


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        (
            {"properties": {"a": LISTS}},
            {"a": ["x", []]},
            "v.a[1]: [] is not valid under any of the schemas listed in the 'anyOf' keyword",
        ),
        ({"properties": {"a": LISTS}}, {"a": [1] * 2_000}, "v.a: an array of 2000 items breaks 'maxItems': 1000"),
        (
            {"properties": {"a": {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]}}},
            {"a": 1},
            "v.a: 1 is less than the minimum of 3",
        ),
        (
            {"oneOf": [{"minimum": 1}, {"maximum": 5}]},
            3,
            "v: 3 is not valid under exactly one of the schemas listed in the 'oneOf' keyword",
        ),
        ({"allOf": [{}, {"required": ["b"]}]}, {}, 'v: "b" is a required property'),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, 'v: "b" is a required property'),
        ({"if": {"required": ["a"]}, "else": {"required": ["b"]}}, {}, 'v: "b" is a required property'),
        (
            {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}},
            ["a", "b"],
            'v[1]: "b" is not of type "integer"',
        ),
        ({"prefixItems": [{"type": "string"}]}, [1], 'v[0]: 1 is not of type "string"'),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "items": [True],
                "additionalItems": {"type": "string"},
            },
            [1, 2],
            'v[1]: 2 is not of type "string"',
        ),
        (
            {"patternProperties": {"^a": {"type": "string"}}, "additionalProperties": False},
            {"ab": 1},
            'v.ab: 1 is not of type "string"',
        ),
        (
            {"patternProperties": {"^a": {}}, "additionalProperties": False},
            {"ab": 1, "b": 1},
            "v: Additional properties are not allowed ('b' was unexpected)",
        ),
        ({"additionalProperties": {"type": "string"}}, {"b": 1}, 'v.b: 1 is not of type "string"'),
        ({"propertyNames": {"pattern": "^a"}}, {"b": 1}, 'v: "b" does not match "^a"'),
        (
            {"properties": {"additionalProperties": False}},
            {"additionalProperties": True},
            "v.additionalProperties: nothing is allowed here, not true",
        ),
        (
            {"properties": {"a/~b": {"$ref": "#/$defs/c~1d"}}, "$defs": {"c/d": {"type": "null"}}},
            {"a/~b": 1},
            "v['a/~b']: 1 is not of type \"null\"",
        ),
        ({"not": {"type": "integer"}}, 5, "v: 5 does not fit 'not'"),
        (
            {"$anchor": "x", "properties": {"a": {"$ref": "#y"}}, "$defs": {"y": {"$anchor": "y", "type": "null"}}},
            {"a": 1},
            "v.a: 1 does not fit the schema",
        ),
        (False, 5, "v: nothing is allowed here, not 5"),
    ],
)
def test_the_text_names_the_place_and_what_is_wrong_there(schema: Any, value: Any, problem: str) -> None:
    assert compile_schema(schema, where="a test", root="v").check(value) == problem


@pytest.mark.parametrize(
    ("value", "small"),
    [
        ({"text": "a"}, True),
        ([1] * (SMALL_ITEMS - 10), True),
        ([1] * SMALL_ITEMS, False),
        ({str(n): n for n in range(SMALL_ITEMS)}, False),
        ({str(n): n for n in range(SMALL_ITEMS // 2 - 1)}, True),
        ({str(n): n for n in range(SMALL_ITEMS // 2 + 1)}, False),
        ([[1] * 40] * 40, False),
        ([[1] * 900] * 900, False),
        ({"x" * 90 * SMALL_ITEMS: 1}, True),
        ({"x" * 101 * SMALL_ITEMS: 1}, False),
        ("x" * 90 * SMALL_ITEMS, True),
        ("x" * 101 * SMALL_ITEMS, False),
        (None, True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_small_is_what_is_checked_and_quoted_on_the_spot(value: Any, small: bool) -> None:
    assert is_small(value) is small


def test_a_validator_that_only_decides_agrees_with_one_that_explains() -> None:
    validator: Validator = compile_schema({"type": "integer"}, where="a test")
    assert validator.fits(5)
    assert not validator.fits("5")
    assert not validator.fits({1: object()})


def test_a_schema_that_leads_back_to_itself_is_left_at_last() -> None:
    """Law 8: it never takes a step into the value."""
    asked = Counter[str]()

    def valid(pointer: str, _value: Any) -> bool:
        asked[pointer] += 1
        assert asked.total() < 10_000
        return False

    faults = Faults({"not": {}, "$ref": "#"}, valid=valid, judge=lambda *_: True, quote=lambda *_: "")
    assert faults.locate(5) == ([], "5 does not fit 'not'")
