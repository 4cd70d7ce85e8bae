"""Who may come in: Host, Origin, credentials and CORS, decided from the head of a request alone.

Every HTTP and WebSocket transport asks `Access.admit` before it reads a body, so refusals look alike in both eras. Host
stops DNS rebinding, Origin stops other people's web pages, a key says who calls. The answer is a `Principal` or a
`Refusal` that the transport renders in its own format.

Called by: the transports, `gateway.operations`, and the composition root (`startup_check`). Calls `gateway.keys`.
Deliberately not: the scope check of a method or tool, which needs the decoded message, and the size limits.

Laws: credentials come in one `Authorization: Bearer` header and nowhere else; a key is never echoed or logged; a
missing Origin is fine, a `null` one is foreign; whatever is not plainly allowed is refused.

Sources: SEC-1..3, HDR-15, AUT-4..6, table 4.2; RFC 6750 section 3; RFC 9110 sections 7.2, 7.4; Fetch "CORS protocol".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec.structs import replace

from mcpd.config import Config, Server
from mcpd.errors import ConfigurationError
from mcpd.gateway.asgi import Head
from mcpd.gateway.keys import KeyStore
from mcpd.gateway.proxies import Proxies
from mcpd.wire.call import ANONYMOUS, Principal

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_AMBIGUOUS = b"bearer ,"
"""Stands for a header sent twice: malformed as a Host, as an Origin and as credentials."""
_MAX_REMEMBERED_ITEMS = 256
_SHOWN_BYTES = 100
"""Of a Host or Origin that is refused, in the log."""
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_PARAMETER = re.compile(r"mcp-param-[!#$%&'*+.^_`|~0-9a-z-]+")

_ALLOWED_METHODS = b"POST, GET, DELETE, OPTIONS"
_ALLOWED_HEADERS = (
    "Content-Type, Authorization, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Mcp-Session-Id, Last-Event-ID,"
    " X-Request-Id, traceparent"
)
_EXPOSED_HEADERS = b"Mcp-Session-Id, WWW-Authenticate, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy"
_PREFLIGHT_AGE_S = b"600"


class Refusal(NamedTuple):
    """Why a request goes no further. `reason` is a metric label; `headers` belong into the reply."""

    status: int
    reason: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    seen: str = ""
    """What was refused, for the log alone; bounded."""

    @property
    def logged(self) -> str:
        """What the log says of it."""
        return f"{self.message} (it was: {self.seen})" if self.seen else self.message


def _challenge(status: int, message: str, parameters: str = "") -> Refusal:
    value = f"Bearer {parameters}".rstrip()
    return Refusal(status, "unauthenticated", message, ((b"www-authenticate", value.encode("ascii")),))


_NO_CREDENTIALS = _challenge(401, "A key is needed: Authorization: Bearer mcpd_...")
_MALFORMED = _challenge(400, "The Authorization header is malformed or sent twice", 'error="invalid_request"')
_UNKNOWN_KEY = _challenge(
    401, "The key is unknown, expired or revoked", 'error="invalid_token", error_description="unknown or revoked key"'
)
_BAD_HOST = Refusal(421, "host", "This Host is not served here; allow it with server.allowed_hosts")
_BAD_ORIGIN = Refusal(403, "origin", "This Origin may not call; allow it with server.allowed_origins")

FOREIGN = ("host", "origin")
"""What a page is not even told; any other refusal it may read, so that it can ask for a key."""


class Access:
    """The rules of one listener.

    `ports` are those it really listens on (`server.port` may be 0); they make up the loopback names that are allowed by
    default. Nothing here blocks or changes except the key store, which reloads.
    """

    def __init__(self, server: Server, keys: KeyStore, *, ports: Sequence[int] | None = None) -> None:
        self._keys = keys
        self._scheme = "https" if server.tls_cert else "http"
        listening = (server.port,) if ports is None else tuple(ports)
        self._any_host = "*" in server.allowed_hosts
        self._any_origin = "*" in server.allowed_origins
        self._hosts = _allowed_hosts(server, listening)
        self._origins = _allowed_origins(server, listening)
        self._socket = is_unix(server)
        self._seen_hosts: set[bytes] = set()
        self._seen_origins: set[bytes] = set()
        self._neighbours: dict[str, Principal] = {}

    def admit(self, head: Head) -> Principal | Refusal:
        """Judge the head of a request or an upgrade: Host, then Origin, then credentials (LAD step 0)."""
        given = head.named
        if head.repeated:
            given = {**given, **dict.fromkeys(head.repeated, _AMBIGUOUS)}
        refusal = self._judge_host(given.get(b"host")) or self._judge_origin(given.get(b"origin"))
        if refusal is not None:
            return refusal
        return self.authenticate(given.get(b"authorization")) if self._keys.required else self._anonymous(head.client)

    def _anonymous(self, address: str) -> Principal:
        """Return the caller without a key whose share of the server is that of `address`."""
        known = self._neighbours.get(address)
        if known is None:
            if len(self._neighbours) >= _MAX_REMEMBERED_ITEMS:
                self._neighbours.clear()
            known = self._neighbours[address] = replace(ANONYMOUS, address=neighbourhood(address))
        return known

    def stands(self, principal: Principal) -> bool:
        """True while a caller that was admitted would be again: its key is neither gone, nor changed, nor expired."""
        return self._keys.holds(principal)

    def admit_anyone(self, head: Head) -> Refusal | None:
        """Judge Host and Origin only, for what needs no credentials: preflight requests and public pages."""
        for name, refusal in ((b"host", _BAD_HOST), (b"origin", _BAD_ORIGIN)):
            if name in head.repeated:
                return _of(refusal, _AMBIGUOUS)
        return self._judge_host(head.named.get(b"host")) or self._judge_origin(head.named.get(b"origin"))

    def watch(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when `stands` may answer otherwise than before."""
        self._keys.watch(callback)

    def authenticate(self, authorization: bytes | None) -> Principal | Refusal:
        """Return who calls. Without keys everybody is `ANONYMOUS`, whatever the header says.

        `authorization` is the header's raw value, None when absent.
        """
        if not self._keys.required:
            return ANONYMOUS
        if authorization is None:
            return _NO_CREDENTIALS
        scheme, _, token = authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            return _NO_CREDENTIALS
        token = token.strip()
        if not token or b" " in token or b"," in token:
            return _MALFORMED
        return self._keys.lookup(token) or _UNKNOWN_KEY

    def require(self, authorization: bytes | None, scope: str) -> Principal | Refusal:
        """Authenticate and demand `scope` (403, table 4.2); a server without keys demands nothing."""
        caller = self.authenticate(authorization)
        if isinstance(caller, Refusal) or caller is ANONYMOUS or scope in caller.scopes:
            return caller
        parameters = f'error="insufficient_scope", scope="{scope}"'
        value = f"Bearer {parameters}".encode("ascii")
        return Refusal(403, "scope", f"This needs a key with the scope {scope!r}", ((b"www-authenticate", value),))

    def _judge_host(self, raw: bytes | None) -> Refusal | None:
        if raw in self._seen_hosts or self._any_host:
            return None
        if not self._serves(raw):
            return _of(_BAD_HOST, raw)
        if raw is not None:
            _remember(self._seen_hosts, raw)
        return None

    def _serves(self, raw: bytes | None) -> bool:
        if self._socket and raw in (None, b"", b"localhost"):
            return True
        authority = _authority((raw or b"").decode("latin-1").strip().lower(), self._scheme)
        return authority is not None and (authority in self._hosts or (authority[0], None) in self._hosts)

    def _judge_origin(self, raw: bytes | None) -> Refusal | None:
        if raw is None or raw in self._seen_origins:
            return None
        origin = _origin(raw.decode("latin-1"))
        if origin not in self._origins and not (self._any_origin and origin not in ("null", None)):
            return _of(_BAD_ORIGIN, raw)
        _remember(self._seen_origins, raw)
        return None


def _of(refusal: Refusal, raw: bytes | None) -> Refusal:
    if raw is None or raw == _AMBIGUOUS:
        return refusal._replace(seen="missing" if raw is None else "sent twice")
    return refusal._replace(seen=repr(raw[:_SHOWN_BYTES].decode("latin-1")))


def _remember(seen: set[bytes], raw: bytes) -> None:
    if len(seen) < _MAX_REMEMBERED_ITEMS:
        seen.add(raw)


def _authority(text: str, scheme: str) -> tuple[str, int] | None:
    """Return host and port of a lower-case `host[:port]`, the scheme's port when it has none, or None."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    host, port = match.groups()
    return _canonical(host), int(port) if port else _DEFAULT_PORTS[scheme]


def _canonical(host: str) -> str:
    if not host.startswith("["):
        return host
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    except ValueError:
        return host


def _origin(text: str) -> str | None:
    """Return `text` as lower-case scheme://host:port with the port spelled out, `null` as itself, None if malformed."""
    text = text.strip().lower()
    if text == "null":
        return text
    scheme, separator, rest = text.partition("://")
    if not separator:
        return None
    if scheme not in _DEFAULT_PORTS:
        return text if re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+", text) else None
    authority = _authority(rest, scheme)
    return None if authority is None else f"{scheme}://{authority[0]}:{authority[1]}"


def _allowed_hosts(server: Server, ports: Sequence[int]) -> frozenset[tuple[str, int | None]]:
    allowed: set[tuple[str, int | None]] = {(name, port) for name in _loopback(server) for port in ports}
    for entry in server.allowed_hosts:
        if entry != "*":
            allowed.add(_allowed_host(entry))
    if server.public_url:
        allowed.add((_public_authority(server.public_url)[0], None))
    return frozenset(allowed)


def _allowed_host(entry: str) -> tuple[str, int | None]:
    """An entry without a port allows every port: what counts against DNS rebinding is the name."""
    match = _HOST.fullmatch(entry.strip().lower())
    if match is None:
        raise ConfigurationError(f"server.allowed_hosts: {entry!r} is not host or host:port, nor *")
    host, port = match.groups()
    return _canonical(host), int(port) if port else None


def _allowed_origins(server: Server, ports: Sequence[int]) -> frozenset[str]:
    allowed = {
        f"{scheme}://{name}:{port}" for scheme in ("http", "https") for name in _loopback(server) for port in ports
    }
    for entry in server.allowed_origins:
        origin = _origin(entry)
        if entry != "*" and origin is None:
            raise ConfigurationError(f"server.allowed_origins: {entry!r} is not scheme://host[:port], null or *")
        if origin is not None:
            allowed.add(origin)
    if server.public_url:
        host, port, scheme = _public_authority(server.public_url)
        allowed.add(f"{scheme}://{host}:{port}")
    return frozenset(allowed)


def _loopback(server: Server) -> tuple[str, ...]:
    own = f"[{server.host}]" if ":" in server.host else server.host
    return (*LOOPBACK_NAMES, _canonical(own.lower())) if is_loopback(server.host) else LOOPBACK_NAMES


def _public_authority(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url.lower())
    authority = _authority(parts.netloc, parts.scheme)
    if authority is None:
        raise ConfigurationError(f"server.public_url: {url!r} has no usable host")
    return (*authority, parts.scheme)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`: localhost or a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_unix(server: Server) -> bool:
    """True if the server listens on a Unix socket."""
    return server.bind is not None and server.bind.startswith("unix:")


def startup_check(config: Config, keys: KeyStore) -> None:
    """Refuse a server that others could reach and nobody guards (SEC-3).

    A Unix socket counts as loopback: its file's permissions guard it. An inherited socket (`fd://`) is judged by
    `server.host`, which must say what it is bound to.

    Raises: ConfigurationError, saying what to set.
    """
    server = config.server
    Access(server, keys)
    Proxies(server.trusted_proxies)
    if is_unix(server) or is_loopback(server.host):
        return
    if not keys.required and not server.insecure:
        raise ConfigurationError(
            f"server.host = {server.host!r} can be reached by others and there are no keys: make one with"
            " `mcpd keys new NAME`, or set MCPD_API_KEY, or start with --insecure to let everybody in"
        )
    if not server.allowed_hosts and not server.public_url:
        raise ConfigurationError(
            f"server.host = {server.host!r} can be reached by others: set server.allowed_hosts (or server.public_url)"
            ' to the names that clients use, or to ["*"] to allow any'
        )


def cors(origin: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers that let the page of an already allowed `origin` read a reply (HDR-15)."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED_HEADERS),
        (b"vary", b"Origin"),
    ]


def preflight(given: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers of the 204 that answers an OPTIONS of an allowed origin (HDR-15).

    Raises: nothing; an OPTIONS without Origin gets the `Allow` header only.
    """
    origin = given.get(b"origin")
    if origin is None:
        return [(b"allow", _ALLOWED_METHODS)]
    asked = given.get(b"access-control-request-headers", b"").decode("latin-1").lower()
    parameters = [part for part in map(str.strip, asked.split(",")) if _PARAMETER.fullmatch(part)]
    allowed = ", ".join((_ALLOWED_HEADERS, *dict.fromkeys(parameters)))
    return [
        *cors(origin),
        (b"access-control-allow-methods", _ALLOWED_METHODS),
        (b"access-control-allow-headers", allowed.encode("latin-1")),
        (b"access-control-max-age", _PREFLIGHT_AGE_S),
    ]


def neighbourhood(address: str) -> str:
    """Return what shares the places of an address: itself, or the /64 of an IPv6 one, which one customer is given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
