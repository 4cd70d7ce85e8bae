"""The documents of the soak: anchors, which never change, and leaves, which come, change and go; and one hot file.

A text is made of words drawn from a small vocabulary, so that searches have work to do, and each anchor has one word
that occurs nowhere else, so that an answer can be judged. Deliberately not: anything of ours; plain files.
"""

from __future__ import annotations

import random
from pathlib import Path

ANCHORS, LEAVES = 40, 120
NAME = "soak"
HOT = f"docs:///{NAME}/hot.txt"
"""The document that changes all the time."""
_SYLLABLES = ["ka", "lo", "mi", "ter", "vun", "sel", "dra", "phi", "gor", "ne", "wes", "ty"]
_WORDS = [first + second + third for first in _SYLLABLES for second in _SYLLABLES for third in _SYLLABLES[:4]]


def anchor_word(number: int) -> str:
    """Return the word that only anchor `number` has."""
    return f"anchor{'abcdefghij'[number // 10]}{'abcdefghij'[number % 10]}quoin"


def anchor_uri(number: int) -> str:
    """Return where anchor `number` is in the store."""
    return f"docs:///{NAME}/anchor-{number}.txt"


def some_words(chance: random.Random, count: int = 3) -> str:
    """Return words that occur in many documents."""
    return " ".join(chance.sample(_WORDS, count))


def _text(chance: random.Random, words: int) -> str:
    return ". ".join(" ".join(chance.choices(_WORDS, k=12)) for _ in range(words // 12)) + ".\n"


def write(folder: Path, seed: int) -> None:
    """Write the whole corpus to a new folder."""
    chance = random.Random(seed)
    folder.mkdir()
    for number in range(ANCHORS):
        (folder / f"anchor-{number}.txt").write_text(f"{anchor_word(number)} {_text(chance, 300)}")
    for number in range(LEAVES):
        (folder / f"leaf-{number}.txt").write_text(_text(chance, 300))
    (folder / "hot.txt").write_text("the first version\n")


def change(folder: Path, chance: random.Random) -> None:
    """Give the hot file and a few leaves another text, and take a few leaves away, which may come back."""
    (folder / "hot.txt").write_text(f"version {chance.random()}\n")
    for _ in range(chance.randrange(6)):
        leaf = folder / f"leaf-{chance.randrange(LEAVES)}.txt"
        if chance.random() < 0.3:
            leaf.unlink(missing_ok=True)
        else:
            leaf.write_text(_text(chance, 300))
