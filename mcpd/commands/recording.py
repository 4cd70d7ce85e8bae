"""What `mcpd records` does: read call records and print them, for people or as JSON.

Called by: `commands.records`. Calls the store. Deliberately not: writing records, which servers do
(`messages.recorder`).

Laws: a listing is printed page by page as it comes; what callers have sent is not trusted: neither a terminal nor the
reader of a line gets control characters, and a line has a bounded length.

Sources: surfaces "Command line" (`mcpd records`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import click

from mcpd.commands import stores, terminal
from mcpd.config import Config
from mcpd.storage.open import has_records, open_records
from mcpd.storage.records import MAX_PAGE_ITEMS, Page, Record, Wanted

MAX_SHOWN_CHARS: Final = 80
"""Of a text of others, on a line for people."""
_COLOURS: Final = {"ok": "green", "cancelled": "yellow", "tool_error": "yellow"}

Pages = AsyncIterator[Page]


class Part(NamedTuple):
    """Which part of what fits: behind a cursor, and how many."""

    cursor: str | None
    limit: int


def query(**wanted: Any) -> Wanted:
    """Return what is asked of the store; None stands for any, also of times."""
    return Wanted(**{name: value for name, value in wanted.items() if value is not None})


def show(wanted: Wanted, part: Part, config: Config, *, as_json: bool) -> int:
    """Print the records that are wanted. Raises: StorageError, also for a cursor that is none."""
    print_pages = _print_json if as_json else _print_lines
    if has_records(config):
        return stores.run(partial(_show, wanted, part, config, print_pages))
    if as_json:
        click.echo('{"records": []}')
    else:
        terminal.echo(f"No calls have been recorded in {config.data.folder}", err=True)
    return 0


async def _show(wanted: Wanted, part: Part, config: Config, print_pages: Callable[[Pages], Awaitable[None]]) -> int:
    async with open_records(config) as records:

        async def pages() -> Pages:
            cursor, left = part
            while left > 0:
                page = await records.page(wanted, cursor, min(left, MAX_PAGE_ITEMS))
                yield page
                left, cursor = left - len(page.items), page.cursor
                if cursor is None:
                    return

        await print_pages(pages())
    return 0


async def _print_lines(pages: Pages) -> None:
    found, more = 0, False
    async for page in pages:
        for record in page.items:
            terminal.echo(line_of(record))
        found, more = found + len(page.items), page.cursor is not None
    if not found:
        terminal.echo("No call fits", err=True)
    elif more:
        terminal.echo(f"Older ones are left out; for more than {found}: --limit N", err=True)


async def _print_json(pages: Pages) -> None:
    """Print `{"records": [...], "nextCursor"?}`, a record on each line, in ASCII: texts of others are in it."""
    between, cursor = '{"records": [\n  ', None
    async for page in pages:
        for record in page.items:
            click.echo(between + json.dumps(as_json(record)), nl=False)
            between = ",\n  "
        cursor = page.cursor
    end = '{"records": []' if between.startswith("{") else "\n]"
    click.echo(end + ("}" if cursor is None else f', "nextCursor": "{cursor}"}}'))


def as_json(record: Record) -> dict[str, Any]:
    """Return what JSON says of a record; what there is nothing to say of is left out."""
    said = {
        "id": record.id,
        "ended": _moment(record.ended_s),
        "durationMs": round(record.seconds * 1000, 3),
        "outcome": record.outcome,
        "reason": record.reason,
        "refused": record.refused,
        "transport": record.transport,
        "method": record.method,
        "target": record.target,
        "principal": record.principal,
        "key": record.key,
        "address": record.address,
        "client": record.client,
        "requestId": record.request_id,
        "traceId": record.trace_id,
        "task": record.task,
        "argumentsDigest": f"sha256:{record.digest.hex()}" if record.digest else "",
        "arguments": record.arguments,
        "argumentsBytes": record.arguments_bytes,
        "resultBytes": record.result_bytes,
    }
    return {name: value for name, value in said.items() if value != "" and value is not False}


def line_of(record: Record) -> str:
    """Return a record for people, on one line."""
    outcome = terminal.style(f"{record.outcome:<14}", fg=_COLOURS.get(record.outcome, "red"))
    who = ", ".join(filter(None, (_short(record.key), _short(record.client), _short(record.address))))
    words = [
        f"{_moment(record.ended_s)}  {outcome} {record.seconds * 1000:>10.1f} ms  {record.transport:<9}",
        _short(record.method),
        _short(record.target),
        terminal.style(f"({who})", dim=True) if who else "",
        _short(record.reason),
        terminal.style(_short(record.request_id), dim=True),
    ]
    return " ".join(filter(None, words))


def _short(text: str) -> str:
    shown = terminal.line(text)
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[: MAX_SHOWN_CHARS - 3]}..."


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
