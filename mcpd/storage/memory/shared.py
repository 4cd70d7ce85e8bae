"""What calls share, in one process: nobody else sees it, and it ends with the process.

The default, and with one process all that is needed.

Called by: `storage.open`. Implements `storage.replicas.Shared`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from mcpd.drivers.timing import Observe
from mcpd.events import LocalBus
from mcpd.storage.memory.rates import MemoryRates
from mcpd.storage.replicas import Standing


class LocalShared:
    """Implements `Shared` for one process."""

    name = ""
    cache = None
    idempotency = None
    tasks = None
    sessions = None
    inbox = None

    def __init__(self, observe: Observe | None = None) -> None:
        self.bus = LocalBus()
        self.rates = MemoryRates(forgot=None if observe is None else partial(observe, "forget", "ok", 0.0))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Shared`; there is nothing to stay in touch with."""
        task_status.started()
        await trio.sleep_forever()

    async def agree(
        self, _kids: Sequence[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See `Shared`; there is nobody else."""
        task_status.started()
        await trio.sleep_forever()

    async def flush(self) -> None:
        """See `Shared`."""
        await trio.lowlevel.checkpoint()

    async def check(self) -> Standing:
        """See `Shared`."""
        await trio.lowlevel.checkpoint()
        return Standing("ok")
