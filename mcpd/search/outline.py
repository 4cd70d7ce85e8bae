"""The structure of a text, as far as its lines show it: where sections, functions and rows begin.

`outline` gives the places where a text may be cut, each with how deep it is nested and under which heading it stands.
Headings are `#` lines and underlined lines, outside of fenced code; functions and classes are lines that begin with a
word such as `def`, `class`, `func` or `struct` after some modifiers, or, in languages with braces, lines at the margin
that look like a function's head. Comments and decorators right above belong to what follows.

Called by: `chunking`. Pure. Deliberately not a parser of any language.

Laws: one pass over the lines, and no memory of them; every pattern has bounded repetition or gives nothing back once
taken, so that a hostile line costs no more than its length.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from typing import Final

import msgspec

MAX_HEADING_CHARS: Final = 120
MAX_FRONT_MATTER_CHARS: Final = 32_768
MAX_LEADING_LINES: Final = 40
"""Comment lines above a function that are taken along."""

_ROWS: Final = frozenset(
    {"text/csv", "text/tab-separated-values", "application/jsonl", "application/x-ndjson", "application/x-jsonlines"}
)
_HEADERS: Final = frozenset({"text/csv", "text/tab-separated-values"})
_PROSE: Final = frozenset({"text/markdown", "text/html", "application/xhtml+xml", "text/x-rst"})
_CODE: Final = frozenset(
    {"text/javascript", "application/javascript", "application/typescript", "application/sql", "application/x-sh"}
)
_WITHOUT_BRACES: Final = frozenset({"text/x-python", "text/x-ruby", "text/x-lua", "application/sql", "text/x-sql"})

_MODIFIERS: Final = (
    "export|default|public|private|protected|internal|static|abstract|final|sealed|async|pub|pub\\(crate\\)|unsafe"
    "|extern|override|virtual|inline|const|open|data|local|partial|readonly|declare"
)
_KINDS: Final = (
    "def|class|function|func|fun|fn|interface|struct|enum|trait|impl|mod|module|namespace|type|object|sub|procedure"
    "|record|protocol|extension|macro_rules!|CREATE|create"
)
_DEFINITION: Final = re.compile(
    rf"^(?P<indent>[ \t]{{0,64}}+)(?:(?:{_MODIFIERS})[ \t]{{1,8}}+){{0,6}}+(?:{_KINDS})(?=[ \t<*])"
    rf"[^\n]{{0,{MAX_HEADING_CHARS}}}",
    re.MULTILINE,
)
_BRACE_HEAD: Final = re.compile(
    r"^(?!(?:if|else|for|while|switch|return|do|case|using|import|typedef)\b)(?P<indent>)"
    r"[A-Za-z_][\w \t*&:<>,\[\]~]{0,200}+\([^;\n]{0,200}+$",
    re.MULTILINE,
)
_MARKDOWN: Final = re.compile(
    r"^ {0,3}(?:(?P<fence>`{3,}+|~{3,}+)|(?P<marks>\#{1,6}+)[ \t]{1,8}+(?P<title>[^\n]{1,300})"
    r"|(?P<line>[^\s>|#*+-][^\n]{0,200}+)\n(?P<under>={3,}+|-{3,}+|~{3,}+)[ \t]{0,8}+$)",
    re.MULTILINE,
)
_LEADING: Final = ("@", "#", "//", "/*", "*", "--", "[", '"""')


class Break(msgspec.Struct, frozen=True):
    """A place where something begins."""

    position: int
    level: int
    """How deep it is nested; 0 and 1 are outermost."""
    path: tuple[str, ...]
    """What it stands under, and its own first line."""

    @property
    def heading(self) -> str:
        """The path as one text."""
        return " > ".join(self.path)


class Outline(msgspec.Struct, frozen=True):
    """What is known of a text."""

    breaks: Iterator[Break]
    """Found while they are asked for, in the order of their positions, which all differ."""
    forced: bool = False
    """A piece must end at a break, not only may."""
    rows: bool = False
    """Each line stands for itself."""
    header: str = ""
    """The first row, of a table that has one."""


def outline(text: str, mime_type: str) -> Outline:
    """Return the structure of `text`; parameters of `mime_type` (`; charset=...`) do not count."""
    kind = mime_type.partition(";")[0].strip().lower()
    if kind in _ROWS:
        return Outline(iter(()), rows=True, header=_first_line(text) if kind in _HEADERS else "")
    if kind in _PROSE:
        return Outline(_sections(text), forced=True)
    if kind in _CODE or kind.startswith("text/x-"):
        return Outline(_definitions(text, braces=kind not in _WITHOUT_BRACES))
    return Outline(iter(()))


def _first_line(text: str) -> str:
    end = text.find("\n", 0, MAX_HEADING_CHARS * 2)
    return text[: end if end >= 0 else MAX_HEADING_CHARS * 2].strip()


def front_matter_end(text: str) -> int:
    """Return where the text begins behind front matter (between two lines `---` or `+++`), 0 when there is none."""
    fence = text[:3]
    if fence not in ("---", "+++") or text[3:4] != "\n":
        return 0
    end = text.find(f"\n{fence}\n", 3, MAX_FRONT_MATTER_CHARS)
    return end + 5 if end >= 0 else 0


def _sections(text: str) -> Iterator[Break]:
    path: list[tuple[int, str]] = []
    fence = ""
    for found in _MARKDOWN.finditer(text, front_matter_end(text)):
        if mark := found["fence"]:
            if not fence:
                fence = mark
            elif mark.startswith(fence):
                fence = ""
        elif not fence:
            level, title = _section(found)
            path = [*[outer for outer in path if outer[0] < level], (level, title)]
            yield Break(found.start(), level, tuple(name for _, name in path))


def _section(found: re.Match[str]) -> tuple[int, str]:
    if found["marks"]:
        return len(found["marks"]), found["title"].strip().rstrip("#").rstrip()[:MAX_HEADING_CHARS]
    return {"=": 1, "-": 2, "~": 3}[found["under"][0]], found["line"].strip()[:MAX_HEADING_CHARS]


def _definitions(text: str, *, braces: bool) -> Iterator[Break]:
    enclosing: list[tuple[int, str]] = []
    above = -1
    for head in _heads(text, braces):
        level = len(head["indent"].expandtabs(4))
        name = head[0].strip()[:MAX_HEADING_CHARS].rstrip(" \t:{(")
        enclosing = [*[outer for outer in enclosing if outer[0] < level][-2:], (level, name)]
        above = max(_with_what_leads(text, head.start()), above + 1)
        yield Break(above, level, tuple(outer for _, outer in enclosing))


def _heads(text: str, braces: bool) -> Iterator[re.Match[str]]:
    """Yield the lines that begin a definition, each once."""
    found = _DEFINITION.finditer(text)
    if not braces:
        yield from found
        return
    last = -1
    for head in heapq.merge(found, _BRACE_HEAD.finditer(text), key=re.Match.start):
        if head.start() > last:
            yield head
        last = head.start()


def _with_what_leads(text: str, position: int) -> int:
    """Return where the comments and decorators right above the line at `position` begin."""
    for _ in range(MAX_LEADING_LINES):
        above = text.rfind("\n", 0, position - 1) + 1 if position > 0 else 0
        if above == position or not text[above : above + 100].lstrip(" \t").startswith(_LEADING):
            return position
        position = above
    return position
