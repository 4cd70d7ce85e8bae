"""`mcpd documents list | show | remove`: what they are called and take.

A filter that is none ends as wrong usage.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`listing`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mcpd.commands.options import COMMON, FILTER, YES, as_json, configured, examples, options, usage

_WANTED = (
    FILTER,
    click.option("--tag", "tags", multiple=True, metavar="T", help="Only with this tag; may be repeated."),
    click.option("--prefix", metavar="URI", help="Only those whose URI begins so."),
    click.option("--origin", metavar="PATH", help="Only those that this folder was ingested as."),
)


@click.group(
    epilog=examples(
        "mcpd documents list --tag code",
        "mcpd documents show docs:///notes/todo.md",
        "mcpd documents remove docs:///notes/todo.md",
    )
)
def documents() -> None:
    """List, show and remove what is in the document store."""


@documents.command(
    "list",
    epilog=examples(
        "mcpd documents list",
        "mcpd documents list --prefix docs:///notes/ --filter mimeType=text/markdown",
        "mcpd documents list --origin ~/notes --json",
    ),
)
@options(_WANTED)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
@options(COMMON)
@as_json
def list_documents(
    config_file: Path | None, data: Path | None, limit: int | None, *, as_json: bool, **wanted: Any
) -> int:
    """List documents in the order of their URIs."""
    from mcpd.commands import listing

    config = configured(config_file, data)
    with usage():
        return listing.show_list(listing.Wanted(**wanted), limit, config, as_json=as_json)


@documents.command(
    "show",
    epilog=examples(
        "mcpd documents show docs:///notes/todo.md",
        "mcpd documents show docs:///notes/plan.pdf > plan.pdf",
        "mcpd documents show docs:///notes/todo.md --json",
    ),
)
@click.argument("uri")
@options(COMMON)
@as_json
def show_document(config_file: Path | None, data: Path | None, uri: str, *, as_json: bool) -> int:
    """Print a document's text, or its bytes when it has none."""
    from mcpd.commands import listing

    return listing.show_document(uri, configured(config_file, data), as_json=as_json)


@documents.command(
    "remove",
    epilog=examples(
        "mcpd documents remove docs:///notes/todo.md docs:///notes/done.md",
        "mcpd documents remove --origin ~/notes",
        "mcpd documents remove --prefix docs:///old/ --yes",
    ),
)
@click.argument("uris", nargs=-1, metavar="[URI]...")
@options(_WANTED)
@YES
@options(COMMON)
@as_json
def remove_documents(
    config_file: Path | None, data: Path | None, uris: tuple[str, ...], sure: bool, as_json: bool, **wanted: Any
) -> int:
    """Remove documents by URI, or all that fit; the files they came from stay.

    Exits with 1 if one of the URIs was not there.
    """
    from mcpd.commands import listing

    chosen = listing.Wanted(**wanted)
    if bool(uris) == any(chosen):
        raise click.UsageError("Say which documents: by URI, or by --origin, --prefix, --tag or --filter.")
    config = configured(config_file, data)
    with usage():
        return listing.remove(listing.Removal(uris, chosen, sure, as_json), config)
