"""What `mcpd search` does: words and options to a search, its answer to a page for people, or to JSON.

Called by: `commands.search`. Calls `search.searcher`; the JSON is its answer as it is. Deliberately not: the grammar,
which is the same on every transport.

Laws: what comes out of documents is cleaned before a terminal sees it; marks of matches become colours there, and
nothing elsewhere.

Sources: surfaces "Command line" (search), "Search, the same on every transport".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from mcpd.commands import stores, terminal
from mcpd.commands.options import print_json
from mcpd.config import Config
from mcpd.search.answers import PLAIN, PRIVATE
from mcpd.search.filter_options import parse_filter_options
from mcpd.search.providers import open_provider
from mcpd.search.query import Search, parse
from mcpd.search.searcher import Searcher
from mcpd.storage.open import open_documents


class Order(NamedTuple):
    """A search as it was ordered on the command line."""

    words: str
    mode: str | None
    filters: tuple[str, ...]
    facets: tuple[str, ...]
    sort: str | None
    size: int | None
    cursor: str | None
    as_json: bool


def run(order: Order, config: Config) -> int:
    """Search, print what is found and return the exit code; finding nothing is a result.

    Raises: InvalidParams for what is no search; StoreUnavailable, StorageError.
    """
    request = parse(_body(order), limits=config.limits)
    return stores.run(partial(_search, request, config, as_json=order.as_json))


def _body(order: Order) -> dict[str, Any]:
    given = {"mode": order.mode, "sort": order.sort, "size": order.size, "cursor": order.cursor}
    return {
        "query": order.words,
        "filters": parse_filter_options(order.filters),
        "facets": [{"field": field} for field in order.facets],
        **{name: value for name, value in given.items() if value is not None},
    }


async def _search(request: Search, config: Config, *, as_json: bool) -> int:
    async with open_documents(config) as documents, open_provider(config.embeddings) as provider:
        searcher = Searcher(documents, provider, patience_s=config.embeddings.patience_s)
        answer = await searcher.search(request, marks=PLAIN if as_json else PRIVATE)
    if as_json:
        print_json(answer)
    else:
        for line in page(answer):
            terminal.echo(line)
    return 0


def page(answer: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that show an answer, in colours."""
    for number, hit in enumerate(answer["hits"], 1):
        yield from _hit(number, hit)
    for field, buckets in answer.get("facets", {}).items():
        counted = ", ".join(f"{terminal.line(bucket['value'])} {bucket['count']}" for bucket in buckets)
        yield f"{terminal.style(terminal.line(field), bold=True)}: {counted or 'no values'}"
    yield terminal.style(_outcome(answer), dim=True)


def _hit(number: int, hit: dict[str, Any]) -> Iterator[str]:
    title = terminal.line(hit["title"]) or hit["uri"]
    span = hit.get("span")
    place = f"{hit['uri']}#char={span['start']},{span['end']}" if span else hit["uri"]
    yield f"{number}. {terminal.style(title, bold=True)}"
    yield f"   {terminal.style(place, fg='blue')}"
    heading = terminal.line(span["heading"]) if span else ""
    if heading and heading != title:
        yield f"   {terminal.style(heading, dim=True)}"
    for fragment in hit.get("highlights", ()):
        yield f"   {_marked(terminal.line(fragment))}"


def _marked(fragment: str) -> str:
    """Return a fragment with its matches in colour."""
    first, *others = fragment.split(PRIVATE.start)
    pieces = [first]
    for other in others:
        match, _, rest = other.partition(PRIVATE.end)
        pieces += [terminal.style(match, fg="yellow", bold=True), rest]
    return "".join(pieces)


def _outcome(answer: dict[str, Any]) -> str:
    shown = len(answer["hits"])
    found = f"{answer['total']} found, {shown} shown" if "total" in answer else f"{shown} shown"
    more = f"; more with --cursor {answer['nextCursor']}" if "nextCursor" in answer else ""
    degraded = "; without its semantic part: the model did not answer" if "degraded" in answer else ""
    return f"{found} ({answer['mode']}, {answer['took']} ms){degraded}{more}"
