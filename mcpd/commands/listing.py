"""What `mcpd documents` does: list what is in the store, show a document, remove documents.

Called by: `commands.documents`. Calls the store. Deliberately not: searching, which is `mcpd search`, or the grammar of
filters, which is `search.query`'s.

Laws: a listing is printed page by page as it comes, also as JSON; `show` writes what is stored, byte for byte, unless
it goes to a terminal; nothing is removed without a yes, on the terminal or as `--yes`.

Sources: surfaces "Command line" (documents).
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import click

from mcpd.commands import stores, terminal
from mcpd.commands.options import FAILED, print_json
from mcpd.config import Config
from mcpd.errors import counted
from mcpd.ingest.sources import origin_of
from mcpd.search.filter_options import parse_filter_options
from mcpd.search.query import parse
from mcpd.storage.documents import Condition, Document, Documents, Head, Outcome, Remove, Where
from mcpd.storage.open import open_documents
from mcpd.storage.uris import spellings

PAGE_ITEMS = 500
SHOWN_ITEMS = 5

ShowList = Callable[[AsyncIterator[Head]], Awaitable[None]]


class Wanted(NamedTuple):
    """Which documents: by filters as on `mcpd search`, tags, beginning of the URI, source root."""

    filters: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    prefix: str | None = None
    origin: str | None = None

    def where(self, config: Config) -> Where:
        """Return the conditions. Raises: InvalidParams."""
        found = list(parse({"filters": parse_filter_options(self.filters)}, limits=config.limits).where)
        found += [Condition("tags", any_of=(tag,)) for tag in self.tags]
        if self.prefix is not None:
            found.append(Condition("uri", prefix=self.prefix))
        if self.origin is not None:
            found.append(Condition("origin", any_of=(origin_of(self.origin),)))
        return tuple(found)


def show_list(wanted: Wanted, limit: int | None, config: Config, *, as_json: bool) -> int:
    """Print the documents that are wanted, `limit` of them at most. Raises: InvalidParams, StorageError."""
    where = wanted.where(config)
    return stores.run(partial(_show_list, where, limit, config, _print_json_list if as_json else _print_list))


async def _show_list(where: Where, limit: int | None, config: Config, show: ShowList) -> int:
    async with open_documents(config) as documents:
        await show(_heads(documents, where, limit))
    return 0


async def _heads(documents: Documents, where: Where, limit: int | None = None) -> AsyncIterator[Head]:
    cursor: str | None = None
    left = sys.maxsize if limit is None else limit
    while left > 0:
        page = await documents.page(where, cursor, min(left, PAGE_ITEMS))
        for head in page.items:
            yield head
        left, cursor = left - len(page.items), page.cursor
        if cursor is None:
            return


async def _print_list(heads: AsyncIterator[Head]) -> None:
    found = 0
    async for head in heads:
        found += 1
        about = f"{_day(head.updated_s)} {terminal.amount(head.size):>9}  {head.uri}"
        title = terminal.style(terminal.line(head.title), dim=True)
        tags = terminal.style("".join(f" #{terminal.line(tag)}" for tag in head.tags), fg="cyan")
        terminal.echo(f"{about}  {title}{tags}")
    if not found:
        terminal.echo("No documents; put some there with: mcpd ingest PATH", err=True)


async def _print_json_list(heads: AsyncIterator[Head]) -> None:
    """Print `{"documents": [...]}`, a document on each line."""
    between = '{"documents": [\n  '
    async for head in heads:
        click.echo(between + json.dumps(as_json(head), ensure_ascii=False), nl=False)
        between = ",\n  "
    click.echo('{"documents": []}' if between.startswith("{") else "\n]}")


def as_json(head: Head | Document) -> dict[str, Any]:
    """Return what JSON says of a document without its content."""
    return {
        "uri": head.uri,
        "title": head.title,
        "mimeType": head.mime_type,
        "tags": head.tags,
        "metadata": head.metadata,
        "size": head.size,
        "created": _moment(head.created_s),
        "updated": _moment(head.updated_s),
        "version": head.version,
        "digest": head.digest,
        "origin": head.origin,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _day(seconds: float) -> str:
    return _moment(seconds)[:10]


def show_document(uri: str, config: Config, *, as_json: bool) -> int:
    """Print a document's content, or all there is of it as JSON; 1 when it does not exist. Raises: StorageError."""
    return stores.run(partial(_show_document, uri, config, _print_document if as_json else _print_content))


async def _show_document(uri: str, config: Config, show: Callable[[Document], None]) -> int:
    async with open_documents(config) as documents:
        found = [await documents.get(spelling) for spelling in spellings(uri)]
        document = next((one for one in found if one is not None), None)
    if document is None:
        terminal.echo(f"mcpd: there is no document {terminal.line(uri)}; see: mcpd documents list", err=True)
        return FAILED
    show(document)
    return 0


def _print_document(document: Document) -> None:
    blob = None if document.blob is None else base64.b64encode(document.blob).decode("ascii")
    content = {} if document.text is None else {"text": document.text}
    print_json(as_json(document) | content | ({} if blob is None else {"blob": blob}))


def _print_content(document: Document) -> None:
    if not sys.stdout.isatty():
        content = document.blob if document.text is None else document.text.encode()
        sys.stdout.buffer.write(content or b"")
    elif document.text is None:
        size = terminal.amount(document.size)
        terminal.echo(f"[{document.mime_type}, {size}, no text; send it to a file: mcpd documents show ... > FILE]")
    else:
        terminal.echo(terminal.clean(document.text))


class Removal(NamedTuple):
    """What is to be removed: documents by URI, or whatever fits."""

    uris: tuple[str, ...]
    wanted: Wanted
    sure: bool
    as_json: bool


def remove(order: Removal, config: Config) -> int:
    """Remove documents, after asking; 1 when one of the URIs was not there. Raises: StorageError, InvalidParams."""
    uris = list(order.uris) or stores.run(partial(_uris, order.wanted.where(config), config))
    if uris and not order.sure and not _agreed(uris):
        terminal.echo("Nothing was removed", err=True)
        return FAILED
    return _tell_removed(stores.run(partial(_remove, uris, config)), as_json=order.as_json)


async def _uris(where: Where, config: Config) -> list[str]:
    async with open_documents(config) as documents:
        return [head.uri async for head in _heads(documents, where)]


async def _remove(uris: Sequence[str], config: Config) -> list[Outcome]:
    outcomes: list[Outcome] = []
    async with open_documents(config) as documents:
        for start in range(0, len(uris), PAGE_ITEMS):
            outcomes += await documents.write([Remove(uri=uri) for uri in uris[start : start + PAGE_ITEMS]])
    return outcomes


def _agreed(uris: Sequence[str]) -> bool:
    """Raises: click.UsageError where nobody can answer."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"This would remove {counted(len(uris), 'document')}: say so with --yes")
    for uri in uris[:SHOWN_ITEMS]:
        terminal.echo(f"  {terminal.line(uri)}", err=True)
    if len(uris) > SHOWN_ITEMS:
        terminal.echo("  ...", err=True)
    return click.confirm(f"Remove {counted(len(uris), 'document')}?", err=True)


def _tell_removed(outcomes: Sequence[Outcome], *, as_json: bool) -> int:
    removed = [outcome.uri for outcome in outcomes if outcome.status == "removed"]
    left = [outcome for outcome in outcomes if outcome.status != "removed"]
    if as_json:
        print_json({"removed": removed, "absent": [outcome.uri for outcome in left]})
    else:
        terminal.echo(f"{len(removed)} removed")
        for outcome in left:
            terminal.echo(f"mcpd: there is no document {terminal.line(outcome.uri)}", err=True)
    return FAILED if left else 0
