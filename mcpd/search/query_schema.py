"""The grammar of a search as JSON Schema 2020-12, with descriptions that a model can work from.

Called by: `tools.builtin.documents`, for the `inputSchema` of `search_documents`. Pure. Calls `query` and
`storage.fields` for names and bounds. Deliberately not the check itself: `query.parse` is, and its refusals say more.

Law: whatever `parse` takes is valid here. What is valid here is refused by `parse` only for rules between members
(words for semantic search, `sort` in text mode alone, the two ends of a range), for the length of a text, and for the
names of fields and what a filter holds, which a description says in a third of the length.
"""

from __future__ import annotations

from typing import Any, Final

from mcpd.config import Limits
from mcpd.search import query
from mcpd.storage import fields


def input_schema(limits: Limits) -> dict[str, Any]:
    """Return the schema of the object that `query.parse` takes under these limits."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "query": {
                "type": "string",
                "default": "",
                "description": 'Words to look for; any may occur, "quoted words" are a phrase, wor* is a beginning.'
                " Semantic and hybrid search also take a question. Empty: every document that fits the filters.",
            },
            "mode": {
                "type": "string",
                "enum": list(query.MODES),
                "description": "text: by words. semantic: by meaning, or by spelling where no embedding model is"
                " configured. hybrid: both, merged. Leave it out for what suits this server best.",
            },
            "filters": _FILTERS,
            "facets": _FACETS,
            "sort": {
                "type": "string",
                "default": "score",
                "description": 'A field such as "title", "updated" or "metadata.year", with a minus in front'
                ' ("-updated") from high to low. "score": best first. Other than score in text mode only.',
            },
            "size": {
                "type": "integer",
                "minimum": 0,
                "maximum": limits.max_hits,
                "default": min(query.DEFAULT_HITS, limits.max_hits),
                "description": "How many hits to return; 0 for facets and total alone.",
            },
            "cursor": {"type": "string", "description": "nextCursor of the page before, with all else unchanged."},
            "highlight": {
                "anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": query.MAX_FRAGMENTS}],
                "default": True,
                "description": "Fragments of each hit's text, with matches between ** and **: false for none,"
                " or how many.",
            },
        },
    }


_FILTERS: Final[dict[str, Any]] = {
    "type": "object",
    "maxProperties": fields.MAX_CONDITIONS,
    "additionalProperties": True,
    "description": "Field -> a value, a list of which any may fit, or an object of gte, gt, lte, lt, exists (boolean),"
    " prefix. All fields must fit. Fields: tags, mimeType, created, updated (ISO 8601), uri, metadata.<path>. Example:"
    ' {"tags": ["guide", "faq"], "updated": {"gte": "2026-01-01"}, "uri": {"prefix": "docs:///handbook/"}}',
}

_END: Final[dict[str, Any]] = {"anyOf": [{"type": "number"}, {"type": "string"}]}

_FACETS: Final[dict[str, Any]] = {
    "type": "array",
    "maxItems": fields.MAX_FACETS,
    "description": "Counts of all that fits, by a field: tags, mimeType, created, updated or metadata.<path>."
    ' Example: [{"field": "tags", "size": 5}, {"field": "updated", "interval": "year"}]',
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["field"],
        "properties": {
            "field": {"type": "string"},
            "kind": {
                "type": "string",
                "enum": list(query.KINDS),
                "description": "terms: the most frequent values. range: see ranges. date: see interval.",
            },
            "size": {"type": "integer", "minimum": 1, "maximum": fields.MAX_BUCKETS, "default": query.DEFAULT_BUCKETS},
            "ranges": {
                "type": "array",
                "minItems": 1,
                "maxItems": fields.MAX_BUCKETS,
                "description": "From inclusive, to exclusive; either may be left out.",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "properties": {"from": _END, "to": _END},
                },
            },
            "interval": {"type": "string", "enum": list(query.INTERVALS), "default": "month"},
        },
    },
}
