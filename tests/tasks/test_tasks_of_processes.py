"""Tasks of server processes: what `kill -9`, SIGTERM, SIGSTOP and a second server on the folder make of them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests.cancellation.program import Program, serving
from tests.in_process import eventually
from tests.tasks.served import WORK, TaskClient, task_client

pytestmark = pytest.mark.slow


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    """TSK-4, TSK-13, law 12: ended tasks are as they were, those that ran have failed, none is `working` for ever."""
    async with serving(tmp_path, tools=[WORK]) as program, task_client(program.url) as client:
        done = await client.start("quick")
        before = await client.ended(done)
        running, asking = await client.start("hold_async", place=str(tmp_path)), await client.start("ask")
        await client.until(asking, "input_required")
        program.process.kill()
    async with serving(tmp_path, tools=[WORK]) as program, task_client(program.url) as client:
        assert await client.get(done) == before
        for task_id in (running, asking):
            task = await client.get(task_id)
            assert (task["status"], task["error"]["code"]) == ("failed", -32603)
            assert task["error"]["data"] == {"reason": "owner_lost", "retryable": True}
            assert task["statusMessage"] == task["error"]["message"]
            ack = await client.ask("tasks/cancel", taskId=task_id)
            assert ack.result["resultType"] == "complete"


def _has(found: list[str], count: int) -> bool:
    return len(found) >= count


async def test_no_acknowledged_task_is_lost_whenever_the_server_dies(tmp_path: Path) -> None:
    """TSK-4, law 12: killed in the middle of creating, running and ending hundreds of them."""
    known: list[str] = []

    async def create(client: TaskClient) -> None:
        with suppress(httpx.HTTPError):
            while True:
                known.append(await client.start("quick"))

    for number in range(1, 4):
        async with (
            serving(tmp_path, tools=[WORK]) as program,
            task_client(program.url) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(4):
                nursery.start_soon(create, client)
            await eventually(partial(_has, known, 40 * number), "tasks were made")
            program.process.kill()
    assert len(set(known)) == len(known) >= 120
    async with serving(tmp_path, tools=[WORK]) as program, task_client(program.url) as client:
        states = [(await client.get(task_id))["status"] for task_id in known]
        assert set(states) <= {"completed", "failed"}
        assert states.count("failed") <= 3 * 4 * 2


async def test_a_stop_in_order_says_which_tasks_to_start_again(tmp_path: Path) -> None:
    """Law 2: who waits for an answer has failed at once, who works has the grace of a call."""
    async with serving(tmp_path, "[timeouts]\ngrace_s = 2\n", [WORK]) as program, task_client(program.url) as client:
        folders = {name: tmp_path / name for name in ("short", "long")}
        for folder in folders.values():
            folder.mkdir()
        tasks = {name: await client.start("hold_async", place=str(folder)) for name, folder in folders.items()}
        asking = await client.start("ask")
        await client.until(asking, "input_required")
        await eventually(lambda: all((folder / "began").exists() for folder in folders.values()), "both run")
        program.process.send_signal(signal.SIGTERM)
        (folders["short"] / "go").touch()
        with trio.fail_after(20):
            assert await program.process.wait() == 0
    assert (folders["long"] / "finally").exists()
    async with serving(tmp_path, tools=[WORK]) as program, task_client(program.url) as client:
        assert (await client.get(tasks["short"]))["status"] == "completed"
        for task_id in (tasks["long"], asking):
            error = (await client.get(task_id))["error"]
            assert (error["code"], error["data"]["reason"], error["data"]["retryable"]) == (-32603, "draining", True)


@asynccontextmanager
async def two_on_one_folder(folder: Path) -> AsyncIterator[tuple[Program, TaskClient, TaskClient]]:
    """The server in `first`, a client of it, and one of another server that shares its data folder."""
    first, second = folder / "first", folder / "second"
    (first / "data").mkdir(parents=True)
    second.mkdir()
    (second / "data").symlink_to(first / "data")
    async with (
        serving(first, tools=[WORK]) as owner,
        serving(second, tools=[WORK]) as other,
        task_client(owner.url) as near,
        task_client(other.url) as far,
    ):
        yield owner, near, far


async def test_any_server_on_the_folder_serves_a_task_and_tells_a_dead_owner_from_a_stopped_one(tmp_path: Path) -> None:
    """TSK-4, TSK-6, TSK-7, TSK-13, STA-1: asked, answered, cancelled through the other; who only sleeps is alive."""
    first = tmp_path / "first"
    async with two_on_one_folder(tmp_path) as (owner, near, far):
        asking = await near.start("ask")
        await far.until(asking, "input_required")
        await far.answer(asking, name="Ada")
        assert (await far.ended(asking))["result"]["content"][0]["text"] == "Hello, Ada"
        held = await near.start("hold_async", place=str(first))
        await eventually((first / "began").exists, "it runs")
        await far.ask("tasks/cancel", taskId=held)
        assert (await far.ended(held))["status"] == "cancelled"
        assert (first / "finally").exists()
        left = await near.start("hold_async", place=str(first))
        owner.process.send_signal(signal.SIGSTOP)
        for _ in range(5):
            assert (await far.get(left))["status"] == "working"
        owner.process.kill()
        with trio.fail_after(20):
            await owner.process.wait()
        task = await far.get(left)
        assert (task["status"], task["error"]["data"]["reason"]) == ("failed", "owner_lost")


async def test_a_listener_hears_of_a_task_of_another_process_and_of_its_death(tmp_path: Path) -> None:
    """TSK-10, TSK-13, SUB-14."""
    first = tmp_path / "first"
    async with two_on_one_folder(tmp_path) as (owner, near, far):
        asking = await near.start("ask")
        await near.until(asking, "input_required")
        async with far.listening(asking) as heard:
            assert (await heard.message())["params"]["notifications"] == {"taskIds": [asking]}
            assert (await heard.message())["params"]["status"] == "input_required"
            await near.answer(asking, name="Ada")
            statuses: list[str] = []
            while not statuses or statuses[-1] != "completed":
                statuses.append((await heard.message())["params"]["status"])
            left = await near.start("hold_async", place=str(first))
        async with far.listening(left) as heard:
            await heard.message()
            assert (await heard.message())["params"]["status"] == "working"
            owner.process.kill()
            told = await heard.message()
            assert (told["method"], told["params"]["status"]) == ("notifications/tasks", "failed")
