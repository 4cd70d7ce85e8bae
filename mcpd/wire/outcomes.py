"""How a keyed call ended, as bytes that outlive it: its result in the form of the core, or its error.

What is kept knows no revision: each later call with the key is told in the form of its own.

Called by: `idempotency`. Pure. Deliberately not: which outcomes are kept.

Laws: an error is kept with its class, so that it looks the same on every surface, its status included.

Sources: `errors.TABLE`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mcpd.errors import SHOWN_CHARS, TABLE, Forbidden, RpcError, WireError
from mcpd.wire.envelope import SERVER_KEY
from mcpd.wire.jsonrpc import encode

REPLAYED_KEY: Final = "dev.mcpd/replayed"
"""Member of `result._meta`: the tool did not run for this call."""

_CLASSES: Final = {cls.__name__: cls for cls in TABLE if issubclass(cls, WireError)}


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a call ended. Either `result`, or the parts of an error."""

    result: dict[str, Any] | None = None
    crashed: bool = False
    """The result says that the tool raised something unforeseen."""
    kind: str = ""
    message: str = ""
    data: Any = None
    code: int = 0

    def encoded(self) -> bytes:
        """Return it as JSON. Raises: ValueError for what is no JSON value."""
        return encode({name: getattr(self, name) for name in self.__struct_fields__})


decode_outcome: Final = msgspec.json.Decoder(Outcome).decode


def of_result(result: dict[str, Any], *, crashed: bool = False) -> Outcome:
    """Return a result without what only its own answer has."""
    kept = {key: value for key, value in result.items() if key != "_meta"}
    meta = {key: value for key, value in (result.get("_meta") or {}).items() if key != SERVER_KEY}
    return Outcome({**kept, "_meta": meta} if meta else kept, crashed)


def of_error(error: WireError) -> Outcome:
    """Return an error."""
    code = error.code if isinstance(error, RpcError) else 0
    kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _CLASSES)
    return Outcome(kind=kind, message=error.message, data=error.data, code=code)


def error_of(outcome: Outcome) -> WireError:
    """Return the error that was kept, of the same class."""
    cls = _CLASSES[outcome.kind]
    error = cls.__new__(cls)
    WireError.__init__(error, outcome.message, outcome.data)
    if isinstance(error, RpcError):
        error.code = outcome.code
    elif isinstance(error, Forbidden):
        error.scope = str((outcome.data or {}).get("scope", ""))[:SHOWN_CHARS]
    return error


def told(outcome: Outcome, *, replayed: bool) -> dict[str, Any]:
    """Return the result for one call. Raises: the error that was kept."""
    if outcome.result is None:
        raise error_of(outcome)
    result = dict(outcome.result)
    if replayed:
        result["_meta"] = {**(result.get("_meta") or {}), REPLAYED_KEY: True}
    return result
