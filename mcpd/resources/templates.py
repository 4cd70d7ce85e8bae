"""URI templates, read backwards: does a URI come from this template, and with which values?

Serves the part of RFC 6570 that is unambiguous that way round: literals, `{name}` (one path segment: no `/`, `?` or
`#` unless percent-encoded) and `{+name}` (reserved expansion: anything). Everything else in the RFC (`{#x}`, `{?x}`,
`{x*}`, `{x:3}`, `{a,b}`) and two variables without a literal between them are refused at registration.

Called by: `resources.manager`, `completions`. Pure.

A template and a URI are compared as `wire.uris` writes them, so that it does not matter what a client encodes, nor the
case of a scheme or a host, nor the slash behind a host where nothing else follows.

Laws: matching costs time linear in the URI for each variable, whatever the template (no pattern engine, nothing
backtracks); where a URI can be read in several ways an earlier variable takes as much as it can. Values are
percent-decoded once; a value that is not UTF-8, holds NUL, or has `.` or `..` as a segment matches nothing, so that
no template function meets a traversal.

Sources: RFC 6570 sections 1.2, 2 and 3.2.2 to 3.2.3; MCP 2026-07-28 (RSC-1, RSC-3).
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from mcpd.errors import RegistrationError
from mcpd.wire.uris import tidy, with_normal_authority, with_normal_scheme

MAX_URI_CHARS = 8192
"""Longest URI that is looked at; a longer one matches nothing. Bounds the time of a match."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[^\x00-\x20\x7f]+\Z")
_VARIABLE = re.compile(r"(\+?)([A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\Z")
_SLASHES_TO_A_PATH = 3
_STOPS = frozenset("/?#")
_SEGMENTS = re.compile(r"[/\\]")


def is_uri(text: str) -> bool:
    """Say whether `text` is an absolute URI (or IRI): a scheme and something behind it, no blanks, no controls."""
    return len(text) <= MAX_URI_CHARS and _URI.match(text) is not None


def is_template(uri: str) -> bool:
    """Say whether a declared URI is a template."""
    return "{" in uri or "}" in uri


class Template:
    """One URI template.

    Raises: RegistrationError naming the expression that cannot be served.
    """

    def __init__(self, uri_template: str) -> None:
        self.text = uri_template
        literals, expressions = _split(uri_template)
        tail = "".join(literals).partition("://")[2]
        self._has_authority = re.search("[/?#]", literals[0].partition("://")[2]) is not None
        self._ends_at_host = not re.search("[/?#]", tail) and "{+" not in uri_template
        self._literals = [self._comparable(literals[0]), *map(tidy, literals[1:])]
        parsed = [_variable(expression, uri_template) for expression in expressions]
        self._reserved = [reserved for reserved, _ in parsed]
        self.variables = tuple(name for _, name in parsed)
        """Names of the variables in their order."""
        self._check()

    def _check(self) -> None:
        where = f"URI template {self.text!r}"
        if not is_uri(self._literals[0] + "x"):
            raise RegistrationError(f"{where} must begin with a scheme, such as 'notes://'")
        if len(set(self.variables)) < len(self.variables):
            raise RegistrationError(f"{where} uses a variable twice")
        if "" in self._literals[1:-1]:
            raise RegistrationError(f"{where} has two variables with nothing between them")

    def _comparable(self, uri: str) -> str:
        """Write a URI, or this template's beginning, as the two are compared."""
        return with_normal_authority(uri) if self._has_authority else with_normal_scheme(uri)

    def match(self, uri: str) -> dict[str, str] | None:
        """Return the decoded value of each variable, None when `uri` does not come from this template."""
        if len(uri) > MAX_URI_CHARS:
            return None
        uri = self._comparable(uri)
        if self._ends_at_host and uri.count("/") == _SLASHES_TO_A_PATH:
            uri = uri.removesuffix("/")
        if not uri.startswith(self._literals[0]):
            return None
        start = len(self._literals[0])
        ends = self._ends(uri, start)
        values: dict[str, str] = {}
        for name, literal, farthest in zip(self.variables, self._literals[1:], ends, strict=True):
            end = farthest[start]
            value = None if end is None else _decode(uri[start:end])
            if end is None or value is None:
                return None
            values[name] = value
            start = end + len(literal)
        return values if start == len(uri) else None

    def _ends(self, uri: str, start: int) -> list[list[int | None]]:
        """For each variable and each position: the farthest end of its value from which the rest can still match."""
        tables: list[list[int | None]] = []
        following: list[int | None] | None = None
        for literal, reserved in zip(reversed(self._literals[1:]), reversed(self._reserved), strict=True):
            following = _farthest(uri, start, literal, reserved, following)
            tables.append(following)
        tables.reverse()
        return tables


def _farthest(
    uri: str, start: int, literal: str, reserved: bool, following: list[int | None] | None
) -> list[int | None]:
    length, width = len(uri), len(literal)
    table: list[int | None] = [None] * (length + 1)
    best: int | None = None
    for position in range(length - 1, start - 1, -1):
        end = position + 1
        if not reserved and uri[position] in _STOPS:
            best = None
            continue
        if best is None and uri.startswith(literal, end):
            behind = end + width
            if behind == length if following is None else behind <= length and following[behind] is not None:
                best = end
        table[position] = best
    return table


def _split(text: str) -> tuple[list[str], list[str]]:
    """Cut into n + 1 literals around n expressions."""
    literals, expressions = [""], []
    for part in re.split(r"(\{[^{}]*\})", text):
        if part.startswith("{") and part.endswith("}"):
            expressions.append(part[1:-1])
            literals.append("")
        elif is_template(part):
            raise RegistrationError(f"URI template {text!r} has a brace without its partner")
        else:
            literals[-1] += part
    return literals, expressions


def _variable(expression: str, text: str) -> tuple[bool, str]:
    found = _VARIABLE.match(expression)
    if found is None:
        raise RegistrationError(
            f"URI template {text!r}: {{{expression}}} is not served; write {{name}} for one segment, {{+name}} for more"
        )
    return found[1] == "+", found[2]


def _decode(raw: str) -> str | None:
    try:
        value = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeError:
        return None
    dotted = any(segment in (".", "..") for segment in _SEGMENTS.split(value))
    return None if dotted or "\0" in value else value
