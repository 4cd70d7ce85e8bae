"""Results in the form of each revision: table 3.9 as far as results go."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mcpd.wire.envelope import SERVER_KEY
from mcpd.wire.schema import compile_schema
from mcpd.wire.sieve import complete, sift
from mcpd.wire.versions import STATEFUL, can

OLDEST, BATCHING, TITLED, NEWEST = sorted(STATEFUL)
SERVER = {"name": "mcpd", "version": "1"}
CACHED = {"ttlMs": 5, "cacheScope": "public", "resultType": "complete"}
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}


def tool(**more: Any) -> dict[str, Any]:
    return {"name": "t", "title": "T", "inputSchema": OBJECT, "annotations": {"readOnlyHint": True},
            "icons": [{"src": "x"}], "_meta": {"k": 1}, "description": "d", **more}  # fmt: skip


def sifted(result: dict[str, Any], method: str, version: str) -> dict[str, Any]:
    """Sift a copy, and check that the argument was left alone: listings are shared between callers."""
    before = copy.deepcopy(result)
    found = sift(result, method, version)
    assert result == before
    return found


def test_a_stateless_result_says_that_it_is_complete_and_whose_it_is() -> None:
    """RES-1, RES-2."""
    assert complete({"x": 1}, SERVER) == {"x": 1, "resultType": "complete", "_meta": {SERVER_KEY: SERVER}}
    asked = complete({"resultType": "input_required", "_meta": {"mine": 1}}, SERVER)
    assert asked == {"resultType": "input_required", "_meta": {"mine": 1, SERVER_KEY: SERVER}}


def test_completing_leaves_shared_meta_alone() -> None:
    """RES-2, STA-1."""
    shared = {"mine": 1}
    complete({"_meta": shared}, SERVER)
    assert shared == {"mine": 1}


@pytest.mark.parametrize("version", STATEFUL)
@pytest.mark.parametrize("method", ["resources/read", "completion/complete", "ping", "unknown"])
def test_no_stateless_member_reaches_a_stateful_client(method: str, version: str) -> None:
    """RES-3, SIE-1."""
    assert sifted({**CACHED, "contents": []}, method, version) == {"contents": []}


@pytest.mark.parametrize(
    ("version", "gone"),
    [
        (OLDEST, {"title", "annotations", "icons", "_meta", "outputSchema"}),
        (BATCHING, {"title", "icons", "_meta", "outputSchema"}),
        (TITLED, {"icons"}),
        (NEWEST, set()),
    ],
)
def test_a_tool_is_listed_with_what_the_revision_knows(version: str, gone: set[str]) -> None:
    """SIE-1, TOOL-1."""
    full = tool(outputSchema=OBJECT)
    (found,) = sifted({"tools": [full], **CACHED}, "tools/list", version)["tools"]
    assert found == {key: value for key, value in full.items() if key not in gone}


NAMES = {"$ref": "#/$defs/names"}
DEFS = {"names": {"type": "array", "items": {"$ref": "#/$defs/name"}}, "name": {"type": "string"}}


@pytest.mark.parametrize("schema", [{"type": ["object", "null"]}, {}, True, {"anyOf": [OBJECT, {"type": "null"}]}])
def test_an_output_schema_of_what_may_be_an_object_or_not_is_not_listed(schema: Any) -> None:
    """SIE-1, TOOL-3."""
    (found,) = sifted({"tools": [tool(outputSchema=schema)]}, "tools/list", NEWEST)["tools"]
    assert "outputSchema" not in found


@pytest.mark.parametrize("schema", [{"anyOf": [OBJECT, OBJECT]}, {"$ref": "#/$defs/o", "$defs": {"o": OBJECT}}])
def test_an_output_schema_of_an_object_in_other_words_says_so(schema: dict[str, Any]) -> None:
    """SIE-1, TOOL-3."""
    (found,) = sifted({"tools": [tool(outputSchema=schema)]}, "tools/list", NEWEST)["tools"]
    assert found["outputSchema"] == {**schema, "type": "object"}


@pytest.mark.parametrize(
    ("schema", "fits", "breaks"),
    [
        ({"type": "array", "items": {"type": "integer"}}, [1], ["a"]),
        ({"type": ["integer", "null"]}, None, "a"),
        ({"enum": ["a", 1]}, 1, 2),
        ({"const": [1]}, [1], [2]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, 1),
        ({**NAMES, "$defs": DEFS}, ["a"], [1]),
        ({"anyOf": [NAMES, {"type": "null"}], "$defs": DEFS}, ["a"], [1]),
        ({"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"const": 1}]}}, [[1], 1], [[2]]),
        ({"$id": "http://x/y", "type": "array", "items": {"$ref": "#/$defs/name"}, "$defs": DEFS}, ["a"], [1]),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "null"}]},
            [None],
            [1],
        ),
    ],
)
@pytest.mark.parametrize("version", [version for version in STATEFUL if can(version, "title")])
def test_a_result_that_is_no_object_is_the_member_of_one_as_its_schema_says(
    version: str, schema: dict[str, Any], fits: Any, breaks: Any
) -> None:
    """SIE-1, TOOL-3: clients of these revisions check one against the other."""
    (found,) = sifted({"tools": [tool(outputSchema=schema)]}, "tools/list", version)["tools"]
    assert found["outputSchema"]["type"] == "object"
    listed = compile_schema(found["outputSchema"], where="what is listed")
    for value, valid in ((fits, True), (breaks, False)):
        result = sifted({"content": [], "structuredContent": value}, "tools/call", version)["structuredContent"]
        assert isinstance(result, dict)
        assert listed.fits(result) is valid
    assert not listed.fits({})


def test_an_old_schema_has_no_booleans_but_where_every_client_expects_them() -> None:
    """SIE-2, JSC-4."""
    schema = {
        "type": "object",
        "properties": {
            "a": True,
            "b": {"items": False, "not": True},
            "c": {"anyOf": [True], "additionalProperties": False},
        },
        "$defs": {"x": False},
        "patternProperties": {"^x": True},
        "additionalProperties": True,
        "enum": [True],
        "default": {"properties": {"a": True}},
    }
    for member in ("inputSchema", "outputSchema"):
        (found,) = sifted({"tools": [tool(**{member: schema})]}, "tools/list", NEWEST)["tools"]
        assert found[member] == {
            **schema,
            "properties": {
                "a": {},
                "b": {"items": {"not": {}}, "not": {}},
                "c": {"anyOf": [{}], "additionalProperties": False},
            },
            "$defs": {"x": {"not": {}}},
            "patternProperties": {"^x": {}},
        }


@pytest.mark.parametrize("version", STATEFUL)
def test_a_property_that_takes_anything_is_an_empty_schema(version: str) -> None:
    """SIE-2, JSC-4."""
    schema = {"type": "object", "properties": {"any": True, "a": {"type": "string"}}, "$defs": {"x": {}}, "if": {}}
    (found,) = sifted({"tools": [tool(inputSchema=schema)]}, "tools/list", version)["tools"]
    assert found["inputSchema"] == {**schema, "properties": {"any": {}, "a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("method", "member"),
    [("prompts/list", "prompts"), ("resources/list", "resources"), ("resources/templates/list", "resourceTemplates")],
)
def test_other_entries_lose_titles_and_icons_likewise(method: str, member: str) -> None:
    """SIE-1."""
    entry = {"name": "n", "title": "N", "icons": [], "_meta": {}, "annotations": {"priority": 1}}
    for version, gone in [(OLDEST, {"title", "icons", "_meta"}), (TITLED, {"icons"}), (NEWEST, set())]:
        (found,) = sifted({member: [entry], **CACHED, "nextCursor": "c"}, method, version)[member]
        assert found == {key: value for key, value in entry.items() if key not in gone}


@pytest.mark.parametrize("value", [{}, {"a": 1}, [1], "text", 0, None])
def test_structured_content_is_an_object_or_absent(value: Any) -> None:
    """SIE-1, TOOL-3."""
    result = {"content": [], "structuredContent": value}
    for version in STATEFUL:
        carried = {"structuredContent": value if isinstance(value, dict) else {"result": value}}
        assert sifted(result, "tools/call", version) == {
            "content": [],
            **(carried if can(version, "structured") else {}),
        }


AUDIO = {"type": "audio", "data": "AA==", "mimeType": "audio/wav"}
LINK = {"type": "resource_link", "uri": "note:///1", "name": "one", "title": "One"}
TEXT = {"type": "text", "text": "t"}


@pytest.mark.parametrize("version", STATEFUL)
def test_content_that_a_revision_cannot_carry_becomes_text(version: str) -> None:
    """SIE-1, TOOL-4."""
    blocks = sifted({"content": [TEXT, AUDIO, LINK], "isError": False}, "tools/call", version)["content"]
    prompt = sifted({"messages": [{"role": "user", "content": AUDIO}]}, "prompts/get", version)["messages"]
    assert blocks[0] == TEXT
    assert (blocks[1] == AUDIO) == (prompt[0]["content"] == AUDIO) == can(version, "audio")
    assert (blocks[2] == LINK) == can(version, "resource_link")
    assert all(
        block == original or block["type"] == "text"
        for block, original in zip(blocks, [TEXT, AUDIO, LINK], strict=True)
    )
    if not can(version, "title"):
        assert blocks[2]["text"] == "One: note:///1"
