"""What the commands on the document store are called and take: `ingest`, `documents`, `search`, `migrate`.

Each turns its words into the configuration and an order, and hands both to the module that does the work, imported only
then. What the work finds to be wrong usage (a filter that is none, a path that is not there) ends like any other.

Called by: `cli`, which adds `COMMANDS`. Deliberately not: anything but click.

Laws: importing this loads click and nothing else; every command has examples, `--config` and `--data`, and `--json`.

Sources: surfaces "Command line".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from mcpd.commands.options import COMMON, PATH, as_json, examples, load, options
from mcpd.config import Config
from mcpd.errors import InvalidParams

_FILTER = click.option(
    "--filter", "filters", multiple=True, metavar="K=V",
    help="Only documents that fit: tags=x, metadata.year>=1960, uri=docs:///notes/*; may be repeated.",
)  # fmt: skip
_WANTED = (
    _FILTER,
    click.option("--tag", "tags", multiple=True, metavar="T", help="Only with this tag; may be repeated."),
    click.option("--prefix", metavar="URI", help="Only those whose URI begins so."),
    click.option("--origin", metavar="PATH", help="Only those that this folder was ingested as."),
)
_YES = click.option("--yes", "sure", is_flag=True, help="Do not ask.")


def _config(config_file: Path | None, data: Path | None) -> Config:
    return load(config_file, {"data.folder": data})


@contextmanager
def _usage() -> Iterator[None]:
    """Let the mistakes of whoever wrote the command line end as wrong usage."""
    from mcpd.ingest.sources import BadSource

    try:
        yield
    except (InvalidParams, BadSource) as error:
        raise click.UsageError(str(error)) from error


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
@click.option("--all", "include_all", is_flag=True, help="Also dotfiles and what .gitignore leaves out.")
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

    config = _config(config_file, data)
    with _usage():
        return ingesting.run(ingesting.Order(paths=paths, **flags), config)


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

    config = _config(config_file, data)
    with _usage():
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

    return listing.show_document(uri, _config(config_file, data), as_json=as_json)


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
@_YES
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
    config = _config(config_file, data)
    with _usage():
        return listing.remove(listing.Removal(uris, chosen, sure, as_json), config)


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
@_FILTER
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

    config = _config(config_file, data)
    with _usage():
        return searching.run(searching.Order(words=" ".join(words), **flags), config)


@click.group(
    epilog=examples(
        "mcpd migrate status",
        "mcpd migrate up",
        "mcpd migrate down --to 1",
    )
)
def migrate() -> None:
    """See and change the schema version of the document store.

    Opening the store brings it up to date, so this is for looking, and for going back to an older mcpd.
    """


@migrate.command(
    "status",
    epilog=examples(
        "mcpd migrate status",
        "mcpd migrate status --data ~/.local/share/mcpd --json",
    ),
)
@options(COMMON)
@as_json
def migrate_status(config_file: Path | None, data: Path | None, *, as_json: bool) -> int:
    """Say which schema version the store has; changes nothing."""
    from mcpd.commands import migrating

    return migrating.status(_config(config_file, data), as_json=as_json)


_TO = click.option("--to", "target", type=int, metavar="N", help="Version to go to.")


@migrate.command(
    "up",
    epilog=examples(
        "mcpd migrate up",
        "mcpd migrate up --to 2",
    ),
)
@_TO
@options(COMMON)
@as_json
def migrate_up(config_file: Path | None, data: Path | None, target: int | None, *, as_json: bool) -> int:
    """Bring the store to a newer schema, the newest unless told otherwise."""
    from mcpd.commands import migrating

    return migrating.up(target, _config(config_file, data), as_json=as_json)


@migrate.command(
    "down",
    epilog=examples(
        "mcpd migrate down",
        "mcpd migrate down --to 1 --yes",
    ),
)
@_TO
@_YES
@options(COMMON)
@as_json
def migrate_down(config_file: Path | None, data: Path | None, target: int | None, sure: bool, as_json: bool) -> int:
    """Bring the store to an older schema, one version unless told otherwise.

    What only the newer schema has is lost.
    """
    from mcpd.commands import migrating

    return migrating.down(target, _config(config_file, data), sure=sure, as_json=as_json)


COMMANDS: Final = (ingest, documents, search, migrate)
