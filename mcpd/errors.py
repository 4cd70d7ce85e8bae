"""The error tree, and the one table that says how each error looks from outside.

    McpdError
    ├── ConfigurationError        a setting, flag or file is wrong: printed, exit 2
    ├── RegistrationError         a tool, resource or prompt cannot be served as written
    ├── WireError                 a call that could not be served; becomes a JSON-RPC error
    │   ├── ParseError            the bytes are not one JSON text
    │   ├── InvalidRequest        JSON, but not one JSON-RPC message
    │   ├── MethodNotFound        unknown, removed, or its capability is not advertised
    │   ├── InvalidParams         parameters of the wrong shape; bad cursor or requestState
    │   │   └── NotFound          unknown tool, prompt, resource or completion reference
    │   ├── HeaderMismatch        routing header missing, malformed or unlike the body
    │   ├── MissingCapability     the client did not declare what the call needs
    │   ├── UnsupportedVersion    no such protocol revision for stateless requests
    │   ├── Forbidden             the caller's key lacks a scope
    │   ├── DeadlineExceeded      a time budget ran out
    │   ├── CallCancelled         somebody other than its client stopped the call
    │   ├── Overloaded            no room now; `reason` says whose limit
    │   ├── Draining              the server is stopping
    │   ├── RateLimited           too many calls of one caller
    │   ├── StoreUnavailable      a backing store does not answer
    │   ├── ReplyLost             the process that ran the call is gone, and its answer with it
    │   ├── ResultTooLarge        the answer is longer than the server may send
    │   ├── RpcError              an author's function ends its call with a JSON-RPC error of its own
    │   └── InternalError         a bug: the caller learns a request id and nothing else
    ├── ToolCrashed               a tool raised something unforeseen: a result with `isError`, and a line in the log
    └── ToolError                 the tool's own failure: a result with `isError`

Everybody may import this file; it imports nothing of ours. Only the Message Manager and the transports' refusals
translate errors into wire errors, and they do so through `facing`.

Sources: JSON-RPC 2.0 section 5.1; MCP 2026-07-28 (RPC-10, RPC-11); surfaces "Errors".
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, get_args

SHOWN_CHARS: Final = 128
"""Of a name or text from outside that an error quotes."""


class McpdError(Exception):
    """Root of every error mcpd raises on purpose."""


class ConfigurationError(McpdError):
    """The configuration cannot work; the text says which setting and what to write instead."""


class RegistrationError(McpdError):
    """A declaration cannot be served; the text names the declaration and the offending part."""


class ToolError(McpdError):
    """Raised by a tool to report its own failure; the text reaches the model as an `isError` result."""


class ToolCrashed(McpdError):
    """A tool's function raised something unforeseen, its `__cause__`; the text is what the model may read of it."""


class WireError(McpdError):
    """A refusal or failure on its way to the client.

    `data` becomes the `data` member of the JSON-RPC error, absent when None. Never put secrets in either part, nor what
    only operators should know: that is `detail`, which the log and the command line show instead of the message.
    """

    detail = ""

    def __init__(self, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class ParseError(WireError):
    """The bytes are not one JSON text within the limits. `request_id` is the id to answer with, if it could be read."""

    def __init__(self, message: str, *, request_id: str | int | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class InvalidRequest(WireError):
    """JSON, but not one JSON-RPC request, notification or (where allowed) response."""


class MethodNotFound(WireError):
    """The method does not exist in this revision, or its capability is not advertised."""


class InvalidParams(WireError):
    """Parameters are missing or of the wrong shape."""


class NotFound(InvalidParams):
    """The named tool, prompt, resource or completion target does not exist for this caller."""


class ResourceNotFound(NotFound):
    """No such resource; `data.uri` names it."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"Resource not found: {uri}", {"uri": uri})


class HeaderMismatch(WireError):
    """A routing header is missing, malformed or disagrees with the body."""


class MissingCapability(WireError):
    """The request's client capabilities lack what this operation needs.

    `required` is a ClientCapabilities object, for example `{"sampling": {}}`. The message names each extension.
    """

    def __init__(self, required: dict[str, Any]) -> None:
        extensions = required.get("extensions", {})
        names = [name for name in required if name != "extensions"] + [f"extensions[{name!r}]" for name in extensions]
        message = f"This operation needs the client capability: {', '.join(names)}"
        super().__init__(message, {"requiredCapabilities": required})


class UnsupportedVersion(WireError):
    """The requested protocol revision cannot be used for stateless requests."""

    def __init__(self, requested: str, supported: list[str]) -> None:
        super().__init__(
            f"Unsupported protocol version: {requested[:SHOWN_CHARS]!r}",
            {"supported": supported, "requested": requested},
        )


class Forbidden(WireError):
    """The caller is known but lacks `scope`."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This operation needs a key with the scope {scope!r}", {"scope": scope})
        self.scope = scope


class DeadlineExceeded(WireError):
    """A call ran out of time. `budget` is whose limit it was: `request`, `tool` or `server`."""

    def __init__(self, budget: str, limit_ms: int) -> None:
        super().__init__(
            f"The call did not finish within its {budget} limit of {limit_ms} ms",
            {"reason": "deadline", "budget": budget, "limitMs": limit_ms},
        )
        self.budget = budget


Reason = Literal["client_gone", "explicit", "deadline", "drain", "admin"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
"""Why a call can be stopped: in the log, as a label of metrics, and told to a client that still listens."""


class CallCancelled(WireError):
    """A call was stopped. Sent only where the exchange has to end with an answer, or the client did not ask for it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__("The call was cancelled", {"reason": reason})


class Retryable(WireError):
    """A refusal that may succeed later; `retry_after_ms` is a hint, not a promise."""

    reason = "unavailable"

    def __init__(self, message: str, *, retry_after_ms: int = 1000) -> None:
        super().__init__(message, {"reason": self.reason, "retryable": True, "retryAfterMs": retry_after_ms})
        self.retry_after_ms = retry_after_ms


class Overloaded(Retryable):
    """A bounded queue or pool is full."""

    reason = "overloaded"


class Draining(Retryable):
    """The server is stopping and takes no new calls."""

    reason = "draining"


class RateLimited(Retryable):
    """This caller has used up its rate."""

    reason = "rate_limited"


class StoreUnavailable(Retryable):
    """A backing store does not answer. `detail` is what its driver says: addresses, paths, a library's own text."""

    reason = "store_unavailable"

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class ReplyLost(Retryable):
    """The process that ran a call is gone, and its answer with it; what the call has done is not known."""

    reason = "owner_lost"


class ResultTooLarge(WireError):
    """The answer is longer than the server may send."""

    def __init__(self, size_bytes: int, most_bytes: int) -> None:
        super().__init__(
            f"The result is {size_bytes} bytes long; at most {most_bytes} bytes are allowed",
            {"reason": "result_too_large", "sizeBytes": size_bytes, "limitBytes": most_bytes},
        )


class RpcError(WireError):
    """Raised by a tool, resource or prompt to end its call with a JSON-RPC error; a task is `failed` then.

    For what a model cannot mend, such as a back end that is gone: what it can belongs into a `ToolError`. `code` is one
    of JSON-RPC's own (-32700, -32600 to -32603) or outside of -32768 to -32000, which are reserved; `data` is JSON.
    Raises: ValueError for another code.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        reserved = type(code) is not int or code in _RESERVED_CODES or abs(code) > MAX_CODE
        if reserved and code not in _STANDARD_CODES:
            raise ValueError(f"{code!r} is no code that a tool may use: take -32603, or one outside -32768 to -32000")
        super().__init__(str(message), data)
        self.code = code


MAX_CODE: Final = 2**31 - 1
_RESERVED_CODES: Final = range(-32768, -31999)
_STANDARD_CODES: Final = frozenset((-32700, *range(-32603, -32599)))


class InternalError(WireError):
    """A bug of ours or of a tool's code; the text given to the client is always the same."""

    def __init__(self, request_id: str) -> None:
        super().__init__("Internal error", {"requestId": request_id})


def counted(number: int, noun: str) -> str:
    """Return `1 task`, `2 tasks`, for a noun that only gains an s."""
    return f"{number} {noun}{'s' * (number != 1)}"


def leaves(error: BaseException) -> list[BaseException]:
    """Return what a group of exceptions holds, at any depth; an exception that is no group is its own only leaf.

    Groups are walked, not split, and nothing is asked of an author's own class, which may refuse: this never raises.
    """
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if issubclass(type(one), BaseExceptionGroup):
            waiting.extend(reversed(vars(BaseExceptionGroup)["exceptions"].__get__(one)))
        else:
            found.append(one)
    return found


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return where `error` was raised, without asking its class, which may have attributes that raise."""
    found: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
    return found


def plain(error: BaseException) -> BaseException:
    """Return the ToolError or WireError that a group stands for; any other error as it is.

    A nursery puts what its tasks raise into a group, also a single ToolError.
    """
    if not issubclass(type(error), BaseExceptionGroup):
        return error
    found = leaves(error)
    if not all(issubclass(type(leaf), (ToolError, WireError)) for leaf in found):
        return error
    refusal = next((leaf for leaf in found if isinstance(leaf, WireError)), None)
    return refusal or ToolError("\n".join(dict.fromkeys(map(str, found))))


def describe(error: BaseException) -> str:
    """Return `Type: message`, a line for each leaf of a group: first lines only, and a bounded number of them."""
    lines = dict.fromkeys(_line(leaf) for leaf in leaves(error)[:MAX_LEAVES_ITEMS])
    return "\n".join(lines)


def _line(error: BaseException) -> str:
    name: str = vars(type)["__name__"].__get__(type(error))
    try:
        text = str(error)[:MAX_LINE_CHARS].strip()
    except BaseException:  # noqa: ASYNC103, BLE001 - an author's `__str__` may raise anything, too
        return name  # noqa: ASYNC104 - as above
    return f"{name}: {text.splitlines()[0]}" if text else name


MAX_LEAVES_ITEMS = 5
MAX_LINE_CHARS = 500


class Facing(NamedTuple):
    """How one error class looks on each surface."""

    code: int
    """JSON-RPC code on stateless requests."""
    stateful_code: int
    """JSON-RPC code on stateful connections (never one that a client reads as a sign of the stateless revision)."""
    mcp_status: int
    """HTTP status on /mcp for stateless requests, as long as nothing was committed."""
    rest_status: int
    graphql_code: str
    outcome: str
    """Value of the metric label `outcome`."""
    retryable: bool


def _row(
    code: int,
    mcp: int,
    rest: int,
    graphql: str,
    outcome: str = "protocol_error",
    *,
    stateful: int | None = None,
    retryable: bool = False,
) -> Facing:
    return Facing(code, code if stateful is None else stateful, mcp, rest, graphql, outcome, retryable)


TABLE: dict[type[McpdError], Facing] = {
    ParseError: _row(-32700, 400, 400, "PARSE_ERROR"),
    InvalidRequest: _row(-32600, 400, 400, "INVALID_REQUEST"),
    MethodNotFound: _row(-32601, 404, 404, "METHOD_NOT_FOUND"),
    InvalidParams: _row(-32602, 400, 422, "INVALID_PARAMS"),
    NotFound: _row(-32602, 400, 404, "NOT_FOUND"),
    ResourceNotFound: _row(-32602, 400, 404, "NOT_FOUND", stateful=-32002),
    HeaderMismatch: _row(-32020, 400, 400, "HEADER_MISMATCH", stateful=-32600),
    MissingCapability: _row(-32021, 400, 422, "MISSING_CAPABILITY", stateful=-32600),
    UnsupportedVersion: _row(-32022, 400, 400, "UNSUPPORTED_VERSION", stateful=-32602),
    Forbidden: _row(-32600, 403, 403, "FORBIDDEN", "rejected"),
    DeadlineExceeded: _row(-32603, 200, 504, "DEADLINE", "deadline"),
    CallCancelled: _row(-32800, 200, 503, "CANCELLED", "cancelled"),
    Overloaded: _row(-32603, 503, 503, "OVERLOADED", "rejected", retryable=True),
    Draining: _row(-32603, 503, 503, "DRAINING", "rejected", retryable=True),
    RateLimited: _row(-32603, 429, 429, "RATE_LIMITED", "rejected", retryable=True),
    StoreUnavailable: _row(-32603, 503, 503, "STORE_UNAVAILABLE", "internal_error", retryable=True),
    ReplyLost: _row(-32603, 200, 503, "REPLY_LOST", "internal_error", retryable=True),
    ResultTooLarge: _row(-32603, 200, 500, "RESULT_TOO_LARGE", "internal_error"),
    RpcError: _row(-32603, 200, 500, "RPC_ERROR", "tool_error"),
    InternalError: _row(-32603, 200, 500, "INTERNAL", "internal_error"),
    WireError: _row(-32603, 200, 500, "INTERNAL", "internal_error"),
}


def facing(error: WireError) -> Facing:
    """Return the row of `error`'s class, or of its nearest listed ancestor."""
    for cls in type(error).__mro__:
        row = TABLE.get(cls)
        if row is not None:
            return row._replace(code=error.code, stateful_code=error.code) if isinstance(error, RpcError) else row
    raise LookupError(f"{type(error).__name__} has no row in errors.TABLE")
