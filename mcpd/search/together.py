"""Several jobs at once, of which the first failure is the failure of all.

A nursery reports what its tasks raised as a group, because several may have failed. Where jobs are parts of one
question to one store, one refusal is the answer: this runs them in a nursery, and lets the first `StorageError` out by
itself. Whatever else they raise is a bug and leaves as a group, as nurseries do.

Called by: `searcher`, `endpoint`. Deliberately not: results; a job keeps its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from mcpd.storage.documents import StorageError

Job = Callable[[], Awaitable[None]]


async def run_together(jobs: Sequence[Job]) -> None:
    """Run all jobs concurrently. Raises: the first StorageError of any of them; the others are cancelled then."""
    failed: list[StorageError] = []

    async def attempt(job: Job, scope: trio.CancelScope) -> None:
        try:
            await job()
        except StorageError as error:
            failed.append(error)
            scope.cancel()

    if len(jobs) == 1:
        await jobs[0]()
        return
    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(attempt, job, nursery.cancel_scope)
    if failed:
        raise failed[0]
