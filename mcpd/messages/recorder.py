"""The recorder: hands the record of every call that has ended, or was refused, to a store, and never makes one wait.

`note` is asked before a call runs, `ended` and `refused` when all is over: they append to a queue. `run` writes what
is there in bulk, `LINGER_S` after the first of it came, and forgets what is too old or too much.

    full       what comes is dropped and counted, what waits stays; refusals may only take half of the queue
    store away what waits is tried again, more and more seldom; calls go on; the log has a line for it, and its end
    stop       what waits is written under a bounded shield; what cannot be is counted
    kill -9    what waits is lost: at most `LINGER_S`, and what was being written

Called by: `messages.manager`, `app` (`run`). Calls: the store. Deliberately not: judging outcomes, which the
manager does, or reading records.

Laws: 8; a call costs one append, of bounded text; nothing that the store does reaches a call.
"""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
import trio

from mcpd.config import Records as Settings
from mcpd.deadlines import bounded_shield
from mcpd.errors import DeadlineExceeded, WireError
from mcpd.messages.arguments import NOTERS, NOTHING, Noted
from mcpd.messages.flight import Done, Flight, Outcome, Stopped
from mcpd.monitoring.health import Finding
from mcpd.monitoring.logs import RequestLine, mask
from mcpd.monitoring.metrics import Metrics
from mcpd.storage.documents import StorageError
from mcpd.storage.records import Keep, Record, Records, id_of
from mcpd.wire.call import ANONYMOUS, Call, Principal, target_of
from mcpd.wire.envelope import CLIENT_KEY

MAX_QUEUED_ITEMS: Final = 8192
"""Two seconds of the most calls that one process can serve: some 10 MB."""
BATCH_ITEMS: Final = 1000
"""Written in one transaction."""
AT_ONCE_ITEMS: Final = 50
"""Prepared in one pass of the event loop: 0.2 ms."""
LINGER_S: Final = 0.25
SHORTEST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
PRUNE_S: Final = 60.0
REFUSED_SHARE: Final = 10
"""Of `records.max_items`, one in so many may be kept of refusals besides."""
KNOWN_ITEMS: Final = 512
MAX_TEXT_CHARS: Final = 256
"""Of a name, URI or address of others."""
_NUMBERS: Final = 1 << 16
_NO_PARAMS: Final[dict[str, Any]] = {}
_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What is known of a message that was refused before it became a call."""

    principal: Principal = ANONYMOUS
    params: dict[str, Any] = _NO_PARAMS
    reason: str = ""
    """A word of the code for the refusal; the error's kind when it is empty."""


class _Ended(msgspec.Struct, gc=False):
    """One record as it waits: bounded texts, and nothing of the call itself."""

    ended_s: float
    seconds: float
    outcome: str
    reason: str
    refused: bool
    transport: str
    method: str
    target: str
    principal: Principal
    address: str
    client: str
    request_id: str
    traceparent: str | None
    task: str
    noted: Noted
    result_bytes: int


class Recorder:
    """Records the calls of this process. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        store: Records,
        settings: Settings,
        metrics: Metrics,
        *,
        cleanup_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._cleanup_s = cleanup_s
        self._clock = clock
        self._most_refused = max(1, settings.max_items // REFUSED_SHARE)
        self._note = NOTERS[settings.arguments]
        self._node = secrets.token_hex(4)
        self._number = secrets.randbelow(_NUMBERS)
        self._queue: deque[_Ended] = deque()
        self._batch: list[Record] = []
        """What is being written; its ids stay the same when it has to be written again."""
        self._news = trio.Event()
        self._many = trio.Event()
        self._unpruned = 0
        self._trouble = ""
        """Why the store does not take records; empty when it does."""
        self._told = False
        """The log has been told of trouble, and not yet that it is over."""
        self._lost = 0
        self._stopped = False
        metrics.watch("records_pending", lambda: self.pending)

    @property
    def pending(self) -> int:
        """How many records are not written yet."""
        return len(self._queue) + len(self._batch)

    def note(self, call: Call) -> Noted:
        """Return what will be recorded of a call's arguments, before it runs. Not a checkpoint."""
        arguments = call.params.get("arguments")
        return self._noted(call.params) if arguments is None else self._note(arguments)

    def _noted(self, params: dict[str, Any]) -> Noted:
        arguments = params.get("arguments")
        if arguments is None:
            arguments = params.get("argument")
        return NOTHING if arguments is None else self._note(arguments)

    def ended(self, flight: Flight, outcome: Outcome, label: str, seconds: float) -> None:
        """Record a call that has ended; `label` is its outcome as the metrics have it. Not a checkpoint."""
        call = flight.call
        self._append(
            _Ended(
                self._clock(),
                seconds,
                label,
                _reason(outcome),
                False,
                call.transport,
                call.method[:MAX_TEXT_CHARS],
                target_of(call.params)[:MAX_TEXT_CHARS],
                call.principal,
                flight.client,
                call.client[:MAX_TEXT_CHARS],
                call.request_id,
                call.traceparent,
                call.task or "",
                flight.noted,
                len(outcome.data) if type(outcome) is Done else 0,
            )
        )

    def refused(self, error: WireError, line: RequestLine, asked: Asked) -> None:
        """Record a message that was refused before it became a call. Not a checkpoint."""
        if len(self._queue) >= MAX_QUEUED_ITEMS // 2:
            self._drop("full")
            return
        self._append(
            _Ended(
                self._clock(),
                0.0,
                line.outcome,
                asked.reason or type(error).__name__,
                True,
                line.transport,
                line.method[:MAX_TEXT_CHARS],
                target_of(asked.params)[:MAX_TEXT_CHARS],
                asked.principal,
                line.client,
                _client(asked.params),
                line.request_id,
                None,
                "",
                self._noted(asked.params),
                0,
            )
        )

    def _append(self, ended: _Ended) -> None:
        if len(self._queue) >= MAX_QUEUED_ITEMS or self._stopped:
            self._drop("stopped" if self._stopped else "full")
            return
        self._queue.append(ended)
        if not self._news.is_set():
            self._news.set()

    def _drop(self, why: str, count: int = 1) -> None:
        self._metrics.records_dropped.inc(why, by=count)
        self._lost += count
        self._tell(f"records of calls are lost: {_LOST[why]}")

    def _tell(self, text: str) -> None:
        if not self._told:
            _log.warning("%s", text)
        self._told = True

    async def check(self) -> Finding:
        """Say how the store is, for `/readyz`."""
        if self._trouble:
            return Finding("degraded", "not written; the log says why", self._trouble)
        return Finding("ok", f"{self.pending} waiting")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write and forget until cancelled.

        Cancellation: writes what waits, for at most `timeouts.cleanup_s`.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._prune)
                task_status.started()
                while True:
                    await self._news.wait()
                    await trio.sleep(LINGER_S)
                    await self._write_all()
        finally:
            with bounded_shield(self._cleanup_s):
                await self._write_all()  # noqa: ASYNC102 - in a bounded shield
            self._stopped = True
            if self.pending:
                self._drop("stopped", self.pending)

    async def _write_all(self) -> None:
        pause_s = SHORTEST_PAUSE_S
        while self.pending:
            if await self._write():
                pause_s = SHORTEST_PAUSE_S
            else:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._news = trio.Event()
        if self._told:
            _log.warning("records of calls are written again; lost until now: %d", self._lost)
            self._told, self._lost = False, 0

    async def _write(self) -> bool:
        """Write one batch; False when it has to be tried again."""
        await self._prepare()
        try:
            await self._store.add(self._batch)
        except StorageError as error:
            self._fail(error)
            return False
        except Exception:  # noqa: BLE001 - a record that no store can take must not stop the ones behind it
            _log.exception("records of calls cannot be stored")
            self._drop("unfit", len(self._batch))
        else:
            self._written()
        self._batch = []
        return True

    async def _prepare(self) -> None:
        while self._queue and len(self._batch) < BATCH_ITEMS:
            some = list(islice(self._queue, AT_ONCE_ITEMS))
            self._batch += map(self._record, some)
            for _ in some:
                self._queue.popleft()
            await trio.lowlevel.checkpoint()

    def _fail(self, error: StorageError) -> None:
        self._metrics.records_failed.inc()
        self._tell(f"records of calls cannot be written, calls go on without: {error}")
        self._trouble = str(error)

    def _written(self) -> None:
        self._trouble = ""
        self._unpruned += len(self._batch)
        if self._unpruned > self._most_refused:
            self._many.set()

    def _record(self, ended: _Ended) -> Record:
        self._number += 1
        return Record(
            id=id_of(ended.ended_s, self._node, self._number),
            ended_s=ended.ended_s,
            seconds=ended.seconds,
            outcome=ended.outcome,
            reason=ended.reason,
            refused=ended.refused,
            transport=ended.transport,
            method=_known(ended.method),
            target=_known(ended.target),
            principal=ended.principal.id,
            key=_known(ended.principal.name[:MAX_TEXT_CHARS]),
            address=_known(ended.address[:MAX_TEXT_CHARS]),
            client=_known(ended.client),
            request_id=_sound(ended.request_id[:MAX_TEXT_CHARS]),
            trace_id="" if ended.traceparent is None else ended.traceparent[3:35],
            task=_known(ended.task[:MAX_TEXT_CHARS]),
            digest=ended.noted.digest,
            arguments=ended.noted.kept,
            arguments_bytes=ended.noted.size,
            result_bytes=ended.result_bytes,
        )

    async def _prune(self) -> None:
        while True:
            with trio.move_on_after(PRUNE_S):
                await self._many.wait()
            self._many, self._unpruned = trio.Event(), 0
            keep = Keep(self._clock() - self._settings.keep_s, self._settings.max_items, self._most_refused)
            try:
                while await self._store.prune(keep):
                    pass
            except StorageError as error:
                self._metrics.records_failed.inc()
                self._tell(f"old records of calls cannot be forgotten: {error}")


_LOST: Final = {
    "full": f"{MAX_QUEUED_ITEMS} wait to be written",
    "stopped": "the server stops and they cannot be written",
    "unfit": "the store cannot take them",
}


def _reason(outcome: Outcome) -> str:
    if isinstance(outcome, Done):
        return ""
    if isinstance(outcome, Stopped):
        return outcome.reason
    error = outcome.error
    return error.budget if isinstance(error, DeadlineExceeded) else type(error).__name__


def _client(params: dict[str, Any]) -> str:
    meta = params.get("_meta")
    client = meta.get(CLIENT_KEY) if type(meta) is dict else None
    name = client.get("name") if type(client) is dict else None
    return name[:MAX_TEXT_CHARS] if type(name) is str else ""


def _sound(text: str) -> str:
    """Return a text that every store can take, with keys of callers masked."""
    if text.isascii() and "mcpd_" not in text and "earer" not in text.lower():
        return text
    return mask(text if text.isascii() else text.encode("utf-8", "replace").decode())


_known = functools.lru_cache(maxsize=KNOWN_ITEMS)(_sound)
"""The same for texts that come again."""
