"""How a command comes to the document store, and how it ends: done, failed, or interrupted.

Called by: the bodies of the commands. Calls the embedded store. Deliberately not: a server; a command opens the store
beside whatever servers and other commands use it.

Laws: the first SIGINT or SIGTERM cancels the work, which may finish and tell what it has begun; the second ends the
process at once. Nobody is asked anything while the store is open: a question waits as long as a person likes.

Sources: surfaces "Command line".
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import click
import trio

from mcpd.commands.options import INTERRUPTED
from mcpd.config import Config
from mcpd.errors import McpdError
from mcpd.storage.base import Documents
from mcpd.storage.sqlite import open_documents

T = TypeVar("T")


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[Documents]:
    """Open the documents that the configuration names. Raises: StorageError. Resources: closed with the block."""
    async with open_documents(config.data.folder) as documents:
        yield documents


def kept_apart(config: Config) -> tuple[Path, ...]:
    """Return what is never ingested: the store itself, keys and seals."""
    return config.data.folder.resolve(), config.keys_file.resolve()


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's work and return its result.

    Raises: click.Abort when it was interrupted; what it raises of ours.
    """
    results: list[T] = []
    trio.run(_until_interrupted, work, results.append)
    if not results:
        raise click.Abort
    return results[0]


async def _until_interrupted(work: Callable[[], Awaitable[T]], deliver: Callable[[T], None]) -> None:
    failure: McpdError | BrokenPipeError | None = None
    working = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, working)
        with working:
            try:
                deliver(await work())
            except (McpdError, BrokenPipeError) as error:
                failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _watch_signals(
    working: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if working.cancel_called:
                os._exit(INTERRUPTED)
            working.cancel(reason="interrupted")
