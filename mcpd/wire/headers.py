"""The routing headers of a 2026-07-28 POST: reading them, decoding their values, holding them against the arguments.

`by_name` goes through a request's headers once, for all who ask for some of them; `RoutingHeaders.read` picks ours out.
`decode_value` reads the Base64 form that text takes which a header cannot carry. `find_parameters` reads `x-mcp-header`
annotations out of a tool's input schema once, at registration; `check_parameters` compares them with the `Mcp-Param-*`
headers of each call.

Called by: `gateway` (`by_name`, read), `wire.envelope` (names), `tools.registry` and `messages.manager` (parameters).
Deliberately not: what a client writes, and the rules that compare version, method and name with the
body; they belong to the ladder in `wire.envelope`.

Laws: the body is the truth and a header only mirrors it (ERA-3); an empty header is present; decoding is strict, and
what does not look encoded is taken literally.

Sources: MCP 2026-07-28 basic/transports and server/tools; SEP-2243; RFC 9110 sections 5.5 and 5.6.2 (HDR-1..12).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from mcpd.errors import HeaderMismatch, RegistrationError

_PARAM: Final = b"mcp-param-"
_ROUTING: Final = {
    b"mcp-protocol-version": "MCP-Protocol-Version",
    b"mcp-method": "Mcp-Method",
    b"mcp-name": "Mcp-Name",
}

Named = Mapping[bytes, bytes]
"""Headers by lower-case name."""
_NONE: Final[Named] = {}


def by_name(raw: Sequence[tuple[bytes, bytes]]) -> tuple[Named, Named]:
    """Return ASGI headers by name, of several the last; and apart what came more than once, its values joined.

    Two lines and one with a comma are the same (RFC 9110 section 5.3).
    """
    named = dict(raw)
    return named, _NONE if len(named) == len(raw) else _join(raw)


def _join(raw: Sequence[tuple[bytes, bytes]]) -> Named:
    lines: dict[bytes, list[bytes]] = {}
    for name, value in raw:
        lines.setdefault(name, []).append(value.strip(b" \t"))
    return {name: b", ".join(values) for name, values in lines.items() if len(values) > 1}


class RoutingHeaders(msgspec.Struct, frozen=True):
    """The headers that mirror a message, as sent: optional white space stripped, nothing decoded.

    `duplicates` names a routing or parameter header that came twice, whatever its values. What came twice is joined
    with a comma, and so matches nothing.
    """

    version: str | None = None
    method: str | None = None
    name: str | None = None
    duplicates: str | None = None
    session_id: str | None = None
    last_event_id: str | None = None
    given: Named = {}
    """All headers of the request."""

    @classmethod
    def read(cls, named: Named, repeated: Named = _NONE) -> RoutingHeaders:
        """Read what `by_name` has returned."""
        given = {**named, **repeated} if repeated else named
        return cls(
            _text(given.get(b"mcp-protocol-version")),
            _text(given.get(b"mcp-method")),
            _text(given.get(b"mcp-name")),
            _duplicate(repeated) if repeated else None,
            _text(given.get(b"mcp-session-id")),
            _text(given.get(b"last-event-id")),
            given,
        )

    def parameter(self, name: str) -> str | None:
        """Return a header by its lower-case name: `mcp-param-region`."""
        return _text(self.given.get(name.encode("ascii")))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.strip(b" \t").decode("latin-1")


def _duplicate(repeated: Named) -> str | None:
    for name in repeated:
        if name in _ROUTING or name.startswith(_PARAM):
            return _ROUTING.get(name) or name.decode("latin-1")
    return None


_PREFIX: Final = "=?base64?"
_SUFFIX: Final = "?="
_NOT_BASE64: Final = "A routing header has a value that is not canonical Base64 of UTF-8 text"


def decode_value(raw: str) -> str:
    """Return the text that a value of `Mcp-Name` or `Mcp-Param-*` stands for (HDR-6, HDR-7, HDR-8).

    Raises: HeaderMismatch for a character that a plain value cannot have, and for bad Base64 or UTF-8.
    """
    if not (raw.isascii() and (raw.isprintable() or raw.replace("\t", " ").isprintable())):
        raise HeaderMismatch("A routing header has a character outside visible ASCII; send it as =?base64?...?=")
    if len(raw) < len(_PREFIX) + len(_SUFFIX) or not (raw.startswith(_PREFIX) and raw.endswith(_SUFFIX)):
        return raw
    encoded = raw[len(_PREFIX) : -len(_SUFFIX)].encode("ascii")
    try:
        data = binascii.a2b_base64(encoded)
        text = data.decode("utf-8")
    except ValueError:
        raise HeaderMismatch(_NOT_BASE64) from None
    if binascii.b2a_base64(data, newline=False) != encoded:
        raise HeaderMismatch(_NOT_BASE64)
    return text


class HeaderParameter(msgspec.Struct, frozen=True):
    """One argument that clients mirror into a header."""

    header: str
    """Lower-case header name: `mcp-param-region`."""
    path: tuple[str, ...]
    """Property names from the root of the arguments."""
    kind: Literal["string", "integer", "boolean"]


_ANNOTATION: Final = "x-mcp-header"
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_ONE: Final = [
    "items",
    "additionalItems",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
    "not",
    "if",
    "then",
    "else",
]
_MANY: Final = ["allOf", "anyOf", "oneOf", "prefixItems", "items"]
_NAMED: Final = ["patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"]


def find_parameters(input_schema: dict[str, Any]) -> tuple[HeaderParameter, ...]:
    """Return the annotated properties of a tool's input schema, in its order (HDR-9).

    Raises: RegistrationError for an annotation that clients would refuse; the text says where and why.
    """
    found: dict[str, HeaderParameter] = {}
    for path, schema, reachable in _walk(input_schema):
        if _ANNOTATION not in schema:
            continue
        parameter = _read_annotation(path, schema, reachable)
        if parameter.header in found:
            raise _bad(path, f"{schema[_ANNOTATION]!r} is used twice (letter case does not count)")
        found[parameter.header] = parameter
    return tuple(found.values())


_Step = tuple[tuple[str, ...], dict[str, Any], bool]


def _walk(root: dict[str, Any]) -> Iterator[_Step]:
    """Yield every subschema with its path, and whether only `properties` lead to it."""
    stack: list[_Step] = [((), root, True)]
    while stack:
        path, schema, reachable = step = stack.pop()
        yield step
        children = [*_properties(path, schema, reachable), *_others(path, schema)]
        stack.extend(reversed(children))


def _properties(path: tuple[str, ...], schema: dict[str, Any], reachable: bool) -> Iterator[_Step]:
    properties = schema.get("properties")
    if isinstance(properties, dict):
        for name, child in properties.items():
            if isinstance(child, dict):
                yield (*path, name), child, reachable


def _others(path: tuple[str, ...], schema: dict[str, Any]) -> Iterator[_Step]:
    for keyword, child in _subschemas(schema):
        if isinstance(child, dict):
            yield (*path, f"({keyword})"), child, False


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in _ONE:
        yield keyword, schema.get(keyword)
    for keyword in _MANY:
        if isinstance(schema.get(keyword), list):
            yield from ((keyword, child) for child in schema[keyword])
    for keyword in _NAMED:
        if isinstance(schema.get(keyword), dict):
            yield from ((keyword, child) for child in schema[keyword].values())


def _read_annotation(path: tuple[str, ...], schema: dict[str, Any], reachable: bool) -> HeaderParameter:
    label, kind = schema[_ANNOTATION], schema.get("type")
    if not isinstance(label, str) or not label or set(label) - _TOKEN:
        raise _bad(path, f"{label!r} is no header token (letters, digits and !#$%&'*+-.^_`|~)")
    if not reachable or not path:
        raise _bad(path, "only properties reached through 'properties' alone can be mirrored into a header")
    if kind not in ("string", "integer", "boolean"):
        raise _bad(path, f"the type must be string, integer or boolean, not {kind!r}")
    return HeaderParameter(f"mcp-param-{label.lower()}", path, kind)


def _bad(path: tuple[str, ...], reason: str) -> RegistrationError:
    return RegistrationError(f"{_ANNOTATION} at {'.'.join(path) or 'the root of the schema'}: {reason}")


MAX_INTEGER: Final = 2**53 - 1
"""Largest integer that a header parameter may have, either sign: what every JSON implementation holds exactly."""


def check_parameters(
    parameters: tuple[HeaderParameter, ...], headers: RoutingHeaders, arguments: dict[str, Any]
) -> None:
    """Compare annotated arguments with their headers; headers that no parameter names are left alone (HDR-12).

    Raises: HeaderMismatch for a header that is missing, malformed, unlike the argument, or sent without one (HDR-10,
    HDR-11).
    """
    for parameter in parameters:
        raw = headers.parameter(parameter.header)
        value = _argument(arguments, parameter.path)
        if value is None:
            if raw is not None:
                raise HeaderMismatch(f"The header {parameter.header} has no argument {'.'.join(parameter.path)}")
        elif raw is None:
            raise HeaderMismatch(f"The header {parameter.header} is missing")
        elif not _agree(decode_value(raw), value):
            raise HeaderMismatch(f"The header {parameter.header} differs from the argument {'.'.join(parameter.path)}")


def _argument(arguments: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = arguments
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _agree(text: str, value: Any) -> bool:
    if isinstance(value, str):
        return text == value
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    return isinstance(value, (int, float)) and abs(value) <= MAX_INTEGER and _number(text) == value


def _number(text: str) -> int | float | None:
    if text[-1:] not in _DIGITS or text[:1] not in _SIGNED:
        return None
    try:
        return msgspec.json.decode(text, type=int | float)
    except msgspec.DecodeError:
        return None


_DIGITS: Final = tuple("0123456789")
_SIGNED: Final = (*_DIGITS, "-")
