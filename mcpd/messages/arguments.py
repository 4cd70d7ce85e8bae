"""What a call record says of the arguments that a call came with: a digest and a size, and more where that is wanted.

    digest      nothing else: whoever has the arguments can show that these were they
    redacted    the keys, with the type and size of each value
    full        the JSON itself, to `MAX_KEPT_BYTES`, with API keys masked

Taken before a call runs, because its function may change the values that it is given. Digest and size are of the
arguments as JSON in UTF-8 with sorted keys and without blanks, whatever the client's own way of writing them was.

Called by: `messages.recorder`. Deliberately not: the bytes that arrived, which may be a batch's.

Laws: pure; raises nothing, whatever it is given; what is kept is bounded, and so is the time that it takes beyond
encoding the arguments once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from mcpd.monitoring.logs import mask

MAX_KEPT_BYTES: Final = 4096
MAX_SHAPED_ITEMS: Final = 200
"""Values that `redacted` describes."""
_MAX_NAME_CHARS: Final = 64
_MAX_SECRET_BYTES: Final = 512
"""A key that the cut would go through is found as long as it is not longer."""
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class Noted(msgspec.Struct, frozen=True, gc=False):
    """Digest, size, and what is kept of some arguments."""

    digest: bytes
    size: int
    kept: str = ""


NOTHING: Final = Noted(b"", 0)
"""Of a call without arguments."""


def note_digest(arguments: Any) -> Noted:
    """Note the digest."""
    data = _encoded(arguments)
    return Noted(hashlib.sha256(data).digest(), len(data))


def note_redacted(arguments: Any) -> Noted:
    """Note the digest and the keys."""
    data = _encoded(arguments)
    shape = _encoded(_Shaper().shape(arguments))
    return Noted(hashlib.sha256(data).digest(), len(data), _text(shape))


def note_full(arguments: Any) -> Noted:
    """Note the digest and the JSON."""
    data = _encoded(arguments)
    return Noted(hashlib.sha256(data).digest(), len(data), _text(data))


NOTERS: Final[Mapping[str, Callable[[Any], Noted]]] = MappingProxyType(
    {"digest": note_digest, "redacted": note_redacted, "full": note_full}
)
"""By `records.arguments`."""


def _encoded(value: Any) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return _encoded_otherwise(value)


def _encoded_otherwise(value: Any) -> bytes:
    """Encode what is no JSON: nothing that a transport has decoded, but there is no reason to fail."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return b"null"
    return text.encode("utf-8", "backslashreplace")


def _text(data: bytes) -> str:
    text = mask(data[: MAX_KEPT_BYTES + _MAX_SECRET_BYTES].decode("utf-8", "ignore"))
    return text.encode()[:MAX_KEPT_BYTES].decode("utf-8", "ignore")


class _Shaper:
    """Replaces values by their types and sizes, as many as it may."""

    def __init__(self) -> None:
        self._left = MAX_SHAPED_ITEMS

    def shape(self, value: Any) -> Any:
        if self._left <= 0:
            return "..."
        self._left -= 1
        kind = type(value)
        if kind is dict:
            return self._object(value)
        if kind is list:
            return self._array(value)
        return f"string({len(value)})" if kind is str else _KINDS.get(kind, kind.__name__)

    def _object(self, value: dict[str, Any]) -> dict[str, Any]:
        shaped: dict[str, Any] = {}
        for name, member in value.items():
            shaped[str(name)[:_MAX_NAME_CHARS]] = self.shape(member)
            if self._left <= 0:
                break
        return shaped

    def _array(self, value: list[Any]) -> Any:
        if not any(type(item) is dict for item in value[:MAX_SHAPED_ITEMS]):
            return f"array({len(value)})"
        shaped = []
        for item in value:
            shaped.append(self.shape(item))
            if self._left <= 0:
                break
        return shaped


_KINDS: Final = {bool: "boolean", int: "integer", float: "number", type(None): "null"}
