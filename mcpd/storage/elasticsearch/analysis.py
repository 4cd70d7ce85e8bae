"""Words: as they are indexed, as they are looked for, and as matches are marked in the text.

Case and accents are folded here and not by the cluster, as in the other stores and whatever plugins it has: what is
indexed of a text are its words (`storage.words`), folded, with blanks between them. The cluster marks matches in that;
each word there stands for the word at the same place in the text itself.

Endings are the cluster's part. `CHAINS` names filters for each language, the best first; when the indices are made,
the first one that the cluster has is taken, and without any, words match as they are. Letters that are written without
blanks (Chinese, Japanese) are taken one by one, and looked for in a row.

Called by: `query`, `records`, `reads`, `schema`. Pure.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mcpd.storage import words
from mcpd.storage.documents import MARK_START
from mcpd.storage.words import Phrase

Filter = Mapping[str, Any]

CHAINS: Final[dict[str, tuple[Filter, ...]]] = {
    "english": ({"type": "stemmer", "language": "english"}, {"type": "hunspell", "locale": "en_US"}),
    "russian": ({"type": "stemmer", "language": "russian"}, {"type": "hunspell", "locale": "ru_RU"}),
}
"""Language -> filters that fold its endings and leave the others' words alone, the best first."""

SHORT_I: Final = "\u0439"
"""A letter of its own, and not an accent, to those filters."""

RESEMBLING_CHARS: Final = 3
"""Two words that begin alike so far may be one with different endings."""


def trial(chosen: Filter) -> dict[str, Any]:
    """Return the body of `_analyze` that shows whether the cluster has a filter."""
    return {"tokenizer": "standard", "filter": ["lowercase", dict(chosen)], "text": "words"}


def settings(chosen: Mapping[str, Filter]) -> dict[str, Any]:
    """Return the settings of analysis with these filters: `words` folds endings, `plain` does not."""
    chain = ["lowercase", *chosen]
    return {
        "filter": {name: dict(one) for name, one in chosen.items()},
        "analyzer": {
            "words": {"type": "custom", "tokenizer": "standard", "filter": chain},
            "plain": {"type": "custom", "tokenizer": "standard", "filter": ["lowercase"]},
        },
    }


def words_of(text: str) -> str:
    """Return the words of `text`, folded, with one blank between two."""
    return " ".join(_folded(text[token.start : token.end]) for token in words.tokens(text))


def _folded(word: str) -> str:
    parts = unicodedata.normalize("NFC", word).lower().split(SHORT_I)
    return SHORT_I.join(words.fold(part).replace(" ", "") for part in parts) or "_"


def marked(text: str, found: str, phrases: Sequence[Phrase]) -> str:
    """Return `text` with marks where `found`, its words with marks, has them."""
    text = words.unmarked(text)
    tokens = list(words.tokens(text))
    hits = {n for n, word in enumerate(found.split(" ")) if MARK_START in word}
    runs = _runs([n for n in sorted(hits) if n < len(tokens)], [words.fold(token.word) for token in tokens], phrases)
    return words.mark(text, [(tokens[first].start, tokens[last].end) for first, last in runs])


def _runs(hits: list[int], there: list[str], phrases: Sequence[Phrase]) -> Iterator[tuple[int, int]]:
    """Return (first, last) of what is marked as one: words that follow each other as in a phrase."""
    longer = sorted((phrase for phrase in phrases if len(phrase.words) > 1), key=lambda phrase: -len(phrase.words))
    at = 0
    while at < len(hits):
        length = next((len(p.words) for p in longer if _is_phrase(hits[at:], there, p)), 1)
        yield hits[at], hits[at + length - 1]
        at += length


def _is_phrase(hits: list[int], there: list[str], phrase: Phrase) -> bool:
    length = len(phrase.words)
    if len(hits) < length or hits[length - 1] - hits[0] != length - 1:
        return False
    return all(_alike(there[hits[n]], words.fold(word)) for n, word in enumerate(phrase.words))


def _alike(one: str, other: str) -> bool:
    return one == other or one[:RESEMBLING_CHARS] == other[:RESEMBLING_CHARS]
