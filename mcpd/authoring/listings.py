"""msgspec's schema of a type hint, rewritten in the keywords that clients in use understand.

Clients translate schemas for the API of their model, and what they do not know costs a parameter, a tool or all tools
of a server. So a definition stands where it is used, and `$ref` only where a type contains itself; every array has
`items`, a tuple too; every `enum` has a `type` and its author's order, which msgspec sorts away; no property is a
boolean. A value is valid by the rewritten schema exactly when it was by the old one.

Called by: `hints` (arguments and results), `forms` (questions). Deliberately not: raw schemas, which are served as
their authors wrote them.

Sources: JSON Schema 2020-12; what Gemini CLI, n8n and OpenAI's strict mode accept.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

Schema = dict[str, Any]
Choices = dict[frozenset[tuple[type, Any]], list[Any]]

MAX_INLINED_NODES: Final = 2_000
"""Schemas in one when all definitions stand where they are used; beyond that they stay references."""
_DEFINITION: Final = "#/$defs/"
_NAMED: Final = (msgspec.Struct, tuple)
_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def schema_of(hint: Any) -> Schema:
    """Return the schema of `hint`. Raises: what msgspec raises for a hint that it cannot describe."""
    schema = msgspec.json.schema(hint)
    definitions: dict[str, Schema] = schema.pop("$defs", {})
    kept = _recursive(definitions)
    if _size(schema, definitions, kept, {}) > MAX_INLINED_NODES:
        kept = set(definitions)
    choices = _choices(hint)
    bodies = {name: _rewritten(_inlined(definitions[name], definitions, kept), choices) for name in kept}
    root = _rewritten(_inlined(schema, definitions, kept), choices)
    if "$ref" in root:
        root = {**bodies[_name(root)], **{key: value for key, value in root.items() if key != "$ref"}}
    used = _reachable(root, bodies)
    return {**root, "$defs": {name: bodies[name] for name in definitions if name in used}} if used else root


def _name(node: Schema) -> str:
    return str(node["$ref"]).removeprefix(_DEFINITION)


def _children(node: Schema) -> Iterator[Any]:
    """Yield the schemas that msgspec puts into a schema."""
    yield from node.get("properties", {}).values()
    for key in ("anyOf", "prefixItems"):
        yield from node.get(key, ())
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield node[key]


def _references(node: Schema) -> set[str]:
    found, todo = set[str](), [node]
    while todo:
        part = todo.pop()
        if "$ref" in part:
            found.add(_name(part))
        todo.extend(child for child in _children(part) if isinstance(child, dict))
    return found


def _reachable(node: Schema, definitions: dict[str, Schema]) -> set[str]:
    reached, todo = set[str](), list(_references(node))
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo.extend(_references(definitions[name]))
    return reached


def _recursive(definitions: dict[str, Schema]) -> set[str]:
    return {name for name, body in definitions.items() if name in _reachable(body, definitions)}


def _size(node: Schema, definitions: dict[str, Schema], kept: set[str], sizes: dict[str, int]) -> int:
    """Count the schemas of `node` with what it refers to in place."""
    size = 1 + sum(_size(child, definitions, kept, sizes) for child in _children(node) if isinstance(child, dict))
    if "$ref" not in node or _name(node) in kept:
        return size
    name = _name(node)
    if name not in sizes:
        sizes[name] = _size(definitions[name], definitions, kept, sizes)
    return size + sizes[name]


def _inlined(node: Any, definitions: dict[str, Schema], kept: set[str]) -> Any:
    if not isinstance(node, dict):
        return node
    fresh = {key: value for key, value in node.items() if key != "discriminator"}
    if "$ref" in fresh and _name(fresh) not in kept:
        notes = {key: value for key, value in fresh.items() if key != "$ref"}
        return {**_inlined(definitions[_name(fresh)], definitions, kept), **notes}
    return _mapped(fresh, lambda child: _inlined(child, definitions, kept))


def _mapped(node: Schema, change: Any) -> Schema:
    fresh = dict(node)
    if "properties" in fresh:
        fresh["properties"] = {name: change(child) for name, child in fresh["properties"].items()}
    for key in ("anyOf", "prefixItems"):
        if key in fresh:
            fresh[key] = [change(child) for child in fresh[key]]
    for key in ("items", "additionalProperties"):
        if isinstance(fresh.get(key), dict):
            fresh[key] = change(fresh[key])
    return fresh


def _rewritten(node: Any, choices: Choices) -> Any:
    if not isinstance(node, dict):
        return node
    fresh = _mapped(node, lambda child: _rewritten(child, choices))
    if fresh.get("type") == "array":
        _add_items(fresh)
    return _typed(fresh, choices) if "enum" in fresh and "type" not in fresh else fresh


def _add_items(array: Schema) -> None:
    """Give an array `items`: a tuple, whose length is fixed, what its places admit."""
    if array.get("items", False) is not False:
        return
    places: list[Schema] = []
    for place in array.get("prefixItems", ()):
        if place not in places:
            places.append(place)
    array["items"] = {"anyOf": places} if len(places) > 1 else places[0] if places else {}


def _typed(schema: Schema, choices: Choices) -> Schema:
    """Put choices into their author's order, with their type; one of several types is `anyOf`, null last."""
    values = [value for value in schema["enum"] if value is not None]
    ordered = choices.get(_key(values), values)
    kinds = dict.fromkeys(map(type, ordered))
    groups = [{"type": _TYPES[kind], "enum": [one for one in ordered if type(one) is kind]} for kind in kinds]
    if len(values) < len(schema["enum"]):
        groups.append({"type": "null"})
    notes = {key: value for key, value in schema.items() if key != "enum"}
    return {**notes, **groups[0]} if len(groups) == 1 else {**notes, "anyOf": groups}


def _key(values: list[Any]) -> frozenset[tuple[type, Any]]:
    return frozenset((type(value), value) for value in values)


def _choices(hint: Any) -> Choices:
    """Return the choices of every Literal and Enum within a hint, as written, by what they are."""
    found: Choices = {}
    todo, seen = [hint], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        values = _values(one)
        if values:
            found.setdefault(_key(values), values)
        todo.extend(_within(one))
    return found


def _values(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if value is not None]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [member.value for member in hint]
    return []


def _within(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return []
    if isinstance(hint, type) and (is_dataclass(hint) or is_typeddict(hint) or issubclass(hint, _NAMED)):
        return _fields(hint)
    alias = getattr(hint, "__value__", None) or getattr(hint, "__supertype__", None)
    return [part for part in (*get_args(hint), get_origin(hint), alias) if part is not None]


def _fields(kind: type) -> list[Any]:
    try:
        return list(get_type_hints(kind, include_extras=True).values())
    except (NameError, TypeError, AttributeError):
        return []
