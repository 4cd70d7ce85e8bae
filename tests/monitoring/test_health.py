"""Readiness: what each state of a dependency means for the whole."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from mcpd.monitoring.health import CHECK_S, Check, Finding, Health, State


def answering(state: State, detail: str = "") -> Check:
    async def check() -> Finding:
        await trio.lowlevel.checkpoint()
        return Finding(state, detail)

    return check


@pytest.mark.parametrize(
    ("required", "state", "status", "summary"),
    [
        (True, "ok", 200, "ready"),
        (True, "degraded", 200, "degraded: it"),
        (True, "down", 503, "down: it"),
        (False, "down", 200, "degraded: it"),
    ],
)
async def test_one_dependency_decides(required: bool, state: State, status: int, summary: str) -> None:
    health = Health()
    health.add("other", answering("ok"), required=True)
    health.add("it", answering(state), required=required)
    readiness = await health.readiness()
    assert (readiness.status, readiness.summary) == (status, summary)
    assert [one.name for one in readiness.dependencies] == ["other", "it"]


async def test_no_answer_within_the_bound_is_down(autojump_clock: trio.testing.MockClock) -> None:
    health = Health()
    health.add("deaf", trio.sleep_forever, required=True)
    started = trio.current_time()
    readiness = await health.readiness()
    assert trio.current_time() - started == pytest.approx(CHECK_S)
    assert (readiness.status, readiness.dependencies[0].finding.state) == (503, "down")


async def test_a_check_that_fails_hides_nothing_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> Finding:
        raise RuntimeError("password=hunter2")

    health = Health()
    health.add("broken", broken, required=False)
    health.add("fine", answering("ok", "3 nodes"), required=True)
    with caplog.at_level(logging.ERROR):
        text = (await health.readiness()).text()
    assert text.splitlines()[0] == "degraded: broken"
    assert text.splitlines()[2].endswith("ms 3 nodes")
    assert "hunter2" not in text
    assert "hunter2" in caplog.text


async def test_draining_asks_nobody() -> None:
    health = Health()
    health.add("never", trio.sleep_forever, required=True)
    health.draining = True
    assert (await health.readiness()).text() == "draining\n"
