"""Search quality on Cranfield: text, the built-in vectors and a real model, through mcpd's own ingestion and searcher.

`just bench-quality --collection FOLDER`. The abstracts are ingested twice, with each provider's vectors. Whatever can
be tuned (`Blend`) is tuned on the odd questions; the table is of the even ones, as nDCG@10 over documents, each with
the bootstrap interval of its difference to text search. Its right half has the same questions with typing mistakes.

The model is served by `embedding_server`; `--no-model` leaves it out. With `--keep FOLDER` the stores stay there and
are found again, which saves the minutes that the model takes.

Deliberately not: a second implementation of anything. Only judging is done here (`search_judging`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import trio
from msgspec.structs import asdict

from mcpd.config import Embeddings
from mcpd.ingest.pipeline import ingest
from mcpd.ingest.sources import source_of
from mcpd.search.embeddings import EmbeddingProvider
from mcpd.search.providers import open_provider
from mcpd.search.query import Mode, Search
from mcpd.search.searcher import Blend, Searcher
from mcpd.storage.documents import Documents, Found, Hit, Matching, Near
from mcpd.storage.sqlite.codes import to_bytes
from mcpd.storage.sqlite.documents import open_documents
from tests.bench import install, report, search_cranfield, search_judging
from tests.bench.embedding_server import embedding_server
from tests.bench.report import Target
from tests.bench.search_cranfield import Collection, Question

WEIGHTS = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5)
KS = (10.0, 20.0, 40.0, 60.0)
CANDIDATES = (50, 100, 200)
PATIENCE_S = 120.0

Scores = dict[int, float]
"""Number of a question -> nDCG@10."""


class Row(NamedTuple):
    """One way to search, and its scores on the questions as they are and with mistakes."""

    name: str
    clean: Scores
    mistyped: Scores


class Tried(NamedTuple):
    """A blend, and its scores on all questions, as they are and with mistakes."""

    blend: Blend
    clean: Scores
    mistyped: Scores


Worth = Callable[[Tried, int], float]
"""What a blend is chosen by, on the questions of one half: those with this remainder when divided by two."""


class Remembering:
    """A store that answers an equal question from memory: blends ask the same ones again and again."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._found: dict[tuple[str, int], Found] = {}
        self._near: dict[tuple[bytes, int], list[Hit]] = {}

    async def match(self, query: Matching) -> Found:
        """See `Documents`."""
        key = query.text, query.limit
        if key not in self._found:
            self._found[key] = await self._documents.match(query)
        return self._found[key]

    async def nearest(self, query: Near) -> list[Hit]:
        """See `Documents`."""
        key = to_bytes(query.vector), query.limit
        if key not in self._near:
            self._near[key] = await self._documents.nearest(query)
        return self._near[key]


class Judge:
    """Puts questions to one store and judges the answers."""

    def __init__(self, documents: Documents, provider: EmbeddingProvider, questions: list[Question]) -> None:
        self._documents = cast("Documents", Remembering(documents))
        self._provider = provider
        self._questions = questions

    async def scores(self, mode: Mode, blend: Blend, *, mistyped: bool) -> Scores:
        """Return how well each question was answered."""
        searcher = Searcher(self._documents, self._provider, patience_s=PATIENCE_S, blend=blend)
        return {
            question.number: await self._score(searcher, question, mode, mistyped=mistyped)
            for question in self._questions
        }

    async def _score(self, searcher: Searcher, question: Question, mode: Mode, *, mistyped: bool) -> float:
        text = search_judging.mistyped(question.text, question.number) if mistyped else question.text
        answer = await searcher.search(Search(query=text, mode=mode, size=search_judging.DEPTH, highlight=0))
        assert "degraded" not in answer, "the embedding endpoint failed"
        return search_judging.ndcg([search_cranfield.number_of(hit["uri"]) for hit in answer["hits"]], question.gains)

    async def row(self, name: str, mode: Mode, blend: Blend) -> Row:
        """Return one way to search with all its scores."""
        clean, mistyped = [await self.scores(mode, blend, mistyped=wrong) for wrong in (False, True)]
        return Row(name, clean, mistyped)

    async def tried(self, blend: Blend) -> Tried:
        """Return a blend with its scores."""
        return Tried(blend, *[await self.scores("hybrid", blend, mistyped=wrong) for wrong in (False, True)])


async def try_all(judge: Judge) -> list[Tried]:
    """Return every blend with its scores."""
    tried = []
    for candidates, k, weight in product(CANDIDATES, KS, WEIGHTS):
        tried.append(await judge.tried(Blend(k=k, semantic=weight, candidates=candidates)))
        print(f"{len(tried)} blends", end="\r", file=sys.stderr)
    return tried


def half(scores: Scores, remainder: int) -> list[float]:
    """The scores of the odd questions (1), which are tuned on, or the even ones (0), which are reported."""
    return [score for number, score in scores.items() if number % 2 == remainder]


def worth_clean(tried: Tried, remainder: int) -> float:
    """What a model is tuned for."""
    return statistics.fmean(half(tried.clean, remainder))


def worth_both(tried: Tried, remainder: int) -> float:
    """What lexical vectors are tuned for: they are asked for where the spelling may be wrong."""
    return (worth_clean(tried, remainder) + statistics.fmean(half(tried.mistyped, remainder))) / 2


class Measured(NamedTuple):
    """What a provider's vectors came to."""

    rows: list[Row]
    tried: list[Tried]
    """The best one on the odd questions first."""
    crossed: Scores
    """Of hybrid search, each half of the questions with the blend that is the best one on the other half."""


async def measure(name: str, settings: Embeddings, collection: Collection, folder: Path, worth: Worth) -> Measured:
    """Ingest the abstracts with one provider, tune, and search in each of its modes; text search comes first."""
    async with open_documents(folder / name) as documents, open_provider(settings) as provider:
        said = await ingest([source_of(folder / "abstracts")], documents, provider)
        assert not said.failed, said.failures
        there = await documents.statistics()
        print(f"{name}: {there.documents} documents, {there.chunks} chunks", file=sys.stderr)
        judge = Judge(documents, provider, collection.questions)
        tried = sorted(await try_all(judge), key=lambda one: worth(one, 1), reverse=True)
        rows = [
            await judge.row("text", "text", Blend()),
            await judge.row(f"{name}-semantic", "semantic", Blend()),
            Row(f"{name}-hybrid", tried[0].clean, tried[0].mistyped),
        ]
        other = max(tried, key=lambda one: worth(one, 0)).clean
        return Measured(rows, tried, {at: (other if at % 2 else tried[0].clean)[at] for at in other})


def shown(rows: list[Row]) -> str:
    """Return the table; the first row is text search."""
    text = rows[0]
    lines = []
    for row in rows:
        cells = [f"{statistics.fmean(part):.3f}" for part in (half(row.clean, 1), half(row.clean, 0))]
        apart = row is not text
        cells.append(str(search_judging.difference(half(row.clean, 0), half(text.clean, 0))) if apart else "")
        cells.append(f"{statistics.fmean(half(row.mistyped, 0)):.3f}")
        cells.append(str(search_judging.difference(half(row.mistyped, 0), half(text.mistyped, 0))) if apart else "")
        lines.append([row.name, *cells])
    header = ["nDCG@10", "odd", "even", "even - text [95 %]", "mistyped", "mistyped - text [95 %]"]
    return report.table(header, lines)


def tuning(name: str, measured: Measured, most: int = 6) -> str:
    """Return the best blends that were tried, and the usual one; and hybrid search with the halves exchanged."""
    usual = Blend()
    listed = [one for at, one in enumerate(measured.tried) if at < most or one.blend == usual]
    lines = []
    for one in listed:
        scores = [f"{statistics.fmean(half(part, 1)):.3f}" for part in (one.clean, one.mistyped)]
        lines.append([f"{one.blend.semantic:g}", f"{one.blend.k:g}", str(one.blend.candidates), *scores])
    header = ["semantic weight", "k", "candidates", "clean", "mistyped"]
    told = [f"{name}-hybrid on the odd questions", report.table(header, lines), "each half tuned on the other half:"]
    crossed = list(measured.crossed.values())
    for row in measured.rows[:2]:
        apart = search_judging.difference(crossed, [row.clean[at] for at in measured.crossed])
        told.append(f"  {name}-hybrid {statistics.fmean(crossed):.3f}, - {row.name} {apart}")
    return "\n".join(told)


def targets(rows: dict[str, Row]) -> list[Target]:
    """What has to come out, on the even questions."""
    asked = [("hash-hybrid - text, mistyped", "hash-hybrid", "text", True)]
    if "model-hybrid" in rows:
        asked.append(("model-hybrid - text", "model-hybrid", "text", False))
        asked.append(("model-hybrid - model-semantic", "model-hybrid", "model-semantic", False))
    made = []
    for what, ours, theirs, wrong in asked:
        ours_, theirs_ = [half(rows[one].mistyped if wrong else rows[one].clean, 0) for one in (ours, theirs)]
        apart = search_judging.difference(ours_, theirs_)
        made.append(Target(f"{what} [{apart.low:+.3f}, {apart.high:+.3f}]", apart.mean, least=0.0005))
    return made


def arguments() -> argparse.Namespace:
    """Read the command line; without the collection, say where it is and leave."""
    parser = argparse.ArgumentParser(description="Search quality on the Cranfield collection.")
    parser.add_argument("--collection", type=Path, default=os.environ.get("MCPD_CRANFIELD"), metavar="FOLDER")
    parser.add_argument("--no-model", action="store_true", help="leave out the sentence-embedding model")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the stores there, and use those that are")
    parser.add_argument("--json", default="tests/bench/results/search_quality.json", metavar="FILE")
    options = parser.parse_args()
    if options.collection is None or not search_cranfield.is_there(Path(options.collection)):
        sys.exit(search_cranfield.WHERE)
    return options


def all_found(options: argparse.Namespace, folder: Path) -> dict[str, Measured]:
    """Measure with the built-in vectors and, when it can be had, with the model."""
    collection = search_cranfield.read(Path(options.collection))
    search_cranfield.write(collection.abstracts, folder / "abstracts")
    found = {"hash": trio.run(measure, "hash", Embeddings(), collection, folder, worth_both)}
    if options.no_model:
        return found
    try:
        with embedding_server() as at:
            settings = Embeddings(url=at.url, model=at.model, dims=at.dims, reply_s=PATIENCE_S)
            found["model"] = trio.run(measure, "model", settings, collection, folder, worth_clean)
    except install.Missing as reason:
        print(f"left out: model ({reason})", file=sys.stderr)
    return found


def _means(tried: Tried) -> dict[str, Any]:
    parts = {"clean": tried.clean, "mistyped": tried.mistyped}
    return {"blend": asdict(tried.blend)} | {f"odd_{name}": statistics.fmean(half(of, 1)) for name, of in parts.items()}


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="mcpd-bench-") as temporary:
        found = all_found(options, options.keep or Path(temporary))
    rows = found["hash"].rows + (found["model"].rows[1:] if "model" in found else [])
    text = "\n\n".join([shown(rows), *(tuning(name, one) for name, one in found.items())])
    data = {
        "rows": [row._asdict() for row in rows],
        "tried": {name: [_means(tried) for tried in one.tried] for name, one in found.items()},
    }
    report.publish(
        "Search quality: Cranfield, nDCG@10", text, targets({row.name: row for row in rows}), data, options.json
    )


if __name__ == "__main__":
    main()
