"""Strings that a client carries for us and cannot alter: `requestState`, and what page cursors are made of.

A sealed string is `v1.<kid>.<payload>.<mac>`: the payload in URL-safe Base64, then HMAC-SHA256 under a key derived
from the ring's secret and the purpose. It is **signed, not encrypted**: whoever holds it can read the payload, so
secrets do not belong in it. What a state is bound to (caller, method, target, arguments) is part of what is signed
and not of the payload, so it costs no bytes and gives nothing away.

Called by: `messages`, `turns`, `wire.cursors`, `app` (rings). Calls `errors`. Pure: the clock and the randomness are
arguments; `now` is seconds of the wall clock, because several processes share the ring. Deliberately not: one-time
use, which needs a store.

Laws: the first key of a ring seals, every key opens (rotation: append the new one wherever states come back to, then
put it first, drop the old one when its states have expired); comparison is in constant time and over the exact text, so
no second spelling of a state is accepted; nothing is decoded before the signature holds; every failure has one and the
same message.

Sources: MCP 2026-07-28 MRTR (MRT-5, MRT-6, MRT-7); RFC 2104, RFC 5869 (the expand step), RFC 4648 section 5.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mcpd.errors import ConfigurationError, InvalidParams

VERSION: Final = "v1"
MIN_SECRET_BYTES: Final = 32
STATE_PURPOSE: Final = "requestState"
_ALPHABET: Final = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_")
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


class KeyRing:
    """Secrets by key id. The first one seals; all of them open. Not shown by `repr`."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        """Take `(kid, secret)` pairs, the current one first.

        Raises: ConfigurationError for no key, a key id given twice or not of `A-Z a-z 0-9 - _`, a short secret.
        """
        if not keys:
            raise ConfigurationError("The key ring is empty")
        for kid, secret in keys:
            if not kid or len(kid) > 32 or set(kid) - _ALPHABET:
                raise ConfigurationError("A key id must be 1 to 32 of A-Z, a-z, 0-9, '-' and '_'")
            if len(secret) < MIN_SECRET_BYTES:
                raise ConfigurationError(f"The secret of key {kid!r} is shorter than {MIN_SECRET_BYTES} bytes")
        self.kids = tuple(kid for kid, _ in keys)
        """Ids of the keys, in order."""
        self._secrets = dict(keys)
        if len(self._secrets) != len(keys):
            raise ConfigurationError("The key ring has a key id twice")
        self.current = keys[0][0]
        self._derived: dict[tuple[str, str], bytes] = {}

    def derive(self, kid: str, purpose: str) -> bytes | None:
        """Return the key for `purpose` (a constant of the code, never input), None for an unknown `kid`."""
        key = self._derived.get((kid, purpose))
        if key is None and kid in self._secrets:
            info = f"mcpd {VERSION} {purpose}\x01".encode()
            key = self._derived[kid, purpose] = hmac.digest(self._secrets[kid], info, "sha256")
        return key


def parse_ring(text: str) -> KeyRing:
    """Read a ring of `kid:base64url-secret`, the current key first, a line or a comma between two.

    `#` starts a comment line.

    Raises: ConfigurationError; the text never repeats a secret.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    items = [item.strip() for line in lines for item in line.split(",")]
    return KeyRing([_parse_key(number, item) for number, item in enumerate(filter(None, items), 1)])


def _parse_key(number: int, item: str) -> tuple[str, bytes]:
    kid, colon, encoded = item.partition(":")
    encoded = encoded.strip().rstrip("=")
    if not colon or not encoded or set(encoded) - _ALPHABET or len(encoded) % 4 == 1:
        raise ConfigurationError(f"Key {number} of the key ring is not of the form kid:base64url-secret")
    return kid.strip(), _unb64(encoded)


def new_key_text(randomness: bytes) -> str:
    """Return the line of a new key, made of `randomness` (32 bytes or more from `secrets`).

    Raises: ConfigurationError when there is too little randomness.
    """
    kid = hashlib.sha256(b"kid" + randomness).hexdigest()[:8]
    KeyRing([(kid, randomness)])
    return f"{kid}:{_b64(randomness)}\n"


class Binding(msgspec.Struct, frozen=True):
    """What a state belongs to. The retry must show the same four, else the state is refused (MRT-6)."""

    principal: str
    method: str
    target: str
    """Tool or prompt name, or resource URI."""
    digest: str
    """`digest` of the arguments."""


def digest(arguments: Any) -> str:
    """Return the digest of a JSON value, whatever the order of its keys, and however a number is written (1, 1.0)."""
    return _b64(hashlib.sha256(_encode_sorted(_by_value(arguments))).digest())


def _by_value(value: Any) -> Any:
    """Return a JSON value with each whole number as an integer; a double is never rounded to another's value."""
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() else value
    if kind is dict:
        return {key: _by_value(member) for key, member in value.items()}
    if kind is list and not _NESTING.isdisjoint(map(type, value)):
        return [_by_value(item) for item in value]
    return value


_NESTING: Final = frozenset({float, dict, list})


def seal(ring: KeyRing, claims: dict[str, Any], *, now: float, binding: Binding, ttl_s: float = 600.0) -> str:
    """Return `claims` (JSON, readable by the client) as a state that opens until `now + ttl_s`."""
    payload = msgspec.json.encode({"exp": int(now + ttl_s), "claims": claims})
    return sign(ring, STATE_PURPOSE, payload, _context(binding))


def open_sealed(ring: KeyRing, token: Any, *, now: float, expect: Binding) -> dict[str, Any]:
    """Return the claims of a state that this ring sealed for `expect` and that has not expired.

    Raises: InvalidParams, always with the same message and no data.
    """
    payload = verify(ring, STATE_PURPOSE, token, _context(expect))
    if payload is not None:
        body = msgspec.json.decode(payload)
        if now < body["exp"]:
            claims: dict[str, Any] = body["claims"]
            return claims
    raise InvalidParams("Invalid or expired requestState")


def _context(binding: Binding) -> bytes:
    return msgspec.json.encode([binding.principal, binding.method, binding.target, binding.digest])


def sign(ring: KeyRing, purpose: str, payload: bytes, context: bytes) -> str:
    """Return `payload` as a sealed string that verifies only for the same `purpose` and `context`."""
    body = f"{VERSION}.{ring.current}.{_b64(payload)}"
    return f"{body}.{_mac(ring, ring.current, purpose, body, context)}"


def verify(ring: KeyRing, purpose: str, token: Any, context: bytes) -> bytes | None:
    """Return the payload of a string made by `sign`; None for anything else, whatever it is."""
    if not isinstance(token, str) or not token.isascii():
        return None
    body, _, mac = token.rpartition(".")
    kid, _, encoded = body.partition(".")[2].partition(".")
    expected = _mac(ring, kid, purpose, body, context)
    if expected is None or not hmac.compare_digest(expected, mac):
        return None
    return _unb64(encoded)


def _mac(ring: KeyRing, kid: str, purpose: str, body: str, context: bytes) -> str | None:
    key = ring.derive(kid, purpose)
    if key is None:
        return None
    return _b64(hmac.digest(key, b"%d:%b%b" % (len(context), context, body.encode("ascii")), "sha256"))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
