"""Chunking: nothing is lost, nothing is too long, structure is respected, and no text takes more than linear time."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.search.chunking import Chunk, chunk

KINDS = [
    "text/markdown",
    "text/x-python",
    "text/x-c",
    "text/csv",
    "application/jsonl",
    "text/plain",
    "",
    "application/json",
]
lines = st.sampled_from(
    [
        *("# One", "## Two ##", "Under", "=====", "---", "```", "~~~", "def f(x):", "    def g():", "class A:"),
        *("int main() {", "@mark", "// note", "", "", "  ", "a,b,c", '{"a": 1}', "A sentence. Another one! And…"),
        *("слово " * 9, "x" * 70),
    ]
)
texts = st.text() | st.lists(lines, max_size=60).map("\n".join)


def cut(text: str, mime_type: str = "text/plain", size: int = 100, overlap: int = 0) -> list[str]:
    return [text[c.start : c.end] for c in chunk(text, mime_type, max_chars=size, overlap_chars=overlap)]


def headings(text: str, mime_type: str, size: int = 100) -> list[str]:
    return [c.heading for c in chunk(text, mime_type, max_chars=size, overlap_chars=0)]


@given(texts, st.sampled_from(KINDS), st.integers(16, 200), st.integers(0, 100))
def test_every_character_that_is_not_blank_is_in_some_piece(text: str, kind: str, size: int, overlap: int) -> None:
    pieces = chunk(text, kind, max_chars=size, overlap_chars=min(overlap, size // 2))
    covered = {position for piece in pieces for position in range(piece.start, piece.end)}
    assert all(letter.isspace() for position, letter in enumerate(text) if position not in covered)


@given(texts, st.sampled_from(KINDS), st.integers(16, 200), st.integers(0, 100))
def test_pieces_are_in_order_within_bounds_and_not_blank_at_their_ends(
    text: str, kind: str, size: int, overlap: int
) -> None:
    overlap = min(overlap, size // 2)
    pieces = chunk(text, kind, max_chars=size, overlap_chars=overlap)
    assert [piece.ordinal for piece in pieces] == list(range(len(pieces)))
    for piece in pieces:
        shown = text[piece.start : piece.end]
        assert 0 < len(shown) <= size
        assert shown == shown.strip()
    for before, after in pairwise(pieces):
        assert before.start < after.start
        assert before.end < after.end
        assert before.end - after.start <= overlap


@given(texts, st.sampled_from(KINDS))
def test_the_same_text_gives_the_same_pieces(text: str, kind: str) -> None:
    assert chunk(text, kind) == chunk(text, kind)


@pytest.mark.parametrize("text", ["", " ", "\n\n\t \u2003\n"])
def test_a_blank_text_has_no_pieces(text: str) -> None:
    assert chunk(text, "text/markdown") == []


def test_a_short_text_is_one_piece_with_its_span() -> None:
    assert chunk("\n  Hello world \n", "text/plain") == [Chunk(0, 3, 14, "")]


@pytest.mark.parametrize(("size", "overlap"), [(15, 0), (100, 51), (100, -1)])
def test_sizes_that_cannot_work_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        chunk("text", "text/plain", max_chars=size, overlap_chars=overlap)


def test_a_heading_begins_a_piece_and_names_it_with_those_above() -> None:
    body = "Words and words and words. "
    text = f"# Guide\n\n{body}\n\n## Install ##\n\n{body}\n\n### On Linux\n\n{body}\n\n## Run\n\n{body}"
    assert cut(text, "text/markdown; charset=utf-8") == [
        f"# Guide\n\n{body.strip()}",
        f"## Install ##\n\n{body.strip()}",
        f"### On Linux\n\n{body.strip()}",
        f"## Run\n\n{body.strip()}",
    ]
    assert headings(text, "text/markdown") == [
        "Guide", "Guide > Install", "Guide > Install > On Linux", "Guide > Run",
    ]  # fmt: skip


def test_underlined_lines_are_headings_as_well() -> None:
    text = "Title\n=====\n\nFirst words that fill it.\n\nPart\n----\n\nOther words that fill it.\n"
    assert headings(text, "text/x-rst") == ["Title", "Title > Part"]


def test_a_hash_in_fenced_code_is_no_heading() -> None:
    fenced = "```sh\n# a comment in code, no heading\nls\n```\n\nMore.\n\n~~~\n# neither\n```\n~~~"
    text = f"# Real\n\n{fenced}\n\n# Next one\n\nEnd."
    assert set(headings(text, "text/markdown", 64)) == {"Real", "Next one"}


def test_tiny_sections_join_their_neighbour() -> None:
    assert cut("# A\n\na\n\n# B\n\nb\n\n# C\n\nc", "text/markdown", 200) == ["# A\n\na\n\n# B\n\nb\n\n# C\n\nc"]


def test_nothing_overlaps_across_a_heading() -> None:
    text = "# A\n\n" + "One two three four. " * 3 + "\n\n# B\n\n" + "Five six seven. " * 3
    assert cut(text, "text/markdown", 100, 40)[1].startswith("# B")


PYTHON = '''import os
import sys


# Opens it.
@cached
def first(path):
    return os.open(path)


class Second:
    """Says what it is."""

    def third(self):
        return 3

    async def fourth(self):
        return 4
'''


def test_source_is_cut_before_functions_and_classes_with_what_leads_to_them() -> None:
    pieces = chunk(PYTHON, "text/x-python", max_chars=110, overlap_chars=0)
    assert [(PYTHON[p.start : p.end].splitlines()[0], p.heading) for p in pieces] == [
        ("import os", ""),
        ("class Second:", "class Second"),
        ("async def fourth(self):", "class Second > async def fourth(self)"),
    ]
    assert [cut(PYTHON, "text/x-python", 64)[1].splitlines()[0]] == ["# Opens it."]


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("text/x-go", "func (s *Server) Serve(ctx context.Context) error {"),
        ("text/x-rust", "pub(crate) async fn serve(&self) -> Result<()> {"),
        ("text/x-rust", "impl<T> Serve for T {"),
        ("text/javascript", "export default async function serve(request) {"),
        ("application/typescript", "export interface Server<T> {"),
        ("text/x-java", "public final class Server extends Base {"),
        ("text/x-c", "static int serve(struct server *s, int flags)"),
        ("text/x-c++", "std::vector<int> Server::serve(int a, int b) {"),
        ("text/x-ruby", "def serve(request)"),
        ("text/x-sql", "CREATE TABLE servers (id int)"),
    ],
)
def test_definitions_of_many_languages_are_seen(kind: str, head: str) -> None:
    text = "x = 1;\n" * 10 + f"{head}\n  first();\n  second();\n"
    assert cut(text, kind)[-1].startswith(head)


@pytest.mark.parametrize("line", ["if (ready) {", "call(it);", "return (1)", "    nested(call)", "for (;;) {"])
def test_statements_are_not_taken_for_functions(line: str) -> None:
    text = "x = 1;\n" * 6 + f"{line}\n  first();\n"
    assert headings(text, "text/x-c", 40) == [""] * len(headings(text, "text/x-c", 40))


def test_rows_stay_whole_do_not_overlap_and_carry_the_header() -> None:
    rows = [f"{number},name {number},{'v' * 20}" for number in range(12)]
    text = "\n".join(["id,name,value", *rows])
    pieces = cut(text, "text/csv", overlap=50)
    assert "\n".join(pieces) == text
    assert set(headings(text, "text/csv")) == {"id,name,value"}


def test_json_lines_stay_whole() -> None:
    rows = [f'{{"id": {number}, "text": "one. two. three."}}' for number in range(12)]
    assert "\n".join(cut("\n".join(rows), "application/jsonl", overlap=50)) == "\n".join(rows)


def test_running_text_is_cut_at_paragraphs_then_lines_then_sentences_then_words() -> None:
    assert cut("a" * 60 + "\n\n" + "b\n" * 5 + "c. " * 20)[0] == "a" * 60
    assert cut("a" * 60 + "\n" + "b. " * 20)[0] == "a" * 60
    assert cut("a" * 60 + ". " + "b " * 30)[0] == "a" * 60 + "."
    assert cut("a" * 60 + " " + "b" * 60)[0] == "a" * 60
    assert cut("a" * 150) == ["a" * 100, "a" * 50]


def test_what_a_cut_tears_is_whole_in_one_of_two_pieces() -> None:
    sentences = [f"This is sentence number {number:03}." for number in range(40)]
    pieces = cut(" ".join(sentences), size=200, overlap=60)
    assert all(any(first in piece and second in piece for piece in pieces) for first, second in pairwise(sentences))
    assert all(piece.startswith("This is") for piece in pieces)


def test_the_end_of_a_paragraph_tears_nothing() -> None:
    first, second = "One two three four. " * 4, "Five six seven eight. " * 4
    assert cut(f"{first}\n\n{second}", size=100, overlap=40) == [first.strip(), second.strip()]


HOSTILE = {
    "one word": "a",
    "blanks": " ",
    "words": "ab ",
    "lines": "\n",
    "hashes": "#",
    "hash words": "# ",
    "headings": "# a\n",
    "fences": "```\n",
    "underlines": "aaa\n---\n",
    "tabs": "\t",
    "tab lines": "\t" * 999 + "\n",
    "definitions": "def a\n",
    "modifiers": "export ",
    "calls": "a(",
    "call lines": "a(\n",
    "comments": "# \n@a\n",
    "quotes": "." + '"' * 9,
}


@pytest.mark.parametrize("kind", ["text/markdown", "text/x-c", "text/csv", "text/plain"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_takes_more_than_linear_time(name: str, kind: str) -> None:
    """As a gigabyte must be; work that grows with the square would take very long."""
    text = HOSTILE[name] * (300_000 // len(HOSTILE[name]))
    began = time.perf_counter()
    pieces = chunk(text, kind)
    assert time.perf_counter() - began < 20
    assert len(pieces) <= len(text) // 150


def test_a_long_line_is_cut_hard_and_nothing_of_it_is_lost() -> None:
    text = "a" * 5_000_000
    pieces = chunk(text, "text/plain", overlap_chars=0)
    assert len(pieces) == 6250
    assert (pieces[0].start, pieces[-1].end) == (0, len(text))
