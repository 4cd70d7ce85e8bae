"""A server process that is killed, or whose clients cancel without end: what the kernel says is left of it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.wire.versions import STATEFUL, STATELESS
from tests.cancellation.clients import HttpClient, LineClient, http_client, websocket_client
from tests.cancellation.program import Program, serving
from tests.in_process import WAIT_S, alive, eventually


async def test_no_process_outlives_a_server_that_is_killed_while_a_worker_is_in_a_c_loop(tmp_path: Path) -> None:
    """CAN-1: nobody is left who could stop it, so the kernel does."""
    with trio.fail_after(3 * WAIT_S):
        async with serving(tmp_path) as program, http_client(program, STATELESS) as client:
            await client.call("spin_process", {"place": str(tmp_path)})
            await eventually((tmp_path / "began").exists, "the worker spins")
            spinning = int((tmp_path / "began").read_text())  # noqa: ASYNC240 - a few bytes of a test
            await eventually(lambda: len(program.workers()) == 1, "the only worker is busy")
            assert program.workers() == {spinning}
            program.process.kill()
            await program.process.wait()
            await eventually(lambda: not alive(spinning), "no process is left")


CANCELLED = 1000
ROUND = 300
MOST_S = 0.03
"""A call is cancelled within this time from its sending, be it before the server knows of it."""
NAP = {"seconds": 0.2}
"""What a tool takes: longer than that, and short enough for threads, which nobody can wake."""
TOOLS = ["nap_async"] * 12 + ["nap_thread"] * 7 + ["nap_process"]
"""Killing a process costs a thousand times what the others cost."""
SETTINGS = "[limits]\nmax_worker_processes = 1\nmax_threads = 300\nmax_abandoned_threads = 300\n"


class Barrage:
    """Rounds of calls, each through some transport, cancelled in the way of that transport at some moment."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.left = 0

    def next_call(self) -> tuple[str, float]:
        """Return the tool of a call, and after how many seconds it is cancelled."""
        self.left -= 1
        return self.chance.choice(TOOLS), self.chance.uniform(0, MOST_S)

    async def go_away(self, client: HttpClient) -> None:
        """Stateless HTTP: the client's going is the only way."""
        while self.left > 0:
            tool, moment = self.next_call()
            await client.call(tool, NAP, progress=self.chance.random() < 0.5)
            await trio.sleep(moment)
            await client.vanish()

    async def say_so(self, client: HttpClient | LineClient) -> None:
        """Everywhere else: a message."""
        number = 0
        while self.left > 0:
            tool, moment = self.next_call()
            number += 1
            await client.call(tool, NAP, number=number)
            await trio.sleep(moment)
            await client.cancel(number)

    async def come_and_go(self, program: Program) -> None:
        """WebSocket: a connection that breaks with several calls on it."""
        while self.left > 0:
            async with websocket_client(program, STATELESS) as client:
                for number in range(3):
                    tool, _ = self.next_call()
                    await client.call(tool, NAP, number=number)
                await trio.sleep(self.chance.uniform(0, MOST_S))
                await client.leave()


@pytest.mark.slow
async def test_a_thousand_cancelled_calls_leave_nothing_behind_and_the_next_one_is_right(tmp_path: Path) -> None:
    """CAN-1, CAN-3, WS-4: nor does the server do anything in the 10 s after."""
    barrage = Barrage(seed := random.randrange(10**6))
    print("seed", seed)
    with trio.fail_after(6 * WAIT_S):
        async with serving(tmp_path, SETTINGS) as program:
            await eventually(lambda: len(program.workers()) == 1, "the worker is there")
            before = program.descriptors()
            while await program.metric("mcpd_cancelled_total") < CANCELLED:
                barrage.left = ROUND
                await fire(barrage, program)
            await expect_calm(program, before)
            async with http_client(program, STATELESS) as client:
                for work in ("async", "thread", "process"):
                    assert await client.probe(f"echo_{work}") == "probe"
            await expect_idle(program)
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


async def fire(barrage: Barrage, program: Program) -> None:
    """Let all clients loose until the barrage is over."""

    async def run(open_client: Any, version: str, shoot: Callable[[Any], Awaitable[None]]) -> None:
        async with open_client(program, version) as client:
            await shoot(client)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(run, http_client, STATELESS, barrage.go_away)
            nursery.start_soon(run, http_client, STATEFUL[0], barrage.say_so)
            nursery.start_soon(run, websocket_client, STATELESS, barrage.say_so)
            nursery.start_soon(run, websocket_client, STATEFUL[0], barrage.say_so)
            nursery.start_soon(barrage.come_and_go, program)


async def expect_calm(program: Program, descriptors: int) -> None:
    """Nothing is in flight, abandoned, open or running that was not before."""
    for name in ("mcpd_calls_in_flight", "mcpd_abandoned_threads"):
        await until_zero(program, name)
    await eventually(lambda: program.descriptors() == descriptors, "no descriptor is left")
    await eventually(lambda: len(program.workers()) == 1, "there are only the warm workers")


async def until_zero(program: Program, name: str) -> None:
    with trio.fail_after(WAIT_S):
        while await program.metric(name):
            pass


async def expect_idle(program: Program) -> None:
    """The one test of a quantity of time: at most 2 clock ticks of CPU in 10 s, the workers' included.

    In the quietest of three such spans: the machine's own work is counted into some.
    """
    with trio.fail_after(WAIT_S):
        while not await is_quiet(program):
            pass
    spans: list[int] = []
    while len(spans) < 3 and min(spans, default=3) > 2:
        before = program.processor_ticks()
        await trio.sleep(10)
        spans.append(program.processor_ticks() - before)
    assert min(spans) <= 2, spans


async def is_quiet(program: Program) -> bool:
    """True when the effects of the last call have died down: no tick within a moment."""
    before = program.processor_ticks()
    await trio.sleep(0.2)
    return program.processor_ticks() == before
