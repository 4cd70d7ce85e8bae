"""`authoring.declarations` and the public names of `mcpd`: decorators, and finding their work again."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

import mcpd
from mcpd.authoring.declarations import (
    CompletionDeclaration,
    PromptDeclaration,
    ResourceDeclaration,
    ToolDeclaration,
    collect,
    completion,
    declarations_of,
    load,
    prompt,
    resource,
    tool,
)
from mcpd.errors import RegistrationError


def module_of(**members: Any) -> ModuleType:
    module = ModuleType("made_up")
    vars(module).update(members)
    return module


def test_a_decorator_returns_the_function_itself() -> None:
    """TOOL-1: it can still be called and tested as what it is."""

    def fn(a: int) -> int:
        return a + 1

    assert tool(fn) is fn
    assert tool(name="x")(fn) is fn
    assert fn(1) == 2


def test_a_bare_tool_is_named_after_its_function() -> None:
    """TOOL-1."""

    @tool
    def word_count(text: str) -> int:
        return len(text.split())

    assert declarations_of(word_count) == [ToolDeclaration(name="word_count", fn=word_count)]


def test_every_option_of_a_tool_is_kept() -> None:
    """TOOL-1, TOOL-5."""

    @tool(
        name="t", title="T", description="d", timeout_s=1.5, concurrency=2, isolation="process", scopes=["a", "b"],
        annotations={"readOnlyHint": True}, icons=[{"src": "x"}], meta={"k": 1}, output_schema={"type": "array"},
        task="required",
        rate="5/m",
    )  # fmt: skip
    def fn() -> None: ...

    (declaration,) = declarations_of(fn)
    assert isinstance(declaration, ToolDeclaration)
    got = {name: getattr(declaration, name) for name in declaration.__struct_fields__ if name != "fn"}
    assert got == {
        "name": "t", "title": "T", "description": "d", "timeout_s": 1.5, "concurrency": 2, "isolation": "process",
        "task": "required", "asks_first": False,
        "scopes": ("a", "b"), "annotations": {"readOnlyHint": True}, "icons": [{"src": "x"}], "meta": {"k": 1},
        "input_schema": None, "output_schema": {"type": "array"}, "source": "", "rate": "5/m",
    }  # fmt: skip


def test_a_raw_schema_is_a_copy_with_the_same_bytes() -> None:
    """JSC-4: changing the author's dict later changes nothing that is served."""
    schema: dict[str, Any] = {"type": "object", "properties": {"z": {"default": 1.0}, "a": {}}, "$comment": "é"}
    before = msgspec.json.encode(schema)

    @tool(input_schema=schema)
    def fn(**arguments: Any) -> None: ...

    schema["properties"]["late"] = {}
    (declaration,) = declarations_of(fn)
    assert isinstance(declaration, ToolDeclaration)
    assert msgspec.json.encode(declaration.input_schema) == before


@pytest.mark.parametrize(
    "options",
    [
        {"isolation": "thread"},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"concurrency": 0},
        {"colour": "red"},
        {"task": "always"},
        {"task": True},
        {"asks_first": True, "task": "forbidden"},
        {"asks_first": True, "isolation": "process"},
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(options: Any) -> None:
    """TOOL-1."""

    def fn() -> None: ...

    with pytest.raises(RegistrationError, match=r"fn.*(isolation|timeout_s|colour|task|asks_first)"):
        tool(**options)(fn)


def test_resources_prompts_and_completions_are_declared_likewise() -> None:
    """RSC-1, PRM-1, CMP-1."""

    @resource("notes://{id}", mime_type="text/plain", ttl_ms=5, cache_scope="private")
    def note(id: str) -> str:  # noqa: A002
        return id

    @prompt(title="Say", scopes="talk")
    def say(topic: str) -> str:
        return topic

    @prompt
    def bare() -> str:
        return ""

    @completion(for_="say", argument="topic")
    async def topics(value: str, arguments: dict[str, str]) -> list[str]:
        return [value, *arguments]

    assert collect(module_of(note=note, say=say, bare=bare, topics=topics)) == [
        ResourceDeclaration(
            uri="notes://{id}", name="note", fn=note, mime_type="text/plain", ttl_ms=5, cache_scope="private"
        ),
        PromptDeclaration(name="say", fn=say, title="Say", scopes=("talk",)),
        PromptDeclaration(name="bare", fn=bare),
        CompletionDeclaration(for_="say", argument="topic", fn=topics),
    ]


def test_a_resource_without_uri_is_refused() -> None:
    """RSC-1: `@resource` bare."""
    with pytest.raises(RegistrationError, match="URI"):
        resource(lambda: "")  # type: ignore[arg-type]


def test_a_module_is_collected_in_the_order_it_was_written_and_once() -> None:
    """Law 10: listings are deterministic."""

    @tool
    def b() -> None: ...

    @tool(name="second")
    @tool(name="first")
    def a() -> None: ...

    found = collect(module_of(b=b, a=a, alias=b, other=5, cls=int))
    assert [declaration.name for declaration in found if isinstance(declaration, ToolDeclaration)] == [
        "b", "first", "second",
    ]  # fmt: skip


def write(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_a_file_is_loaded_with_its_neighbours_and_its_string_annotations(tmp_path: Path) -> None:
    """TOOL-1: the module is importable while its hints are read."""
    write(tmp_path / "neighbour_of_tools.py", "NAME = 'from-neighbour'\n")
    spec = write(
        tmp_path / "my-tools.py",
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from mcpd import tool
        from neighbour_of_tools import NAME

        @dataclass
        class Thing:
            a: int

        @tool(name=NAME)
        def fn(thing: Thing) -> Thing:
            return thing
        """,
    )
    from mcpd.authoring.signatures import inspect_function

    (declaration,) = load(spec)
    assert isinstance(declaration, ToolDeclaration)
    assert (declaration.name, declaration.source) == ("from-neighbour", spec)
    assert "thing" in inspect_function(declaration.fn).decode({"thing": {"a": 1}})


def test_a_module_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOOL-1."""
    write(tmp_path / "made_up_tools.py", "import mcpd\n@mcpd.prompt\ndef p(): return ''\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [type(declaration) for declaration in load("made_up_tools")] == [PromptDeclaration]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "nothing in it is decorated"),
        ("\n\n1 / 0\n", r"ZeroDivisionError.*bad\.py, line 3"),
        ("import no_such_thing_at_all\n", "no_such_thing_at_all"),
        ("x = 1\ndef f(:\n", r"SyntaxError: invalid syntax \(.*bad\.py, line 2\)$"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("import mcpd\n@mcpd.tool(timeout_s=-1)\ndef f(): ...\n", "timeout_s"),
    ],
)
def test_a_file_that_fails_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    """The user learns what to mend, not a traceback of ours."""
    with pytest.raises(RegistrationError, match=told):
        load(write(tmp_path / "bad.py", text))


@pytest.mark.parametrize("spec", ["no/such/file.py", "nosuchfile.py", "no_such_module", "no_such_module.sub"])
def test_what_does_not_exist_is_said_to_be_missing(spec: str) -> None:
    """The user learns what to mend."""
    with pytest.raises(RegistrationError, match="no such"):
        load(spec)


def test_a_folder_is_not_said_to_be_missing(tmp_path: Path) -> None:
    """The user learns what to mend."""
    with pytest.raises(RegistrationError, match="is a folder"):
        load(str(tmp_path))


def test_the_public_names_are_the_same_for_python_and_for_type_checkers() -> None:
    """Surfaces, "Writing tools"."""
    stub = ast.parse((Path(mcpd.__file__).parent / "__init__.pyi").read_text())
    imported = [
        (node.module, alias.asname) for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert {name for _, name in imported} == set(mcpd.__all__)
    assert {name: home for home, name in imported} == mcpd._HOMES  # type: ignore[attr-defined]
    assert set(mcpd.__all__) == {
        "tool", "resource", "prompt", "completion", "Context", "Meta", "ToolError", "Text", "Image", "Audio",
        "ResourceLink", "Embedded", "Elicit", "Sample", "Roots", "RpcError",
    }  # fmt: skip
    for name in mcpd.__all__:
        assert getattr(mcpd, name) is not None
        assert name in dir(mcpd)
    with pytest.raises(AttributeError, match="nothing_here"):
        mcpd.nothing_here  # type: ignore[attr-defined]  # noqa: B018


def test_no_module_of_mcpd_takes_the_place_of_a_public_name() -> None:
    """Surfaces, "Writing tools": an imported submodule becomes an attribute of its package and would hide the name."""
    modules = {path.stem for path in Path(mcpd.__file__).parent.iterdir()}
    assert modules.isdisjoint(mcpd.__all__)


def test_importing_mcpd_loads_nothing_else() -> None:
    """Architecture, trap 15: `mcpd/__init__` imports lazily."""
    code = "import sys, mcpd; print([m for m in sys.modules if m.startswith(('mcpd.', 'msgspec', 'trio'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
