"""Where a value breaks its schema: the first place, found in bounded work, in a text of bounded length.

A JSON Schema library that lists errors makes one for each item and each branch of an `anyOf`, each with a copy of the
value: 200 KB of arguments cost 440 MB, and twelve objects inside each other, 200 bytes, cost seconds. So no errors are
listed here. `locate` asks only whether a part is valid, which the library answers at the first contradiction, and goes
down into the first part that is not.

Called by: `wire.schema`, which hands in both questions. Pure. Deliberately not: deciding whether a value is valid.

Laws: at each level every part of the value is asked about once at most; a large value is described, never quoted.
Where none of several branches fits, the one that its `type` leaves possible is looked into; otherwise they are named
together.

Sources: JSON Schema 2020-12 core sections 10 and 11, validation section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

_SHOWN_CHARS = 100
"""Of a value that a refusal quotes."""

Valid = Callable[[str, Any], bool]
"""`valid(pointer, value)`: whether the subschema at that JSON pointer (with `#`) takes the value; True when unknown."""
Judge = Callable[[str, Any, Any], bool]
"""`judge(keyword, operand, value)`: whether the value fits a schema of this one keyword."""
Quote = Callable[[str, Any, Any], str]
"""As `Judge`, for a small value that does not fit: the library's own text about it."""
Path = list[str | int]

SMALL_ITEMS: Final = 1_000
"""Values and hundreds of characters up to which a value is small."""
_MAX_STEPS: Final = 512
"""Schemas entered on the way down: more than the depth of a value and of a schema together."""
_ASSERTIONS: Final = (
    "type", "enum", "const", "required", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "maxLength", "minLength", "pattern", "format", "maxItems", "minItems", "maxProperties", "minProperties",
    "dependentRequired", "uniqueItems",
)  # fmt: skip
_CHOICES: Final = ("anyOf", "oneOf")
_OTHERS: Final = ("not", "contains", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties")


class _Part(NamedTuple):
    """A subschema and what it is applied to: `pointer` below the schema's own, or absolute when it begins with `#`."""

    pointer: str
    schema: Any
    value: Any
    path: Path


def is_small(value: Any) -> bool:
    """Tell whether a value is small enough to be checked and quoted on the spot; looks at no more than that much.

    The names of members count as their values do.
    """
    todo, left = [value], SMALL_ITEMS - 1
    for item in todo:
        if isinstance(item, str):
            left -= len(item) // 100
        elif isinstance(item, dict):
            left -= 2 * len(item)
            if left >= 0:
                todo += item
                todo += item.values()
        elif isinstance(item, list):
            left -= len(item)
            if left >= 0:
                todo += item
        if left < 0:
            return False
    return True


class Faults:
    """One schema, and how to ask about its parts."""

    def __init__(self, schema: Any, *, valid: Valid, judge: Judge, quote: Quote) -> None:
        self._root = schema
        self.valid = valid
        self.judge = judge
        self.quote = quote

    def locate(self, value: Any) -> tuple[Path, str]:
        """Return the path to the first part of an invalid `value` that breaks its schema, and what is wrong there."""
        pointer, path = "#", Path()
        part: _Part = _Part("#", self._root, value, [])
        for _ in range(_MAX_STEPS):
            text = self._assert(part.schema, part.value)
            if text is not None:
                return path, text
            below = self._descend(part.schema, part.value, pointer)
            if below is None:
                break
            if below.schema is False and below.pointer == "/additionalProperties":
                return path, f"Additional properties are not allowed ({_cut(repr(below.path[0]))} was unexpected)"
            pointer = below.pointer if below.pointer.startswith("#") else pointer + below.pointer
            path += below.path
            part = below
        return path, self._rest(part.schema, part.value)

    def _assert(self, schema: Any, value: Any) -> str | None:
        if not isinstance(schema, dict):
            return f"nothing is allowed here, not {_show(value)}" if schema is False else None
        for keyword in _ASSERTIONS:
            if keyword in schema and not self.judge(keyword, schema[keyword], value):
                return self._say(keyword, schema[keyword], value)
        return None

    def _say(self, keyword: str, operand: Any, value: Any) -> str:
        if is_small(value):
            return self.quote(keyword, operand, value)
        return f"{_show(value)} breaks {keyword!r}: {_cut(repr(operand))}"

    def _descend(self, schema: Any, value: Any, pointer: str) -> _Part | None:
        for part in self._parts(schema, value, pointer):
            where = part.pointer if part.pointer.startswith("#") else pointer + part.pointer
            if part.schema is False or not self.valid(where, part.value):
                return part
        return None

    def _parts(self, schema: Any, value: Any, pointer: str) -> Iterator[_Part]:
        if not isinstance(schema, dict):
            return
        if isinstance(value, dict):
            yield from self._members(schema, value)
        elif isinstance(value, list):
            yield from _items(schema, value)
        yield from self._same_value(schema, value, pointer)

    def _members(self, schema: dict[str, Any], value: dict[str, Any]) -> Iterator[_Part]:
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        others, names = schema.get("additionalProperties", True), schema.get("propertyNames", True)
        for name, member in value.items():
            if names is not True:
                yield _Part("/propertyNames", names, name, [])
            matched = [pattern for pattern in patterns if self.judge("pattern", pattern, name)]
            if name in named:
                yield _Part(f"/properties/{_escape(name)}", named[name], member, [name])
            for pattern in matched:
                yield _Part(f"/patternProperties/{_escape(pattern)}", patterns[pattern], member, [name])
            if name not in named and not matched and others is not True:
                yield _Part("/additionalProperties", others, member, [name])

    def _same_value(self, schema: dict[str, Any], value: Any, pointer: str) -> Iterator[_Part]:
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            yield _Part(reference, _follow(self._root, reference), value, [])
        for at, branch in enumerate(schema.get("allOf", ())):
            yield _Part(f"/allOf/{at}", branch, value, [])
        if "if" in schema:
            branch = "then" if self.valid(f"{pointer}/if", value) else "else"
            yield _Part(f"/{branch}", schema.get(branch, True), value, [])
        for keyword in _CHOICES:
            possible = [at for at, one in enumerate(schema.get(keyword, ())) if self._possible(one, value)]
            if len(possible) == 1:
                yield _Part(f"/{keyword}/{possible[0]}", schema[keyword][possible[0]], value, [])

    def _possible(self, schema: Any, value: Any) -> bool:
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            schema = _follow(self._root, schema["$ref"])
        if not isinstance(schema, dict):
            return schema is not False
        return all(self.judge(key, schema[key], value) for key in ("type", "const", "enum") if key in schema)

    def _rest(self, schema: Any, value: Any) -> str:
        """Say what is left when no part is at fault."""
        keywords = [key for key in (*_CHOICES, *_OTHERS) if isinstance(schema, dict) and key in schema]
        if keywords[:1] == ["anyOf"]:
            return f"{_show(value)} is not valid under any of the schemas listed in the 'anyOf' keyword"
        if keywords[:1] == ["oneOf"]:
            return f"{_show(value)} is not valid under exactly one of the schemas listed in the 'oneOf' keyword"
        return f"{_show(value)} does not fit {' and '.join(map(repr, keywords)) or 'the schema'}"


def _items(schema: dict[str, Any], value: list[Any]) -> Iterator[_Part]:
    first, rest, word = schema.get("prefixItems", ()), schema.get("items", True), "prefixItems"
    key = "items"
    if isinstance(rest, list):
        first, rest, word, key = rest, schema.get("additionalItems", True), "items", "additionalItems"
    for at, item in enumerate(value):
        if at < len(first):
            yield _Part(f"/{word}/{at}", first[at], item, [at])
        elif rest is True:
            return
        else:
            yield _Part(f"/{key}", rest, item, [at])


def _follow(root: Any, pointer: str) -> Any:
    node = root
    for step in pointer.removeprefix("#").split("/")[1:]:
        token = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and token.isdecimal() and int(token) < len(node):
            node = node[int(token)]
        else:
            node = node.get(token, True) if isinstance(node, dict) else True
    return node if pointer.startswith("#") and pointer[1:2] in ("", "/") else True


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _show(value: Any) -> str:
    if isinstance(value, list):
        return "[]" if not value else f"an array of {len(value)} item{'s' * (len(value) != 1)}"
    if isinstance(value, dict):
        return "{}" if not value else f"an object of {len(value)} member{'s' * (len(value) != 1)}"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= _SHOWN_CHARS else f"a text of {len(value)} characters"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
