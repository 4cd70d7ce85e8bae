"""`mcpd ingest`: what it is called and takes.

A path that is not there, or has no name, ends as wrong usage.

Called by: `cli`, which adds the command. Deliberately not: anything but click; the work is imported when it
runs (`ingesting`).

Sources: surfaces "Command line".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mcpd.commands.options import COMMON, PATH, as_json, configured, examples, options, usage


@click.command(
    epilog=examples(
        "mcpd ingest ~/notes                              docs:///notes/...",
        "mcpd ingest src --glob '*.py' --tag code         only these files, all with a tag",
        "mcpd ingest ~/a/docs ~/b/docs/faq.md --as docs   under another name",
        "mcpd ingest ~/notes --watch                      and follow what changes there",
    )
)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH...")
@click.option("--as", "name", metavar="NAME", help="First part of the documents' paths.  [default: the folder's name]")
@click.option("--tag", "tags", multiple=True, metavar="T", help="Tag all documents with it; may be repeated.")
@click.option("--glob", "globs", multiple=True, metavar="G", help="Only files that match, as in .gitignore: '*.md'.")
@click.option(
    "--all",
    "include_all",
    is_flag=True,
    help="Also dotfiles, __pycache__, node_modules and what .gitignore leaves out.",
)
@click.option("--watch", is_flag=True, help="Go on and keep the store in step until Ctrl-C.")
@options(COMMON)
@as_json
def ingest(config_file: Path | None, data: Path | None, paths: tuple[Path, ...], **flags: Any) -> int:
    """Put files and folders into the document store.

    A file becomes docs:///NAME/relative/path. What has not changed is left alone; a document whose file is gone is
    removed when its folder is ingested again. Tags are those of the last ingest. Exits with 1 if a file failed; the
    first Ctrl-C stops in order, keeping what is stored.
    """
    from mcpd.commands import ingesting

    config = configured(config_file, data)
    with usage():
        return ingesting.run(ingesting.Order(paths=paths, **flags), config)
