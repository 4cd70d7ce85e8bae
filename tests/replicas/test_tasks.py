"""Tasks of replicas that share only a Redis: any of them serves a task, whatever becomes of its owner or of Redis."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.in_process import eventually
from tests.redis_servers import KINDS, free_port
from tests.redis_servers import serving as redis_serving
from tests.replicas.replica import SEALS
from tests.served import Server, killable
from tests.tasks.served import WORK, TaskClient, task_client

pytestmark = pytest.mark.slow
WAIT_S = 90.0
LEASE_S = 1.5
LOST = {"reason": "owner_lost", "retryable": True}
UNKNOWN = -32602
KEEPS = ("--appendonly", "yes", "--appendfsync", "always")


class Pair:
    """Two servers, each with a data folder of its own, and a client of each."""

    def __init__(self, servers: list[Server], clients: list[TaskClient], folder: Path) -> None:
        self.owner, self.other = servers
        self.near, self.far = clients
        self.place = folder

    async def hold(self) -> str:
        """Start a task on the owner that holds on until `go`; return its id once it runs."""
        task_id = await self.near.start("hold_async", place=str(self.place))
        await eventually((self.place / "began").exists, "it runs")
        return task_id

    async def wait_ended(self) -> None:
        """Wait until the work has run its `finally`."""
        await eventually((self.place / "finally").exists, "its work has ended")


@asynccontextmanager
async def pair_at(url: str, folder: Path) -> AsyncIterator[Pair]:
    settings = f'{SEALS}[redis]\nurl = "{url}"\n[timeouts]\nlease_s = {LEASE_S}\n'
    places = [folder / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
    with (
        trio.fail_after(WAIT_S),
        killable(places[0], settings, "--tools", WORK) as one,
        killable(places[1], settings, "--tools", WORK) as two,
    ):
        async with task_client(one.url) as near, task_client(two.url) as far:
            yield Pair([one, two], [near, far], folder)
    assert not list(folder.rglob("tasks.db"))  # noqa: ASYNC240


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_is_asked_for_answered_told_and_cancelled_on_another_replica(tmp_path: Path, kind: str) -> None:
    """TSK-4, TSK-6, TSK-7, TSK-10, STA-1."""
    with redis_serving(kind) as redis:
        async with pair_at(redis.url, tmp_path) as pair:
            asking = await pair.near.start("ask")
            assert (await pair.far.get(asking))["taskId"] == asking
            await pair.far.until(asking, "input_required")
            async with pair.far.listening(asking) as heard:
                assert (await heard.message())["params"]["notifications"] == {"taskIds": [asking]}
                assert (await heard.message())["params"]["status"] == "input_required"
                await pair.far.answer(asking, name="Ada")
                told = await heard.message()
                while told["params"]["status"] != "completed":
                    told = await heard.message()
                assert told["params"]["result"]["content"][0]["text"] == "Hello, Ada"
            held = await pair.hold()
            await pair.far.ask("tasks/cancel", taskId=held)
            await pair.wait_ended()
            assert (await pair.far.ended(held))["status"] == "cancelled"


async def test_a_killed_replicas_tasks_have_failed_after_its_lease(tmp_path: Path) -> None:
    """TSK-13: whoever asks another replica sees it, and whoever listens there is told."""
    with redis_serving("redis-7") as redis:
        async with pair_at(redis.url, tmp_path) as pair:
            done, held = await pair.near.start("quick"), await pair.hold()
            before = await pair.near.ended(done)
            async with pair.far.listening(held) as heard:
                await heard.message()
                assert (await heard.message())["params"]["status"] == "working"
                pair.owner.process.kill()
                with trio.fail_after(2 * LEASE_S + 2):
                    task = await pair.far.ended(held)
                assert (task["status"], task["error"]["data"]) == ("failed", LOST)
                told = await heard.message()
                assert (told["method"], told["params"]["status"]) == ("notifications/tasks", "failed")
            assert await pair.far.get(done) == before


async def test_a_replica_that_was_stopped_for_too_long_stops_its_work_when_it_is_back(tmp_path: Path) -> None:
    """TSK-8, TSK-13: what has been told as failed stays so."""
    with redis_serving("redis-7") as redis:
        async with pair_at(redis.url, tmp_path) as pair:
            held = await pair.hold()
            pair.owner.process.send_signal(signal.SIGSTOP)
            task = await pair.far.ended(held)
            assert (task["status"], task["error"]["data"]) == ("failed", LOST)
            pair.owner.process.send_signal(signal.SIGCONT)
            await pair.wait_ended()
            assert await pair.near.get(held) == task
            again = await pair.near.start("quick")
            assert (await pair.far.ended(again))["status"] == "completed"


async def test_a_listener_is_told_of_a_death_that_nobody_asks_about(tmp_path: Path) -> None:
    """TSK-10, TSK-13."""
    with redis_serving("redis-7") as redis:
        async with pair_at(redis.url, tmp_path) as pair, pair.far.listening(await pair.hold()) as heard:
            await heard.message()
            await heard.message()
            pair.owner.process.kill()
            assert (await heard.message())["params"]["status"] == "failed"


async def test_a_pause_of_redis_for_longer_than_a_lease_ends_no_task(tmp_path: Path) -> None:
    """Missing beats stop nothing, also when it is asked before they come, and again in the grace of the first time."""
    with redis_serving("redis-7") as redis:
        async with pair_at(redis.url, tmp_path) as pair:
            held = await pair.hold()
            for _ in range(2):
                redis.pause()
                async with trio.open_nursery() as nursery:
                    for client in (pair.near, pair.far):
                        nursery.start_soon(client.get, held)
                    await trio.sleep(1.5 * LEASE_S)
                    redis.resume()
                for _ in range(20):
                    assert (await pair.far.get(held))["status"] == "working"
            (tmp_path / "go").touch()
            assert (await pair.far.ended(held))["status"] == "completed"


async def test_a_task_of_a_redis_that_has_forgotten_all_is_unknown_and_its_work_stops(tmp_path: Path) -> None:
    port = free_port()
    with redis_serving("redis-7", port=port) as redis:
        async with pair_at(redis.url, tmp_path) as pair:
            held = await pair.hold()
            redis.process.kill()
            redis.process.wait()
            with redis_serving("redis-7", port=port):
                for client in (pair.near, pair.far):
                    await until_served(client, held)
                    assert (await client.ask("tasks/get", taskId=held)).code == UNKNOWN
                await pair.wait_ended()
                again = await pair.near.start("quick")
                assert (await pair.far.ended(again))["status"] == "completed"


async def until_served(client: TaskClient, task_id: str) -> None:
    while (await client.ask("tasks/get", taskId=task_id)).status == 503:  # noqa: ASYNC110
        await trio.sleep(0.02)


async def test_a_task_runs_on_while_redis_is_away_and_its_end_is_written_down_later(tmp_path: Path) -> None:
    """What needs the store is refused as retryable meanwhile."""
    port = free_port()
    with redis_serving("redis-7", *KEEPS, port=port) as redis:
        async with pair_at(redis.url, tmp_path) as pair:
            held = await pair.hold()
            redis.process.kill()
            redis.process.wait()
            for method, params in (("tasks/get", {"taskId": held}), ("tools/call", {"name": "quick", "arguments": {}})):
                reply = await pair.far.ask(method, **params)
                assert (reply.status, reply.last["error"]["data"]["retryable"]) == (503, True)
            (tmp_path / "go").touch()
            await pair.wait_ended()
            with redis_serving("redis-7", *KEEPS, port=port, folder=redis.folder):
                await until_served(pair.far, held)
                assert (await pair.far.ended(held))["status"] == "completed"
