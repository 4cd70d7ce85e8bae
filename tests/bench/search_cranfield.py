"""The Cranfield collection: 1,400 abstracts on aerodynamics, 225 questions, and which abstract answers which, how well.

It is not part of the repository. `read` takes the folder of the three files as they are published; `write` makes one
Markdown file of each abstract for mcpd's own ingestion: its title is the heading, and not said again at its beginning,
as the collection has it.

Called by: `search_quality`. Traps of the collection: the numbers of the questions have gaps, and the judgements count
questions from 1 instead; relevance codes are inverted (1 is best, 4 least, -1 and 5 are none), so the gain is 5 - code;
two abstracts are empty.

Sources: Cleverdon, "The Cranfield tests on index language devices" (1967).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FILES = ("cran.all.1400", "cran.qry", "cranqrel")
WHERE = f"""\
The Cranfield collection is not part of the repository. It is published by the University of Glasgow
(http://ir.dcs.gla.ac.uk/resources/test_collections/cran/, cran.tar.gz) and kept in several public repositories;
unpack it, and name the folder that holds {", ".join(FILES)} with --collection or MCPD_CRANFIELD."""

_ITEM = re.compile(r"^\.I (\d+)\s*$", re.MULTILINE)
_FIELD = re.compile(r"^\.([TABW])\s*$", re.MULTILINE)
_LEAST_CODE = 5

Gains = Mapping[int, int]
"""Number of an abstract -> what finding it is worth, 1 to 4."""


class Abstract(NamedTuple):
    """One document."""

    number: int
    title: str
    text: str


class Question(NamedTuple):
    """A query and its judgements; `number` counts from 1 without gaps."""

    number: int
    text: str
    gains: Gains


class Collection(NamedTuple):
    """All of it."""

    abstracts: list[Abstract]
    questions: list[Question]


def is_there(folder: Path) -> bool:
    """Whether the folder has the three files."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> Collection:
    """Read the three files."""
    documents, queries, judgements = ((folder / name).read_text("utf-8") for name in FILES)
    gains = _gains(judgements)
    abstracts = [
        Abstract(number, " ".join(fields.get("T", "").split()), fields.get("W", "").strip())
        for number, fields in _items(documents)
    ]
    questions = [
        Question(number, " ".join(fields["W"].split()), gains[number])
        for number, (_, fields) in enumerate(_items(queries), 1)
    ]
    return Collection(abstracts, questions)


def _items(text: str) -> list[tuple[int, dict[str, str]]]:
    pieces = _ITEM.split(text)[1:]
    return [(int(number), _fields(body)) for number, body in zip(pieces[::2], pieces[1::2], strict=True)]


def _fields(body: str) -> dict[str, str]:
    pieces = _FIELD.split(body)[1:]
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def _gains(judgements: str) -> dict[int, dict[int, int]]:
    gains: dict[int, dict[int, int]] = defaultdict(dict)
    for line in judgements.splitlines():
        question, abstract, code = map(int, line.split())
        if 0 < code < _LEAST_CODE:
            gains[question][abstract] = max(_LEAST_CODE - code, gains[question].get(abstract, 0))
    return gains


def write(abstracts: list[Abstract], folder: Path) -> None:
    """Write each abstract as `NUMBER.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    for abstract in abstracts:
        text = abstract.text.partition(" .\n")[2] if _repeats(abstract) else abstract.text
        (folder / f"{abstract.number:04}.md").write_text(f"# {abstract.title}\n\n{text.strip()}\n")


def _repeats(abstract: Abstract) -> bool:
    return abstract.title.endswith(" .") and " ".join(abstract.text.split()).startswith(abstract.title)


def number_of(uri: str) -> int:
    """Return the number of the abstract that became this document."""
    return int(uri.rpartition("/")[2].removesuffix(".md"))
