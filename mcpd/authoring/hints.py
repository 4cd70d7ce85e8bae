"""Type hints as MCP and JSON Schema ask for them.

`input_schema_of` and `output_schema_of` write schemas as `listings` does. `gaps` finds where msgspec would
accept something else than that schema says, so that `signatures` has those arguments checked by `wire.schema` too.
`Meta` is msgspec's, except that a pattern or a fractional `multiple_of` is only advertised, and so left to
`wire.schema`: msgspec's own pattern check backtracks, and its division is not decimal.

Called by `signatures` and authors (`Meta`).

Sources: msgspec's documentation of constraints and `msgspec.inspect`; JSON Schema 2020-12 validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from mcpd.authoring.listings import schema_of
from mcpd.errors import RegistrationError

_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format"})
UNDESCRIBABLE = (TypeError, ValueError, NameError, AttributeError)
"""What msgspec raises for a hint that it cannot describe."""
_LOOSE = (inspect.SetType, inspect.FrozenSetType, inspect.DecimalType)


def Meta(*, extra_json_schema: dict[str, Any] | None = None, **constraints: Any) -> msgspec.Meta:  # noqa: N802
    """Constrain or describe a type inside `Annotated[...]`.

    Takes what `msgspec.Meta` takes: `gt`, `ge`, `lt`, `le`, `multiple_of`, `pattern`, `min_length`, `max_length`,
    `title`, `description`, `examples`, `extra_json_schema`. Patterns know no look-around and no back-references.
    """
    extra = dict(extra_json_schema or {})
    if "pattern" in constraints:
        extra["pattern"] = constraints.pop("pattern")
    if isinstance(constraints.get("multiple_of"), float):
        extra["multipleOf"] = constraints.pop("multiple_of")
    return msgspec.Meta(**constraints, extra_json_schema=extra or None)


def input_schema_of(decoder: type[msgspec.Struct]) -> dict[str, Any]:
    """Write the schema of a function's arguments: an object that lists its properties and admits no others."""
    schema = schema_of(decoder)
    schema.pop("title", None)
    return schema


def output_schema_of(hint: Any, where: str) -> dict[str, Any]:
    """Write the schema of a return type; its root may be of any type. Raises: RegistrationError."""
    try:
        return schema_of(hint)
    except UNDESCRIBABLE as error:
        raise RegistrationError(
            f"{where}: its return type cannot be described ({cause_of(error)}); annotate it as Any, or give"
            " output_schema"
        ) from None


def cause_of(error: Exception) -> str:
    """Return what msgspec says about a type, without its advice, which is about options that authors do not have."""
    return str(error).strip().rpartition("\n")[2]


def gaps(hint: Any, where: str) -> bool:
    """Tell whether msgspec accepts more or less than the schema of `hint` says, so that arguments need checking twice.

    Raises: RegistrationError for a type that no check can bring together with its schema.
    """
    found = [_is_gap(node, where) for node in _nodes(inspect.type_info(hint))]
    return any(found)


def _is_gap(node: Any, where: str) -> bool:
    if isinstance(node, inspect.Metadata):
        extra = node.extra_json_schema or {}
        return any(key not in _NOTES and not key.startswith("x-") for key in extra)
    if isinstance(node, inspect.StrType) and node.pattern is not None:
        raise RegistrationError(f"{where}: write patterns with mcpd.Meta, not msgspec.Meta ({node.pattern!r})")
    if isinstance(node, inspect.DictType) and not isinstance(_bare(node.key_type), inspect.StrType | inspect.AnyType):
        raise RegistrationError(f"{where}: the keys of a dict parameter must be str")
    return isinstance(node, _LOOSE) or (isinstance(node, inspect.StructType) and node.tag is not None)


def _bare(node: Any) -> Any:
    return _bare(node.type) if isinstance(node, inspect.Metadata) else node


def _nodes(root: Any) -> Iterator[Any]:
    todo, seen = [root], set[int]()
    while todo:
        node = todo.pop()
        if isinstance(node, list | tuple):
            todo.extend(node)
        elif isinstance(node, msgspec.Struct) and id(node) not in seen:
            seen.add(id(node))
            yield node
            todo.extend(getattr(node, name) for name in node.__struct_fields__ if name not in ("cls", "extra"))
