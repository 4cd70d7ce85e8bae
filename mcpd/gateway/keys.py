"""API keys: the file that holds their hashes, and the lookup of a presented key.

A key is `mcpd_` and 256 random bits; it is shown once, and only its SHA-256 is kept, so neither the file nor a listing
gives it away (a slow password hash would add nothing to 256 random bits). The file is TOML, mode 0600, replaced
atomically under a lock, and can be edited by hand.

Called by: `gateway.access` (lookup) and the command line (`keys new | list | revoke`). Calls `errors` and the file
system; a lookup touches no file. Deliberately not: a decision about what a scope allows beyond the hierarchy.

Laws: once a server has required keys it goes on requiring them until it ends, even when the file is emptied or lost;
a file that cannot be understood changes nothing; an expired key is an unknown one; hashes are compared in constant
time.

Sources: surfaces "Access"; AUT-4 (hierarchy before rejecting); RFC 6750 section 2.1 (token characters).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import os
import re
import secrets
import stat
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mcpd.errors import ConfigurationError
from mcpd.secret import Secret
from mcpd.wire.call import Principal

if sys.platform != "win32":
    import fcntl

LADDER = ("read", "call", "write", "admin")
"""Each scope includes those before it."""
METRICS = "metrics"
PREFIX = "mcpd_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_ID_DIGITS = 16
_HEADER = "# API keys of mcpd, as SHA-256. `mcpd keys new NAME` makes one; a running server rereads this on SIGHUP.\n"


class Key(msgspec.Struct, frozen=True):
    """One entry of the file. `scopes` are as granted, not expanded; `sha256` is lower-case hexadecimal."""

    name: str
    sha256: str
    scopes: tuple[str, ...]
    created: datetime
    expires: datetime | None = None
    """From then on the key is unknown; None: never."""

    @property
    def expires_s(self) -> float:
        """The end of the key in seconds since 1970."""
        return math.inf if self.expires is None else self.expires.timestamp()

    @property
    def id(self) -> str:
        """What a principal is identified by; says nothing about the key, whose 256 bits are random."""
        return self.sha256[:_ID_DIGITS]


def expand(scopes: Iterable[str]) -> frozenset[str]:
    """Return `scopes` with all that the hierarchy includes: `write` gives `call` and `read` too."""
    granted = set(scopes)
    steps = [LADDER.index(scope) for scope in granted if scope in LADDER]
    return frozenset(granted.union(LADDER[: max(steps, default=-1) + 1]))


class KeyStore:
    """The keys of one server: those of a file, and at most one from the configuration.

    Raises: ConfigurationError if the file exists and cannot be understood or may be written by others.
    """

    def __init__(self, path: Path, api_key: Secret | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._configured = _configured(api_key)
        self._keys: dict[str, Key] = {}
        self._callers: dict[bytes, tuple[bytes, Principal, float]] = {}
        self._standing: dict[str, tuple[frozenset[str], float]] = {}
        self._watchers: list[Callable[[], None]] = []
        self.required = False
        self.reload()

    @property
    def path(self) -> Path:
        """The file, whether or not it exists."""
        return self._path

    def list(self) -> list[Key]:
        """Return the keys of the file by name; the configured key is not among them."""
        return sorted(self._keys.values(), key=lambda key: key.name)

    def reload(self) -> None:
        """Read the file again; on an error the keys stay as they were.

        Raises: ConfigurationError as on construction.
        """
        found = _read(self._path)
        if found is not None or self._configured is not None:
            self.required = True
        self._adopt(found or {})

    def lookup(self, token: bytes) -> Principal | None:
        """Return who holds `token`, or None. Costs one hash, whatever the number of keys; touches no file."""
        digest = hashlib.sha256(token).digest()
        known, principal, expires_s = self._callers.get(digest[:8], _NOBODY)
        return principal if hmac.compare_digest(known, digest) and self._clock() < expires_s else None

    def holds(self, principal: Principal) -> bool:
        """True while `principal` would be admitted as it is: its key is there, has the same scopes, is not expired."""
        if not self.required:
            return not principal.id
        scopes, expires_s = self._standing.get(principal.id, (None, 0.0))
        return scopes == principal.scopes and self._clock() < expires_s

    def watch(self, callback: Callable[[], None]) -> None:
        """Have `callback` called by every `announce`; it must neither block nor raise."""
        self._watchers.append(callback)

    def announce(self) -> None:
        """Tell those who watch that `holds` may answer otherwise than before. Not a checkpoint."""
        for callback in self._watchers:
            callback()

    @property
    def locked(self) -> bool:
        """True when every request needs a key and there is none that is good."""
        now = self._clock()
        return self.required and not any(now < expires_s for _, expires_s in self._standing.values())

    def next_expiry_s(self) -> float:
        """Return when the next key expires, in seconds since 1970; infinite when none will."""
        now = self._clock()
        return min((expires_s for _, expires_s in self._standing.values() if expires_s > now), default=math.inf)

    def new(
        self,
        name: str,
        scopes: Iterable[str] = ("call",),
        *,
        life: timedelta | None = None,
        now: datetime | None = None,
    ) -> Secret:
        """Add a key that expires after `life`, write the file, and return the key itself, which is kept nowhere.

        Raises: ConfigurationError if the name or a scope is malformed, the name is taken or the file is not writable.
        """
        granted = tuple(dict.fromkeys(scopes))
        _check_new(name, granted)
        token = PREFIX + secrets.token_urlsafe(32)
        created = (now or datetime.fromtimestamp(self._clock(), UTC)).replace(microsecond=0)
        digest = hashlib.sha256(token.encode()).hexdigest()
        key = Key(name, digest, granted, created, None if life is None else created + life)
        with _locked(self._path):
            keys = _read(self._path) or {}
            if name in keys:
                raise ConfigurationError(f"There is a key named {name!r} already; revoke it first or take another name")
            self._store({**keys, name: key})
        return Secret(token)

    def revoke(self, name: str) -> Key:
        """Remove a key, write the file, and return the removed entry.

        Raises: ConfigurationError if there is no such key or the file is not writable.
        """
        with _locked(self._path):
            keys = _read(self._path) or {}
            if name not in keys:
                known = ", ".join(sorted(keys)) or "none"
                raise ConfigurationError(f"There is no key named {name!r} in {self._path}; known: {known}")
            key = keys.pop(name)
            self._store(keys)
        return key

    def _store(self, keys: dict[str, Key]) -> None:
        _replace(self._path, _render(keys))
        self.required = True
        self._adopt(keys)

    def _adopt(self, keys: dict[str, Key]) -> None:
        entries = [*keys.values(), *([self._configured] if self._configured else [])]
        callers = {}
        for key in entries:
            digest = bytes.fromhex(key.sha256)
            callers[digest[:8]] = (digest, Principal(key.id, expand(key.scopes), name=key.name), key.expires_s)
        self._keys, self._callers = keys, callers
        self._standing = {who.id: (who.scopes, expires_s) for _, who, expires_s in callers.values()}


_NOBODY = (b"", Principal("", frozenset()), 0.0)


def _configured(api_key: Secret | None) -> Key | None:
    if api_key is None:
        return None
    digest = hashlib.sha256(api_key.reveal().encode()).hexdigest()
    return Key("(configured)", digest, ("admin", METRICS), datetime.fromtimestamp(0, UTC))


def _check_new(name: str, scopes: tuple[str, ...]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name for a key: letters, digits, '.', '_' and '-', at most 64")
    for scope in scopes:
        if not _SCOPE.fullmatch(scope):
            raise ConfigurationError(
                f"{scope!r} is no scope: one of {', '.join(LADDER)}, {METRICS}, or the name of a tool's own scope"
            )
    if not scopes:
        raise ConfigurationError(f"The key {name!r} needs at least one scope: {', '.join(LADDER)} or {METRICS}")


def _read(path: Path) -> dict[str, Key] | None:
    """Return the keys of the file, or None if there is no file."""
    try:
        with path.open("rb") as file:
            _check_mode(path, os.fstat(file.fileno()).st_mode)
            content = tomllib.load(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: not a TOML file: {error}") from error
    table = content.get("keys", {})
    if set(content) - {"keys"} or not isinstance(table, dict):
        raise ConfigurationError(f"{path}: only [keys.NAME] tables may stand in this file")
    return {name: _entry(path, name, fields) for name, fields in table.items()}


def _check_mode(path: Path, mode: int) -> None:
    if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"{path}: others may write it and so add keys; run: chmod 600 {path}")


def _entry(path: Path, name: str, fields: Any) -> Key:
    try:
        key = msgspec.convert({**fields, "name": name}, Key)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigurationError(f"{path}: key {name!r}: {error}") from error
    _check_new(name, key.scopes)
    if key.expires is not None and key.expires.tzinfo is None:
        raise ConfigurationError(f"{path}: key {name!r}: expires needs a time zone, such as 2027-01-31T00:00:00Z")
    if not _HASH.fullmatch(key.sha256):
        raise ConfigurationError(f"{path}: key {name!r}: sha256 must be 64 lower-case hexadecimal digits")
    return key


def _render(keys: dict[str, Key]) -> str:
    return _HEADER + "".join(_render_key(keys[name]) for name in sorted(keys))


def _render_key(key: Key) -> str:
    scopes = ", ".join(f'"{scope}"' for scope in key.scopes)
    lines = [f'[keys."{key.name}"]', f'sha256 = "{key.sha256}"', f"scopes = [{scopes}]"]
    moments = {"created": key.created, "expires": key.expires}
    lines += [f"{name} = {_moment(moment)}" for name, moment in moments.items() if moment is not None]
    return "\n" + "\n".join(lines) + "\n"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's folder against other writers of keys; makes the folder when there is none."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"{path.parent}: cannot be used for keys: {error.strerror}") from error
    try:
        if sys.platform != "win32":
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
