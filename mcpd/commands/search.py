"""`mcpd search`: what it is called and takes.

A query or filter that is none ends as wrong usage.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`searching`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mcpd.commands.options import COMMON, FILTER, as_json, configured, examples, options, usage


@click.command(
    epilog=examples(
        "mcpd search cancel scope",
        "mcpd search '\"cancel scope\" nurser*' --filter tags=code --size 5",
        "mcpd search timeout --facet tags --facet mimeType --json",
        "mcpd search --filter 'updated>=2026-01-01' --sort=-updated",
    )
)
@click.argument("words", nargs=-1, metavar="[QUERY]...")
@click.option("--mode", metavar="M", help="text, semantic or hybrid.  [default: what suits the embeddings]")
@FILTER
@click.option("--facet", "facets", multiple=True, metavar="FIELD", help="Count what fits by a field; may be repeated.")
@click.option("--sort", metavar="FIELD", help="Order by a field, -FIELD from high to low.  [default: best first]")
@click.option("--size", type=int, metavar="N", help="How many hits.  [default: 10]")
@click.option("--cursor", metavar="C", help="Go on where a page ended, with all else unchanged.")
@options(COMMON)
@as_json
def search(config_file: Path | None, data: Path | None, words: tuple[str, ...], **flags: Any) -> int:
    """Search the document store.

    Any of the words may occur, "quoted words" are a phrase, wor* is a beginning. Without words, every document that
    fits the filters.
    """
    from mcpd.commands import searching

    config = configured(config_file, data)
    with usage():
        return searching.run(searching.Order(words=" ".join(words), **flags), config)
