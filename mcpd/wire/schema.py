"""JSON Schema given as JSON: checked once when something is registered, then asked about values.

`compile_schema` refuses what cannot be served safely and returns a `Validator`; nothing is compiled during a call. This
is the only file that imports jsonschema_rs, and it always asks it for no retrieval and for the linear regular
expression engine: left alone, that library fetches `http:` and `file:` references and backtracks.

Called by: `authoring.signatures` and `authoring.content` (only when needed), `tools.registry`. It never changes a
schema: what an author gave is what clients see (JSC-4), whatever keywords it holds.

Laws: no network, no file (JSC-2, JSC-5); another dialect, a reference that leaves the document, look-around, a
back-reference, a circle of references that never descends into the value, or an excess of size is refused at
registration, and the text names the keyword (JSC-1, JSC-3).

Sources: JSON Schema 2020-12 core sections 8 and 9; MCP 2026-07-28 (JSC-1..5); RFC 6901.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import jsonschema_rs

from mcpd.errors import RegistrationError
from mcpd.wire.faults import Faults

_KEYWORDS_ITEMS = 1024
"""Compiled keywords that are kept, to say what is wrong with arguments."""

MAX_SCHEMA_DEPTH = 64
"""Containers inside each other in one schema: as deep as a request body may be."""
MAX_SCHEMA_NODES = 5_000
"""Objects and arrays in one schema: far above written ones, far below what makes compiling slow."""
MAX_PATTERN_BYTES = 1_048_576
"""Compiled size of one regular expression."""
MAX_PROBLEM_CHARS = 400
"""Longest text about one failing value."""

_DIALECTS = frozenset(
    {
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-04/schema",
    }
)
_BUNDLED = ("https://json-schema.org/", "http://json-schema.org/")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_SAME_VALUE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"})
_SINGLE = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_BACK_REFERENCE = re.compile(r"\\[1-9]|\\k<|\(\?P=")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Validator:
    """A compiled schema. Safe to share between threads."""

    __slots__ = ("_compiled", "_formats", "_parts", "_root", "_schema")

    def __init__(
        self, schema: dict[str, Any] | bool, compiled: jsonschema_rs.Validator, root: str, formats: bool
    ) -> None:
        self._schema = schema
        self._compiled = compiled
        self._root = root
        self._formats = formats
        self._parts: jsonschema_rs.ValidatorMap | None = None

    def check(self, value: Any) -> str | None:
        """Return None when `value` fits, else what is wrong and where: `arguments.items[2].name: 5 is not of ...`.

        The work is bounded by the value's size, and the text by `MAX_PROBLEM_CHARS`.
        """
        try:
            if self._compiled.is_valid(value):
                return None
            path, text = self.faults().locate(value)
        except (ValueError, RecursionError) as problem:
            return _clip(f"{self._root}: not a JSON value: {problem}")
        return _clip(f"{self._root}{show_path(path)}: {text}")

    def fits(self, value: Any) -> bool:
        """Tell whether `value` fits, without saying why not."""
        try:
            return self._compiled.is_valid(value)
        except (ValueError, RecursionError):
            return False

    def faults(self) -> Faults:
        """Return what looks for the first fault. The parts of the schema are compiled at the first one."""
        if self._parts is None and isinstance(self._schema, dict):
            self._parts = jsonschema_rs.validator_map_for(self._schema, **_options(self._formats))
        return Faults(self._schema, valid=self._is_valid, judge=self._judge, quote=self._quote)

    def _is_valid(self, pointer: str, value: Any) -> bool:
        part = None if self._parts is None else self._parts.get(pointer)
        return part is None or part.is_valid(value)

    def _judge(self, keyword: str, operand: Any, value: Any) -> bool:
        return self._single(keyword, operand).is_valid(value)

    def _quote(self, keyword: str, operand: Any, value: Any) -> str:
        error = next(iter(self._single(keyword, operand).iter_errors(value)))
        return str(error.message)

    def _single(self, keyword: str, operand: Any) -> jsonschema_rs.Validator:
        dialect = self._schema.get("$schema", "") if isinstance(self._schema, dict) else ""
        return _single(dialect, keyword, json.dumps(operand), self._formats)


@lru_cache(maxsize=_KEYWORDS_ITEMS)
def _single(dialect: str, keyword: str, operand: str, formats: bool) -> jsonschema_rs.Validator:
    """Compile a schema of one keyword; one that means nothing alone (draft 4's exclusiveMinimum) admits everything."""
    schema = {"$schema": dialect, keyword: json.loads(operand)} if dialect else {keyword: json.loads(operand)}
    try:
        return jsonschema_rs.validator_for(schema, **_options(formats))
    except ValueError:
        return jsonschema_rs.validator_for(True)


def _options(formats: bool) -> dict[str, Any]:
    limits = jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES)
    return {"offline": True, "pattern_options": limits, "validate_formats": formats or None}


def compile_schema(
    schema: dict[str, Any] | bool, *, where: str, root: str = "arguments", formats: bool = False
) -> Validator:
    """Check `schema` and compile it.

    `where` names the declaration in errors, `root` the value in the texts of `Validator.check`. `formats` makes
    `format` an assertion; by default it is an annotation, as 2020-12 has it.

    Raises: RegistrationError, naming the offending keyword.
    """
    if not isinstance(schema, dict | bool):
        raise RegistrationError(f"{where}: a schema is an object or a boolean, not {type(schema).__name__}")
    check_size(schema, where)
    if isinstance(schema, dict):
        _Document(schema, where).check()
    try:
        compiled = jsonschema_rs.validator_for(schema, **_options(formats))
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise RegistrationError(f"{where}: {_clip(_explain(error))}") from None
    return Validator(schema, compiled, root, formats)


def check_size(schema: Any, where: str) -> None:
    """Bound nesting and number of containers. Raises: RegistrationError."""
    level, nodes = [schema], 0
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        level = [child for node in level for child in _contents(node) if isinstance(child, dict | list)]
        nodes += len(level)
        if nodes > MAX_SCHEMA_NODES:
            raise RegistrationError(f"{where}: the schema has more than {MAX_SCHEMA_NODES} objects and arrays")
        if not level:
            return
    raise RegistrationError(f"{where}: the schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")


def _contents(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


class _Document:
    """One schema's own addresses: which subschema each local reference means."""

    def __init__(self, schema: dict[str, Any], where: str) -> None:
        self.where = where
        self.resources: dict[str, dict[str, Any]] = {"": schema}
        self.anchors: dict[tuple[str, str], dict[str, Any]] = {}
        self.bases: dict[int, str] = {}
        self.nodes: list[dict[str, Any]] = []
        self.edges: dict[int, set[int]] = {}
        self._visit(schema, "")

    def check(self) -> None:
        """Resolve every reference and look for circles. Raises: RegistrationError."""
        for node in self.nodes:
            self._add_references(node)
        try:
            TopologicalSorter(self.edges).prepare()
        except CycleError:
            raise RegistrationError(f"{self.where}: $ref leads back to itself and never into the value") from None

    def _visit(self, root: dict[str, Any], base: str) -> None:
        todo = [(root, base)]
        while todo:
            node, base = todo.pop()
            base = self._name(node, base)
            self.bases[id(node)] = base
            self.nodes.append(node)
            edges = self.edges.setdefault(id(node), set())
            for keyword, child in _subschemas(node):
                if keyword in _SAME_VALUE:
                    edges.add(id(child))
                todo.append((child, base))

    def _name(self, node: dict[str, Any], base: str) -> str:
        self._check_dialect(node.get("$schema"))
        own = node.get("$id")
        if isinstance(own, str) and not own.startswith("#"):
            base = urldefrag(urljoin(base, own)).url
            self.resources[base] = node
        for keyword in ("$anchor", "$dynamicAnchor", "$id"):
            anchor = node.get(keyword)
            if isinstance(anchor, str) and (keyword != "$id" or anchor.startswith("#")):
                self.anchors[base, anchor.lstrip("#")] = node
        return base

    def _check_dialect(self, dialect: Any) -> None:
        if dialect is not None and (not isinstance(dialect, str) or dialect.removesuffix("#") not in _DIALECTS):
            raise RegistrationError(
                f"{self.where}: $schema {_clip(repr(dialect))} is not supported; use 2020-12 or leave it out"
            )

    def _add_references(self, node: dict[str, Any]) -> None:
        for keyword in _REFERENCES:
            reference = node.get(keyword)
            if isinstance(reference, str):
                target = self._resolve(reference, self.bases[id(node)])
                if target is not None:
                    self.edges[id(node)].add(id(target))
                elif not reference.startswith(_BUNDLED):
                    raise RegistrationError(
                        f"{self.where}: {keyword} {_clip(repr(reference))} is not in the schema itself; "
                        "references are never fetched"
                    )

    def _resolve(self, reference: str, base: str) -> Any:
        address, fragment = urldefrag(urljoin(base, reference))
        resource = self.resources.get(address)
        if resource is None or not fragment:
            return resource
        if fragment.startswith("/"):
            return _follow(resource, unquote(fragment))
        return self.anchors.get((address, unquote(fragment)))


def _follow(node: Any, pointer: str) -> Any:
    for step in pointer[1:].split("/"):
        token = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(token)
        elif isinstance(node, list) and token.isdecimal() and int(token) < len(node):
            node = node[int(token)]
        else:
            return None
    return node


def _subschemas(node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for keyword in node.keys() & _SINGLE:
        if isinstance(node[keyword], dict):
            yield keyword, node[keyword]
    for keyword in node.keys() & _LISTS:
        if isinstance(node[keyword], list):
            yield from ((keyword, child) for child in node[keyword] if isinstance(child, dict))
    for keyword in node.keys() & _MAPS:
        if isinstance(node[keyword], dict):
            yield from ((keyword, child) for child in node[keyword].values() if isinstance(child, dict))


def _explain(error: Exception) -> str:
    if not isinstance(error, jsonschema_rs.ValidationError):
        return str(error)
    place = show_path(error.instance_path).removeprefix(".") or "schema"
    pattern = error.instance
    if isinstance(pattern, str) and error.message.endswith('is not a "regex"'):
        return f"{place}: {_name_of_fault(pattern)} in the regular expression {pattern!r}"
    return f"{place}: {error.message}"


def _name_of_fault(pattern: str) -> str:
    if _LOOK_AROUND.search(pattern):
        return "look-around"
    return "a back-reference" if _BACK_REFERENCE.search(pattern) else "a mistake, or too much,"


def show_path(path: list[str | int]) -> str:
    """Write a path into a JSON value the way a programmer would: `.items[2].name`."""
    return "".join(
        f".{step}" if isinstance(step, str) and _PLAIN_NAME.fullmatch(step) else f"[{step!r}]" for step in path
    )


def _clip(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM_CHARS else text[: MAX_PROBLEM_CHARS - 3] + "..."
