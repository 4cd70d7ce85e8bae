"""One call of one work class through one transport, how it can be stopped, and what must then be true on the server.

A `Trial` is a running server, a client of one of its transports and a call that waits in its tool. `STOPS` are the
reasons of the law; `expect_stopped` is the law itself. Used by `test_matrix.py`, in parts by its neighbours.
Deliberately not: the table of what happens where.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import trio

from mcpd.errors import Reason
from tests.cancellation.clients import LIMIT_MS, OPEN, TOKEN, Message
from tests.in_process import (
    Running,
    alive,
    children,
    count_descriptors,
    count_tasks,
    eventually,
    http_server,
    server_config,
    stdio_server,
)
from tests.served import WAIT_S

HERE = Path(__file__).parent
MODULES = {"async": "async_tools.py", "thread": "tools.py", "process": "tools.py"}


class Census(NamedTuple):
    """What must be the same again afterwards."""

    tasks: int
    descriptors: int
    processes: int


def take_census() -> Census:
    """Count what there is now."""
    return Census(count_tasks(), count_descriptors(), len(children()))


@dataclass
class Trial:
    """A server, its client, and one call at a time."""

    running: Running
    client: Any
    transport: str
    work: str
    folder: Path
    calls: int = 0
    place: Path = field(init=False)
    pid: int = 0

    @property
    def tool(self) -> str:
        """The tool that waits."""
        return f"linger_{self.work}"

    async def begin(self) -> None:
        """Send a call and return when its tool waits and its first progress has arrived."""
        self.calls += 1
        self.place = self.folder / f"call-{self.calls}"
        self.place.mkdir()
        await self.client.call(self.tool, {"place": str(self.place)}, number=self.calls)
        await eventually(lambda: self.happened("began") and self.client.heard, "the tool has begun")
        self.pid = int((self.place / "began").read_text())
        assert self.client.heard == [progress(1)]
        self.expect_running()

    def happened(self, what: str) -> bool:
        """True when the tool has left word of it."""
        return (self.place / what).exists()

    def go_on(self) -> None:
        """Let the tool come to its end, if it still can."""
        (self.place / "go").touch()

    def cancelled(self) -> dict[str, float]:
        """Return how many calls were cancelled, by reason, without zeros."""
        counts = {reason: self.running.metric("mcpd_cancelled_total", reason=reason) for reason in STOPS}
        return {reason: count for reason, count in counts.items() if count}

    def ended(self, outcome: str) -> float:
        """Return how many tool calls have ended with `outcome`."""
        return self.running.metric("mcpd_requests_total", method="tools/call", outcome=outcome)

    def expect_running(self) -> None:
        """The call and its work go on."""
        assert self.running.in_flight() == 1
        assert not self.happened("finally")
        assert not self.happened("late")
        assert self.running.metric("mcpd_abandoned_threads") == 0
        assert alive(self.pid)

    async def expect_work_stopped(self) -> None:
        """As soon as the call is out of the table its work is over, or (a thread) known to go on in vain."""
        await eventually(lambda: self.running.in_flight() == 0, "the call is out of the in-flight table")
        assert self.happened("finally") == (self.work == "async")
        assert self.running.metric("mcpd_abandoned_threads") == (self.work == "thread")
        assert alive(self.pid) == (self.work != "process")
        assert self.running.metric("mcpd_tool_calls_total", tool=self.tool, outcome="cancelled") == 1

    async def expect_nothing_late(self) -> None:
        """What a thread still does once it may go on leads nowhere; everything else cannot go on."""
        self.go_on()
        if self.work == "thread":
            await eventually(lambda: self.happened("late"), "the abandoned thread has tried to say something")
            assert (self.place / "late").read_text() == "Cancelled"
            await eventually(lambda: self.running.metric("mcpd_abandoned_threads") == 0, "the thread has ended")
        assert self.happened("late") == (self.work == "thread")
        assert self.running.metric("mcpd_tool_calls_total", tool=self.tool, outcome="ok") == 0

    async def expect_workers_replaced(self) -> None:
        """The warm workers are there again, and no other process."""
        with trio.fail_after(WAIT_S):
            await self.running.parts.workers.wait_ready()
        workers = self.running.parts.workers.statistics()
        assert len(workers.pids) == workers.idle == (self.work == "process")
        assert self.pid not in workers.pids
        assert set(workers.pids) <= children()


def progress(done: int) -> Message:
    """Return the progress notification of a lingering tool."""
    params = {"progressToken": TOKEN, "progress": done, "total": 2}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


ANSWERS: dict[Reason, Message | None] = {
    "client_gone": None,
    "explicit": None,
    "deadline": {"code": -32603, "data": {"reason": "deadline", "budget": "request", "limitMs": LIMIT_MS}},
    "drain": {"code": -32603, "data": {"reason": "draining", "retryable": True, "retryAfterMs": 1000}},
    "admin": {"code": -32800, "data": {"reason": "admin"}},
}
"""What the client of a stopped call is told: code and data of an error, or nothing at all."""


def last_words(reason: Reason, number: int = 1) -> list[Message]:
    """Return the messages that end a stopped call."""
    answer = ANSWERS[reason]
    return [] if answer is None else [{"jsonrpc": "2.0", "id": number, "error": answer}]


def without_texts(messages: list[Message]) -> list[Message]:
    """Return the messages with the prose of their errors taken out."""
    return [
        {**message, "error": {key: value for key, value in message["error"].items() if key != "message"}}
        if "error" in message
        else message
        for message in messages
    ]


async def _leave(trial: Trial) -> None:
    await trial.client.leave()


async def _cancel(trial: Trial) -> None:
    await trial.client.cancel(trial.calls)


async def _run_out_of_time(trial: Trial) -> None:
    (flight,) = trial.running.parts.manager.in_flight()
    assert flight.scope is not None
    assert flight.scope.deadline > trial.running.parts.config.timeouts.grace_s
    flight.scope.deadline = trio.current_time()


async def _stop_the_server(trial: Trial) -> None:
    trial.running.stopping.set()


async def _cancel_as_admin(trial: Trial) -> None:
    (flight,) = trial.running.parts.manager.in_flight()
    assert trial.running.parts.manager.cancel(flight.key)
    assert not trial.running.parts.manager.cancel("no such call")


STOPS: dict[Reason, Callable[[Trial], Awaitable[None]]] = {
    "client_gone": _leave,
    "explicit": _cancel,
    "deadline": _run_out_of_time,
    "drain": _stop_the_server,
    "admin": _cancel_as_admin,
}


def ends_the_server(transport: str, reason: Reason) -> bool:
    """True when the server goes with the call: it drains, or was there for this client alone."""
    return reason == "drain" or (transport == "stdio" and reason == "client_gone")


@asynccontextmanager
async def open_trial(folder: Path, transport: str, version: str, work: str) -> AsyncIterator[Trial]:
    """Run a server with the tools of one work class, and a client. Nothing of either may be left afterwards.

    A server whose server goes on is asked while it does; what a server leaves that has ended shows when its server has.
    """
    warm = int(work == "process")
    limits = {"worker_processes": warm, "max_worker_processes": 2}
    config = server_config(folder, HERE / MODULES[work], limits=limits, grace_s=0.05, cleanup_s=1)
    start = stdio_server if transport == "stdio" else http_server
    ground = take_census()
    with trio.fail_after(3 * WAIT_S):
        async with start(config) as running:
            before = take_census()
            async with OPEN[transport](running, version) as client:
                yield Trial(running, client, transport, work, folder)
            if transport == "stdio" or running.stopping.is_set():
                await eventually(running.stopped.is_set, "the server has ended")
            else:
                await eventually(lambda: take_census() == before, f"there is what there was: {before}")
    await eventually(lambda: take_census() == ground, f"the server has left what it found: {ground}")


async def expect_stopped(trial: Trial, reason: Reason) -> None:
    """The law: what must be true after a call was stopped for `reason`, at once and from then on."""
    number, ended = trial.calls, ends_the_server(trial.transport, reason)
    await trial.expect_work_stopped()
    assert trial.cancelled() == {reason: 1}
    assert trial.running.metric("mcpd_deadline_exceeded_total", budget="request") == (reason == "deadline")
    assert trial.ended("deadline" if reason == "deadline" else "cancelled") == 1
    gone = ended or reason == "client_gone"
    await trial.client.settle(ended=gone)
    await trial.expect_nothing_late()
    if not ended:
        await trial.expect_workers_replaced()
    if not gone:
        assert await trial.client.probe(f"echo_{trial.work}") == "probe"
    assert without_texts(trial.client.heard) == [progress(1), *last_words(reason, number)]
    if ended:
        await eventually(trial.running.stopped.is_set, "the server has ended")
        assert alive(trial.pid) == (trial.work != "process")
