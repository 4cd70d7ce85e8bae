"""The key ring that seals cursors and request states, in the data folder.

Made once, in `<data>/seal.key`, by whichever process comes first; all processes on one data folder share it. What is
sealed with it is in `wire.sealed`.

Called by: `assembly`. Deliberately not: API keys (`gateway.keys`).

Laws: the file is whole or absent, and readable by its owner alone.

Sources: surfaces "Access".
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from mcpd.errors import ConfigurationError
from mcpd.wire.sealed import KeyRing, new_ring_text, parse_ring


def load_ring(folder: Path) -> KeyRing:
    """Return the key ring that seals cursors and request states, made once in `<folder>/seal.key` (mode 0600).

    Raises: ConfigurationError when the folder cannot be written or the file is not a key ring.
    """
    path = folder / "seal.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create_once(path, new_ring_text(secrets.token_bytes(64)))
        return parse_ring(path.read_text())
    except OSError as error:
        raise ConfigurationError(
            f"Cannot write the data folder {folder}: {error.strerror}; choose another with --data DIR"
        ) from error


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
