"""`authoring.signatures`, `hints` and `docstrings`: from functions to schemas, and from arguments to keywords."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import jsonschema_rs
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcpd.authoring.content import Image, Text
from mcpd.authoring.context import Context
from mcpd.authoring.docstrings import parse
from mcpd.authoring.hints import Meta, gaps
from mcpd.authoring.signatures import ArgumentError, inspect_function
from mcpd.errors import RegistrationError, ToolError
from mcpd.wire.schema import compile_schema


@dataclass
class Point:
    x: int
    y: float = 0.0


class Node(msgspec.Struct):
    value: int
    child: Node | None = None


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class Row(TypedDict, total=False):
    a: int
    b: list[str]


class Pair(NamedTuple):
    left: int
    right: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(Enum):
    LOW = 1
    HIGH = 2


def accepts(hint: Any, value: Any, *, default: bool = False) -> tuple[bool, bool]:
    """Return what the served function and jsonschema-rs, given the advertised schema, say of `{"a": value}`."""
    signature = inspect_function(_function(hint, default=default))
    arguments = {"a": value}
    try:
        signature.decode(arguments)
        ours = True
    except ArgumentError:
        ours = False
    advertised = jsonschema_rs.validator_for(signature.input_schema, offline=True)
    return ours, advertised.is_valid(arguments)


@functools.cache
def _cached(hint: Any, default: bool) -> Any:
    def fn(a: Any) -> None: ...

    def fn_with_default(a: Any = None) -> None: ...

    chosen = fn_with_default if default else fn
    chosen.__annotations__ = {"a": hint, "return": None}
    return chosen


def _function(hint: Any, *, default: bool) -> Any:
    return _cached(hint, default)


LEAVES: list[Any] = [
    int, float, str, bool, None, Any, Colour, Level, Point, Node, Closed, Row, Pair,
    Literal[1, 2, "x"], Literal["a"] | None,
    Annotated[int, Meta(ge=0, le=10)], Annotated[int, Meta(gt=-3, multiple_of=2)],
    Annotated[float, Meta(gt=-1.5, lt=3)], Annotated[float, Meta(multiple_of=0.1)],
    Annotated[str, Meta(min_length=1, max_length=3)], Annotated[str, Meta(pattern="^a|b$")],
    Annotated[int, Meta(extra_json_schema={"not": {"const": 7}})],
    set[int], frozenset[str], tuple[int, str], tuple[float, ...],
    Annotated[list[int], Meta(min_length=1, max_length=2)], Annotated[dict[str, Any], Meta(max_length=1)],
    dict[Annotated[str, Meta(min_length=2, pattern="^k")], int],
]  # fmt: skip

HINTS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(lambda hint: list[hint]),  # type: ignore[valid-type]
        inner.map(lambda hint: dict[str, hint]),  # type: ignore[valid-type]
        inner.filter(lambda hint: hint is not Any and hint is not None).map(lambda hint: hint | None),
    ),
    max_leaves=3,
)

NUMBERS = st.one_of(
    st.integers(-4, 12),
    st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, 0.3, 2.5, 1e20, 1e300, 10**19, 2**63, -(2**63), 10**40]),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.sampled_from(["", "a", "b", "ab", "abc", "abcd", "red", "x", "k1", "é", "😀😀😀", "1", "true"])
KEYS = st.sampled_from(["x", "y", "a", "b", "value", "child", "text", "k1", "k", "left"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hint=HINTS, value=VALUES, default=st.booleans())
@example(hint=int, value=3.0, default=False)
@example(hint=int, value=True, default=False)
@example(hint=bool, value=1, default=False)
@example(hint=int, value="3", default=False)
@example(hint=int, value=10**40, default=False)
@example(hint=Literal[1, 2, "x"], value=2.0, default=False)
@example(hint=Level, value=2.0, default=True)
@example(hint=set[int], value=[1, 1.0], default=False)
@example(hint=Annotated[float, Meta(multiple_of=0.1)], value=0.3, default=False)
@example(hint=Closed, value={"text": "a", "b": 1}, default=False)
@example(hint=Point, value={"x": 1.0, "more": 1}, default=False)
@example(hint=Pair, value=[1, "a", 2], default=False)
@example(hint=Node, value={"value": 1, "child": {"value": 2.0}}, default=False)
@example(hint=Annotated[str, Meta(min_length=1, max_length=3)], value="😀😀😀", default=False)
def test_what_is_advertised_is_what_is_accepted(hint: Any, value: Any, default: bool) -> None:
    """TOOL-1, TOOL-2, JSC-1: two independent implementations read the same schema the same way."""
    ours, advertised = accepts(hint, value, default=default)
    assert ours == advertised


@settings(max_examples=100, deadline=None)
@given(arguments=st.dictionaries(st.sampled_from(["text", "count", "other"]), st.one_of(NUMBERS, TEXTS), max_size=3))
def test_missing_and_unknown_arguments_are_refused_as_advertised(arguments: dict[str, Any]) -> None:
    """TOOL-2."""

    def fn(text: str, count: int = 1) -> None: ...

    signature = inspect_function(fn)
    try:
        signature.decode(arguments)
        ours = True
    except ArgumentError:
        ours = False
    assert ours == jsonschema_rs.validator_for(signature.input_schema, offline=True).is_valid(arguments)


@settings(max_examples=200, deadline=None)
@given(hint=HINTS, value=VALUES)
def test_a_typed_return_value_fits_its_own_output_schema(hint: Any, value: Any) -> None:
    """TOOL-3: whatever msgspec can hold as that type is written so that the advertised schema accepts it."""
    signature = inspect_function(_returning(hint))
    try:
        typed = msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return
    result = signature.finish(typed)
    if isinstance(signature.output_schema, dict) and not gaps(hint, "x"):
        assert compile_schema(signature.output_schema, where="x").check(result["structuredContent"]) is None


def _returning(hint: Any) -> Any:
    def fn() -> None: ...

    fn.__annotations__ = {"return": hint}
    return fn


def test_a_function_becomes_a_schema() -> None:
    """TOOL-1: root `type: object`, descriptions from docstring and Meta, defaults, no unknown arguments."""

    async def search(
        query: str, ctx: Context, size: Annotated[int, Meta(ge=1, description="How many")] = 10, tag: str | None = None
    ) -> dict[str, int]:
        """Look something up.

        More about it.

        Args:
            query: What to look for,
                in words.
            size: Not this text.

        Returns:
            Nothing a model needs.
        """
        return {}

    signature = inspect_function(search)
    assert signature.input_schema == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for, in words."},
            "size": {"type": "integer", "minimum": 1, "description": "How many", "default": 10},
            "tag": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["query"],
        "additionalProperties": False,
    }
    assert signature.output_schema == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert signature.description == "Look something up.\n\nMore about it."
    assert (signature.context, signature.is_async, signature.text_result) == ("ctx", True, False)
    assert signature.decode({"query": "a"}) == {"query": "a"}
    assert signature.decode({"query": "a", "size": 2.0, "tag": None}) == {"query": "a", "size": 2, "tag": None}
    assert signature.validator is None


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    """TOOL-2: missing `arguments` means `{}`."""

    def fn() -> str:
        return ""

    signature = inspect_function(fn)
    assert signature.input_schema["type"] == "object"
    assert signature.decode({}) == {}
    with pytest.raises(ArgumentError, match="unknown field `x`"):
        signature.decode({"x": 1})


def _optional_context(a: int, c: Context | None = None) -> str:
    return ""


def _unresolvable_context(a: int, c: Context) -> str:
    return ""


_unresolvable_context.__annotations__ = {"a": "int", "c": "Context", "return": "str"}


@pytest.mark.parametrize("fn", [_optional_context, _unresolvable_context])
def test_the_context_is_found_however_it_is_written(fn: Any) -> None:
    """S2C-4: it is no argument of the client's."""
    signature = inspect_function(fn)
    assert signature.context == "c"
    assert list(signature.input_schema["properties"]) == ["a"]
    with pytest.raises(ArgumentError):
        signature.decode({"a": 1, "c": None})


def test_a_context_that_is_imported_for_type_checkers_only_is_known() -> None:
    """S2C-4: `if TYPE_CHECKING: from mcpd import Context`."""
    space: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef fn(a: int, ctx: Context) -> str: ...", space)
    assert inspect_function(space["fn"]).context == "ctx"


@pytest.mark.parametrize("hint", [str, None, Image, list[Text | Image], tuple[Text, Image], Text | None, Text | str])
def test_text_and_content_results_advertise_no_output_schema(hint: Any) -> None:
    """TOOL-3."""
    signature = inspect_function(_returning(hint))
    assert signature.output_schema is None
    assert signature.text_result


@pytest.mark.parametrize(
    ("hint", "kind"), [(int, "integer"), (list[int], "array"), (Point, "object"), (Node, "object"), (bool, "boolean")]
)
def test_an_output_schema_has_any_root_and_no_reference_there(hint: Any, kind: str) -> None:
    """TOOL-3, TOOL-1: legacy clients need to see that the root is an object."""
    schema = inspect_function(_returning(hint)).output_schema
    assert isinstance(schema, dict)
    assert schema["type"] == kind
    assert "$ref" not in schema
    compile_schema(schema, where="x")


def test_an_optional_result_is_structured_even_when_it_is_none_or_text() -> None:
    """TOOL-3: a result conforms to the advertised schema."""
    signature = inspect_function(_returning(str | None))
    assert signature.finish(None)["structuredContent"] is None
    assert signature.finish("a")["structuredContent"] == "a"


def test_an_unannotated_result_goes_by_its_value() -> None:
    """TOOL-3."""
    signature = inspect_function(_returning(Any))
    assert (signature.output_schema, signature.text_result) == (None, False)
    assert "structuredContent" not in signature.finish("a")
    assert signature.finish({"a": 1})["structuredContent"] == {"a": 1}


def test_nan_in_a_typed_result_is_an_error() -> None:
    """TOOL-3."""
    with pytest.raises(ValueError, match="float"):
        inspect_function(_returning(Point)).finish(Point(1, math.nan))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"items": [{"x": 1}, {"x": "a"}], "t": "a"}, "arguments.items[1].x: expected `int`, got `str`"),
        ({"items": []}, "arguments: Object missing required field `t`"),
        ({"items": [], "t": "b"}, "arguments.t: "),
        ({"items": [{"x": 1.5}], "t": "a"}, "arguments.items[0].x: 1.5 is not of type"),
    ],
)
def test_a_refused_argument_is_named(arguments: dict[str, Any], text: str) -> None:
    """TOOL-2: a model can correct itself."""

    def plain(items: list[Point], t: str) -> None: ...

    def checked(items: list[Point], t: Annotated[str, Meta(pattern="^a")]) -> None: ...

    fn = checked if text.endswith((": ", "type")) else plain
    with pytest.raises(ToolError) as caught:
        inspect_function(fn).decode(arguments)
    assert str(caught.value).startswith(text)


def test_a_refusal_does_not_repeat_a_huge_argument() -> None:
    """TOOL-2: the text is for a model to read."""

    def fn(c: Colour) -> None: ...

    signature = inspect_function(fn)
    for arguments in ({"x" * 1_000_000: 1, "c": "red"}, {"c": "x" * 1_000_000}):
        with pytest.raises(ArgumentError) as caught:
            signature.decode(arguments)
        assert len(str(caught.value)) < 1000


def test_values_arrive_as_the_types_that_were_asked_for() -> None:
    """TOOL-2."""

    def fn(p: Point, c: Colour, when: datetime, tags: set[str], data: bytes) -> None: ...

    got = inspect_function(fn).decode(
        {"p": {"x": 1.0}, "c": "red", "when": "2026-01-02T03:04:05Z", "tags": ["a"], "data": "eA=="}
    )
    assert got["p"] == Point(1)
    assert isinstance(got["p"].x, int)
    assert (got["c"], got["when"].year, got["tags"], got["data"]) == (Colour.RED, 2026, {"a"}, b"x")


def test_a_header_annotation_reaches_the_schema() -> None:
    """HDR-9: and costs no second check of the arguments."""

    def fn(region: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Region"})]) -> None: ...

    signature = inspect_function(fn)
    assert signature.input_schema["properties"]["region"] == {"type": "string", "x-mcp-header": "Region"}
    assert signature.validator is None


def test_a_pattern_is_checked_in_linear_time() -> None:
    """JSC-3: msgspec's own engine would not come back from this one."""

    def fn(text: Annotated[str, Meta(pattern="^(a+)+$")]) -> None: ...

    signature = inspect_function(fn)
    assert signature.input_schema["properties"]["text"]["pattern"] == "^(a+)+$"
    with pytest.raises(ArgumentError, match=r"arguments.text"):
        signature.decode({"text": "a" * 50_000 + "b"})


def _variadic(*items: int) -> None: ...
def _keywords(**items: int) -> None: ...
def _positional(item: int, /) -> None: ...
def _two(a: Context, b: Context) -> None: ...
def _unknown_type(a: object) -> None: ...
def _key_types(a: dict[int, str]) -> None: ...
def _raw_pattern(a: Annotated[str, msgspec.Meta(pattern="a")]) -> None: ...
def _look_ahead(a: Annotated[str, Meta(pattern="(?=a)")]) -> None: ...
def _bad_result(a: int) -> object | int: ...
def _wrong_constraint(a: Annotated[str, Meta(ge=3)]) -> None: ...
async def _generator() -> Any:
    yield 1


def _unresolved(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "fn",
    [
        _variadic, _keywords, _positional, _two, _unknown_type, _key_types, _raw_pattern, _look_ahead, _bad_result,
        _wrong_constraint, _generator, _unresolved,
    ],
)  # fmt: skip
def test_a_function_that_cannot_be_served_is_refused_by_name(fn: Any) -> None:
    """TOOL-1, JSC-3: at registration, never during a call."""
    with pytest.raises(RegistrationError, match=fn.__name__):
        inspect_function(fn)


@pytest.mark.parametrize("fn", [_unknown_type, _bad_result])
def test_a_type_that_has_no_schema_is_told_on_one_line_without_options_that_nobody_has(fn: Any) -> None:
    """JSC-3: msgspec advises a `schema_hook`, which is out of an author's reach."""
    with pytest.raises(RegistrationError, match="object") as refused:
        inspect_function(fn)
    assert "schema_hook" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "Any" in str(refused.value)


RAW: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"b": {"type": "integer"}, "a": {"$ref": "#/$defs/s"}},
    "$defs": {"s": {"type": "string"}},
    "if": {"required": ["a"]},
    "then": {"required": ["b"]},
}


def test_a_raw_schema_is_served_as_it_is_and_rules_the_arguments() -> None:
    """JSC-4."""

    def fn(ctx: Context, **arguments: Any) -> None: ...

    before = msgspec.json.encode(RAW)
    signature = inspect_function(fn, input_schema=RAW, output_schema={"type": "array"})
    assert msgspec.json.encode(signature.input_schema) == before
    assert (signature.output_schema, signature.context) == ({"type": "array"}, "ctx")
    assert signature.decode({"b": 3.0, "more": [1], "ctx": 1}) == {"b": 3.0, "more": [1]}
    with pytest.raises(ArgumentError, match=r'arguments: "b" is a required property'):
        signature.decode({"a": "x"})


def test_a_raw_schema_may_go_with_named_parameters() -> None:
    """JSC-4: what the function does not take is left out, what it needs is asked for."""

    def fn(b: Any, a: str = "d") -> None: ...

    signature = inspect_function(fn, input_schema=RAW)
    assert signature.decode({"b": 1, "other": 2}) == {"b": 1}
    with pytest.raises(ArgumentError, match='"b" is missing'):
        signature.decode({})


@pytest.mark.parametrize("schema", [{}, {"type": "array"}, {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}])
def test_a_raw_input_schema_is_an_object_at_its_root(schema: dict[str, Any]) -> None:
    """TOOL-1."""

    def fn(**arguments: Any) -> None: ...

    with pytest.raises(RegistrationError, match="object"):
        inspect_function(fn, input_schema=schema)


def test_prompt_arguments_and_text_values() -> None:
    """PRM-1: names, descriptions, which are required; values are text on the wire."""

    def fn(topic: str, depth: int = 1) -> str:
        """Explain.

        Args:
            topic: What to explain.
        """
        return ""

    signature = inspect_function(fn, strict=False)
    assert [argument.entry() for argument in signature.arguments] == [
        {"name": "topic", "description": "What to explain.", "required": True},
        {"name": "depth", "required": False},
    ]
    assert signature.decode({"topic": "5", "depth": "3"}) == {"topic": "5", "depth": 3}


def test_partial_functions_and_callable_objects_are_served() -> None:
    """TOOL-1."""

    def fn(a: int, b: int = 2) -> int:
        return a + b

    class Adder:
        async def __call__(self, a: int) -> int:
            return a

    assert list(inspect_function(functools.partial(fn, b=3)).input_schema["properties"]) == ["a", "b"]
    assert inspect_function(Adder()).is_async


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (None, {})),
        ("", (None, {})),
        ("One.", ("One.", {})),
        ("One.\n\nArgs:\n  a (int): A.\n  *b: B: b.\n\nNote that.", ("One.\n\nNote that.", {"a": "A.", "b": "B: b."})),
        ("One.\n\nRaises:\n  X: y.\n\nExample:\n  do()", ("One.\n\nExample:\n  do()", {})),
        ("\nArgs:\n    a: A,\n      see: b.\n    c: C.", (None, {"a": "A, see: b.", "c": "C."})),
    ],
)
def test_a_docstring_is_taken_apart(text: str | None, expected: Any) -> None:
    """TOOL-1: descriptions are for models."""
    assert parse(text) == expected


def test_serving_functions_in_a_worker_loads_neither_trio_nor_jsonschema() -> None:
    """Architecture, trap 15: a worker process starts with msgspec and the tool only."""
    code = """
import sys
from mcpd import Context, Meta, tool
from mcpd.authoring.signatures import inspect_function
def fn(a: set[int]) -> dict[str, int]: ...
signature = inspect_function(fn, validate=False)
assert signature.bind({"a": [1]}) == {"a": {1}}
assert signature.finish({"a": 1})["structuredContent"] == {"a": 1}
loaded = {"trio", "jsonschema_rs", "quart", "hypercorn", "asyncio"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


ADDED = {"toolCallId": "1", "sessionId": "s", "action": "sendMessage", "chatInput": "hi"}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    "schema", [None, {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}]
)
def test_arguments_that_a_client_adds_by_itself_are_dropped(schema: dict[str, Any] | None, validate: bool) -> None:
    def f(n: int) -> None:
        pass

    signature = inspect_function(f, input_schema=schema, validate=validate)
    given = {"n": 1, **ADDED}
    assert (signature.decode if validate else signature.bind)(given) == {"n": 1}
    assert given.keys() == {"n", *ADDED}
    if validate:
        with pytest.raises(ArgumentError, match="other"):
            signature.decode({"n": 1, "other": 1})


def test_arguments_of_these_names_that_the_schema_has_or_may_have_arrive() -> None:
    def own(action: str) -> None:
        pass

    def any_of_them(**more: Any) -> None:
        pass

    assert inspect_function(own).decode({"action": "a", "sessionId": "s"}) == {"action": "a"}
    for more in ({}, {"additionalProperties": {"type": "string"}}):
        assert inspect_function(any_of_them, input_schema={"type": "object", **more}).decode(ADDED) == ADDED
    by_pattern = {"type": "object", "patternProperties": {"^": {}}, "additionalProperties": False}
    assert inspect_function(any_of_them, input_schema=by_pattern).decode(ADDED) == ADDED
