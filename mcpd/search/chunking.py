"""Cuts a text into the pieces that search finds, along the text's own structure.

    Markdown, reST   a heading begins a piece; tiny sections join their neighbour
    source code      pieces end before a function, class or the like, the outermost that is near enough
    rows             CSV and JSON lines: whole rows, no overlap; the header row is the heading
    anything else    paragraphs, then lines, then sentences, then words

A piece is a span of the text, never a copy; a hit can thus cite its place. What the structure leaves too long is cut
at the best seam of the second half of a window, in the worst case in the middle of a word: a gigabyte without one
blank is cut every `max_chars`. Where a cut goes through running text the next piece begins a little before it.

Called by: `ingest`, and the stores when they index a document. Pure. Deliberately not a parser: structure is what
lines look like, so that a broken file is cut as well as a sound one.

Laws: time and memory are linear in the text, whatever it is (patterns look at a line or a window, and never go back
without bound); every character that is not blank is in some piece; no piece is longer than `max_chars`; the same text
gives the same pieces.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

import msgspec

from mcpd.search.outline import Break, Outline, outline

MAX_CHARS: Final = 800
"""Some 200 tokens: what small embedding models read whole (256 tokens), and one thought of running text."""

OVERLAP_CHARS: Final = 100
"""A sentence: what a cut through running text tears apart is whole in one of the two pieces."""

_LEAST_SHARE: Final = 4
"""A piece that ends at a heading or a function fills at least a quarter of `max_chars`; smaller ones join the next."""

_INK: Final = re.compile(r"\S")
_SENTENCE: Final = re.compile(r"[.!?…。！？][\"'”’»)\]]{0,3}(?=\s)|[。！？]")
_BLANK: Final = re.compile(r"\s")


class Chunk(msgspec.Struct, frozen=True):
    """One piece: `text[start:end]`, both in characters."""

    ordinal: int
    start: int
    end: int
    heading: str
    """What it stands under: headings joined by " > ", the line that begins a function, a header row; or nothing."""


def chunk(text: str, mime_type: str, *, max_chars: int = MAX_CHARS, overlap_chars: int = OVERLAP_CHARS) -> list[Chunk]:
    """Cut `text` into pieces of at most `max_chars` characters; none for a text that is all blank.

    Raises: ValueError for sizes that cannot work: fewer than 16 characters, an overlap of more than half of them.
    """
    if max_chars < 16 or not 0 <= overlap_chars <= max_chars // 2:
        raise ValueError(f"Pieces of {max_chars} characters with an overlap of {overlap_chars} cannot be made")
    return _Cutter(text, outline(text, mime_type), max_chars, overlap_chars).run()


class _Cutter:
    """Walks through one text once, with the breaks of the next window in hand."""

    def __init__(self, text: str, found: Outline, max_chars: int, overlap_chars: int) -> None:
        self.text = text
        self.found = found
        self.max_chars = max_chars
        self.least = max_chars // _LEAST_SHARE
        self.overlap = 0 if found.rows else overlap_chars
        self.ahead: deque[Break] = deque()
        self.current: Break | None = None

    def run(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        start = fresh = self._ink(0)
        while start < len(self.text):
            self._advance(fresh, start + self.max_chars)
            end, torn = self._end(start, fresh)
            shown = start + len(self.text[start:end].rstrip())
            chunks.append(Chunk(len(chunks), start, shown, self._heading()))
            fresh = self._ink(end)
            start = self._overlapping(start, end) if torn and fresh < len(self.text) else fresh
        return chunks

    def _ink(self, position: int) -> int:
        """Return the first position from here that is not blank."""
        found = _INK.search(self.text, position)
        return found.start() if found else len(self.text)

    def _advance(self, fresh: int, limit: int) -> None:
        """Take up the breaks as far as `limit`, and one more; what lies behind `fresh` is the current heading."""
        while not self.ahead or self.ahead[-1].position <= limit:
            following = next(self.found.breaks, None)
            if following is None:
                break
            self.ahead.append(following)
        while self.ahead and self.ahead[0].position <= fresh:
            self.current = self.ahead.popleft()

    def _heading(self) -> str:
        return self.found.header if self.current is None else self.current.heading

    def _end(self, start: int, fresh: int) -> tuple[int, bool]:
        """Return where the piece ends, and whether running text is torn there. `fresh` is where its own part begins."""
        limit = start + self.max_chars
        least = max(start + self.least, fresh + 1)
        places = [place for place in self.ahead if least <= place.position <= limit]
        if places and self.found.forced:
            return places[0].position, False
        if limit >= len(self.text):
            return len(self.text), False
        if places:
            return _outermost(places), False
        return self._seam(max(start + self.max_chars // 2, fresh + 1), limit)

    def _seam(self, start: int, limit: int) -> tuple[int, bool]:
        """Return the best place in `text[start:limit]` to cut, and whether it tears running text."""
        text = self.text
        if not self.found.rows and (found := text.rfind("\n\n", start, limit)) >= 0:
            return found + 2, False
        if (found := text.rfind("\n", start, limit + 1)) >= 0:
            return found + 1, True
        for pattern in (_SENTENCE, _BLANK):
            ends = [match.end() for match in pattern.finditer(text, start, limit)]
            if ends:
                return ends[-1], True
        return limit, True

    def _overlapping(self, start: int, end: int) -> int:
        """Return where the next piece begins: at a line, sentence or word within the last characters of this one."""
        if self.overlap == 0:
            return self._ink(end)
        earliest = max(end - self.overlap, start + 1)
        line = self.text.find("\n", earliest, end)
        if 0 <= line < end - 1:
            return self._ink(line)
        for pattern in (_SENTENCE, _BLANK):
            if (found := pattern.search(self.text, earliest, end)) and self._ink(found.end()) < end:
                return self._ink(found.end())
        return self._ink(earliest)


def _outermost(places: list[Break]) -> int:
    """Return the last of the places that are nested least."""
    least = min(place.level for place in places)
    return max(place.position for place in places if place.level == least)
