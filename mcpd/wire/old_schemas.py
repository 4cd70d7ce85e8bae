"""Schemas of tools as the clients of stateful revisions read them.

Their typed clients take a schema for an object whose members are objects: a boolean in it ends their listing, and an
output schema must be of type `object`. `without_booleans` writes `true` as `{}` and `false` as `{"not": {}}`;
`object_output` puts the schema of a result that is never an object under the property `result`, where `sieve` puts the
result itself, and adds `type` to one that says "always an object" in other words.

Called by: `wire.sieve`. Pure. Rewritten schemas are remembered by their text, so that a listing costs little.

Law: a result is valid by the rewritten schema exactly when it was by the author's. One that may or may not be an object
has no schema here: one schema could not fit both.

Sources: MCP 2025-06-18 and 2025-11-25 schema.ts, `Tool.inputSchema` and `Tool.outputSchema`; TOOL-1, TOOL-3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

Schema = dict[str, Any]

RESULT: Final = "result"
"""The member that carries what is no object."""
_KEPT_ITEMS: Final = 512
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = (
    "items", "contains", "propertyNames", "not", "if", "then", "else", "contentSchema",
    "additionalProperties", "additionalItems", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_MAY_BE_BOOLEAN: Final = ("additionalProperties", "additionalItems", "unevaluatedItems", "unevaluatedProperties")
_REFERENCES: Final = ("$ref", "$dynamicRef")
_MAX_REFERENCES: Final = 64
_OBJECT: Final = frozenset({True})
_OTHER: Final = frozenset({False})


def without_booleans(schema: Schema) -> Schema:
    """Return `schema` with an object for every boolean that an old client does not expect. Do not change it."""
    return _opened(msgspec.json.encode(schema))


def object_output(schema: Any) -> Schema | None:
    """Return the output schema for the results that an old client gets; None: it gets none. Do not change it."""
    return _output(msgspec.json.encode(schema))


@lru_cache(maxsize=_KEPT_ITEMS)
def _opened(text: bytes) -> Schema:
    schema: Schema = _mapped(msgspec.json.decode(text), "#")
    return schema


@lru_cache(maxsize=_KEPT_ITEMS)
def _output(text: bytes) -> Schema | None:
    schema = msgspec.json.decode(text)
    shapes = _shapes(schema, schema, _MAX_REFERENCES)
    if shapes == _OBJECT:
        return {**_mapped(schema, "#"), "type": "object"}
    if shapes != _OTHER:
        return None
    inner = _mapped(schema, f"#/properties/{RESULT}")
    dialect = {"$schema": inner.pop("$schema")} if "$schema" in inner else {}
    return {**dialect, "type": "object", "properties": {RESULT: inner}, "required": [RESULT]}


def _shapes(schema: Any, root: Any, left: int) -> frozenset[bool]:
    """Return whether valid values are objects, as the set of answers; in doubt, both."""
    if not isinstance(schema, dict) or left <= 0:
        return _OBJECT | _OTHER
    if "type" in schema:
        kinds = schema["type"]
        return frozenset(kind == "object" for kind in (kinds if isinstance(kinds, list) else [kinds]))
    if "enum" in schema or "const" in schema:
        return frozenset(isinstance(value, dict) for value in schema.get("enum", [schema.get("const")]))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return frozenset().union(*(_shapes(branch, root, left - 1) for branch in schema[key]))
    definition = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if definition in root.get("$defs", {}):
        return _shapes(root["$defs"][definition], root, left - 1)
    return _OBJECT | _OTHER


def _mapped(schema: Any, base: str) -> Any:
    """Rewrite booleans, and references to this document's root `#` as ones to `base`."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        return schema
    fresh = dict(schema)
    base = "#" if "$id" in fresh else base
    for key in fresh.keys() & {*_MAPS}:
        if isinstance(fresh[key], dict):
            fresh[key] = {name: _mapped(child, base) for name, child in fresh[key].items()}
    for key in fresh.keys() & {*_LISTS, "items"}:
        if isinstance(fresh[key], list):
            fresh[key] = [_mapped(child, base) for child in fresh[key]]
    for key in fresh.keys() & {*_SINGLE}:
        if not (isinstance(fresh[key], list) or (isinstance(fresh[key], bool) and key in _MAY_BE_BOOLEAN)):
            fresh[key] = _mapped(fresh[key], base)
    for key in fresh.keys() & {*_REFERENCES}:
        if str(fresh[key]) == "#" or str(fresh[key]).startswith("#/"):
            fresh[key] = base + fresh[key][1:]
    return fresh
