"""The three indices: their names, mappings and settings.

    metadata    what a document is, one record each; it commits a version. Tombstones, relations. One shard, so that
                its sequence numbers say in which order documents changed
    fulltext    words and content of one version of one document, with its chunks nested
    vector      vectors of one version of one document, nested likewise, up to `PART_ITEMS` in a record

Each is an index `<prefix>-<name>-v<schema>` behind the alias `<prefix>-<name>`; its mapping's `_meta` says which schema
it has. A record of content has the id `<key of the URI>.<version>`, and all of one URI are routed to one shard.

Values are compared in `fields` (see `keys`), calendar days, months and years of times counted in `days`. `head` and
`about` hold what is shown of a document and of a chunk, stored by itself, so that a hit need not load all of a long
document. Vectors of n dimensions are in the field `chunks.v<n>`, which is added when the first one comes.

Called by: `schema`, `writes`, `reads`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mcpd.storage.elasticsearch import analysis

VERSION: Final = 1
"""Of the schema that this mcpd works with."""

PART_ITEMS: Final = 1_000
"""Vectors of one record: some 10 MB as JSON."""

MAX_DIMENSIONS: Final = 4_096
"""Of a vector, in Elasticsearch since 8.11."""

MAX_NESTED: Final = 1 << 20
"""Chunks of one document, as many as a document may have."""

NAMES: Final = ("metadata", "fulltext", "vector")

Json = dict[str, Any]
_KEYWORD: Final = {"type": "keyword"}
_UNSEARCHED: Final = {"type": "keyword", "index": False, "doc_values": False}
_STORED: Final = {"type": "binary", "store": True}
_VALUES: Final = {"fields": {"type": "flattened"}, "days": {"type": "flattened"}}
_CONTENT: Final[Json] = {
    "uri": _KEYWORD,
    "version": _UNSEARCHED,
    "number": {"type": "long"},
    "written_s": {"type": "double"},
    "head": _STORED,
    **_VALUES,
}


class Generation(msgspec.Struct, frozen=True):
    """The concrete indices that one schema's documents are in."""

    metadata: str
    fulltext: str
    vector: str
    version: int = VERSION


def alias(prefix: str, name: str) -> str:
    """Return the alias of an index."""
    return f"{prefix}-{name}"


def generation(prefix: str, version: int = VERSION) -> Generation:
    """Return the names of the indices of a schema's version."""
    metadata, fulltext, vector = (f"{alias(prefix, name)}-v{version}" for name in NAMES)
    return Generation(metadata, fulltext, vector, version)


def body(prefix: str, name: str, chosen: Mapping[str, analysis.Filter], options: Mapping[str, Any]) -> Json:
    """Return what an index is created with, its alias included. `options` are settings of `index`."""
    settings: Json = {"index": {**_SETTINGS[name], **options}}
    if name == "fulltext":
        settings["analysis"] = analysis.settings(chosen)
    mappings = {"dynamic": "strict", "_meta": {"mcpd": {"schema": VERSION, "analysis": sorted(chosen)}}}
    return {"settings": settings, "mappings": {**mappings, **_MAPPINGS[name]}, "aliases": {alias(prefix, name): {}}}


def vector_field(dims: int) -> str:
    """Return the name of the field for vectors of so many dimensions, within `chunks`."""
    return f"v{dims}"


def vector_mapping(dims: int) -> Json:
    """Return what adds the field for vectors of so many dimensions.

    Unit vectors have their cosine as inner product; unlike `cosine` it takes a vector of zeros.
    """
    field = {"type": "dense_vector", "dims": dims, "index": True, "similarity": "max_inner_product"}
    return {"properties": {"chunks": _nested({vector_field(dims): {**field, "index_options": {"type": "hnsw"}}})}}


def _nested(properties: Json) -> Json:
    return {"type": "nested", "dynamic": "strict", "properties": properties}


_PLAIN: Final = {"plain": {"type": "text", "analyzer": "plain", "norms": False}}
_WORDS: Final[Json] = {"type": "text", "analyzer": "words", "fields": _PLAIN}

_SETTINGS: Final[dict[str, Json]] = {
    "metadata": {"number_of_shards": 1},
    "fulltext": {"mapping.nested_objects.limit": MAX_NESTED},
    "vector": {"mapping.nested_objects.limit": MAX_NESTED},
}

_MAPPINGS: Final[dict[str, Json]] = {
    "metadata": {
        "properties": {
            "kind": _KEYWORD,
            "uri": _KEYWORD,
            "version": _UNSEARCHED,
            "previous": _UNSEARCHED,
            "number": {"type": "long"},
            "head": _STORED,
            **_VALUES,
            "model": _KEYWORD,
            "dims": {"type": "integer"},
            "chunks": {"type": "long", "index": False},
            "vectors": {"type": "long", "index": False},
            "size": {"type": "long", "index": False},
            "listed": {"type": "long", "index": False},
            "changed_s": {"type": "double"},
            "source": _KEYWORD,
            "relation": _KEYWORD,
            "target": _KEYWORD,
        }
    },
    "fulltext": {
        "_source": {"excludes": ["chunks.titles", "chunks.words", "chunks.about"]},
        "properties": {
            **_CONTENT,
            "content": {"type": "object", "enabled": False},
            "chunks": _nested({"titles": _WORDS, "words": {**_WORDS, "store": True}, "about": _STORED}),
        },
    },
    "vector": {"properties": {**_CONTENT, "model": _KEYWORD, "chunks": _nested({"about": _STORED})}},
}
