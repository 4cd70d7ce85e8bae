"""Prompt files: formats, faults, reload."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.authoring.signatures import PromptArgument
from mcpd.prompts.loader import MAX_FILE_BYTES, BadPrompt, FilePrompt, PromptLoader, fill, parse_file, with_article

USER = {
    "analyze_code": {
        "name": "analyze-code",
        "description": "Analyze code",
        "arguments": [
            {"name": "language", "description": "Which", "required": True},
            {"name": "focus", "description": "On what", "required": False},
        ],
        "template": "Analyze this {language} code {focus}: {{ language }} {other} {}",
    }
}
SYSTEM = {
    "code_assistant": {
        "role": "system",
        "content": {
            "description": "Expert developer",
            "capabilities": ["reading", "writing"],
            "instruction": "Be brief.",
        },
    }
}
MARKDOWN = """+++
title = "Review"
description = "Review a change"
role = "assistant"
[[arguments]]
name = "diff"
required = true
+++

# Review
{diff}
"""


def put(folder: Path, name: str, text: str, *, at: int = 1) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    os.utime(path, (at, at))
    return path


def names(prompts: list[FilePrompt]) -> list[str]:
    return [prompt.name for prompt in prompts]


async def rendered(prompt: FilePrompt, **arguments: str) -> Any:
    return await prompt.fn(**arguments)


async def test_a_user_prompt_fills_its_declared_arguments_only() -> None:
    """PRM-1: other braces are text, an absent optional argument is empty, a value is not read again."""
    [prompt] = parse_file("user_prompts.json", json.dumps(USER))
    assert (prompt.name, prompt.description) == ("analyze-code", "Analyze code")
    assert prompt.arguments == (
        PromptArgument("language", "Which", True),
        PromptArgument("focus", "On what", False),
    )
    assert await rendered(prompt, language="{focus}") == [("user", "Analyze this {focus} code : {focus} {other} {}")]


async def test_a_system_prompt_is_sent_as_the_users_message() -> None:
    """PRM-1: the protocol knows user and assistant."""
    [prompt] = parse_file("system_prompts.json", json.dumps(SYSTEM))
    assert prompt.name == "code-assistant"
    assert prompt.description == "Expert developer"
    text = "You are an expert developer with expertise in:\n- reading\n- writing\n\nBe brief."
    assert await rendered(prompt) == [("user", text)]


async def test_a_markdown_file_has_toml_front_matter() -> None:
    """PRM-1."""
    [prompt] = parse_file("review.md", MARKDOWN)
    assert (prompt.name, prompt.title) == ("review", "Review")
    assert prompt.arguments == (PromptArgument("diff", None, True),)
    assert await rendered(prompt, diff="+1") == [("assistant", "# Review\n+1")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", "[]", "keyed by prompt id"),
        ("a.json", '{"x": 3}', "'x'"),
        ("a.json", '{"x": {}}', "either 'template' or 'content'"),
        ("a.json", '{"x": {"template": ""}}', "empty"),
        ("a.json", '{"x": {"content": {"description": " "}}}', "empty"),
        ("a.json", '{"x": {"template": "t", "content": {"description": "d"}}}', "either"),
        ("a.json", '{"x": {"template": "t", "role": "tool"}}', "'role'"),
        ("a.json", '{"x": {"template": "t", "name": ""}}', "'name'"),
        ("a.json", '{"x": {"template": "t", "arguments": [{"name": "a"}, {"name": "a"}]}}', "argument names"),
        ("a.json", '{"x": {"template": "t", "arguments": [{"name": "a b"}]}}', "argument names"),
        ("a.json", '{"x": {"template": "t", "arguments": [{}]}}', "name"),
        ("a.json", '{"x_y": {"template": "t"}, "x-y": {"template": "t"}}', "same name"),
        ("a.md", "# no front matter", "front matter|TOML"),
        ("a.md", "+++\nx = \n+++\ntext", "front matter"),
        ("a.md", "+++\n+++\n  \n", "empty"),
    ],
)
def test_a_bad_file_says_what_is_wrong(name: str, text: str, said: str) -> None:
    """Surfaces, Prompts: a bad file is reported."""
    with pytest.raises(BadPrompt, match=said):
        parse_file(name, text)


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [
        ("Expert in X", "an expert in X"),
        ("SQL expert", "an SQL expert"),
        ("the best", "the best"),
        ("Data analyst", "a data analyst"),
        ("UX designer", "a UX designer"),
    ],
)
def test_a_system_prompt_opens_in_good_english(noun: str, phrase: str) -> None:
    """Surfaces, Prompts."""
    assert with_article(noun) == phrase


def test_placeholders_come_in_two_spellings() -> None:
    """Surfaces, Prompts."""
    assert fill("{a} {{a}} {{ a }} {b} {{b}} {a", frozenset({"a"}), {"a": "1"}) == "1 1 1 {b} {{b}} {a"


def test_a_bad_file_is_reported_once_and_the_good_ones_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Surfaces, Prompts: a bad file never takes the good ones down."""
    put(tmp_path, "bad.json", "{")
    put(tmp_path, "review.md", MARKDOWN)
    put(tmp_path, "notes.txt", "not a prompt")
    (tmp_path / "folder.md").mkdir()
    loader = PromptLoader([tmp_path])
    with caplog.at_level(logging.WARNING):
        assert names(loader.load()) == ["review"]
        assert "bad.json" in caplog.text
        assert "notes.txt" not in caplog.text
        caplog.clear()
        assert names(loader.load()) == ["review"]
    assert caplog.text == ""


def test_a_file_that_turns_bad_keeps_what_it_gave(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Law 10."""
    put(tmp_path, "user_prompts.json", json.dumps(USER))
    loader = PromptLoader([tmp_path])
    first = loader.load()
    put(tmp_path, "user_prompts.json", "{", at=2)
    assert loader.load() == first
    assert "user_prompts.json" in caplog.text
    put(tmp_path, "user_prompts.json", json.dumps(SYSTEM), at=3)
    assert names(loader.load()) == ["code-assistant"]


def test_an_unchanged_folder_gives_equal_prompts_and_a_removed_file_goes(tmp_path: Path) -> None:
    """Law 10: `adopt` sees no change where there is none."""
    path = put(tmp_path, "review.md", MARKDOWN)
    put(tmp_path, "a.json", json.dumps(USER))
    loader = PromptLoader([tmp_path])
    assert loader.load() == loader.load()
    path.unlink()
    assert names(loader.load()) == ["analyze-code"]


def test_a_later_folder_wins_and_within_a_folder_the_first_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Surfaces, Prompts: the user's folder over the shipped one."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    shipped.mkdir()
    own.mkdir()
    put(shipped, "review.md", MARKDOWN)
    put(own, "a.json", json.dumps({"review": {"template": "mine"}}))
    put(own, "b.json", json.dumps({"review": {"template": "second"}}))
    [prompt] = PromptLoader([shipped, own]).load()
    assert prompt.title is None
    assert "b.json" in caplog.text


def test_a_missing_folder_is_reported_and_may_come_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Surfaces, Prompts."""
    folder = tmp_path / "later"
    loader = PromptLoader([folder])
    assert loader.load() == []
    assert loader.load() == []
    assert caplog.text.count("later") == 1
    folder.mkdir()
    put(folder, "review.md", MARKDOWN)
    assert names(loader.load()) == ["review"]


def test_oversized_and_undecodable_files_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Law 8."""
    put(tmp_path, "big.md", MARKDOWN + "x" * MAX_FILE_BYTES)
    (tmp_path / "latin.md").write_bytes(b"+++\n+++\n\xff")
    assert PromptLoader([tmp_path]).load() == []
    assert "larger than" in caplog.text
    assert "not UTF-8" in caplog.text


async def test_the_watch_gives_what_is_there_and_what_comes(tmp_path: Path) -> None:
    """Surfaces, Prompts: reload on change."""
    put(tmp_path, "review.md", MARKDOWN)
    looks: list[list[str]] = []
    changed = trio.Event()

    def on_loaded(prompts: list[FilePrompt]) -> None:
        looks.append(names(prompts))
        if "analyze-code" in looks[-1]:
            changed.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(PromptLoader([tmp_path], poll_s=0.01).run, on_loaded)
            assert looks == [["review"]]
            put(tmp_path, "a.json", json.dumps(USER))
            await changed.wait()
            nursery.cancel_scope.cancel()
    assert looks[-1] == ["analyze-code", "review"]


def test_no_more_files_of_a_folder_are_read_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: the first by name."""
    monkeypatch.setattr("mcpd.prompts.loader.MAX_FILES_ITEMS", 2)
    for name in "cab":
        put(tmp_path, f"{name}.json", json.dumps({name: {"template": name}}))
    assert names(PromptLoader([tmp_path]).load()) == ["a", "b"]
