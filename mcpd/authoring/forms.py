"""The flat forms that an elicitation may show: checked when the question is made, written from type hints if wished.

MCP allows one object of primitive fields and nothing else, so that every client can draw it. `check_form` holds a raw
schema to that and changes nothing in it; `form_of` writes one from `{name: type}`; `check_url` is for the other mode.

Called by `content.Elicit`. Deliberately not: judging answers, which is done against the same schema by `wire.schema`.

Laws: no secrets through a form (MRT-10): a field named or formatted like one is refused, with a pointer to `url=`.
Faults are the author's, so they are ValueError and TypeError at the place of the mistake.

Sources: MCP 2026-07-28 client/elicitation (MRT-9, MRT-10); SEP-1034 (defaults), SEP-1330 (enums).
"""

from __future__ import annotations

import re
from typing import Any, get_args
from urllib.parse import urlsplit

from mcpd.authoring.listings import schema_of

_NOTES = frozenset({"title", "description", "default"})
_ROOT = frozenset({"$schema", "type", "properties", "required", "title", "description", "additionalProperties"})
_ALLOWED: dict[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format", "enum", "enumNames", "oneOf"}),
    "number": frozenset({"minimum", "maximum"}),
    "integer": frozenset({"minimum", "maximum"}),
    "boolean": frozenset(),
    "array": frozenset({"items", "minItems", "maxItems"}),
}
_FORMATS = frozenset({"email", "uri", "date", "date-time"})
_SECRET = re.compile(
    r"pass(word|wd|phrase|code)|secret|api_?key|access_?token|private_?key|credit_?card|cvv", re.IGNORECASE
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_form(schema: dict[str, Any]) -> None:
    """Raise ValueError unless `schema` is a flat object of primitive fields; the text names the field."""
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict):
        raise ValueError("a form is {'type': 'object', 'properties': {...}}")
    if unknown := schema.keys() - _ROOT:
        raise ValueError(f"a form cannot have {_names(unknown)} at its root")
    for name, field in properties.items():
        _check_field(name, field)
    required = schema.get("required", [])
    if not isinstance(required, list) or not properties.keys() >= {str(name) for name in required}:
        raise ValueError("a form's 'required' lists names of its properties")


def _check_field(name: str, field: Any) -> None:
    kind = field.get("type") if isinstance(field, dict) else None
    allowed = _ALLOWED.get(kind) if isinstance(kind, str) else None
    if allowed is None:
        raise ValueError(f"form field {name!r}: the type must be one of {', '.join(_ALLOWED)}")
    if unknown := field.keys() - allowed - _NOTES - {"type"}:
        raise ValueError(f"form field {name!r}: {kind} fields cannot have {_names(unknown)}")
    if _SECRET.search(name):
        raise ValueError(f"form field {name!r}: never ask for secrets in a form; send the user to a page with url=")
    if field.get("format", "email") not in _FORMATS:
        raise ValueError(f"form field {name!r}: the format must be one of {', '.join(sorted(_FORMATS))}")
    if kind == "array":
        _check_items(name, field.get("items"))
    if "oneOf" in field:
        _check_titled(name, field["oneOf"])


def _check_items(name: str, items: Any) -> None:
    if isinstance(items, dict) and isinstance(items.get("enum"), list) and items.get("type") == "string":
        return
    if not isinstance(items, dict) or "anyOf" not in items:
        raise ValueError(f"form field {name!r}: items are {{type: string, enum}} or {{anyOf: [{{const, title}}]}}")
    _check_titled(name, items["anyOf"])


def _check_titled(name: str, options: Any) -> None:
    fits = isinstance(options, list) and all(
        isinstance(option, dict) and isinstance(option.get("const"), str) and isinstance(option.get("title"), str)
        for option in options
    )
    if not fits:
        raise ValueError(f"form field {name!r}: titled choices are a list of {{const, title}}")


def _names(keywords: set[str]) -> str:
    return ", ".join(repr(keyword) for keyword in sorted(keywords))


def check_url(url: str) -> None:
    """Raise ValueError unless `url` is https (http on loopback) and carries no user name or password."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or (parts.scheme != "https" and not local):
        raise ValueError("an elicitation's url must be https")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an elicitation's url must not carry credentials")


def form_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Write a form from `{name: type}`.

    A type is `str`, `int`, `float`, `bool`, `Literal[...]` or `list[Literal[...]]`, also in `Annotated[..., Meta()]`;
    `T | None` makes the field optional. A dict is taken as the field's schema as it stands.
    Raises: TypeError or ValueError for anything that a form cannot show.
    """
    properties = {name: _field(name, hint) for name, hint in fields.items()}
    required = [name for name, hint in fields.items() if isinstance(hint, dict) or type(None) not in get_args(hint)]
    form: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        form["required"] = required
    check_form(form)
    return form


def _field(name: str, hint: Any) -> dict[str, Any]:
    if isinstance(hint, dict):
        return hint
    try:
        schema = schema_of(hint)
    except TypeError as error:
        raise TypeError(f"form field {name!r}: {error}") from None
    return _without_null(schema)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    rest = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    notes = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**rest[0], **notes} if len(rest) == 1 else schema
