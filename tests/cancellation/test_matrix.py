"""The cancellation matrix: every transport x every reason x every work class, judged on the server and on the wire.

`CELLS` says what has to happen; the tests below say what the words mean. `continues` and `cannot happen` are the
protocol's exceptions: a stateful HTTP call belongs to its session and not to a connection, and stateless HTTP has no
message that cancels, only the client's going.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import cast, get_args

import pytest

from mcpd.errors import REASONS, Reason
from tests.cancellation.clients import Message
from tests.cancellation.trial import STOPS, Trial, expect_stopped, last_words, open_trial, progress, without_texts
from tests.in_process import eventually

CELLS = """
transport                  work     client_gone   explicit        deadline    drain       admin

http 2026-07-28       async    cancelled     cannot happen   cancelled   cancelled   cancelled
http 2026-07-28       thread   cancelled     cannot happen   cancelled   cancelled   cancelled
http 2026-07-28       process  cancelled     cannot happen   cancelled   cancelled   cancelled

http 2025-11-25       async    continues     cancelled       cancelled   cancelled   cancelled
http 2025-11-25       thread   continues     cancelled       cancelled   cancelled   cancelled
http 2025-11-25       process  continues     cancelled       cancelled   cancelled   cancelled

websocket 2026-07-28  async    cancelled     cancelled       cancelled   cancelled   cancelled
websocket 2026-07-28  thread   cancelled     cancelled       cancelled   cancelled   cancelled
websocket 2026-07-28  process  cancelled     cancelled       cancelled   cancelled   cancelled

websocket 2025-11-25  async    cancelled     cancelled       cancelled   cancelled   cancelled
websocket 2025-11-25  thread   cancelled     cancelled       cancelled   cancelled   cancelled
websocket 2025-11-25  process  cancelled     cancelled       cancelled   cancelled   cancelled

stdio 2026-07-28      async    cancelled     cancelled       cancelled   cancelled   cancelled
stdio 2026-07-28      thread   cancelled     cancelled       cancelled   cancelled   cancelled
stdio 2026-07-28      process  cancelled     cancelled       cancelled   cancelled   cancelled

stdio 2025-11-25      async    cancelled     cancelled       cancelled   cancelled   cancelled
stdio 2025-11-25      thread   cancelled     cancelled       cancelled   cancelled   cancelled
stdio 2025-11-25      process  cancelled     cancelled       cancelled   cancelled   cancelled
"""

TRANSPORTS = ("http", "websocket", "stdio")
ERAS = ("2026-07-28", "2025-11-25")
WORK = ("async", "thread", "process")


def read_cells() -> dict[tuple[str, str, str, Reason], str]:
    """Return `CELLS` as (transport, version, work, reason) -> verdict."""
    head, *rows = (re.split(r"\s{2,}", line) for line in CELLS.splitlines() if line)
    reasons = cast("list[Reason]", head[2:])
    return {
        (*transport.split(), work, reason): verdict
        for transport, work, *verdicts in rows
        for reason, verdict in zip(reasons, verdicts, strict=True)
    }


def test_the_matrix_has_every_cell_and_knows_every_reason() -> None:
    assert set(read_cells()) == set(product(TRANSPORTS, ERAS, WORK, REASONS))
    assert set(REASONS) == set(get_args(Reason)) == set(STOPS)
    assert set(read_cells().values()) == set(VERDICTS)


@pytest.mark.parametrize(
    ("cell", "verdict"), [pytest.param(cell, verdict, id="-".join(cell)) for cell, verdict in read_cells().items()]
)
async def test_a_cell_of_the_matrix_is_as_it_says(
    cell: tuple[str, str, str, Reason], verdict: str, tmp_path: Path
) -> None:
    """CAN-1, CAN-3, CAN-5, IO-3, IO-7, STR-3, WS-4."""
    transport, version, work, reason = cell
    async with open_trial(tmp_path, transport, version, work) as trial:
        await trial.begin()
        await VERDICTS[verdict](trial, reason)


async def is_cancelled(trial: Trial, reason: Reason) -> None:
    """The call ends and its work with it."""
    await STOPS[reason](trial)
    await expect_stopped(trial, reason)


async def continues(trial: Trial, _reason: Reason) -> None:
    """The call outlives its connection: its result is there for a client that resumes, else its deadline ends it."""
    await lose_connection(trial)
    trial.expect_running()
    trial.go_on()
    expect_result(await trial.client.resume(), [progress(2)])
    await eventually(lambda: trial.running.in_flight() == 0, "the call is over")
    assert (trial.ended("ok"), trial.cancelled()) == (1, {})

    await trial.begin()
    await lose_connection(trial)
    trial.expect_running()
    await STOPS["deadline"](trial)
    assert without_texts(await trial.client.resume()) == last_words("deadline", 2)
    await trial.expect_work_stopped()
    assert trial.cancelled() == {"deadline": 1}


async def lose_connection(trial: Trial) -> None:
    """Cut the client off, and wait until the server knows."""
    await trial.client.vanish()
    await eventually(
        lambda: trial.running.metric("mcpd_connections", transport="http") == 0,
        "the server has seen the connection end",
    )


async def cannot_happen(trial: Trial, _reason: Reason) -> None:
    """A message that says so is accepted and means nothing: its sender could be anybody with a call of that id."""
    await trial.client.cancel()
    trial.expect_running()
    trial.go_on()
    await trial.client.settle(ended=True)
    expect_result(trial.client.heard, [progress(1), progress(2)])
    assert (trial.ended("ok"), trial.cancelled()) == (1, {})


def expect_result(heard: list[Message], before: list[Message]) -> None:
    """The tool's result came, behind these messages and before none."""
    *others, last = heard
    assert others == before
    assert (last["id"], last["result"]["content"]) == (1, [{"type": "text", "text": "done"}])


VERDICTS = {"cancelled": is_cancelled, "continues": continues, "cannot happen": cannot_happen}
