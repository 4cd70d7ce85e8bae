"""The key ring that seals cursors and request states: from the configuration, else in the data folder.

There it is made once, in `<data>/seal.key`, by whichever process comes first; all processes on one data folder share
it. Replicas with folders of their own are given one (`auth.seal_keys`). What is sealed with it is in `wire.sealed`.

Called by: `assembly`. Deliberately not: API keys (`gateway.keys`).

Laws: the file is whole or absent, and readable by its owner alone.

Sources: surfaces "Access".
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from mcpd.errors import ConfigurationError
from mcpd.secret import Secret
from mcpd.wire.sealed import KeyRing, new_key_text, parse_ring


def new_key() -> str:
    """Return the text of a new key, a line."""
    return new_key_text(secrets.token_bytes(64))


def load_ring(folder: Path, given: Secret | None) -> KeyRing:
    """Return the key ring that is given, else the one in `<folder>/seal.key` (mode 0600), made once.

    Raises: ConfigurationError when the folder cannot be written or what is read is not a key ring.
    """
    if given is not None:
        return _read(given.reveal(), "auth.seal_keys")
    path = folder / "seal.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create_once(path, new_key())
        return _read(path.read_text(), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot write the data folder {folder}: {error.strerror}; choose another with --data DIR"
        ) from error


def _read(text: str, where: str) -> KeyRing:
    try:
        return parse_ring(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _create_once(path: Path, text: str) -> None:
    """Create `path` whole or not at all: several processes may start on one data folder at once."""
    if path.exists():
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
