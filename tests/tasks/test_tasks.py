"""Tasks without transports: who gets one, what becomes of it, who may see it, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from mcpd import jobs
from mcpd.errors import (
    DeadlineExceeded,
    InvalidParams,
    MethodNotFound,
    MissingCapability,
    NotFound,
    Overloaded,
    RateLimited,
    StoreUnavailable,
    facing,
)
from mcpd.messages.flight import Flight
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.task_states import Event, Refused, Task
from mcpd.wire.call import Principal
from mcpd.wire.tasks import EXTENSION
from tests.messages.memory import Wire, open_session, result, serve, session_call, until
from tests.tasks.memory import KNOWS, Client, clock, listening, tasking, tasks_of
from tests.tasks.tools import WITNESS

BASIC = {"taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs"}
ALICE, BOB = (Principal(name, frozenset({"read", "call"})) for name in ("alice", "bob"))


def text(task: Any) -> str:
    """The text of a completed task."""
    assert task["status"] == "completed", task
    return task["result"]["content"][0]["text"]  # type: ignore[no-any-return]


async def test_a_call_that_may_take_long_is_answered_with_a_task(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-1, TSK-3, TSK-4, TSK-5: flat, found at once, and in the end the result that the call would have had."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        created = await client.ask("tools/call", name="slow", arguments={})
        assert created.keys() == BASIC | {"resultType", "_meta"}
        assert (created["resultType"], created["status"]) == ("task", "working")
        assert created["createdAt"] == created["lastUpdatedAt"]
        assert created["createdAt"].endswith("Z")
        assert created["ttlMs"] == 2 * 3_600_000
        got = await client.get(created["taskId"])
        assert (got["resultType"], got["status"]) == ("complete", "working")
        assert not {"result", "error", "inputRequests", "task"} & got.keys()
        done = await client.ended(created["taskId"])
        assert (text(done), done["result"]["resultType"]) == ("awake", "complete")
        assert done["ttlMs"] == 3_601_100, "an hour from the end, where two were told for the longest"


@pytest.mark.parametrize("tool", ["quick", "never"])
async def test_other_tools_are_never_tasks_whatever_the_client_hints(
    tmp_path: Path, autojump_clock: MockClock, tool: str
) -> None:
    """TSK-1."""
    async with tasking(tmp_path) as parts:
        found = await Client(parts).ask("tools/call", name=tool, arguments={}, task={"ttl": 1})
        assert (found["resultType"], found["content"][0]["text"]) == ("complete", "done")


@pytest.mark.parametrize(
    "declares",
    [{}, {"tasks": {}}, {"extensions": {}}, {"extensions": {EXTENSION: None}}, {"extensions": 1}],
)  # fmt: skip
async def test_who_does_not_declare_the_extension_gets_no_task(
    tmp_path: Path, autojump_clock: MockClock, declares: dict[str, Any]
) -> None:
    """TSK-2, TSK-9, TSK-14: nor may it ask about one."""
    async with tasking(tmp_path) as parts:
        client = Client(parts, capabilities=declares)
        assert (await client.ask("tools/call", name="slow", arguments={}))["content"][0]["text"] == "awake"
        needs = await client.ask("tools/call", name="always", arguments={})
        task_id = await Client(parts).start("slow")
        params = {"taskId": task_id, "inputResponses": {}}
        asked = [await client.ask(f"tasks/{name}", **params) for name in ("get", "update", "cancel")]
        listened = await client.ask("subscriptions/listen", notifications={"taskIds": [task_id]})
        for error in (needs, *asked, listened):
            assert type(error) is MissingCapability
            assert error.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


async def test_a_session_knows_no_tasks_whatever_it_declares(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-14."""
    async with tasking(tmp_path) as parts:
        session = open_session(parts, **KNOWS, tasks={})
        found = await result(parts, session_call(session, "tools/call", {"name": "slow", "arguments": {}}))
        assert found["content"][0]["text"] == "awake"
        for method in ("tasks/get", "tasks/list", "tasks/result"):
            outcome = await serve(parts, session_call(session, method, {"taskId": "x"}))
            assert type(getattr(outcome, "error", None)) is MethodNotFound
        shown = parts.manager.service.initialize(session.state.version)["capabilities"]
        assert not {"tasks", "extensions"} & shown.keys()


async def test_discovery_names_the_extension(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-14, EXT-0, DIS-3."""
    async with tasking(tmp_path) as parts:
        found = await Client(parts).ask("server/discover")
        assert found["capabilities"]["extensions"] == {EXTENSION: {}}
        assert "tasks" not in found["capabilities"]
        for method in ("tasks/list", "tasks/result"):
            assert type(await Client(parts).ask(method, taskId="x")) is MethodNotFound


async def test_a_task_of_somebody_else_does_not_exist(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-11, SEC-5: in the same words as one that was never made."""
    async with tasking(tmp_path) as parts:
        alice, bob = Client(parts, ALICE), Client(parts, BOB)
        task_id = await alice.start("slow")
        for name in ("get", "update", "cancel"):
            told = [
                await bob.ask(f"tasks/{name}", taskId=asked, inputResponses={}) for asked in (task_id, "x", "y" * 999)
            ]
            assert [type(error) for error in told] == [NotFound] * 3
            assert len({(error.message, str(error.data)) for error in told}) == 1
            assert facing(told[0]).code == -32602
        assert (await alice.ended(task_id))["status"] == "completed"
        ids = [await alice.start("slow") for _ in range(50)]
        assert len(set(ids)) == 50
        assert all(len(one) >= 32 for one in ids)


@pytest.mark.parametrize("task_id", [None, 7, ["x"], {}])
async def test_a_task_id_is_a_string(tmp_path: Path, autojump_clock: MockClock, task_id: Any) -> None:
    """TSK-5."""
    async with tasking(tmp_path) as parts:
        for name in ("get", "update", "cancel"):
            assert type(await Client(parts).ask(f"tasks/{name}", taskId=task_id)) is InvalidParams


@pytest.mark.parametrize(
    ("how", "status", "told"),
    [("tool", "completed", "as a tool does"), ("crash", "completed", "ZeroDivisionError: unforeseen")],
)
async def test_a_tools_own_failure_is_a_completed_task(
    tmp_path: Path, autojump_clock: MockClock, how: str, status: str, told: str
) -> None:
    """TSK-8."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task = await client.ended(await client.start("fail", how=how))
        assert (task["status"], text(task), task["result"]["isError"]) == (status, told, True)
        assert "error" not in task


async def test_a_json_rpc_error_is_a_failed_task(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-8: with the error as the call would have had it, and no result."""
    async with tasking(tmp_path, task_max_s=100) as parts:
        client = Client(parts)
        task = await client.ended(await client.start("fail", how="rpc"))
        assert (task["status"], task["statusMessage"]) == ("failed", "as a server does")
        assert task["error"] == {"code": -32603, "message": "as a server does", "data": {"why": "test"}}
        assert "result" not in task
        late = await client.ended(await client.start("fail", how="never"))
        assert late["error"]["code"] == facing(DeadlineExceeded("server", 1)).code
        assert late["error"]["data"] == {"reason": "deadline", "budget": "server", "limitMs": 100_000}


async def test_a_result_that_is_too_long_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-13: stored and told are at most 768 KiB of it."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task = await client.ended(await client.start("fail", how="long"))
        assert task["result"]["isError"]
        assert "at most 786432 bytes" in text(task)


async def test_wrong_arguments_and_unknown_tools_make_no_task(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TOOL-2: what the call itself can say, it says."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        assert type(await client.ask("tools/call", name="slow", arguments=[])) is InvalidParams
        assert type(await client.ask("tools/call", name="nothing", arguments={})) is NotFound
        wrong = await client.ended(await client.start("slow", seconds="x"))
        assert wrong["result"]["isError"]


async def test_progress_is_the_tasks_status(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-5, PRG-2: no progress notifications, a status message instead."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task_id = await client.start("slow", seconds=30)
        await trio.sleep(1)
        assert (await client.get(task_id))["statusMessage"] == "asleep (1 of 2)"


async def test_questions_are_asked_by_the_task_and_answered_one_by_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """TSK-6: what is answered is gone at once, unknown keys change nothing, a key never comes twice."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task_id = await client.start("ask_two")
        task = await client.until(task_id, "input_required")
        assert task["inputRequests"].keys() == {"name", "color"}
        assert task["inputRequests"]["color"]["method"] == "elicitation/create"
        ack = await client.answer(task_id, color={"color": "red"}, nobody={"asked": 1})
        assert ack.keys() == {"resultType", "_meta"}
        assert ack["resultType"] == "complete"
        assert (await client.get(task_id))["inputRequests"].keys() == {"name"}
        await client.answer(task_id, color={"color": "blue"})
        await client.answer(task_id, name={"name": "Ada"})
        task = await client.until(task_id, "input_required")
        assert task["inputRequests"].keys() == {"name-2"}
        await client.answer(task_id, name={"name": "not this one"})
        assert (await client.get(task_id))["status"] == "input_required"
        await client.answer(task_id, **{"name-2": {"name": "Bob"}})
        assert text(await client.ended(task_id)) == "['Ada', 'Bob'] red"


@pytest.mark.parametrize("answer", [7, None, {"action": "yes"}, {"name": 7}])
async def test_an_answer_that_does_not_fit_is_refused_and_asked_for_still(
    tmp_path: Path, autojump_clock: MockClock, answer: Any
) -> None:
    """TSK-6, MRT-8: whole, so that nothing of the same update counts."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task_id = await client.start("ask_two")
        await client.until(task_id, "input_required")
        assert type(await client.answer(task_id, color={"color": "red"}, name=answer)) is InvalidParams
        assert (await client.get(task_id))["inputRequests"].keys() == {"name", "color"}
        assert type(await client.ask("tasks/update", taskId=task_id, inputResponses=[])) is InvalidParams


async def test_a_question_that_is_given_up_is_withdrawn(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-6."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task_id = await client.start("ask_in_time")
        await client.until(task_id, "input_required")
        task = await client.until(task_id, "working", "completed")
        assert (task["status"], task.get("inputRequests")) == ("working", None)
        assert text(await client.ended(task_id)) == "nobody answered"


async def test_a_task_asks_only_what_its_creating_call_declared(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-12."""
    async with tasking(tmp_path) as parts:
        client = Client(parts, capabilities={"extensions": {EXTENSION: {}}, "elicitation": {}})
        task = await client.ended(await client.start("ask_model"))
        assert (task["status"], task["error"]["code"]) == ("failed", -32021)


async def test_a_tool_may_ask_before_there_is_a_task(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-12: in rounds of the call, whose answers and `once` results the task begins with; then by the task."""
    WITNESS.clear()
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        first = await client.ask("tools/call", name="ask_first", arguments={})
        assert (first["resultType"], first["inputRequests"].keys()) == ("input_required", {"name"})
        again = {"name": {"action": "accept", "content": {"name": "Ada"}}}
        retry = {"name": "ask_first", "arguments": {}, "inputResponses": again, "requestState": first["requestState"]}
        created = await client.ask("tools/call", **retry)
        assert created["resultType"] == "task"
        assert not {"requestState", "inputRequests"} & created.keys()
        await client.until(created["taskId"], "input_required")
        await client.answer(created["taskId"], color={"color": "red"})
        assert text(await client.ended(created["taskId"])) == "0 Ada red"
        tampered = {**retry, "requestState": first["requestState"] + "x"}
        assert type(await client.ask("tools/call", **tampered)) is InvalidParams


async def test_questions_that_are_asked_beside_the_start_of_a_task_come_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """TSK-12, MRT-2: the rounds of the call are over before there is a task."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        first = await client.ask("tools/call", name="ask_side_by_side", arguments={})
        if first["resultType"] == "input_required":
            answers = {"name": {"action": "accept", "content": {"name": "Ada"}}}
            again = {"inputResponses": answers, "requestState": first["requestState"]}
            created = await client.ask("tools/call", name="ask_side_by_side", arguments={}, **again)
            assert created["resultType"] == "task"
        else:
            created = first
            await client.until(created["taskId"], "input_required")
            await client.answer(created["taskId"], name={"name": "Ada"})
        assert text(await client.ended(created["taskId"])) == "Ada"


async def test_cancelling_ends_the_work_and_is_acknowledged_ever_after(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """TSK-7: `finally` has run, in the bound that it has."""
    WITNESS.clear()
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task_id = await client.start("slow", seconds=200)
        await trio.sleep(1)
        since = trio.current_time()
        ack = await client.ask("tasks/cancel", taskId=task_id)
        assert ack.keys() == {"resultType", "_meta"}
        task = await client.ended(task_id)
        assert (task["status"], task["statusMessage"]) == ("cancelled", "Cancelled by the client")
        assert not {"result", "error"} & task.keys()
        assert trio.current_time() - since < 1
        assert WITNESS == ["finally"]
        assert await client.ask("tasks/cancel", taskId=task_id) == ack
        assert await client.get(task_id) == task
        assert list(parts.manager.in_flight()) == []


async def test_a_task_that_waits_for_an_answer_can_be_cancelled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-7."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task_id = await client.start("ask_two")
        await client.until(task_id, "input_required")
        await client.ask("tasks/cancel", taskId=task_id)
        task = await client.ended(task_id)
        assert task["status"] == "cancelled"
        assert "inputRequests" not in task


async def test_the_end_of_the_creating_call_is_not_the_end_of_the_task(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """CAN-4."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        creating = Flight(client.call("tools/call", {"name": "slow", "arguments": {}}), Wire())
        outcome = await parts.manager.serve(creating)
        creating.cancel("client_gone")
        assert text(await client.ended(getattr(outcome, "result")["taskId"])) == "awake"  # noqa: B009 - one of three


async def test_a_call_that_ends_untold_takes_its_task_along(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 2: nobody would ever ask for that task; it takes no place that a task could have."""
    store = Flaky(TaskShelf(clock=clock))
    async with tasking(tmp_path, store=store, limits={"max_tasks_per_principal": 1}) as parts:
        client = Client(parts)
        leaving = Flight(client.call("tools/call", {"name": "slow", "arguments": {"seconds": 200}}), Wire())
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.manager.serve, leaving)
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel("client_gone")
        store.gate.set()
        await until(lambda: not tasks_of(parts)._jobs)
        assert [task.state for task in store.tasks()] == ["cancelled"]
        assert list(parts.manager.in_flight()) == []
        await client.start("slow")


async def test_a_tool_may_take_longer_in_a_task_than_in_a_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 1: one deadline, `timeouts.task_max_s` where the tool names none or more."""
    async with tasking(tmp_path, call_max_s=10, task_max_s=100) as parts:
        client = Client(parts)
        assert text(await client.ended(await client.start("slow", seconds=50))) == "awake"
        late = await client.ended(await client.start("slow", seconds=150))
        assert late["error"]["data"] == {"reason": "deadline", "budget": "server", "limitMs": 100_000}


async def test_a_waiting_task_lends_its_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 8: tasks that wait for people do not use up the places of calls."""
    async with tasking(tmp_path, limits={"max_calls": 2, "max_queued_calls": 1}) as parts:
        client = Client(parts)
        waiting = [await client.start("ask_two") for _ in range(3)]
        for task_id in waiting:
            await client.until(task_id, "input_required")
        assert (await client.ask("tools/call", name="quick", arguments={}))["resultType"] == "complete"


async def test_the_number_of_tasks_is_bounded_by_caller_and_in_all(tmp_path: Path, autojump_clock: MockClock) -> None:
    """SEC-4."""
    async with tasking(tmp_path, limits={"max_tasks": 3, "max_tasks_per_principal": 2}) as parts:
        alice, bob = Client(parts, ALICE), Client(parts, BOB)
        for client in (alice, alice, bob):
            await client.ended(await client.start("slow"))
        for client in (alice, bob):
            refused = await client.ask("tools/call", name="slow", arguments={})
            assert type(refused) is Overloaded
            assert "limit" in refused.message
        assert (await alice.ask("tools/call", name="quick", arguments={}))["resultType"] == "complete"


async def test_what_tasks_hold_is_bounded_in_bytes_and_given_back_however_they_end(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 8: arguments and answers of all tasks together; one caller has three quarters of it."""
    monkeypatch.setattr(jobs, "MAX_HELD_BYTES", 40_000)
    store = Flaky(TaskShelf(clock=clock))
    async with tasking(tmp_path, store=store, limits={"max_tasks": 12}) as parts:
        alice, bob, held = Client(parts, ALICE), Client(parts, BOB), tasks_of(parts)._held

        async def make(client: Client, tool: str = "slow", pad: int = 9_000, **arguments: Any) -> Any:
            meta = {"pad": "x" * pad}
            return await client.ask("tools/call", name=tool, arguments=arguments, _meta=meta)

        running = [(await make(alice, seconds=50.0))["taskId"] for _ in range(3)]
        refused = await make(alice)
        assert type(refused) is Overloaded
        assert "send less" in refused.message
        assert refused.data == {"reason": "overloaded", "retryable": True, "retryAfterMs": 1000}
        running.append((await make(bob, "fail", how="never"))["taskId"])
        assert type(await make(bob)) is Overloaded
        await alice.ask("tasks/cancel", taskId=running[0])
        for client, task_id in zip((alice, alice, alice, bob), running, strict=True):
            await client.ended(task_id)
        await trio.sleep(1)
        assert held.bytes == 0
        asking = await alice.start("ask_two")
        before = held.bytes
        long = {"action": "accept", "content": {"name": "x" * 20_000}}
        await alice.until(asking, "input_required")
        await alice.answer(asking, name=long)
        await trio.sleep(1)
        assert held.bytes > before + 20_000
        assert type(await alice.answer(asking, color={**long, "content": {"color": "x" * 20_000}})) is Overloaded
        await alice.ask("tasks/cancel", taskId=asking)
        await alice.ended(asking)
        await trio.sleep(1)
        assert held.bytes == 0
        store.down = True
        assert type(await make(alice)) is StoreUnavailable
        store.down = False
        for _ in range(12):
            await make(alice, seconds=0.0, pad=1)
        await trio.sleep(1)
        assert held.bytes == 0
        assert held._of_share == {}


async def test_a_task_is_forgotten_when_its_time_is_over(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-13: counted from its creation, and never before its client could come back."""
    shelf = TaskShelf(clock=clock)
    async with tasking(tmp_path, store=MemoryTasks(shelf), task_max_s=100, task_keep_s=50) as parts:
        client = Client(parts)
        task_id = await client.start("fail", how="never")
        await trio.sleep(149)
        assert (await client.get(task_id))["status"] == "failed"
        await trio.sleep(2)
        assert type(await client.get(task_id)) is NotFound
        await trio.sleep(10)
        assert shelf.tasks == {}


async def test_a_task_of_a_process_that_died_has_failed_at_recovery(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-13."""
    shelf = TaskShelf(clock=clock)
    first = MemoryTasks(shelf)
    async with tasking(tmp_path, store=first) as parts:
        task_id = await Client(parts).start("slow", seconds=200)
    first.close()
    async with tasking(tmp_path, store=MemoryTasks(shelf)) as parts:
        task = await Client(parts).get(task_id)
        assert (task["status"], task["error"]["code"]) == ("failed", -32603)
        assert task["error"]["data"] == {"reason": "owner_lost", "retryable": True}
        assert task["error"]["message"] == task["statusMessage"]


async def test_tasks_are_served_by_any_process(tmp_path: Path, autojump_clock: MockClock) -> None:
    """STA-1, TSK-4: asked, answered and cancelled through another one than runs them."""
    shelf = TaskShelf(clock=clock)
    async with (
        tasking(tmp_path, store=MemoryTasks(shelf)) as here,
        tasking(tmp_path, store=MemoryTasks(shelf)) as there,
    ):
        client, other = Client(here), Client(there)
        task_id = await client.start("ask_two")
        await other.until(task_id, "input_required")
        await other.answer(task_id, name={"name": "A"}, color={"color": "red"})
        await client.until(task_id, "input_required")
        await other.answer(task_id, **{"name-2": {"name": "B"}})
        assert text(await other.ended(task_id)) == "['A', 'B'] red"
        slow = await client.start("slow", seconds=200)
        await other.ask("tasks/cancel", taskId=slow)
        assert (await other.ended(slow))["status"] == "cancelled"


async def test_at_shutdown_a_task_has_the_grace_of_a_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 2: who can finish does; who waits for an answer, or takes too long, has failed and may be started again."""
    shelf = TaskShelf(clock=clock)
    async with tasking(tmp_path, store=MemoryTasks(shelf), grace_s=10) as parts:
        client = Client(parts)
        asking = await client.start("ask_two")
        await client.until(asking, "input_required")
        short, long = await client.start("slow", seconds=5), await client.start("slow", seconds=200)
        await trio.sleep(1)
        tasks_of(parts).drain()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.manager.drain)
            await trio.sleep(1)
            assert shelf.tasks[asking].state == "failed"
            assert shelf.tasks[short].state == "working"
        await tasks_of(parts).wait_settled()
        assert [shelf.tasks[one].state for one in (asking, short, long)] == ["failed", "completed", "failed"]
        assert b'"reason":"draining"' in (shelf.tasks[long].outcome or b"")
        assert b'"retryable":true' in (shelf.tasks[asking].outcome or b"")


async def test_a_key_that_ends_takes_its_tasks_along(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-11: the work of a task is in the table of calls, like any other."""
    async with tasking(tmp_path) as parts:
        client = Client(parts, ALICE)
        task_id = await client.start("slow", seconds=200)
        await until(lambda: list(parts.manager.in_flight()))
        for flight in parts.manager.in_flight():
            assert flight.call.principal == ALICE
            flight.cancel("admin")
        assert (await client.ended(task_id))["statusMessage"] == "Cancelled by the server"


class Flaky(MemoryTasks):
    """A store that can be out of reach."""

    down = False
    gate: trio.Event | None = None

    def tasks(self) -> list[Task]:
        """All there are."""
        return list(self._shelf.tasks.values())

    async def create(self, *args: Any) -> Task:
        """Create, or not; behind the gate, if there is one."""
        self._check()
        if self.gate is not None:
            await self.gate.wait()
        return await super().create(*args)

    async def get(self, task_id: str) -> Task | None:
        """Get, or not."""
        self._check()
        return await super().get(task_id)

    async def apply(self, task_id: str, event: Event) -> Task | Refused:
        """Apply, or not."""
        self._check()
        return await super().apply(task_id, event)

    def _check(self) -> None:
        if self.down:
            raise StoreUnreachable("the store does not answer")


async def test_while_the_store_is_out_of_reach_tasks_go_on_and_nobody_is_told_lies(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Law 12: what could not be written down is written when the store is back."""
    store = Flaky(TaskShelf(clock=clock))
    async with tasking(tmp_path, store=store) as parts:
        client = Client(parts)
        task_id = await client.start("slow", seconds=5)
        store.down = True
        for method in ("tasks/get", "tasks/cancel"):
            assert type(await client.ask(method, taskId=task_id)) is StoreUnavailable
        assert type(await client.ask("tools/call", name="slow", arguments={})) is StoreUnavailable
        await trio.sleep(20)
        store.down = False
        assert text(await client.ended(task_id)) == "awake"


async def test_a_listener_is_told_the_whole_task_whenever_it_changes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """TSK-10, SUB-1, SUB-2, PRG-2: its own tasks alone, from what they are now to their end."""
    async with tasking(tmp_path) as parts:
        alice, bob = Client(parts, ALICE), Client(parts, BOB)
        task_id, foreign = await alice.start("ask_two"), await bob.start("slow")
        listen, wire = listening(alice, task_id, foreign, "unknown", task_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.manager.serve, listen)
            await alice.until(task_id, "input_required")
            await trio.sleep(5)
            await alice.answer(task_id, name={"name": "A"}, color={"color": "red"})
            await alice.until(task_id, "input_required")
            await alice.answer(task_id, **{"name-2": {"name": "B"}})
            done = await alice.ended(task_id)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    (first, acknowledged), *told = wire.said
    assert first == "notifications/subscriptions/acknowledged"
    assert acknowledged["notifications"] == {"taskIds": [task_id]}
    assert {method for method, _ in told} == {"notifications/tasks"}
    assert {params["taskId"] for _, params in told} == {task_id}
    assert [params["status"] for _, params in told][-2:] == ["input_required", "completed"]
    assert any("inputRequests" in params for _, params in told)
    last = told[-1][1]
    assert {key: last[key] for key in done.keys() - {"result", "resultType", "_meta"}} == {
        key: done[key] for key in done.keys() - {"result", "resultType", "_meta"}
    }
    assert bytes(last["result"])


async def test_a_task_that_has_ended_before_its_listener_came_is_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """TSK-10: nothing falls between creating a task and listening to it."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        task_id = await client.start("slow")
        await client.ended(task_id)
        listen, wire = listening(client, task_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.manager.serve, listen)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert [params.get("status") for _, params in wire.said] == [None, "completed"]


class Counting(MemoryTasks):
    """A store that counts how often it is asked for a task with its outcome."""

    reads = 0

    async def get(self, task_id: str) -> Task | None:
        """Get and count."""
        self.reads += 1
        return await super().get(task_id)


async def test_a_listener_costs_one_reading_of_each_outcome(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 8: a hundred outcomes may be a hundred megabytes."""
    store = Counting(TaskShelf(clock=clock))
    async with tasking(tmp_path, store=store) as parts:
        client = Client(parts)
        ended = [await client.start("slow", seconds=0.0) for _ in range(3)]
        for task_id in ended:
            await client.ended(task_id)
        store.reads = 0
        flight, wire = listening(client, *ended)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.manager.serve, flight)
            await until(lambda: len(wire.said) == 4)
            nursery.cancel_scope.cancel()
        assert store.reads == 3


@pytest.mark.parametrize("ids", [["x"] * 101, ["x" * 129], [7], "x", {}])
async def test_what_a_listener_watches_is_bounded(tmp_path: Path, autojump_clock: MockClock, ids: Any) -> None:
    """TSK-10, SUB-9."""
    ids = [f"{one}{number}" for number, one in enumerate(ids)] if isinstance(ids, list) and len(ids) > 1 else ids
    async with tasking(tmp_path) as parts:
        told = await Client(parts).ask("subscriptions/listen", notifications={"taskIds": ids})
        assert type(told) is InvalidParams


async def test_a_task_that_is_made_while_the_server_stops_has_failed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Law 2: none is left behind that nobody runs."""
    store = Flaky(TaskShelf(clock=clock))
    async with tasking(tmp_path, store=store) as parts:
        client = Client(parts)
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.start, "slow")
            await trio.testing.wait_all_tasks_blocked()
            parts.manager.draining = True
            store.gate.set()
        await tasks_of(parts).wait_settled()
        (task,) = store.tasks()
        assert (task.state, b'"reason":"draining"' in (task.outcome or b"")) == ("failed", True)


async def test_tasks_are_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Surfaces, "Metrics": by state as last counted, and those that run here."""
    async with tasking(tmp_path) as parts:
        client = Client(parts)
        await client.ended(await client.start("slow"))
        await client.start("slow", seconds=200)
        await trio.sleep(10)
        shown = parts.metrics.exposition(None)[0].decode()
        assert 'mcpd_tasks{state="completed"} 1.0' in shown
        assert 'mcpd_tasks{state="working"} 1.0' in shown
        assert 'mcpd_tasks{state="failed"} 0.0' in shown
        assert "mcpd_tasks_running 1.0" in shown


async def test_a_task_is_one_call_of_its_callers_rate(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The call that makes it is counted, its work is not; asking about it is, as any call."""
    async with tasking(tmp_path, limits={"tool_rate": "1/h"}) as parts:
        client = Client(parts)
        task_id = await client.start("slow")
        assert type(await client.ask("tools/call", name="slow", arguments={})) is RateLimited
        assert text(await client.ended(task_id)) == "awake"


async def test_a_task_keeps_of_its_clients_capabilities_only_what_is_asked_about(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Law 8: it may wait for hours, and a call may bring megabytes."""
    async with tasking(tmp_path) as parts:
        long = Client(parts, capabilities={**KNOWS, "sampling": {"tools": {"junk": ["x"] * 100_000}}})
        await long.start("ask_model")
        kept = [flight.call.capabilities for flight in parts.manager.in_flight()]
        assert [one["sampling"] for one in kept] == [{"tools": {}}]
        wide = Client(parts, capabilities={**KNOWS, **{str(number): {} for number in range(10_000)}})
        assert isinstance(await wide.ask("tools/call", name="ask_model", arguments={}), InvalidParams)
