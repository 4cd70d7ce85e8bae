"""The words of a full-text query, and of a text in the memory store; fragments with their matches marked.

A query is data, never syntax: words are runs of letters and digits, `"quoted words"` are a phrase, a word that ends in
`*` stands for all words that begin so. Everything else separates.

Called by: every backend. Pure. Deliberately not a stemmer: SQLite's tokenizer folds endings, the memory store does not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

from mcpd.storage.documents import MARK_END, MARK_START

WORD: Final = r"(?:[^\W_][\u0300-\u036f]*)+"
_QUERY: Final = re.compile(rf'"([^"]*)"|({WORD})(\*?)')
_WORD: Final = re.compile(WORD)
_MARKED: Final = re.compile(f"{MARK_START}([^{MARK_END}]*){MARK_END}")
_UNMARKED: Final = str.maketrans({MARK_START: "\ufffd", MARK_END: "\ufffd", "\x00": "\ufffd"})

MAX_PHRASES: Final = 256
"""Of a query, the first ones that differ; what comes after them is not looked for."""

FRAGMENT_CHARACTERS: Final = 160
"""Two lines in a terminal: a match and what it is about."""


BEGINNING_CHARACTERS: Final = 160
"""Of a chunk in which no word is marked: as long as a fragment."""

LOOKED_AT: Final = 2 * BEGINNING_CHARACTERS
"""Characters from which a beginning is made; blanks in it are folded."""


class Phrase(NamedTuple):
    """Words that have to follow each other; `prefix`: the last one may go on."""

    words: tuple[str, ...]
    prefix: bool = False


class Token(NamedTuple):
    """A word of a text, folded, and where it stands."""

    word: str
    start: int
    end: int


def phrases(query: str) -> tuple[Phrase, ...]:
    """Return what is looked for, each phrase once, at most `MAX_PHRASES`. Any text is a query."""
    found: dict[Phrase, None] = {}
    for match in _QUERY.finditer(query):
        words = tuple(_WORD.findall(match[0])[:MAX_PHRASES])
        if words:
            found[Phrase(words, bool(match[3]))] = None
        if len(found) == MAX_PHRASES:
            break
    return tuple(found)


def is_everything(query: str) -> bool:
    """Return whether the query asks for no word at all, and so fits every document."""
    return not query.strip()


def tokens(text: str) -> Iterator[Token]:
    """Return the words of `text`, folded."""
    return (Token(fold(match[0]), match.start(), match.end()) for match in _WORD.finditer(text))


def fold(word: str) -> str:
    """Return the word without case and accents."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def occurrences(phrase: Phrase, found: list[Token]) -> list[tuple[int, int]]:
    """Return the (start, end) of each place where the phrase stands in a text with these tokens."""
    wanted = [fold(word) for word in phrase.words]
    places = []
    for at in range(len(found) - len(wanted) + 1):
        last = found[at + len(wanted) - 1]
        begun = all(found[at + n].word == word for n, word in enumerate(wanted[:-1]))
        if begun and (last.word.startswith(wanted[-1]) if phrase.prefix else last.word == wanted[-1]):
            places.append((found[at].start, last.end))
    return places


def mark(text: str, places: list[tuple[int, int]]) -> str:
    """Return the text with each place between the marks; places that overlap become one."""
    pieces, done = [], 0
    for start, end in _merged(places):
        pieces += [text[done:start], MARK_START, text[start:end], MARK_END]
        done = end
    return "".join(pieces) + text[done:]


def _merged(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(places):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def unmarked(text: str) -> str:
    """Return the text without marks of its own, and without NULs, which end a text in SQLite; as long as before."""
    return text.translate(_UNMARKED)


def beginning(text: str) -> str:
    """Return how `text` begins, on one line, cut between words; no more than `LOOKED_AT` characters are looked at."""
    line = " ".join(text[:LOOKED_AT].split())
    if len(line) <= BEGINNING_CHARACTERS:
        return line
    return line[: BEGINNING_CHARACTERS + 1].rpartition(" ")[0] or line[:BEGINNING_CHARACTERS]


def fragments(marked: str, count: int) -> tuple[str, ...]:
    """Return up to `count` pieces of about `FRAGMENT_CHARACTERS` around the first matches of a marked text."""
    pieces: list[str] = []
    done = 0
    for match in _MARKED.finditer(marked):
        if len(pieces) == count:
            break
        if match.start() >= done:
            start, done = _window(marked, match.start(), match.end())
            pieces.append(" ".join(marked[start:done].split()))
    return tuple(pieces)


def _window(marked: str, start: int, end: int) -> tuple[int, int]:
    """Grow a match to a fragment that begins and ends between words and cuts no mark in two."""
    room = max(0, FRAGMENT_CHARACTERS - (end - start))
    left = max(0, start - room // 3)
    left = max(_after_blank(marked, left, start), marked.rfind(MARK_END, 0, start) + 1 if left else 0)
    right = min(len(marked), end + room - (start - left))
    right = _before_blank(marked, end, right)
    if marked.count(MARK_START, left, right) > marked.count(MARK_END, left, right):
        right = marked.index(MARK_END, right) + 1
    return left, right


def _after_blank(text: str, left: int, start: int) -> int:
    if left == 0:
        return 0
    found = re.search(r"\s", text[left:start])
    return left + found.end() if found else left


def _before_blank(text: str, end: int, right: int) -> int:
    if right == len(text):
        return right
    blanks = [match.start() for match in re.finditer(r"\s", text[end:right])]
    return end + blanks[-1] if blanks else right
