"""Which processes on one data folder are alive: a locked file for each, `<data>/owners/<epoch>`.

The operating system holds the lock for the process and lets it go at the process's death, however it dies; a stopped
process (SIGSTOP) still holds it. So there is no clock in this, and no heartbeat: who has the lock of an epoch's file
knows that the epoch is over, and takes the file away.

Called by: `tasks`, `idempotency`, `inbox` of this package. Deliberately not: for folders that several machines
share, which the store refuses.

Laws: an epoch's file is locked before the epoch owns anything, and is taken away only by who holds its lock, so that no
living owner is ever found dead.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from mcpd.storage.sqlite.errors import unwritable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FOLDER: Final = "owners"


class Owners:
    """This process as an owner, and a look at the others. Blocking, but never for long. Resources: `close`."""

    def __init__(self, folder: Path) -> None:
        """Take a new epoch. Raises: OSError."""
        self._folder = folder / FOLDER
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.epoch = ""
        while not self.epoch:
            epoch = secrets.token_hex(12)
            self._handle = os.open(self._folder / epoch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            if _lock(self._handle) and _is_at(self._handle, self._folder / epoch):
                self.epoch = epoch
            else:
                os.close(self._handle)

    def is_alive(self, epoch: str) -> bool:
        """Tell whether the process of `epoch` lives; the file of one that does not is taken away. Raises: OSError."""
        if epoch == self.epoch:
            return True
        path = self._folder / epoch
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            if not _lock(handle):
                return True
            if _is_at(handle, path):
                path.unlink()
            return False
        finally:
            os.close(handle)

    def sweep(self) -> None:
        """Take away the files of all that are dead. Raises: OSError."""
        for path in self._folder.iterdir():
            self.is_alive(path.name)

    def close(self) -> None:
        """End this epoch. Idempotent."""
        if self._handle >= 0:
            with suppress(OSError):
                (self._folder / self.epoch).unlink()
            self.drop()

    def drop(self) -> None:
        """Let the lock go and leave the file, as the death of the process does. Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def take_epoch(folder: Path) -> Owners:
    """Return a new owner. Raises: StorageError."""
    try:
        return Owners(folder)
    except OSError as error:
        raise unwritable(folder, error) from error


def _lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """True while `path` is still the file behind `handle`: somebody may have taken it away before it was locked."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
