"""Tasks over HTTP in the test's own process: work classes ended by `tasks/cancel`, routing headers, keys, streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpd.wire.tasks import EXTENSION
from tests.cancellation.program import get
from tests.in_process import Running, alive, eventually, http_server, server_config
from tests.tasks.served import WORK, TaskClient, task_client


async def begun(client: TaskClient, tool: str, place: Path) -> str:
    task_id = await client.start(tool, place=str(place))
    await eventually((place / "began").exists, "the work has begun")
    return task_id


def url_of(server: Running) -> str:
    return f"http://127.0.0.1:{server.port}"


async def test_cancelling_a_task_runs_the_finally_of_async_work(tmp_path: Path) -> None:
    """TSK-7, law 2."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        task_id = await begun(client, "hold_async", tmp_path)
        await client.ask("tasks/cancel", taskId=task_id)
        assert (await client.ended(task_id))["status"] == "cancelled"
        assert (tmp_path / "finally").exists()
        assert server.in_flight() == 0
        assert server.metric("mcpd_cancelled_total", reason="explicit") == 1


async def test_cancelling_a_task_kills_the_process_of_its_work(tmp_path: Path) -> None:
    """TSK-7, law 2: in the middle of a C loop; what it had said is kept."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        task_id = await begun(client, "hold_process", tmp_path)
        await eventually(lambda: server.metric("mcpd_worker_processes", state="busy") == 1, "a worker is busy")
        pid = int((tmp_path / "began").read_text())
        await client.ask("tasks/cancel", taskId=task_id)
        task = await client.ended(task_id)
        assert task["status"] == "cancelled"
        await eventually(lambda: not alive(pid), "the worker is dead")
        await eventually(lambda: server.metric("mcpd_worker_processes", state="busy") == 0, "no worker is busy")


async def test_cancelling_a_task_abandons_and_counts_the_thread_of_its_work(tmp_path: Path) -> None:
    """TSK-7, law 2: its late result changes nothing."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        task_id = await begun(client, "hold_thread", tmp_path)
        await client.ask("tasks/cancel", taskId=task_id)
        before = await client.ended(task_id)
        assert before["status"] == "cancelled"
        assert server.metric("mcpd_abandoned_threads") == 1
        (tmp_path / "go").touch()
        await eventually((tmp_path / "late").exists, "the thread has gone on")
        await eventually(lambda: server.metric("mcpd_abandoned_threads") == 0, "the thread has ended")
        assert await client.get(task_id) == before


@pytest.mark.parametrize("tool", ["ask", "ask_in_thread"])
async def test_a_task_asks_from_each_work_class_that_may(tmp_path: Path, tool: str) -> None:
    """TSK-6."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        task_id = await client.start(tool)
        await client.until(task_id, "input_required")
        await client.answer(task_id, name="Ada")
        assert (await client.ended(task_id))["result"]["content"][0]["text"] == "Hello, Ada"


async def test_a_tool_in_a_thread_may_ask_before_there_is_a_task(tmp_path: Path) -> None:
    """TSK-12."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        first = (await client.ask("tools/call", name="ask_first_in_thread", arguments={})).result
        again = {"name": {"action": "accept", "content": {"name": "Ada"}}}
        created = await client.ask(
            "tools/call", name="ask_first_in_thread", arguments={}, inputResponses=again,
            requestState=first["requestState"],
        )  # fmt: skip
        assert created.result["resultType"] == "task"
        done = await client.ended(created.result["taskId"])
        assert done["result"]["content"][0]["text"] == "Hello, Ada"


async def test_the_task_id_is_mirrored_in_a_header(tmp_path: Path) -> None:
    """TSK-11, HDR-4: another one is refused; none is not, since clients in use leave it out."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        task_id = await client.start("quick")
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            params = {"taskId": task_id, "inputResponses": {}}
            for name, answer in (("another", (400, -32020)), ("=?base64?x?=", (400, -32020)), (None, (200, None))):
                reply = await client.mcp.ask(
                    method, params, capabilities={"extensions": {EXTENSION: {}}}, headers={"mcp-name": name}
                )
                assert (reply.status, reply.code) == answer


async def test_statuses_of_refusals(tmp_path: Path) -> None:
    """RPC-10, TSK-2, TSK-5, TSK-9, TSK-11, LAD-1."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        unknown = await client.ask("tasks/get", taskId="unknown")
        assert (unknown.status, unknown.code, unknown.last["id"]) == (400, -32602, 1)
        undeclared = await client.mcp.ask("tasks/get", {"taskId": "unknown"})
        assert (undeclared.status, undeclared.code) == (400, -32021)
        for method in ("tasks/list", "tasks/result"):
            reply = await client.ask(method, taskId="unknown")
            assert (reply.status, reply.code) == (404, -32601)


async def test_readiness_and_metrics_have_their_lines(tmp_path: Path) -> None:
    """Surfaces, "HTTP" and "Metrics"."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        await client.until(await client.start("ask"), "input_required")
        status, told = await get(server.port, "/readyz")
        assert status == 200
        assert any("tasks" in line and "1 kept" in line for line in told.splitlines()), told
        assert server.metric("mcpd_tasks_running") == 1
        assert server.metric("mcpd_store_operations_total", store="sqlite", operation="create_task") == 1


async def test_the_log_tells_how_a_task_ended_and_never_its_id(tmp_path: Path) -> None:
    """SEC-6: without keys, whoever has the id has the task."""
    async with http_server(server_config(tmp_path, WORK)) as server, task_client(url_of(server)) as client:
        task_id = await client.start("quick")
        await client.ended(task_id)
        server.parts.logs.flush(5)
        assert task_id.encode() not in b"".join(server.lines)
