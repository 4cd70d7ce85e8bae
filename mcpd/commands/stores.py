"""How a command's work on the document store is run, and how it ends: done, failed, or interrupted.

Called by: the bodies of the commands, which open the store themselves (`storage.open`), beside whatever servers and
other commands use it.

Laws: the first SIGINT or SIGTERM cancels the work, which may finish and tell what it has begun; the second ends the
process at once. Nobody is asked anything while the store is open: a question waits as long as a person likes.

Sources: surfaces "Command line".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from mcpd.config import Config
from mcpd.signals import Interrupted, run_until_interrupted

T = TypeVar("T")


def kept_apart(config: Config) -> tuple[Path, ...]:
    """Return what is never ingested: the store itself, configuration, keys and seals."""
    return tuple(path.resolve() for path in config.secrets)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's work and return its result.

    Raises: click.Abort when it was interrupted; what it raises of ours.
    """
    try:
        return run_until_interrupted(work)
    except Interrupted:
        raise click.Abort from None
