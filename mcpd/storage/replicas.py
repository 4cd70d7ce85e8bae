"""What a server has in common with its replicas, as one thing that is opened, run, asked and closed: a Protocol.

Opened by `storage.open`: `storage.memory.shared` keeps it in this process, `storage.redis.shared` in Redis, where every
replica finds it. The contracts of what is shared are in `storage.shared` and `events`; policy (who may, how many,
when forgotten) stays with whoever calls.

Called by: `assembly`, `app`. Values and Protocols; nothing here runs. Deliberately not: documents
(`storage.documents`), which have a store of their own.

Laws: no argument is a time to wait for; a store that is away is an answer, and never the end of the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import trio

from mcpd.events import Bus
from mcpd.storage.inbox import Inbox
from mcpd.storage.shared import CacheStore, Idempotency, RateLimits, SessionStore, TaskStore


class Standing(NamedTuple):
    """How a store is now. `detail` is one short line for anybody; `cause` is for the log, which has not had it yet."""

    state: Literal["ok", "degraded", "down"]
    detail: str = ""
    cause: str = ""


class Advice(NamedTuple):
    """What an operator should know of a store. `wrong`: it will not do as it is; the text says what to change."""

    wrong: bool
    text: str


class Shared(Protocol):
    """What replicas share."""

    @property
    def name(self) -> str:
        """The kind of store, as in metrics; empty when everything stays in this process."""

    @property
    def bus(self) -> Bus:
        """Carries change events."""

    @property
    def rates(self) -> RateLimits:
        """Counts what callers do."""

    @property
    def idempotency(self) -> Idempotency | None:
        """Keeps idempotency keys; None when they are kept with the data."""

    @property
    def tasks(self) -> TaskStore | None:
        """Keeps tasks; None when they are kept with the data."""

    @property
    def sessions(self) -> SessionStore | None:
        """Keeps HTTP sessions; None when they are kept with the data."""

    @property
    def inbox(self) -> Inbox | None:
        """Carries what processes tell each other; None when that goes through the data folder."""

    @property
    def cache(self) -> CacheStore | None:
        """The second level of caches; None where there is nobody to share with."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay in touch with the store until cancelled.

        Reports started when it is in touch, or after a bounded while without. Raises nothing.
        """

    async def agree(
        self, kids: Sequence[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Compare the ids of the keys that open here, the first of which seals, with those of other replicas, for ever.

        Reports started after the first time. Raises: ConfigurationError when one cannot open what another one seals.
        """

    async def flush(self) -> None:
        """Return when other replicas can see what this one has said. Bounded by its caller. Cancellation: safe."""

    async def check(self) -> Standing:
        """Ask the store how it is."""
