"""The stateless envelope: which era a POST belongs to, and the ladder that opens a 2026-07-28 request.

`classify` decides the era from the body and the version header together (ERA-2, ERA-3, ERA-5); `open_http` and
`open_message` climb the ladder and give back the `Call`, or raise the first refusal. The order of the steps is what a
client observes, so it is kept in one function: header equals body before "supported", headers before method lookup.

Called by: `gateway.streamable_http` (with headers), `messages.duplex` (without). Deliberately not here: anything that
needs the registry (capability gate, scopes, `Mcp-Param-*`): `service` and `messages.manager` do those next.

Sources: MCP 2026-07-28 basic/transports and basic/index; ERA-2..10, LAD-1, HDR-1..8, RPC-9, IO-4.
"""

from __future__ import annotations

from typing import Any, Final

from mcpd.errors import SHOWN_CHARS, HeaderMismatch, InvalidParams, UnsupportedVersion
from mcpd.wire.call import ANONYMOUS, MAX_ID_CHARS, Call, Principal, is_request_id
from mcpd.wire.headers import RoutingHeaders, decode_value
from mcpd.wire.jsonrpc import Notification, Request
from mcpd.wire.methods import STATELESS_ONLY, TABLE
from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS, is_stateless

PREFIX: Final = "io.modelcontextprotocol/"
VERSION_KEY: Final = PREFIX + "protocolVersion"
CAPABILITIES_KEY: Final = PREFIX + "clientCapabilities"
CLIENT_KEY: Final = PREFIX + "clientInfo"
LOG_LEVEL_KEY: Final = PREFIX + "logLevel"
SUBSCRIPTION_KEY: Final = PREFIX + "subscriptionId"
SERVER_KEY: Final = PREFIX + "serverInfo"
TIMEOUT_KEY: Final = "dev.mcpd/timeoutMs"
IDEMPOTENCY_KEY: Final = "dev.mcpd/idempotencyKey"
MAX_IDEMPOTENCY_KEY_CHARS: Final = 255
MAX_TIMEOUT_MS: Final = 365 * 86_400_000
"""What a longer `TIMEOUT_KEY` counts as: JSON has numbers that no clock has."""

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_EMPTY: Final[dict[str, Any]] = {}


def marked(params: dict[str, Any]) -> bool:
    """True when the parameters carry the stateless version marker (ERA-6: a bare `_meta` is none)."""
    return VERSION_KEY in (params.get("_meta") or _EMPTY)


def is_stateless_post(message: Request | Notification, headers: RoutingHeaders) -> bool:
    """Classify one POST; see the table in ERA-2. True: climb the stateless ladder."""
    if marked(message.params):
        return True
    if headers.version is not None:
        return headers.version not in STATEFUL
    return isinstance(message, Request) and message.method in STATELESS_ONLY and headers.session_id is None


def open_http(
    request: Request,
    headers: RoutingHeaders,
    *,
    principal: Principal = ANONYMOUS,
    request_id: str = "",
    traceparent: bytes | None = None,
) -> Call:
    """Climb steps 4 to 9 of the ladder for one POST. `traceparent` is the HTTP header, for want of one in the body.

    Raises: InvalidParams, HeaderMismatch, UnsupportedVersion: the first step that fails.
    """
    call = _open(request, "http", principal, request_id, traceparent)
    _check_headers(request, headers, call.version)
    return call


def open_message(request: Request, transport: str, *, principal: Principal = ANONYMOUS, request_id: str = "") -> Call:
    """Open a request that came without headers (stdio, WebSocket): steps 4 and 7 (IO-4).

    Raises: InvalidParams, UnsupportedVersion.
    """
    call = _open(request, transport, principal, request_id, None)
    _check_supported(call.version)
    return call


def _open(request: Request, transport: str, principal: Principal, request_id: str, traceparent: bytes | None) -> Call:
    params = request.params
    meta = params.get("_meta") or _EMPTY
    version = meta.get(VERSION_KEY)
    capabilities = meta.get(CAPABILITIES_KEY)
    if not isinstance(version, str):
        raise InvalidParams(f"params._meta[{VERSION_KEY!r}] must be a string, for example {STATELESS!r}")
    if not isinstance(capabilities, dict):
        raise InvalidParams(f"params._meta[{CAPABILITIES_KEY!r}] must be an object; {{}} declares none")
    client = _check_client(meta[CLIENT_KEY]) if CLIENT_KEY in meta else ""
    return Call(
        method=request.method,
        params=params,
        version=version,
        transport=transport,
        id=request.id,
        principal=principal,
        capabilities=capabilities,
        log_level=read_log_level(meta.get(LOG_LEVEL_KEY)),
        progress_token=read_progress_token(meta),
        timeout_ms=read_timeout(meta),
        idempotency_key=key if (key := meta.get(IDEMPOTENCY_KEY)) is None else read_idempotency_key(key),
        request_id=request_id,
        traceparent=read_traceparent(meta, traceparent),
        client=client,
    )


def _check_client(client: Any) -> str:
    if not (
        isinstance(client, dict)
        and isinstance(name := client.get("name"), str)
        and isinstance(client.get("version"), str)
    ):
        raise InvalidParams(f"params._meta[{CLIENT_KEY!r}] must be an object with a name and a version")
    return name


def _check_headers(request: Request, headers: RoutingHeaders, version: str) -> None:
    if headers.duplicates is not None:
        raise HeaderMismatch(f"The header {headers.duplicates} was sent more than once")
    if headers.version != version:
        raise HeaderMismatch(_unlike("MCP-Protocol-Version", headers.version, version))
    _check_supported(version)
    if headers.method != request.method:
        raise HeaderMismatch(_unlike("Mcp-Method", headers.method, request.method))
    row = TABLE.get(request.method)
    if row is not None and row.target is not None and (headers.name is not None or row.extension is None):
        _check_name(headers, request.params.get(row.target))


def _check_name(headers: RoutingHeaders, target: Any) -> None:
    if headers.name is None:
        raise HeaderMismatch("The header Mcp-Name is missing")
    name = decode_value(headers.name)
    if isinstance(target, str) and name != target:
        raise HeaderMismatch(_unlike("Mcp-Name", name, target))


def _check_supported(version: str) -> None:
    if not is_stateless(version):
        raise UnsupportedVersion(version, SUPPORTED_STATELESS)


def _unlike(header: str, sent: str | None, body: str) -> str:
    if sent is None:
        return f"The header {header} is missing"
    return f"The header {header} says {sent[:SHOWN_CHARS]!r}, the body {body[:SHOWN_CHARS]!r}"


def read_log_level(value: Any) -> str | None:
    """Return a log level as sent; None when absent. Raises: InvalidParams (LOG-1)."""
    if value is None or value in LOG_LEVELS:
        return value  # type: ignore[no-any-return]
    raise InvalidParams(f"The log level must be one of {', '.join(LOG_LEVELS)}")


def read_progress_token(meta: dict[str, Any]) -> str | int | None:
    """Return the progress token with its own type (PRG-1). Raises: InvalidParams."""
    token = meta.get("progressToken")
    if token is None or is_request_id(token):
        return token
    raise InvalidParams(
        f"params._meta.progressToken must be a string of at most {MAX_ID_CHARS} characters or an integer of 64 bits"
    )


def read_timeout(meta: dict[str, Any]) -> int | None:
    """Return the client's own budget in milliseconds, at most `MAX_TIMEOUT_MS`. Raises: InvalidParams."""
    value = meta.get(TIMEOUT_KEY)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise InvalidParams(f"params._meta[{TIMEOUT_KEY!r}] must be a positive integer of milliseconds")
    return min(value, MAX_TIMEOUT_MS)


def read_idempotency_key(value: Any) -> str:
    """Return a key as sent; it counts for `tools/call` alone. Raises: InvalidParams."""
    if isinstance(value, str) and 0 < len(value) <= MAX_IDEMPOTENCY_KEY_CHARS:
        return value
    raise InvalidParams(
        f"params._meta[{IDEMPOTENCY_KEY!r}] must be a string of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters"
    )


def read_traceparent(meta: dict[str, Any], header: bytes | None = None) -> str | None:
    """Return a well-formed W3C `traceparent`, else None: a bad one is ignored, never an error (RPC-9)."""
    value = meta.get("traceparent")
    if value is None and header is not None:
        value = header.decode("latin-1")
    if value is None or not isinstance(value, str) or len(value) != 55:
        return None
    version, trace, span, flags = [*value.split("-"), "", "", ""][:4]
    shaped = (len(version), len(trace), len(span), len(flags)) == (2, 32, 16, 2)
    hexadecimal = not set(value) - set("0123456789abcdef-")
    return value if shaped and hexadecimal and version != "ff" else None
