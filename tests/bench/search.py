"""Documents: how fast they are ingested and searched, and what the coded vectors miss. `just bench-search`.

Python's own sources, with the built-in vectors, in stores of three sizes (`search_corpus`); each store is searched in a
process of its own (`search_timing`), 200 queries of three to eight consecutive words out of it. Latencies are of one
caller on an otherwise idle server; the processor time beside them says how far the machine had other things to do.

    plain / by hand    text search without highlights against the same FTS5 query written by hand: the ratio of the
                       medians and, of rounds of 20 queries each, the quartiles of that ratio; "whole" is the same for
                       text search as it is called, with highlights
    hybrid - text      difference of the medians
    recall@10          of the store's answer against every vector (`search_recall`), for the built-in vectors at each
                       size and, unless `--no-model`, for a real model's (`search_dense`)

With `--keep FOLDER` the stores stay there, and a second run begins with them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from tests.bench import install, report, search_corpus, search_dense
from tests.bench.report import Target
from tests.bench.rounds import Ratio
from tests.bench.search_corpus import Figures
from tests.bench.search_dense import Recall

WAYS = ("text", "plain", "by hand", "semantic", "hybrid")
BLOCK = 20
"""Queries whose median is one round of a ratio."""

RECALL, BY_HAND, HYBRID_MS = 0.97, 1.5, 45.0
CLOCK, PROCESSOR = 0, 1

Measured = dict[str, Any]
"""What `search_timing` prints."""


def times(measured: Measured, way: str, kind: int = CLOCK) -> list[float]:
    """Milliseconds of every query."""
    return [sample[kind] for sample in measured["ms"][way]]


def p50(measured: Measured, way: str, kind: int = CLOCK) -> float:
    """The median."""
    return statistics.median(times(measured, way, kind))


def p95(measured: Measured, way: str) -> float:
    """The time that 19 of 20 queries do not take."""
    return statistics.quantiles(times(measured, way), n=20, method="inclusive")[-1]


def by_hand(measured: Measured, way: str) -> tuple[float, Ratio]:
    """Return the ratio of the medians of a way and the statement by hand, and those of the blocks."""
    ours, theirs = times(measured, way), times(measured, "by hand")
    blocks = [slice(at, at + BLOCK) for at in range(0, len(ours) - BLOCK + 1, BLOCK)]
    each = [[statistics.median(part[block]) for block in blocks] for part in (ours, theirs)]
    return statistics.median(ours) / statistics.median(theirs), Ratio.of(*each)


def searched(folder: Path, queries: int) -> Measured:
    """Search the store in `folder`, in a process of its own."""
    print(f"searching {folder.name} chunks", file=sys.stderr)
    command = [sys.executable, "-m", "tests.bench.search_timing", str(folder), "--queries", str(queries)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: Measured = json.loads(done.stdout)
    return measured


def ingested(figures: Figures) -> str:
    """Return what the ingest came to, in words."""
    repeated = f", of them some again under {figures['repeated']} other name(s)" if figures["repeated"] else ""
    stages = ", ".join(f"{chunks:,}" for chunks in figures["chunks"])
    return (
        f"{figures['files']:,} files{repeated}, {figures['bytes'] / 1e6:.1f} MB ingested as"
        f" {figures['all_chunks']:,} chunks of 256 dimensions in {figures['elapsed_s']:.1f} s"
        f" ({figures['processor_s']:.1f} s of processor time):\n"
        f"  {figures['documents_s']:.0f} documents/s, {figures['mb_s']:.2f} MB/s; {figures['failed']} failed;"
        f" at most {figures['peak_mib']:.0f} MiB resident; database {figures['file_bytes'] / 1e6:.0f} MB\n"
        f"stores of {stages} chunks"
    )


def latencies(sizes: dict[str, Measured]) -> str:
    """Return the table of times and memory."""
    lines = []
    for size, measured in sizes.items():
        memory = measured["memory_mib"]
        for way in WAYS:
            cells = [f"{p50(measured, way):.1f}", f"{p95(measured, way):.1f}", f"{p50(measured, way, PROCESSOR):.1f}"]
            lines.append([f"{int(size):,}", way, *cells, ""])
        lines[-len(WAYS)][-1] = f"{memory['text']:.0f}"
        lines[-1][-1] = f"{memory['all']:.0f}"
    return report.table(["chunks", "search", "p50 ms", "p95 ms", "CPU p50 ms", "resident MiB"], lines)


def comparisons(sizes: dict[str, Measured]) -> str:
    """Return the table of ratios, differences and recall."""
    lines = []
    for size, measured in sizes.items():
        ratios = [by_hand(measured, way) for way in ("plain", "text")]
        apart = [p50(measured, "hybrid", kind) - p50(measured, "text", kind) for kind in (CLOCK, PROCESSOR)]
        lines.append(
            [
                f"{int(size):,}",
                *(f"{whole:.2f} ({blocks.low:.2f}-{blocks.high:.2f})" for whole, blocks in ratios),
                f"{measured['equal']}/{len(measured['ms']['text'])}",
                *(f"{difference:.1f}" for difference in apart),
                f"{measured['first_ms']:.0f}",
                f"{measured['recall']:.4f}",
            ]
        )
    names = ("chunks", "plain / by hand", "whole / by hand", "same hits")
    header = [*names, "hybrid - text ms", "CPU ms", "first semantic ms", "recall@10"]
    return report.table(header, lines)


def dense_recall(folder: Path, options: argparse.Namespace) -> Recall | None:
    """Measure with the model, when it is wanted and can be had."""
    if options.no_model:
        return None
    try:
        return search_dense.measure(folder, texts=options.dense, queries=options.queries)
    except install.Missing as reason:
        print(f"left out: recall of a model's vectors ({reason})", file=sys.stderr)
        return None


def targets(sizes: dict[str, Measured], dense: Recall | None) -> list[Target]:
    """What is wanted, at the largest size."""
    size, measured = list(sizes.items())[-1]
    apart = p50(measured, "hybrid") - p50(measured, "text")
    made = [Target(f"recall@10, built-in vectors, {size} chunks", measured["recall"], least=RECALL)]
    if dense is not None:
        made.append(Target(f"recall@10, dense model vectors, {dense.texts} texts", dense.recall, least=RECALL))
    for each, one in sizes.items():
        made.append(Target(f"text / by hand, {each} chunks", by_hand(one, "plain")[0], most=BY_HAND))
    made.append(Target(f"text with highlights / by hand, {size} chunks", by_hand(measured, "text")[0], most=BY_HAND))
    made.append(Target(f"hybrid p50 - text p50, ms, {size} chunks", apart, most=HYBRID_MS))
    return made


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Ingest and search Python's own sources.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(search_corpus.SIZES), metavar="CHUNKS")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--dense", type=int, default=10_000, metavar="TEXTS", help="embedded by the model")
    parser.add_argument("--no-model", action="store_true", help="leave out the sentence-embedding model")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the stores there, and use those that are")
    parser.add_argument("--json", default="tests/bench/results/search.json", metavar="FILE")
    return parser.parse_args()


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Measure everything, print, write."""
    load = [os.getloadavg()[0]]
    figures = trio.run(search_corpus.build, folder, tuple(sorted(options.sizes)))
    sizes = {str(size): searched(folder / str(size), options.queries) for size in sorted(options.sizes)}
    load.append(os.getloadavg()[0])
    dense = dense_recall(folder / "dense", options)
    parts = [ingested(figures), latencies(sizes), comparisons(sizes)]
    if dense is not None:
        parts.append(f"dense: recall@10 {dense.recall:.4f} over {dense.texts:,} texts of {dense.dims} dimensions")
    parts.append(f"load average before and after: {load[0]:.1f}, {load[1]:.1f}")
    data = {"ingest": figures, "sizes": sizes, "dense": dense and dense._asdict(), "load": load}
    report.publish("Documents: ingest and search", "\n\n".join(parts), targets(sizes, dense), data, options.json)


def main() -> None:
    """Measure, with the stores in a folder that is kept or a temporary one."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="mcpd-bench-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure(folder, options)


if __name__ == "__main__":
    main()
