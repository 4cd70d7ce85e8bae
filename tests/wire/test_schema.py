"""`wire.schema`: what is refused at registration, and what a compiled schema says about values."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcpd.errors import RegistrationError
from mcpd.wire.schema import MAX_PROBLEM_CHARS, MAX_SCHEMA_DEPTH, MAX_SCHEMA_NODES, compile_schema

FIXTURE: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def refuse(schema: Any) -> str:
    with pytest.raises(RegistrationError) as caught:
        compile_schema(schema, where="tool 'x'")
    assert str(caught.value).startswith("tool 'x'")
    return str(caught.value)


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """A live HTTP server that would serve a schema, and the list of what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "string"}')

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_a_reference_to_a_live_web_server_is_refused_and_never_asked(web: tuple[str, list[str]], keyword: str) -> None:
    """JSC-2, JSC-5."""
    url, asked = web
    text = refuse({"type": "object", "properties": {"a": {keyword: f"{url}/schema.json"}}})
    assert keyword in text
    assert "never fetched" in text
    assert asked == []


def test_a_reference_hidden_where_no_keyword_looks_is_not_followed_to_the_web(web: tuple[str, list[str]]) -> None:
    """JSC-2, JSC-5: behind a pointer into an unknown keyword only the library itself could find it."""
    url, asked = web
    refuse({"$ref": "#/x-more", "x-more": {"properties": {"a": {"$ref": f"{url}/schema.json"}}}})
    assert asked == []


def test_a_document_with_an_address_on_a_live_web_server_is_not_looked_up_there(web: tuple[str, list[str]]) -> None:
    """JSC-2."""
    url, asked = web
    schema = {"$id": f"{url}/root.json", "$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}
    assert compile_schema(schema, where="x").check("text") is not None
    refuse({"$id": f"{url}/root.json", "$ref": "other.json"})
    assert asked == []


def test_a_reference_to_a_readable_file_is_refused(tmp_path: Path) -> None:
    """JSC-2: a file that says 'string' must not make a schema for strings."""
    target = tmp_path / "schema.json"
    target.write_text('{"type": "string"}')
    assert "$ref" in refuse({"$ref": target.as_uri()})
    assert "$ref" in refuse({"$ref": str(target)})


@pytest.mark.parametrize("reference", ["#/$defs/absent", "#absent", "other.json", "#/$defs/a/0"])
def test_a_reference_that_resolves_to_nothing_is_refused(reference: str) -> None:
    """JSC-2: an unresolvable reference is not 'anything'."""
    assert "$ref" in refuse({"$defs": {"a": {"type": "string"}}, "$ref": reference})


@pytest.mark.parametrize(
    "reference",
    ["#/$defs/a", "#named", "https://example.test/a.json", "a.json", "https://example.test/root.json#named"],
)
def test_references_inside_the_document_resolve(reference: str) -> None:
    """JSC-2: pointer, anchor, and `$id`, absolute or relative."""
    inner = {"$id": "a.json", "type": "integer"} if "a.json" in reference else {"$anchor": "named", "type": "integer"}
    schema = {"$id": "https://example.test/root.json", "$defs": {"a": inner}, "properties": {"n": {"$ref": reference}}}
    validator = compile_schema(schema, where="x")
    assert validator.check({"n": 1}) is None
    assert validator.check({"n": "1"}) is not None


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [("(?=a)b", "look-around"), ("(?<!a)b", "look-around"), (r"(a)\1", "back-reference"), ("(a", "mistake")],
)
def test_a_pattern_beyond_linear_time_is_refused_by_name(pattern: str, fault: str) -> None:
    """JSC-3."""
    text = refuse({"properties": {"a": {"pattern": pattern}}})
    assert fault in text
    assert "properties.a.pattern" in text
    assert fault in refuse({"patternProperties": {pattern: {}}})


def test_a_pattern_that_compiles_to_too_much_is_refused() -> None:
    """JSC-3: to more than a megabyte, of which a letter takes some forty bytes."""
    compile_schema({"pattern": "(a{1000}){10}"}, where="x")
    refuse({"pattern": "(a{1000}){50}"})


def test_a_catastrophic_pattern_is_answered_at_once() -> None:
    """JSC-3: the engine is linear; a backtracking one would not come back."""
    validator = compile_schema({"pattern": "^(a+)+$"}, where="x")
    assert validator.check("a" * 100_000 + "b") is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
        {"properties": {"a": {"not": {"$ref": "#/properties/a"}}}},
        {"$dynamicAnchor": "n", "if": {"$dynamicRef": "#n"}},
    ],
)
def test_a_circle_of_references_that_consumes_nothing_is_refused(schema: dict[str, Any]) -> None:
    """JSC-3."""
    assert "leads back to itself" in refuse(schema)


def test_a_recursive_schema_that_descends_is_served() -> None:
    """JSC-3: only circles that stay at one value are refused."""
    schema = {
        "type": "object",
        "properties": {"child": {"$ref": "#"}, "const": {"$ref": "#"}},
        "additionalProperties": False,
    }
    validator = compile_schema(schema, where="x")
    assert validator.check({"child": {"child": {}}}) is None
    assert validator.check({"child": {"child": {"other": 1}}}) is not None


@pytest.mark.parametrize("dialect", ["http://json-schema.org/draft-03/schema#", "https://example.test/my", 3])
def test_another_dialect_is_refused(dialect: Any) -> None:
    """JSC-1."""
    assert "$schema" in refuse({"$schema": dialect})
    assert "$schema" in refuse({"$defs": {"a": {"$schema": dialect}}})


def test_without_a_dialect_2020_12_rules() -> None:
    """JSC-1: `prefixItems` and `unevaluatedProperties` do their work."""
    validator = compile_schema({"prefixItems": [{"type": "string"}], "unevaluatedProperties": False}, where="x")
    assert validator.check([1]) is not None
    assert validator.check({"a": 1}) is not None


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"properties": 3}, {"required": "a"}, 3, None, []])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    """JSC-1."""
    refuse(schema)


def test_nesting_and_size_are_bounded() -> None:
    """JSC-3: one level more than allowed, one node more than allowed."""
    deep: dict[str, Any] = {}
    for _ in range(MAX_SCHEMA_DEPTH):
        deep = {"not": deep}
    compile_schema(deep, where="x")
    assert "deeper" in refuse({"not": deep})
    assert "more than" in refuse({"$defs": {str(n): {} for n in range(MAX_SCHEMA_NODES)}})


def test_the_official_fixture_is_validated_and_left_as_it_was() -> None:
    """JSC-4: every keyword survives, in order."""
    before = msgspec.json.encode(FIXTURE)
    original = copy.deepcopy(FIXTURE)
    validator = compile_schema(FIXTURE, where="x")
    assert validator.check({"contactMethod": "phone", "phone": "1"}) is None
    assert validator.check({"contactMethod": "phone", "email": "1"}) is not None
    assert validator.check({"email": "1", "more": 1}) is not None
    assert original == FIXTURE
    assert msgspec.json.encode(FIXTURE) == before


def test_numbers_are_those_of_json_schema() -> None:
    """JSC-1: 3.0 is an integer, a boolean is not, size does not matter."""
    validator = compile_schema({"type": "integer"}, where="x")
    assert validator.check(3.0) is None
    assert validator.check(10**60) is None
    assert validator.check(3.5) is not None
    assert validator.check(True) is not None
    assert validator.check(float("nan")) is not None


def test_a_problem_names_the_failing_path() -> None:
    """TOOL-2."""
    items = {"type": "array", "items": {"properties": {"name": {"type": "string"}, "a b": {"type": "null"}}}}
    validator = compile_schema({"properties": {"items": items}}, where="x")
    assert validator.check({"items": [{}, {}, {"name": 5}]}) == 'arguments.items[2].name: 5 is not of type "string"'
    assert str(validator.check({"items": [{"a b": 1}]})).startswith("arguments.items[0]['a b']: ")


def test_a_problem_with_a_huge_value_stays_short() -> None:
    """JSC-3."""
    problem = compile_schema({"type": "integer"}, where="x").check("x" * 1_000_000)
    assert problem is not None
    assert len(problem) <= MAX_PROBLEM_CHARS


@pytest.mark.parametrize("value", ["\ud800", {1: 2}, b"bytes"])
def test_a_value_that_is_not_json_is_a_problem_and_not_a_crash(value: Any) -> None:
    """JSC-3."""
    assert "not a JSON value" in str(compile_schema({"type": "object"}, where="x", root="result").check(value))


def test_formats_are_annotations_unless_asked_for() -> None:
    """JSC-1: 2020-12 asserts no format by default."""
    assert compile_schema({"format": "email"}, where="x").check("no") is None
    assert compile_schema({"format": "email"}, where="x", formats=True).check("no") is not None


def test_a_schema_may_be_a_boolean() -> None:
    """TOOL-3: an output schema's root is any schema."""
    assert compile_schema(True, where="x").check(None) is None
    assert compile_schema(False, where="x").check(None) is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": "foo", "properties": {"a": {"$ref": "#foo"}}},
        {"description": "text", "properties": {"a": {"$ref": "#/description/0"}}},
        {"$id": "urn:x:y", "properties": {"a": {"$ref": "#urn:x:y"}}},
        {"allOf": [{}], "properties": {"a": {"$ref": "#/allOf/1"}}},
    ],
)
def test_an_id_is_no_anchor_and_a_text_has_no_parts(schema: dict[str, Any]) -> None:
    """JSC-2: our own words, so that it is known which check refused."""
    with pytest.raises(RegistrationError, match="references are never fetched"):
        compile_schema(schema, where="tool 't'")


def test_an_id_that_is_an_anchor_does_not_move_the_root() -> None:
    """JSC-2: draft 7 names an anchor by `$id`."""
    named = {"$id": "#x", "type": "integer"}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"x": named, "y": {"type": "string"}},
        "properties": {"a": {"$ref": "#x"}, "b": {"$ref": "#/definitions/y"}},
    }
    validator = compile_schema(schema, where="tool 't'")
    assert validator.fits({"a": 1, "b": "b"})
    assert not validator.fits({"a": "a"})
    assert not validator.fits({"b": 1})
