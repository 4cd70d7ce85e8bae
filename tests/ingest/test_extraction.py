"""Formats: what each becomes, and that hostile content only ever becomes text, or a blob."""

from __future__ import annotations

import csv
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.ingest.extraction import Extracted, extract
from mcpd.ingest.formats import format_of

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
)


def text_of(name: str, content: str | bytes) -> Extracted:
    found = extract(name, content if isinstance(content, bytes) else content.encode())
    assert found.kind == "text"
    assert found.blob is None
    return found


@pytest.mark.parametrize(
    ("name", "mime_type", "family"),
    [
        ("a.py", "text/x-python", "code"),
        ("deep/er/A.PY", "text/x-python", "code"),
        ("Makefile", "text/x-makefile", "code"),
        ("Dockerfile.dev", "text/x-dockerfile", "code"),
        ("CMakeLists.txt", "text/x-cmake", "code"),
        ("notes.txt", "text/plain", "text"),
        ("README.md", "text/markdown", "markdown"),
        ("a.tar.gz", "application/gzip", "blob"),
        ("report.PDF", "application/pdf", "no_text"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "no_text"),
        ("LICENSE", "text/plain", "unknown"),
        (".gitignore", "text/plain", "unknown"),
        ("py", "text/plain", "unknown"),
        ("a.", "text/plain", "unknown"),
        ("folder.py/readme", "text/plain", "unknown"),
        ("", "text/plain", "unknown"),
    ],
)
def test_the_name_tells_the_format(name: str, mime_type: str, family: str) -> None:
    assert format_of(name, b"words") == (mime_type, family)


@pytest.mark.parametrize(
    ("name", "first", "mime_type"),
    [
        ("report", b"%PDF-1.7", "application/pdf"),
        ("notes.txt", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("page", b"\xef\xbb\xbf\n<!DOCTYPE HTML>", "text/html"),
        ("feed", b'<?xml version="1.0"?>', "application/xml"),
        ("run", b"#!/usr/bin/env python3\n", "text/x-python"),
        ("run", b"#!/bin/sh\n", "application/x-sh"),
        ("run.js", b"#!/usr/bin/env node\n", "text/javascript"),
    ],
)
def test_first_bytes_tell_where_the_name_does_not_or_lies(name: str, first: bytes, mime_type: str) -> None:
    assert format_of(name, first).mime_type == mime_type


def test_plain_text_and_source_stay_as_they_are() -> None:
    assert text_of("a/notes.txt", "# no heading\n") == Extracted(
        "text", "notes.txt", "text/plain", text="# no heading\n"
    )
    assert text_of("x.go", "package x\n").mime_type == "text/x-go"


@pytest.mark.parametrize(
    ("content", "title", "metadata"),
    [
        ("intro\n\n# The  title #\n\n## Part\n", "The title", {}),
        ("Title\n=====\n", "Title", {}),
        ("no heading", "a.md", {}),
        ("```\n# code\n```\n", "a.md", {}),
        ('---\ntitle: "A: b"\ntags: [x, "y z"]\n---\n\n# Other', "A: b", {"title": "A: b", "tags": ["x", "y z"]}),
        (
            '+++\ntitle = "T"\ndraft = true\nn = 3\nwhen = 2020-01-01\n+++\n# O',
            "T",
            {"title": "T", "draft": True, "n": 3},
        ),
        ("+++\nnot toml\n+++\n# Other", "Other", {}),
        ("---\n\ntext\n\n# After a rule", "After a rule", {}),
        ("+++\na = " + "[" * 30_000 + "\n+++\n# Deep", "Deep", {}),
    ],
)
def test_markdown_has_its_title_from_front_matter_or_heading(
    content: str, title: str, metadata: dict[str, object]
) -> None:
    found = text_of("a.md", content)
    assert (found.title, found.text, found.metadata.get("frontMatter", {})) == (title, content, metadata)


def test_html_becomes_markdown_and_says_so() -> None:
    """Text is no markup: served as HTML, what was escaped in it would come to life."""
    found = text_of("page.html", "<title>T</title><h1>H</h1><p>&lt;script&gt;alert(1)&lt;/script&gt;")
    assert found == Extracted(
        "text", "T", "text/markdown", text="# H\n\n<script>alert(1)</script>", metadata={"sourceMimeType": "text/html"}
    )
    assert text_of("page.html", "<h1>Only a heading</h1>").title == "Only a heading"
    assert text_of("page.html", "<p>nothing").title == "page.html"


def test_json_is_laid_out_and_its_letters_are_written_out() -> None:
    found = text_of("a.json", r'{"title":"T","b":[1,2.50,1e400,"\u0434\ud83d\ude00\n\u0022\\u0434"]}')
    assert found.title == "T"
    assert (
        found.text
        == '{\n  "title": "T",\n  "b": [\n    1,\n    2.50,\n    1e400,\n    "д😀\\n\\u0022\\\\u0434"\n  ]\n}'
    )


@given(json_values, st.booleans(), st.sampled_from([None, 1, 4]))
def test_json_keeps_its_value(value: object, ascii_only: bool, indent: int | None) -> None:
    found = text_of("a.json", json.dumps(value, ensure_ascii=ascii_only, indent=indent))
    assert json.loads(found.text or "") == value


@given(json_values)
def test_json_looks_the_same_however_it_was_laid_out(value: object) -> None:
    texts = {text_of("a.json", json.dumps(value, indent=indent)).text for indent in (None, 3)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000]
)
def test_deeply_nested_json_stays_as_it_is(content: str) -> None:
    assert text_of("a.json", content).text == content


def test_json_that_would_swell_when_laid_out_stays_as_it_is() -> None:
    """A thousand levels, a million numbers: two gigabytes of blanks."""
    content = "[" * 900 + ",".join(["1"] * 500_000) + "]" * 900
    assert text_of("a.json", content).text == content


@pytest.mark.parametrize("content", ["{", "[1,]", "nonsense", '{"a": "\\ud800"}', "", '"' + "\\" * 99])
def test_broken_json_stays_as_it_is(content: str) -> None:
    assert text_of("a.json", content).text == content


def test_half_a_surrogate_pair_never_becomes_a_letter() -> None:
    found = text_of("a.jsonl", '"\\ud800 \\udc00 \\udc00\\ud800 \\uD83D\\uDE00"\n').text
    assert found == '"\\ud800 \\udc00 \\udc00\\ud800 😀"\n'


def test_json_lines_keep_their_lines() -> None:
    found = text_of("a.jsonl", '{"a": "\\u0434"}\n{"a": 2}')
    assert (found.text, found.mime_type, found.metadata) == ('{"a": "д"}\n{"a": 2}', "application/jsonl", {"rows": 2})


def test_a_table_has_one_row_on_a_line() -> None:
    found = text_of("a.csv", 'id,"the, text"\n1,"two\nlines"\n2,"a ""quote"""\n')
    assert found.text == 'id,"the, text"\n1,two lines\n2,"a ""quote"""\n'
    assert found.metadata == {"columns": ["id", "the, text"], "rows": 2}


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [("a.csv", "a;b;c\n1;2,5;3\n", ["a", "b", "c"]), ("a.tsv", "a,b\tc\n", ["a,b", "c"]), ("a.csv", "", [])],
)
def test_the_delimiter_is_seen(name: str, content: str, columns: list[str]) -> None:
    assert text_of(name, content).metadata["columns"] == columns


def test_a_table_with_a_cell_that_never_ends_stays_as_it_is() -> None:
    content = 'a,b\n1,"' + "x\n" * 100_000
    assert text_of("a.csv", content).text == content


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=2, max_size=2), min_size=1))
def test_cells_keep_their_content(rows: list[list[str]]) -> None:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [["h1", "h2"], *rows]]
    text = text_of("a.csv", "\n".join(lines)).text or ""
    assert list(csv.reader(line + "\n" for line in text.removesuffix("\n").split("\n")))[1:] == rows


@pytest.mark.parametrize(
    ("name", "data", "kind", "mime_type"),
    [
        ("a.pdf", b"%PDF-1.4 words", "no_text", "application/pdf"),
        ("a.odt", b"PK\x03\x04", "no_text", "application/vnd.oasis.opendocument.text"),
        ("a.png", b"words", "blob", "image/png"),
        ("a.py", b"x = 1\x00\n", "blob", "application/octet-stream"),
        ("data", bytes(range(256)), "blob", "application/octet-stream"),
    ],
)
def test_what_has_no_text_is_kept_as_it_is(name: str, data: bytes, kind: str, mime_type: str) -> None:
    found = extract(name, data)
    assert (found.kind, found.mime_type, found.text, found.blob, found.title) == (kind, mime_type, None, data, name)


def test_how_the_text_was_decoded_is_in_the_metadata() -> None:
    assert text_of("a.txt", "Ошибка: файл не найден".encode("cp1251")).metadata == {"encoding": "cp1251"}
    assert text_of("a.txt", "файл не найден".encode() + b"\xff").metadata == {"encodingErrors": 1}


def test_a_title_is_one_bounded_line() -> None:
    found = text_of("a.json", json.dumps({"title": "a\n  b " + "x" * 1000}))
    assert found.title.startswith("a b x")
    assert len(found.title) == 300


@given(st.sampled_from(["a.md", "a.html", "a.json", "a.jsonl", "a.csv", "a.py", "a", "a.pdf"]), st.binary(max_size=300))
def test_whatever_a_file_holds_something_comes_out(name: str, data: bytes) -> None:
    found = extract(name, data)
    assert (found.text is None) is (found.kind != "text")
    assert (found.blob is None) is (found.kind == "text")
    assert found.title
    if found.text is not None:
        found.text.encode()


@pytest.mark.parametrize("part", ['"', '"a",', "\\", "\\u", "[", '"\\u0434",', "a,", "a\n", "---\n", "{}", "'"])
@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.md", "a.jsonl"])
def test_no_content_takes_more_than_linear_time(name: str, part: str) -> None:
    data = (part * (500_000 // len(part))).encode()
    began = time.perf_counter()
    extract(name, data)
    assert time.perf_counter() - began < 10
