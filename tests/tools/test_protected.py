"""What belongs to the server itself is out of a model's reach, under whatever name it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mcpd import settings
from mcpd.assembly import load_declarations
from mcpd.authoring.declarations import ToolDeclaration
from mcpd.authoring.signatures import inspect_function
from mcpd.config import Config
from mcpd.errors import ConfigurationError, RegistrationError, ToolError
from mcpd.tools.builtin.jail import Jail
from mcpd.tools.builtin.protected import Places

TOOL = '''"""A tool."""
from mcpd import tool

@tool
def hello() -> str:
    """Say hello."""
    return "hello"
'''
SETTINGS = """
tools = ["words.py"]
[auth]
api_key = "mcpd_only_for_the_operator"
keys_file = "access/keys.toml"
[server]
tls_cert = "tls/cert.pem"
tls_key = "tls/key.pem"
[files]
write = true
hidden = true
[prompts]
folder = "prompts"
[data]
folder = "store"
"""
OWN = (
    "mcpd.toml", "words.py", "access/keys.toml", "tls/cert.pem", "tls/key.pem", "prompts/a.md", "prompts/b.json",
    "store/seal.key", "store/deep/mcpd.db", "__pycache__/words.cpython-311.pyc",
)  # fmt: skip
SHOWN = ("keys", "seal", "mcpd", "words", "store", "notes/a", "notes/b", "d.txt")
Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds all that a server can have, as a newcomer lays it out."""
    folder = tmp_path / "work"
    for name in OWN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("SECRET " + name)
    (folder / "mcpd.toml").write_text(SETTINGS)
    (folder / "words.py").write_text(TOOL)
    (folder / "notes").mkdir()
    (folder / "notes" / "today.txt").write_text("milk")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    return folder


def configured(path: Path | None = None) -> Config:
    return settings.load(path, {}, {})


def tools_of(config: Config) -> dict[str, Call]:
    declared = [item for item in load_declarations(config) if isinstance(item, ToolDeclaration)]
    return {item.name: _caller(item) for item in declared}


def _caller(item: ToolDeclaration) -> Call:
    signature = inspect_function(item.fn)
    return lambda **arguments: signature.finish(item.fn(**signature.decode(arguments)))


def everything(tools: dict[str, Call]) -> list[str]:
    result = tools["list_files"](path=".", recursive=True)
    return [entry["path"] for entry in result["structuredContent"]["entries"]]


def assert_unreachable(tools: dict[str, Call], path: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "read_file": {}, "write_file": {"content": "x = 1", "overwrite": True}, "delete_file": {}
    }  # fmt: skip
    for tool, arguments in more.items():
        with pytest.raises(ToolError, match=r"not served|not read|not written"):
            tools[tool](path=path, **arguments)


def spellings(name: str) -> set[str]:
    wide = "".join(chr(ord(letter) + 0xFEE0) if letter.isalpha() else letter for letter in name)
    return {name, name.upper(), name.title(), f"./{name}", name.replace("/", "//"), "\u200b" + name, wide}


def test_nothing_of_the_servers_own_is_listed(root: Path) -> None:
    """RSC-3, TOOL-5."""
    assert everything(tools_of(configured())) == ["access", "notes", "notes/today.txt", "tls"]


@pytest.mark.parametrize("name", OWN)
def test_nothing_of_the_servers_own_is_read_written_or_deleted_however_it_is_spelled(root: Path, name: str) -> None:
    """RSC-3: names as a file system without case or normalization would understand them."""
    before = (root / name).read_bytes()
    tools = tools_of(configured())
    for spelling in spellings(name):
        assert_unreachable(tools, spelling)
    assert (root / name).read_bytes() == before


@pytest.mark.parametrize("name", OWN)
def test_a_hard_link_to_the_servers_own_is_neither_listed_nor_opened(root: Path, name: str) -> None:
    """RSC-3: device and inode tell."""
    os.link(root / name, root / "notes" / "innocent.txt")
    tools = tools_of(configured())
    assert "notes/innocent.txt" not in everything(tools)
    assert_unreachable(tools, "notes/innocent.txt")


@pytest.mark.parametrize("name", OWN)
def test_a_symbolic_link_to_the_servers_own_leads_nowhere(root: Path, name: str) -> None:
    """RSC-3."""
    (root / "notes" / "link.txt").symlink_to(root / name)
    with pytest.raises(ToolError, match="link"):
        tools_of(configured())["read_file"](path="notes/link.txt")


def test_what_a_link_in_the_servers_own_folder_leads_to_is_its_own_as_well(root: Path) -> None:
    """RSC-3: a prompt or key may be a link to a file that lies elsewhere in the served folder."""
    (root / "notes" / "prompt.md").write_text("of the server")
    (root / "prompts" / "linked.md").symlink_to(root / "notes" / "prompt.md")
    assert_unreachable(tools_of(configured()), "notes/prompt.md")


def test_a_file_that_is_replaced_or_made_later_is_as_secret_as_before(root: Path) -> None:
    """RSC-3: keys are replaced by renaming."""
    (root / "access" / "keys.toml").unlink()
    tools = tools_of(configured())
    assert_unreachable(tools, "access/keys.toml")
    (root / "access" / "new").write_text("keys")
    (root / "access" / "new").rename(root / "access" / "keys.toml")
    os.link(root / "access" / "keys.toml", root / "notes" / "innocent.txt")
    assert "notes/innocent.txt" not in everything(tools)
    assert_unreachable(tools, "notes/innocent.txt")


def test_the_file_that_the_next_start_would_read_cannot_be_made(root: Path) -> None:
    """TOOL-5: with --config elsewhere, ./mcpd.toml is still what the next command finds."""
    elsewhere = root.parent / "elsewhere.toml"
    (root / "mcpd.toml").rename(elsewhere)
    elsewhere.write_text("[files]\nwrite = true\n")
    tools = tools_of(configured(elsewhere))
    for name in ("mcpd.toml", "MCPD.toml"):
        with pytest.raises(ToolError, match="not served"):
            tools["write_file"](path=name, content='tools = ["evil.py"]')
    assert not (root / "mcpd.toml").exists()


@pytest.mark.parametrize(
    "name",
    ["helper.py", "json/__init__.py", "NEW.PY", "x.so", "__pycache__/helper.cpython-311.pyc", "a.pth", "notes/deep.py",
     "evil-1.dist-info/entry_points.txt"],
)  # fmt: skip
def test_no_code_is_written_where_the_server_imports_from(root: Path, name: str) -> None:
    """TOOL-5: what a tool imports, or would import if it were there, is run by the next worker."""
    (root / "helper.py").write_text("x = 1")
    tools = tools_of(configured())
    with pytest.raises(ToolError, match=r"not written|not served"):
        tools["write_file"](path=name, content="import os", overwrite=True)
    with pytest.raises(ToolError, match=r"not written|not served|no such file"):
        tools["delete_file"](path=name)
    assert (root / "helper.py").read_text() == "x = 1"
    assert tools["write_file"](path="notes/plan.txt", content="fine")["structuredContent"]["created"]


def test_code_may_be_written_where_nothing_is_imported_from(root: Path) -> None:
    """TOOL-5."""
    config = settings.load(None, {}, {"tools.modules": (), "files.root": root / "notes"})
    tools = tools_of(config)
    assert tools["write_file"](path="script.py", content="print(1)")["structuredContent"]["created"]


def test_the_interpreter_of_the_server_is_not_served(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOOL-5: a virtual environment in the served folder is run by the server."""
    (root / "venv" / "bin").mkdir(parents=True)
    (root / "venv" / "bin" / "mcpd").write_text("#!")
    monkeypatch.setattr(sys, "prefix", str(root / "venv"))
    tools = tools_of(configured())
    assert "venv" not in everything(tools)
    assert_unreachable(tools, "venv/bin/mcpd")


def test_the_environment_of_processes_is_not_served() -> None:
    """RSC-3: MCPD_API_KEY stands in /proc/PID/environ."""
    jail = Jail(Path("/"), Places(runtime=(Path("/proc"),)))
    with pytest.raises(ToolError, match="not served"):
        jail.parse_file(f"proc/{os.getpid()}/environ")


def test_a_bind_mount_of_the_servers_own_is_recognised(root: Path) -> None:
    """RSC-3: a mount has the identity of what it shows, folder, file or what is in it."""
    for name in ("a", "b", "c", "d.txt"):
        target = root / "notes" / name
        target.write_text("") if name.endswith("txt") else target.mkdir()
    mounts = " && ".join(
        f"mount --bind {source} {root}/notes/{target}"
        for source, target in (("store", "a"), ("store/deep", "b"), (".", "c"), ("access/keys.toml", "d.txt"))
    )
    script = f"{mounts} && exec {sys.executable} -c 'from tests.tools import test_protected as t; t.look()'"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "--user", "sh", "-c", script],
        cwd=root, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.stdout == "", done.stderr
    assert done.returncode == 0, done.stderr


def look() -> None:
    """Run inside the namespace of the test above: print whatever of the server's own is found."""
    tools = tools_of(configured())
    for path in everything(tools):
        if not path.startswith("notes/c/notes/") and any(part in path for part in SHOWN):
            print(path)
    for path in ("notes/a/seal.key", "notes/b/mcpd.db", "notes/c/mcpd.toml", "notes/c/store/seal.key", "notes/d.txt"):
        with suppress(ToolError):
            print(path, tools["read_file"](path=path))
    with suppress(ToolError):
        print(tools["write_file"](path="notes/c/evil.py", content="x = 1"))


def test_without_files_there_are_no_file_tools(root: Path) -> None:
    """TOOL-5."""
    config = settings.load(None, {}, {"files.enabled": False})
    assert set(tools_of(config)) == {"hello"}
    with pytest.raises(RegistrationError):
        load_declarations(settings.load(None, {}, {"files.enabled": False, "tools.modules": ("none.py",)}))


def test_a_folder_of_the_servers_own_cannot_be_the_served_one(root: Path) -> None:
    """RSC-3."""
    for own in ("store", "prompts"):
        with pytest.raises(ConfigurationError, match="--no-files"):
            tools_of(settings.load(None, {}, {"files.root": root / own}))


def moved(root: Path, places: Callable[[Path], Places]) -> Jail:
    """Return the jail of a server whose place is a link, set to another folder of the served ones after the start."""
    for name in ("first", "second"):
        (root / "notes" / name).mkdir()
    (root / "current").symlink_to(root / "notes" / "first")
    jail = Jail(root, places(root / "current"))
    (root / "current").unlink()
    (root / "current").symlink_to(root / "notes" / "second")
    return jail


def test_nothing_is_made_in_a_secret_folder_under_its_other_name(root: Path) -> None:
    """RSC-3: what it leads to now is as secret as what it led to."""
    jail = moved(root, lambda place: Places(secret=(place,)))
    with pytest.raises(ToolError, match="not served"):
        jail.write(("notes", "second", "new.txt"), b"x", overwrite=False)
    with pytest.raises(ToolError, match="not served"):
        jail.scan(("notes", "second"), first="", limit=10)
    assert not (root / "notes" / "second" / "new.txt").exists()


def test_no_code_is_made_where_the_server_imports_from_under_its_other_name(root: Path) -> None:
    """TOOL-5."""
    jail = moved(root, lambda place: Places(imported=(place,)))
    with pytest.raises(ToolError, match="not written"):
        jail.write(("notes", "second", "new.py"), b"x = 1", overwrite=False)
    assert jail.write(("notes", "second", "new.txt"), b"x", overwrite=False)
