"""Whom a client trusts: the machine's authorities, those of a file, or the one certificate with a given fingerprint.

A fingerprint is that of the server's own certificate, or of an authority in the chain that the server shows, as
Elasticsearch prints it at its first start. The chain alone proves nothing, for anybody can show a certificate. So the
first handshake only takes the authority from it and fails with `AuthorityFound`; all that follow are verified against
that authority, the host's name included. No byte is sent before.

Called by: `transport`. Deliberately not: client certificates.

Source: `ssl.SSLContext.sslobject_class`; the chain is public from Python 3.13 on (`get_unverified_chain`).
"""

from __future__ import annotations

import hashlib
import ssl
from typing import Any, Final

import trio

from mcpd.drivers.elasticsearch.options import Options
from mcpd.drivers.elasticsearch_errors import Refused

CLOSE_S: Final = 1.0
_HEX_CHARS: Final = 64
_DER: Final = 2
"""`_ssl.ENCODING_DER`."""


class AuthorityFound(ssl.SSLError):
    """The authority with the fingerprint is trusted from now on; connect again."""


class _Pinned(ssl.SSLObject):
    """A connection that checks the fingerprint within its handshake."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        assert isinstance(context, PinnedContext)
        context.check(self)


class PinnedContext(ssl.SSLContext):
    """Trusts the certificate with one fingerprint, or what the authority with it has signed."""

    fingerprint: bytes = b""
    sslobject_class = _Pinned

    def check(self, connection: ssl.SSLObject) -> None:
        """Raises: AuthorityFound, ssl.SSLCertVerificationError."""
        if self.verify_mode == ssl.CERT_REQUIRED:
            return
        own, *authorities = _chain(connection)
        if self._matches(own):
            return
        for certificate in authorities:
            if self._matches(certificate):
                self.load_verify_locations(cadata=certificate)
                self.check_hostname, self.verify_mode = True, ssl.CERT_REQUIRED
                raise AuthorityFound("connect again")
        raise ssl.SSLError("no certificate of the server has the fingerprint")

    def _matches(self, certificate: bytes) -> bool:
        return hashlib.sha256(certificate).digest() == self.fingerprint


def _chain(connection: ssl.SSLObject) -> list[bytes]:
    """Return the certificates that the server has shown, DER, its own first."""
    if hasattr(connection, "get_unverified_chain"):
        return list(connection.get_unverified_chain())
    inner: Any = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - not public before 3.13
    return [certificate.public_bytes(_DER) for certificate in inner.get_unverified_chain()]


class _Connected:
    """A connection before its handshake."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def start_tls(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await self._stream.start_tls(*arguments, **named)
        except BaseException:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._stream.aclose()
            raise


class _Backend:
    """Connects as the library does."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    async def connect_tcp(self, *arguments: Any, **named: Any) -> _Connected:
        return _Connected(await self._backend.connect_tcp(*arguments, **named))


def close_given_up(http: Any) -> None:
    """Let httpx's transport `http` close a connection whose handshake is cancelled.

    httpcore 1.0.9 leaves that to the garbage collector, and httpx hands no backend of ours on.
    """
    pool = http._pool  # noqa: SLF001 - see above
    pool._network_backend = _Backend(pool._network_backend)  # noqa: SLF001 - see above


def context_of(options: Options) -> ssl.SSLContext:
    """Return what connections are made with. Raises: Refused for an unreadable file or a malformed fingerprint."""
    if options.fingerprint:
        return _pinned(options.fingerprint)
    try:
        return ssl.create_default_context(cafile=options.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"ca_file cannot be read as PEM: {error}") from None


def _pinned(fingerprint: str) -> PinnedContext:
    digits = fingerprint.replace(":", "").strip()
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digits) != _HEX_CHARS or not digest:
        raise Refused("fingerprint is the SHA-256 of a certificate: 64 hexadecimal digits")
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.fingerprint = digest
    return context
