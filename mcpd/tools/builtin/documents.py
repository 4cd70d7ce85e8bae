"""The built-in tool `search_documents`: the search of every transport, for agents.

Each hit comes as JSON, and as a link to the place it was found at: reading `docs:///...#char=START,END` gives just
that part of the document.

Called by: `assembly`. Calls: the search of its call's `Context`, on behalf of its caller. Deliberately not: the grammar
(`search.query`), which is also its input schema.

Laws: a query that cannot be is the tool's own failure, so that a model can read what to mend.
"""

from __future__ import annotations

from typing import Any

from mcpd.authoring.content import ResourceLink
from mcpd.authoring.context import Context
from mcpd.authoring.declarations import ToolDeclaration
from mcpd.config import Limits
from mcpd.errors import InvalidParams, ToolError
from mcpd.search.query_schema import input_schema

_DESCRIPTION = (
    "Search the documents of this server by words or meaning, with filters and facets. Every hit links to its place; "
    "read the link to see the passage, or the document's URI to see all of it."
)


def document_tools(limits: Limits) -> list[ToolDeclaration]:
    """Declare the tools of the document store."""

    async def search_documents(ctx: Context, **body: Any) -> Any:
        try:
            answer = await ctx.search(**body)
        except InvalidParams as error:
            raise ToolError(error.message) from None
        links = [_link(hit) for hit in answer["hits"]]
        return (answer, links) if links else answer

    return [
        ToolDeclaration(
            name="search_documents",
            fn=search_documents,
            title="Search documents",
            description=_DESCRIPTION,
            input_schema=input_schema(limits),
            annotations={"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False},
        )
    ]


def _link(hit: dict[str, Any]) -> ResourceLink:
    span = hit.get("span")
    uri = hit["uri"] if span is None else f"{hit['uri']}#char={span['start']},{span['end']}"
    title = hit["title"] or None
    return ResourceLink(uri, hit["uri"].rpartition("/")[2], title=title, mime_type=hit["mimeType"])
