"""The four file tools as a client meets them: arguments in, results out, errors that say what to do."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.authoring.signatures import Signature, inspect_function
from mcpd.config import Files, Limits
from mcpd.errors import ConfigurationError, ToolError
from mcpd.tools.builtin import files
from mcpd.tools.builtin.files import cut_text, file_tools
from mcpd.tools.builtin.protected import Places

Call = Callable[..., dict[str, Any]]
LIMITS = Limits(max_read_bytes=64, max_write_bytes=64, max_list_items=4)


def caller(root: Path) -> Call:
    tools: dict[str, tuple[Callable[..., Any], Signature]] = {}
    for declared in file_tools(root, Files(write=True), LIMITS, Places(secret=(root / ".mcpd",))):
        tools[declared.name] = (declared.fn, inspect_function(declared.fn))

    def call(name: str, **arguments: Any) -> dict[str, Any]:
        fn, signature = tools[name]
        return signature.finish(fn(**signature.decode(arguments)))

    return call


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "today.txt").write_text("milk\nüber\n")
    (tmp_path / ".env").write_text("SECRET=1")
    return tmp_path


@pytest.fixture
def call(root: Path) -> Call:
    return caller(root)


def names(result: dict[str, Any]) -> list[str]:
    return [entry["path"] for entry in result["structuredContent"]["entries"]]


def text_of(result: dict[str, Any]) -> str:
    return str(result["content"][0]["text"])


def test_a_listing_gives_paths_types_sizes_and_dates(root: Path, call: Call) -> None:
    """TOOL-3."""
    (root / "link").symlink_to("notes")
    entries = call("list_files", recursive=True)["structuredContent"]["entries"]
    assert [(entry["path"], entry["type"], entry.get("size")) for entry in entries] == [
        ("link", "link", None),
        ("notes", "folder", None),
        ("notes/today.txt", "file", 11),
    ]
    assert all(entry["modified"].endswith("Z") for entry in entries)


def test_pages_of_a_listing_join_to_the_whole_in_a_stable_order(root: Path, call: Call) -> None:
    """PAG-1."""
    for number in range(9):
        (root / "notes" / f"{number}.txt").write_text("")
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(4):
        page = call("list_files", path=".", recursive=True, **cursor)
        assert len(names(page)) <= 4
        seen += names(page)
        if "nextCursor" not in page["structuredContent"]:
            break
        cursor = {"cursor": page["structuredContent"]["nextCursor"]}
    assert seen == ["notes", *(f"notes/{number}.txt" for number in range(9)), "notes/today.txt"]


def test_a_page_ends_after_a_bounded_search_even_when_nothing_matches(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PAG-1."""
    monkeypatch.setattr(files, "SCANS_PER_ITEM", 1)
    for number in range(9):
        (root / f"{number}.txt").write_text("")
    call = caller(root)
    page = call("list_files", glob="*.py")
    assert page["structuredContent"] == {"entries": [], "nextCursor": "3.txt"}
    assert call("list_files", glob="8.*", cursor="7.txt")["structuredContent"]["entries"][0]["path"] == "8.txt"


@pytest.mark.parametrize("cursor", ["", "../x", "/etc", "notes", "notes\0", "elsewhere/x"])
def test_a_cursor_of_another_listing_is_refused(call: Call, cursor: str) -> None:
    """PAG-1."""
    with pytest.raises(ToolError, match="cursor"):
        call("list_files", path="notes", cursor=cursor)


def test_text_comes_as_text(call: Call) -> None:
    """TOOL-4."""
    result = call("read_file", path="notes/today.txt")
    assert [block["type"] for block in result["content"]] == ["text"]
    assert text_of(result) == "milk\nüber\n"
    assert result["content"][0]["_meta"] == {"dev.mcpd/offset": 0, "dev.mcpd/size": 11}


def test_bytes_that_are_no_text_come_as_a_blob_with_a_media_type(root: Path, call: Call) -> None:
    """TOOL-4."""
    (root / "a b.png").write_bytes(b"\x89PNG\0\xff")
    (block,) = call("read_file", path="a b.png")["content"]
    assert block["resource"] == {
        "uri": "file:///a%20b.png",
        "mimeType": "image/png",
        "blob": base64.b64encode(b"\x89PNG\0\xff").decode(),
    }


def test_a_long_file_comes_in_parts_that_join_to_the_whole(root: Path, call: Call) -> None:
    """TOOL-4."""
    text = "naïve 🦊 текст\n" * 30
    (root / "long.txt").write_text(text)
    joined, offset = "", 0
    for _ in range(100):
        result = call("read_file", path="long.txt", offset=offset, max_bytes=1000)
        joined += text_of(result)
        assert len(text_of(result).encode()) <= LIMITS.max_read_bytes
        following = result["content"][0]["_meta"].get("dev.mcpd/nextOffset")
        if following is None:
            break
        assert f"offset={following}" in result["content"][1]["text"]
        offset = following
    assert joined == text


@given(
    text=st.text(max_size=30).filter(lambda text: "\0" not in text), start=st.integers(0, 40), count=st.integers(4, 9)
)
def test_any_piece_of_a_text_is_cut_between_characters_and_makes_progress(text: str, start: int, count: int) -> None:
    """TOOL-4."""
    whole = text.encode()
    data = whole[start : start + count]
    skipped, cut = cut_text(data, inside=start > 0, at_end=start + len(data) >= len(whole))
    assert cut is not None
    assert whole[start + skipped :].startswith(cut.encode())
    assert skipped <= 3
    assert not data or skipped + len(cut.encode()) > max(0, len(data) - 4)
    assert start + len(data) < len(whole) or skipped + len(cut.encode()) == len(data)


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"ab\xffcd", b"a\0b", b"\x80\x80\x80\x80", "ü".encode()[:1]],
    ids=["bad", "inside", "nul", "tail", "cut"],
)
def test_what_is_not_utf_8_is_no_text(data: bytes) -> None:
    """TOOL-4."""
    assert cut_text(data, inside=False, at_end=True)[1] is None


def test_reading_behind_the_end_says_how_long_the_file_is(call: Call) -> None:
    """TOOL-2."""
    assert text_of(call("read_file", path="notes/today.txt", offset=11)) == ""
    with pytest.raises(ToolError, match="has 11 bytes"):
        call("read_file", path="notes/today.txt", offset=12)


def test_writing_makes_a_file_and_replaces_it_only_when_told(root: Path, call: Call) -> None:
    """TOOL-5."""
    written = call("write_file", path="new/x.txt", content="één")["structuredContent"]
    assert written == {"path": "new/x.txt", "size": 5, "created": True}
    with pytest.raises(ToolError, match="overwrite=true"):
        call("write_file", path="new/x.txt", content="2")
    assert (root / "new" / "x.txt").read_text() == "één"
    written = call("write_file", path="new/x.txt", content="AP8=", encoding="base64", overwrite=True)
    assert written["structuredContent"] == {"path": "new/x.txt", "size": 2, "created": False}
    assert (root / "new" / "x.txt").read_bytes() == b"\0\xff"


def test_content_that_cannot_be_written_is_refused_with_the_reason(root: Path, call: Call) -> None:
    """TOOL-2."""
    with pytest.raises(ToolError, match="65 bytes"):
        call("write_file", path="big.txt", content="x" * 65)
    with pytest.raises(ToolError, match="not base64"):
        call("write_file", path="bad.bin", content="A===", encoding="base64")
    with pytest.raises(ToolError, match=r"arguments\.encoding"):
        call("write_file", path="bad.bin", content="", encoding="utf-16")
    assert sorted(path.name for path in root.iterdir()) == [".env", "notes"]


def test_deleting_names_what_is_gone(root: Path, call: Call) -> None:
    """TOOL-5."""
    result = call("delete_file", path="notes/today.txt")
    assert result["structuredContent"] == {"path": "notes/today.txt", "size": 11}
    assert not (root / "notes" / "today.txt").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", ".env", ".mcpd/keys.toml", "a\0b", "notes/../../x", ""])
def test_no_tool_takes_a_path_that_leads_out_or_is_hidden(call: Call, path: str) -> None:
    """RSC-3."""
    for name, more in (("read_file", {}), ("write_file", {"content": ""}), ("delete_file", {})):
        with pytest.raises(ToolError):
            call(name, path=path, **more)


def test_the_writing_tools_exist_only_where_writing_is_allowed(root: Path) -> None:
    """TOOL-5."""
    reading = file_tools(root, Files(), LIMITS)
    assert [tool.name for tool in reading] == ["list_files", "read_file"]
    every = file_tools(root, Files(write=True), LIMITS)
    assert [tool.name for tool in every] == ["list_files", "read_file", "write_file", "delete_file"]
    assert [tool.annotations["readOnlyHint"] for tool in every if tool.annotations] == [True, True, False, False]
    assert [tool.annotations.get("destructiveHint") for tool in every if tool.annotations] == [None, None, True, True]


def test_where_files_cannot_be_confined_there_are_no_file_tools(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOOL-5."""
    monkeypatch.setattr("os.supports_dir_fd", set())
    assert file_tools(root, Files(write=True), LIMITS) == []


def test_a_root_that_is_no_folder_is_a_configuration_error(root: Path) -> None:
    """RSC-3."""
    with pytest.raises(ConfigurationError, match=r"files\.root"):
        file_tools(root / "none", Files(), LIMITS)


def test_the_schemas_describe_every_argument(root: Path) -> None:
    """TOOL-1."""
    for declared in file_tools(root, Files(write=True), LIMITS):
        schema = inspect_function(declared.fn).input_schema
        assert all("description" in field for field in schema["properties"].values()), declared.name
