"""HTML -> text: headings as Markdown `#` lines, paragraphs, list items, table rows; the title apart.

A scan over tags, not a tree: elements are not matched with their ends, so nesting has no depth that could hurt, and
broken markup costs nothing. What is never shown (script, style, templates, comments) is dropped; entities are
resolved; blanks collapse, except in `<pre>`.

Own scanner rather than `html.parser`: of the Pythons that mcpd runs on, older ones take quadratic time for hostile
markup there (unclosed comments and tags), and tag names are all that is wanted of a tag.

Called by: `extraction`. Pure. Deliberately not a sanitizer: what comes out is text, to be served as such.

Laws: each character is looked at a bounded number of times; when the end of something is not found, what remains
belongs to it and the scan is over.

Sources: WHATWG HTML 13.2.5 (tokenization), 15.3 (which elements are blocks).
"""

from __future__ import annotations

import html
import re
from typing import Final, NamedTuple

MAX_TITLE_CHARS: Final = 300

_OPENING: Final = re.compile(r"<(?:(?P<comment>!--)|(?P<other>[!?])|(?P<end>/)?(?P<name>[A-Za-z][A-Za-z0-9:-]{0,40}))")
_INSIDE_TAG: Final = re.compile(r"[\"'>]")
_BLANKS: Final = re.compile(r"\s+")
_REFERENCE: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31})\b;?")

_DROPPED: Final = frozenset({"script", "style", "template", "noscript", "iframe", "object", "svg", "math", "noembed"})
_HEADINGS: Final = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_BLOCKS: Final = (
    "p div section article header footer main aside nav form fieldset table ul ol dl blockquote figure figcaption pre"
    " address details summary hr body"
)
_PARAGRAPHS: Final = frozenset(_BLOCKS.split())
_LINES: Final = frozenset({"br", "tr", "li", "dt", "dd", "option", "caption", "thead", "tbody", "legend", "label"})
_CELLS: Final = frozenset({"td", "th"})


class Hypertext(NamedTuple):
    """What a page says."""

    title: str
    text: str


def read_html(source: str) -> Hypertext:
    """Return title and text of an HTML page, or of a piece of one. Raises nothing."""
    page = _Page()
    position = 0
    while found := _OPENING.search(source, position):
        page.words(source[position : found.start()])
        position = _behind(source, found, page)
    page.words(source[position:])
    return Hypertext(page.title, page.text())


def _behind(source: str, opening: re.Match[str], page: _Page) -> int:
    """Handle one tag, comment or declaration; return where the scan goes on."""
    if opening["comment"]:
        return _after(source, "-->", opening.end())
    if opening["other"]:
        return _after(source, ">", opening.end())
    end = _tag_end(source, opening.end())
    name = opening["name"].lower()
    if opening["end"]:
        page.close(name)
        return end
    if name not in _DROPPED and name != "title":
        page.open(name)
        return end
    if source.endswith("/>", 0, end):
        return end
    close = re.compile(rf"</{name}\b", re.IGNORECASE).search(source, end)
    stop = close.start() if close else len(source)
    if name == "title":
        page.entitle(source[end:stop])
    return stop


def _after(source: str, mark: str, position: int) -> int:
    found = source.find(mark, position)
    return len(source) if found < 0 else found + len(mark)


def _tag_end(source: str, position: int) -> int:
    """Return the position behind the tag's `>`; one in quotes is none. Unclosed quotes are no quotes."""
    while found := _INSIDE_TAG.search(source, position):
        if found[0] == ">":
            return found.end()
        close = source.find(found[0], found.end())
        if close < 0:
            return _after(source, ">", found.end())
        position = close + 1
    return len(source)


class _Page:
    """Collects the text of a page: lines that are finished, and the one being written."""

    def __init__(self) -> None:
        self.title = ""
        self._lines: list[str] = []
        self._line: list[str] = []
        self._start = ""
        self._preformatted = 0

    def entitle(self, raw: str) -> None:
        self.title = self.title or _BLANKS.sub(" ", _resolved(raw)).strip()[:MAX_TITLE_CHARS]

    def words(self, raw: str) -> None:
        if not raw:
            return
        text = _resolved(raw)
        if not self._preformatted:
            self._line.append(_BLANKS.sub(" ", text))
            return
        first, *following = text.split("\n")
        self._line.append(first)
        for line in following:
            self._end_line(blank=True)
            self._line.append(line)

    def open(self, name: str) -> None:
        if name in _HEADINGS:
            self._end_paragraph()
            self._start = _HEADINGS[name]
        elif name in _PARAGRAPHS:
            self._end_paragraph()
            self._preformatted += name == "pre"
        elif name in _LINES:
            self._end_line()
            self._start = "- " if name == "li" else ""
        elif name in _CELLS and self._line:
            self._line.append(" | ")

    def close(self, name: str) -> None:
        if name in _HEADINGS or name in _PARAGRAPHS:
            self._end_paragraph()
            if name == "pre":
                self._preformatted = max(0, self._preformatted - 1)
        elif name in _LINES and name != "br":
            self._end_line()

    def _end_line(self, *, blank: bool = False) -> None:
        """Finish the line; a blank one only counts where blanks do."""
        line = "".join(self._line).rstrip()
        if not self._preformatted:
            line = _BLANKS.sub(" ", line).strip()
            if line.strip("| "):
                self._lines.append(self._start + line)
                self._start = ""
        elif line or blank:
            self._lines.append(line)
        self._line = []

    def _end_paragraph(self) -> None:
        self._end_line()
        self._start = ""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def text(self) -> str:
        self._end_paragraph()
        return "\n".join(self._lines).strip("\n")


def _resolved(raw: str) -> str:
    """Resolve character references; one that names no character stays as it is written."""
    return _REFERENCE.sub(lambda found: html.unescape(found[0]), raw) if "&" in raw else raw
