"""`authoring.content` and `authoring.forms`: blocks, tool results, questions and their answers."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest

from mcpd.authoring.content import (
    Audio,
    Elicit,
    ElicitAnswer,
    Embedded,
    Image,
    ResourceLink,
    Root,
    Roots,
    Sample,
    SampleAnswer,
    Text,
    tool_result,
)
from mcpd.authoring.hints import Meta

DEFAULTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
    "required": [],
}
_TITLED = [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]
ENUMS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": _TITLED},
        "legacyEnum": {"type": "string", "enum": ["a", "b"], "enumNames": ["A", "B"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "minItems": 1},
        "titledMulti": {"type": "array", "items": {"anyOf": _TITLED}, "maxItems": 2},
    },
}


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (Text("hi"), {"type": "text", "text": "hi"}),
        (Image(b"\xff\xfe"), {"type": "image", "data": "//4=", "mimeType": "image/png"}),
        (Audio(b"abc"), {"type": "audio", "data": "YWJj", "mimeType": "audio/wav"}),
        (ResourceLink("a:b", "n", size=0), {"type": "resource_link", "uri": "a:b", "name": "n", "size": 0}),
        (Embedded("a:b", "", mime_type="text/plain"),
         {"type": "resource", "resource": {"uri": "a:b", "mimeType": "text/plain", "text": ""}}),
        (Embedded("a:b", blob=b"x"), {"type": "resource", "resource": {"uri": "a:b", "blob": "eA=="}}),
        (Text("hi", annotations={"priority": 1}, meta={"k": 1}),
         {"type": "text", "text": "hi", "annotations": {"priority": 1}, "_meta": {"k": 1}}),
    ],
)  # fmt: skip
def test_a_content_value_has_its_wire_form(value: Any, wire: dict[str, Any]) -> None:
    """TOOL-4: standard base64 with padding; absent members are absent, never null."""
    assert value.block() == wire


def test_embedded_content_is_text_or_blob() -> None:
    """RSC-1: `text` xor `blob`."""
    with pytest.raises(ValueError, match="exactly one"):
        Embedded("a:b")
    with pytest.raises(ValueError, match="exactly one"):
        Embedded("a:b", "text", b"blob")


@dataclass
class Point:
    x: int
    y: float


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("hi", {"content": [{"type": "text", "text": "hi"}]}),
        (None, {"content": []}),
        ([Text("a"), "b"], {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        ([], {"content": [{"type": "text", "text": "[]"}], "structuredContent": []}),
        (["a"], {"content": [{"type": "text", "text": '["a"]'}], "structuredContent": ["a"]}),
        (5, {"content": [{"type": "text", "text": "5"}], "structuredContent": 5}),
        (False, {"content": [{"type": "text", "text": "false"}], "structuredContent": False}),
        (
            Point(1, 2.5),
            {"content": [{"type": "text", "text": '{"x":1,"y":2.5}'}], "structuredContent": {"x": 1, "y": 2.5}},
        ),
        ({1: None}, {"content": [{"type": "text", "text": '{"1":null}'}], "structuredContent": {"1": None}}),
    ],
)
def test_a_return_value_becomes_content_and_structured_content(value: Any, result: dict[str, Any]) -> None:
    """TOOL-3: any JSON value is structured content, and the same JSON is there as text."""
    assert tool_result(value) == result


def test_an_advertised_output_schema_makes_text_and_none_structured_too() -> None:
    """TOOL-3: a result conforms to the output schema that was declared."""
    assert tool_result(None, structured=True) == {
        "content": [{"type": "text", "text": "null"}],
        "structuredContent": None,
    }
    assert tool_result("a", structured=True)["structuredContent"] == "a"


def test_a_text_tool_never_has_structured_content() -> None:
    """TOOL-3."""
    assert tool_result([], text_only=True) == {"content": []}
    assert tool_result({"a": 1}, text_only=True) == {"content": [{"type": "text", "text": '{"a":1}'}]}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"a": [None, v]}, lambda v: Point(1, v)])
def test_nan_and_infinity_are_errors_and_not_null(bad: float, wrap: Any) -> None:
    """RPC-9 by prudence: msgspec alone would write `null`."""
    with pytest.raises(ValueError, match="float"):
        tool_result(wrap(bad))
    with pytest.raises(ValueError, match="float"):
        tool_result(wrap(bad), text_only=True)


def test_what_json_cannot_hold_is_an_error() -> None:
    """TOOL-3."""
    with pytest.raises(TypeError):
        tool_result({"a": object()})
    with pytest.raises(TypeError, match="content"):
        tool_result([Text("a"), 5])


@pytest.mark.parametrize("schema", [DEFAULTS, ENUMS])
def test_a_raw_form_is_sent_as_it_was_written(schema: dict[str, Any]) -> None:
    """MRT-9, SEP-1034, SEP-1330: byte for byte."""
    before = msgspec.json.encode(schema)
    request = Elicit("Please", copy.deepcopy(schema)).request()
    assert request["method"] == "elicitation/create"
    assert request["params"].keys() == {"message", "requestedSchema"}
    assert msgspec.json.encode(request["params"]["requestedSchema"]) == before


def test_a_form_is_written_from_type_hints() -> None:
    """MRT-9."""
    form = Elicit(
        "m",
        fields={
            "name": Annotated[str, Meta(min_length=1, description="Who")],
            "age": int | None,
            "kind": Literal["a", "b"],
            "many": list[Literal["x", "y"]],
            "raw": {"type": "boolean", "default": True},
        },
    ).form()
    assert form == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": "Who"},
            "age": {"type": "integer"},
            "kind": {"type": "string", "enum": ["a", "b"]},
            "many": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}},
            "raw": {"type": "boolean", "default": True},
        },
        "required": ["name", "kind", "many", "raw"],
    }


@pytest.mark.parametrize(
    "field",
    [
        {"type": "object", "properties": {}},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "object"}},
        {"type": ["string", "null"]},
        {"type": "string", "format": "password"},
        {"type": "string", "minimum": 3},
        {"type": "string", "oneOf": [{"const": "a"}]},
        {"$ref": "#/$defs/a"},
        True,
    ],
)
def test_a_form_that_is_not_flat_is_refused(field: Any) -> None:
    """MRT-9."""
    with pytest.raises(ValueError, match="'f'"):
        Elicit("m", {"type": "object", "properties": {"f": field}})


@pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"type": "object", "properties": {}, "allOf": []}])
def test_a_form_is_one_plain_object(schema: dict[str, Any]) -> None:
    """MRT-9."""
    with pytest.raises(ValueError, match="form"):
        Elicit("m", schema)


@pytest.mark.parametrize("name", ["password", "apiKey", "api_key", "client_secret", "creditCard"])
def test_a_form_never_asks_for_secrets(name: str) -> None:
    """MRT-10."""
    with pytest.raises(ValueError, match="url="):
        Elicit("m", fields={name: str})


def test_a_link_is_https_and_carries_no_credentials() -> None:
    """MRT-10."""
    good = Elicit("m", url="https://example.test/x", elicitation_id="1")
    assert good.request()["params"] == {
        "mode": "url", "message": "m", "url": "https://example.test/x", "elicitationId": "1",
    }  # fmt: skip
    assert "elicitationId" not in Elicit("m", url="http://127.0.0.1:1/x").request()["params"]
    credentials = ("https://user:pw@example.test/", "https://user@example.test/", "https://:pw@example.test/")
    for url in ("http://example.test/", *credentials, "javascript:alert(1)", "/x"):
        with pytest.raises(ValueError, match="url"):
            Elicit("m", url=url)


def test_a_question_is_one_of_form_and_link() -> None:
    """MRT-9."""
    with pytest.raises(TypeError):
        Elicit("m")
    with pytest.raises(TypeError):
        Elicit("m", DEFAULTS, url="https://example.test/")


@pytest.mark.parametrize(
    ("capabilities", "form", "link"),
    [
        ({}, False, False),
        ({"elicitation": {}}, True, False),
        ({"elicitation": {"form": {}}}, True, False),
        ({"elicitation": {"url": {}}}, False, True),
        ({"elicitation": {"form": {}, "url": {}}}, True, True),
        ({"elicitation": None}, False, False),
    ],
)
def test_only_declared_kinds_of_elicitation_are_supported(capabilities: Any, form: bool, link: bool) -> None:
    """MRT-3."""
    assert Elicit("m", DEFAULTS).supported(capabilities) is form
    assert Elicit("m", url="https://example.test/").supported(capabilities) is link


def test_each_question_names_the_capability_it_needs() -> None:
    """MRT-3."""
    assert Elicit("m", DEFAULTS).capability() == {"elicitation": {}}
    assert Elicit("m", url="https://example.test/").capability() == {"elicitation": {"url": {}}}
    assert Sample("p").capability() == {"sampling": {}}
    assert Sample("p", tools=[]).capability() == {"sampling": {"tools": {}}}
    assert Roots().capability() == {"roots": {}}


def test_sampling_with_tools_or_context_needs_more_than_sampling() -> None:
    """MRT-3."""
    assert Sample("p").supported({"sampling": {}})
    assert Sample("p", include_context="none").supported({"sampling": {}})
    assert not Sample("p").supported({"roots": {}})
    assert not Sample("p", tool_choice={"mode": "auto"}).supported({"sampling": {}})
    assert Sample("p", tools=[]).supported({"sampling": {"tools": {}}})
    assert not Sample("p", include_context="allServers").supported({"sampling": {"tools": {}}})
    assert Sample("p", include_context="allServers").supported({"sampling": {"context": {}}})
    assert Roots().supported({"roots": {"listChanged": True}})
    assert not Roots().supported({})


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ({"action": "accept", "content": {"name": "Al", "age": 3.0, "zz": 1}},
         ElicitAnswer("accept", {"name": "Al", "age": 3.0})),
        ({"action": "accept"}, ElicitAnswer("accept")),
        ({"action": "decline", "content": {"age": "x"}}, ElicitAnswer("decline")),
        ({"action": "cancel"}, ElicitAnswer("cancel")),
        ({"action": "accept", "content": {"age": "x"}}, None),
        ({"action": "accept", "content": {"age": True}}, None),
        ({"action": "accept", "content": {"status": "gone"}}, None),
        ({"action": "accept", "content": None}, None),
        ({"action": "ok"}, None),
        ({"action": ["accept"]}, None),
        ({}, None),
        (12345, None),
        (None, None),
    ],
)  # fmt: skip
def test_an_answer_is_judged_by_the_form_that_was_sent(raw: Any, answer: ElicitAnswer | None) -> None:
    """MRT-8."""
    assert Elicit("m", DEFAULTS).answer(raw) == answer


def test_a_missing_required_field_or_a_wrong_format_is_no_answer() -> None:
    """MRT-8."""
    schema = {"type": "object", "properties": {"e": {"type": "string", "format": "email"}}, "required": ["e"]}
    question = Elicit("m", schema)
    assert question.answer({"action": "accept", "content": {}}) is None
    assert question.answer({"action": "accept", "content": {"e": "nobody"}}) is None
    assert question.answer({"action": "accept", "content": {"e": "a@example.test"}}) is not None


def test_a_link_is_answered_without_content() -> None:
    """MRT-8: no content in url mode."""
    answer = Elicit("m", url="https://example.test/").answer({"action": "accept", "content": {"x": 1}})
    assert answer == ElicitAnswer("accept")
    assert answer.accepted


def test_a_sampling_request_has_its_wire_form() -> None:
    """MRT-2."""
    request = Sample("What?", max_tokens=100, system_prompt="s", stop_sequences=["x"]).request()
    assert request == {
        "method": "sampling/createMessage",
        "params": {
            "messages": [{"role": "user", "content": {"type": "text", "text": "What?"}}],
            "maxTokens": 100, "systemPrompt": "s", "stopSequences": ["x"],
        },
    }  # fmt: skip
    raw = {"role": "assistant", "content": [{"type": "text", "text": "r"}]}
    mixed = Sample([raw, ("assistant", "a"), Image(b"x"), "u"]).request()["params"]["messages"]
    assert [message["role"] for message in mixed] == ["assistant", "assistant", "user", "user"]
    assert mixed[0] is raw


@pytest.mark.parametrize(
    "raw",
    [
        5,
        {},
        {"role": "system", "content": {"type": "text", "text": "x"}, "model": "m"},
        {"role": "user", "content": "x", "model": "m"},
        {"role": "user", "content": {"text": "x"}, "model": "m"},
        {"role": "user", "content": {"type": "text", "text": "x"}},
        {"role": "user", "content": {"type": "text", "text": "x"}, "model": "m", "stopReason": 5},
    ],
)
def test_a_broken_sampling_result_is_no_answer(raw: Any) -> None:
    """MRT-8."""
    assert Sample("p").answer(raw) is None


@pytest.mark.parametrize("raw", [None, {}, {"roots": None}, {"roots": [5]}, {"roots": [{"uri": "https://x"}]},
                                 {"roots": [{"uri": "file:///x", "name": 5}]}])  # fmt: skip
def test_broken_roots_are_no_answer(raw: Any) -> None:
    """MRT-8: roots are `file://` for now."""
    assert Roots().answer(raw) is None


def test_answers_survive_a_journey_as_json() -> None:
    """MRT-12: answers of earlier rounds travel in the sealed state."""
    form = Elicit("m", DEFAULTS)
    given = form.answer({"action": "accept", "content": {"name": "Al"}})
    assert given is not None
    assert form.answer(msgspec.json.decode(msgspec.json.encode(given.to_json()))) == given
    reply = SampleAnswer("assistant", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "m", "endTurn")
    assert reply.text == "ab"
    assert Sample("p").answer(msgspec.json.decode(msgspec.json.encode(reply.to_json()))) == reply
    root = Root("file:///x", "X")
    assert Roots().answer({"roots": [root.to_json(), {"uri": "file:///y"}]}) == [root, Root("file:///y")]
    assert Roots().request() == {"method": "roots/list", "params": {}}


@pytest.mark.parametrize("structured", [True, False])
def test_a_dict_and_content_values_are_structured_content_and_its_text_and_the_values(structured: bool) -> None:
    """TOOL-3: search results with a link for each hit."""
    result = tool_result(({"n": 1}, [Text("more")]), structured=structured)
    assert result["structuredContent"] == {"n": 1}
    assert [block["text"] for block in result["content"]] == ['{"n":1}', "more"]


def test_a_pair_without_content_values_is_json_like_any_other() -> None:
    assert list(tool_result(({"n": 1}, []))["structuredContent"]) == [{"n": 1}, []]
