"""Calls with an idempotency key: the tool runs once, and whoever calls with the key is told what came of it.

A client that lost its connection calls again with the same key: it joins the call that is running, or gets the outcome
that is kept. So the work of a keyed call is a call of its own, run by the Message Manager in a nursery of the services;
the calls of clients wait for it and may leave. `Run` is one key as this process deals with it, whoever has it.

Called by: `messages.manager` (`answer`), `app` (`run`, `wait_settled`). Calls: the store, the `Launch` that makes the
work. Deliberately not: tools, or the form of results.

Laws: law 2 names a keyed call as an exception, because it outlives its client until its deadline. Its outcome is kept
before anybody is told of it (12). A key belongs to its principal, and stands for one tool with its arguments. What asks
its caller for input is not kept, so that the next round is a call of its own, nor is what says that it may work later:
then the key is free. Another process's run is asked for, at most every `LONGEST_POLL_S`.

Sources: issue of replicas, idempotency; draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import trio
from msgspec import structs

from mcpd.authoring.context import Exchange
from mcpd.config import Limits, Timeouts
from mcpd.deadlines import bounded_shield
from mcpd.errors import (
    CallCancelled,
    Draining,
    InternalError,
    InvalidParams,
    Overloaded,
    Reason,
    ResultTooLarge,
    Retryable,
    ToolError,
    WireError,
)
from mcpd.monitoring.metrics import Metrics
from mcpd.storage.documents import StorageError
from mcpd.storage.refusals import KEYS, refusal
from mcpd.storage.shared import Claim, Idempotency, Kept, Mismatch, New, NoRoom, Room
from mcpd.wire.call import Call
from mcpd.wire.outcomes import Outcome, decode_outcome, of_error, told
from mcpd.wire.sealed import digest
from mcpd.wire.tasks import declared, undeclared

T = TypeVar("T")

MAX_OUTCOME_BYTES: Final = 65_536
"""Of an outcome that is kept: 20,000 keys are 1.3 GB then. A longer one is told once, and then only that it was."""

SHORTEST_POLL_S: Final = 0.02
LONGEST_POLL_S: Final = 0.25
RETRY_S: Final = 0.5
PATIENCE_S: Final = 5.0
"""How long callers wait for an outcome that cannot be kept, before they are told to ask again."""

SWEEP_S: Final = 60.0
_PROCESS: Final = secrets.token_hex(12)
"""Makes the tokens of claims: this process claims a key again as itself when it was not told whether it had it."""

_log = logging.getLogger(__name__)


class Front(Protocol):
    """A client's call that waits for its key."""

    @property
    def call(self) -> Call:
        """What was called."""

    @property
    def exchange(self) -> Exchange:
        """The way back to the client."""

    @property
    def client(self) -> str:
        """The client's address."""

    @property
    def reason(self) -> Reason | None:
        """Why it was cancelled."""

    @property
    def scope(self) -> trio.CancelScope | None:
        """Its one scope."""


class Work(Protocol):
    """The call that the Message Manager runs for a key."""

    def cancel(self, reason: Reason) -> None:
        """Stop it, whether it has started or not. Not a checkpoint."""

    def waiting_for_client(self) -> AbstractAsyncContextManager[None]:
        """Lend its place while the client is asked."""

    async def run(self) -> Outcome | WireError | Reason:
        """Run it to its end; a reason when it was cancelled. Raises: nothing but `trio.Cancelled`."""

    def record(self) -> None:
        """Give what has been done a record: its client has gone, and has another one. Not a checkpoint."""


Launch = Callable[[Call, Exchange, str], Work]


class Told(NamedTuple):
    """What one call is told."""

    result: dict[str, Any]
    crashed: bool


class Run:
    """One key and what it stands for, as this process deals with it. It is the `Exchange` of its work."""

    def __init__(self, claim: Claim, first: Front) -> None:
        self.claim = claim
        self.first = first
        self.fronts: list[Front] = []
        self.lead: Front | None = None
        """Whose call is run here; it alone hears what the work says on its way."""
        self.work: Work | None = None
        self._speaking: set[trio.CancelScope] = set()
        self.settled = trio.Event()
        self.outcome: Outcome | WireError = Draining("The server is stopping; try again")

    def settle(self, outcome: Outcome | WireError) -> None:
        """Tell everybody who waits. Not a checkpoint."""
        self.outcome = outcome
        self.settled.set()

    def leave(self, front: Front) -> None:
        """Take a call out that waits no longer; only the one whose call it is may end the work. Not a checkpoint."""
        self.fronts.remove(front)
        if front is not self.lead:
            return
        for scope in self._speaking:
            scope.cancel()
        if front.reason == "explicit" and self.work is not None:
            self.work.cancel("explicit")

    def candidate(self) -> Front | None:
        """Return whose call is to be run; None when nobody wants it any more."""
        if self.fronts:
            return self.fronts[0]
        return None if self.first.reason == "explicit" else self.first

    @property
    def _attached(self) -> Front | None:
        return self.lead if self.lead in self.fronts else None

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Pass it on, as long as the client is there."""
        front = self._attached
        if front is None:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope() as scope:
            self._speaking.add(scope)
            try:
                await front.exchange.notify(method, params)
            finally:
                self._speaking.remove(scope)

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Ask the client. Raises: ToolError when it has gone."""
        front = self._attached
        if front is None or self.work is None:
            raise ToolError("The client has gone and cannot be asked")
        async with self.work.waiting_for_client():
            return await front.exchange.ask(requests)

    def release(self, retry_ms: int) -> None:
        """Pass it on, as long as the client is there."""
        front = self._attached
        if front is not None:
            front.exchange.release(retry_ms)


class KeyedCalls:
    """The keyed calls of this process."""

    def __init__(self, store: Idempotency, *, limits: Limits, timeouts: Timeouts, metrics: Metrics) -> None:
        self._store = store
        self._room = Room(limits.max_idempotency_keys, limits.max_idempotency_keys_per_principal)
        self._keep_s = timeouts.idempotency_keep_s
        self._hold_s = timeouts.idempotency_keep_s + timeouts.call_max_s
        self._cleanup_s = timeouts.cleanup_s
        self._metrics = metrics
        self._runs: dict[tuple[str, str], Run] = {}
        self._nursery: trio.Nursery | None = None
        self._launch: Launch | None = None
        self._ended = trio.Event()
        self._kept = 0
        metrics.watch("idempotency_keys", lambda: self._kept)

    async def run(self, launch: Launch, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run keyed calls until cancelled; `launch` makes the work of one. Started when they are served.

        Cancellation: stops their work; the keys are free when the store is closed.
        """
        async with trio.open_nursery() as nursery:
            self._launch, self._nursery = launch, nursery
            task_status.started()
            while True:
                await self._sweep()
                await trio.sleep(SWEEP_S)

    async def _sweep(self) -> None:
        try:
            self._kept = await self._store.purge()
        except StorageError as error:
            _log.warning("idempotency keys could not be looked after, trying again in %g s: %s", SWEEP_S, error)

    async def answer(self, front: Front) -> Told:
        """Answer a keyed call, by running it if nobody has.

        Raises: WireError. Cancellation: leaves the work alone, unless it is this call's own and was cancelled by name.
        """
        while True:
            run = self._join(front)
            try:
                await run.settled.wait()
            finally:
                run.leave(front)
            outcome = run.outcome
            if not _asks_otherwise(outcome, run.lead, front):
                return self._told(outcome, run, front)

    def _join(self, front: Front) -> Run:
        claim = _claim_of(front.call)
        place = (claim.id, claim.digest)
        run = self._runs.get(place)
        if run is None:
            assert self._nursery is not None, "keyed calls are served while `run` runs"
            run = self._runs[place] = Run(claim, front)
            self._nursery.start_soon(self._do, run, place)
        run.fronts.append(front)
        return run

    def _told(self, outcome: Outcome | WireError, run: Run, front: Front) -> Told:
        if isinstance(outcome, WireError):
            raise outcome
        own = run.lead is front
        self._metrics.keyed_call("ran" if own else "replayed" if run.work is None else "joined")
        result = told(outcome, replayed=not own)
        if result.get("resultType") == "task" and not declared(front.call):
            raise undeclared()
        return Told(result, outcome.crashed)

    async def _do(self, run: Run, place: tuple[str, str]) -> None:
        outcome: Outcome | WireError = run.outcome
        try:
            outcome = await self._settle(run)
        except NoRoom as full:
            self._metrics.keyed_call("refused")
            self._metrics.rejected("idempotency_keys")
            outcome = Overloaded(f"{full}; wait for one to be forgotten, or call without a key")
        except StorageError as error:
            self._metrics.keyed_call("unavailable")
            outcome = refusal(error, KEYS)
        except Exception:  # noqa: BLE001 - one key's fault must not stop the others, nor the server
            _log.exception("a keyed call failed by a bug, request_id=%s", run.first.call.request_id)
            outcome = InternalError(run.first.call.request_id)
        finally:
            del self._runs[place]
            if not run.settled.is_set():
                run.settle(outcome)
            self._ended.set()
            self._ended = trio.Event()

    async def _settle(self, run: Run) -> Outcome | WireError:
        pause = SHORTEST_POLL_S
        while True:
            begun = await self._store.begin(run.claim, self._room, self._hold_s)
            if isinstance(begun, New):
                outcome = await self._execute(run, begun.holder)
                if outcome is not None:
                    return outcome
            elif isinstance(begun, Kept):
                return decode_outcome(begun.outcome)
            elif isinstance(begun, Mismatch):
                self._metrics.keyed_call("mismatch")
                return InvalidParams(
                    "This idempotency key was used for another tool or other arguments; take a new one"
                )
            if not run.fronts:
                return run.outcome
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_S)

    async def _execute(self, run: Run, holder: str) -> Outcome | WireError | None:
        """Run it as `holder` and return the outcome; None when the key has become somebody else's."""
        assert self._launch is not None
        lead = run.candidate()
        if lead is None:
            await self._written(run, lambda: self._store.release(run.claim, holder))
            return run.outcome
        if lead.scope is not None:
            lead.scope.deadline = math.inf
        run.lead, run.work = lead, self._launch(_work_of(lead.call), run, lead.client)
        ended = await run.work.run()
        if lead not in run.fronts:
            _log.info("request_id=%s has ended without its client", lead.call.request_id)
            run.work.record()
        outcome = _outcome_of(ended)
        if isinstance(outcome, WireError) or _asks(outcome):
            await self._written(run, lambda: self._store.release(run.claim, holder))
            return outcome
        kept = _bounded(outcome)
        if await self._written(run, lambda: self._store.finish(run.claim, holder, kept, self._keep_s)):
            return outcome
        run.lead = run.work = None
        return None

    async def _written(self, run: Run, write: Callable[[], Awaitable[T]]) -> T:
        """Write down how it ended, however long that takes; callers do not wait for more than `PATIENCE_S`."""
        until_s = trio.current_time() + PATIENCE_S
        while True:
            try:
                return await write()
            except StorageError as error:
                _log.error("the end of a keyed call could not be kept, trying again in %g s: %s", RETRY_S, error)
                if trio.current_time() >= until_s and not run.settled.is_set():
                    self._metrics.keyed_call("unavailable")
                    run.settle(refusal(error, KEYS))
            await trio.sleep(RETRY_S)

    async def wait_settled(self) -> None:
        """Wait until this process runs nothing with a key, at most `timeouts.cleanup_s`: the ends are kept then."""
        with bounded_shield(self._cleanup_s):
            while self._runs:
                await self._ended.wait()


def _claim_of(call: Call) -> Claim:
    params, key = call.params, call.idempotency_key
    name = hashlib.sha256(f"{len(call.principal.id)} {call.principal.id}{key}".encode("utf-8", "surrogatepass"))
    salient = digest([params.get("name"), params.get("arguments") or {}])
    token = hashlib.sha256(f"{_PROCESS}{name.hexdigest()}{salient}".encode()).hexdigest()
    return Claim(name.hexdigest(), call.principal.share, salient, token)


def _work_of(call: Call) -> Call:
    return structs.replace(call, idempotency_key=None)


def _outcome_of(ended: Outcome | WireError | Reason) -> Outcome | WireError:
    """Return what is to be kept, or a refusal after which the same may work later."""
    if isinstance(ended, Outcome):
        return ended
    if isinstance(ended, Retryable):
        return ended
    if isinstance(ended, WireError):
        return of_error(ended)
    if ended == "drain":
        return Draining("The server is stopping and had to cancel this call")
    return of_error(CallCancelled(ended))


def _asks(outcome: Outcome) -> bool:
    return outcome.result is not None and outcome.result.get("resultType") == "input_required"


def _asks_otherwise(outcome: Outcome | WireError, lead: Front | None, front: Front) -> bool:
    """True when the work asks for input in the way of another era than this call's, which has to run it itself."""
    if isinstance(outcome, WireError) or lead is None or not _asks(outcome):
        return False
    return lead.call.stateless != front.call.stateless


def _bounded(outcome: Outcome) -> bytes:
    data = outcome.encoded()
    if len(data) <= MAX_OUTCOME_BYTES:
        return data
    error = of_error(ResultTooLarge(len(data), MAX_OUTCOME_BYTES))
    return structs.replace(
        error, message=f"The call has run, and what came of it was told once. {error.message}"
    ).encoded()
