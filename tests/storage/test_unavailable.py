"""What a remote caller is told of a store that is gone: which one, and that trying again helps; all else is in the log.

One server whose Redis has died, whose documents have lost their tables and whose embedding service was never there is
asked by every road on which a store's error could come back. Each of the three says in its error where it is.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mcpd.config import Elasticsearch, Embeddings, Redis
from mcpd.secret import SecretUrl
from mcpd.storage.documents import StoreUnreachable
from mcpd.storage.memory.tasks import MemoryTasks, TaskShelf
from mcpd.storage.task_states import Ask, Event, Refused, Task
from mcpd.wire.envelope import IDEMPOTENCY_KEY, TIMEOUT_KEY
from mcpd.wire.versions import STATEFUL
from tests.in_process import Running, eventually, http_server, server_config
from tests.redis_servers import RedisServer, free_port
from tests.redis_servers import serving as redis_serving
from tests.served import CLIENT, Mcp, Reply, client_at
from tests.tasks.memory import KNOWS, Client, clock, tasking
from tests.tasks.served import WORK

WAIT_S = 90.0
LIBRARY = r"127\.0\.0\.1|localhost|redis://|http://|Errno|refused|connect|sqlite|no such table|\.db"
"""What drivers and libraries put into their texts, besides this test's folder and ports."""

Road = Callable[["Doomed"], Awaitable[Reply]]


class Doomed:
    """A client of a server, and what it had from it while the stores were there."""

    def __init__(self, mcp: Mcp, task: str) -> None:
        self.mcp = mcp
        self.task = task

    async def ask(self, method: str, meta: dict[str, Any] | None = None, **params: Any) -> Reply:
        return await self.mcp.ask(method, params, capabilities=dict(KNOWS), meta=meta)

    async def search(self, **arguments: Any) -> Reply:
        return await self.ask("tools/call", {TIMEOUT_KEY: 2000}, name="search_documents", arguments=arguments)


def initialize(doomed: Doomed) -> Awaitable[Reply]:
    params = {"protocolVersion": STATEFUL[0], "capabilities": {}, "clientInfo": CLIENT}
    return doomed.mcp.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})


ROADS: dict[str, tuple[str, Road]] = {
    "a new session": ("session store", initialize),
    "a request of a session": ("session store", lambda d: d.mcp.call("resources/subscribe", {"uri": "docs:///a"})),
    "a notification of a session": ("session store", lambda d: d.mcp.say("notifications/initialized")),
    "a new task": ("task store", lambda d: d.ask("tools/call", name="ask", arguments={})),
    "a look at a task": ("task store", lambda d: d.ask("tasks/get", taskId=d.task)),
    "an answer to a task": ("task store", lambda d: d.ask("tasks/update", taskId=d.task, inputResponses={})),
    "the end of a task": ("task store", lambda d: d.ask("tasks/cancel", taskId=d.task)),
    "listening to a task": (
        "task store",
        lambda d: d.ask("subscriptions/listen", notifications={"taskIds": [d.task]}),
    ),
    "a call with a key": (
        "store of idempotency keys",
        lambda d: d.ask("tools/call", {IDEMPOTENCY_KEY: "k"}, name="list_files", arguments={}),
    ),
    "a search for words": ("document store", lambda d: d.search(query="a", mode="text")),
    "a search for a meaning": ("embedding service", lambda d: d.search(query="a", mode="semantic")),
    "a listing": ("document store", lambda d: d.ask("resources/list")),
    "a document": ("document store", lambda d: d.ask("resources/read", uri="docs:///a")),
    "a completion": (
        "document store",
        lambda d: d.ask(
            "completion/complete",
            ref={"type": "ref/resource", "uri": "docs:///{+path}"},
            argument={"name": "path", "value": "a"},
        ),
    ),
}


async def test_callers_learn_which_store_is_away_and_nothing_of_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors, "store unavailable": the full text is in one line of the log for each request."""
    away = free_port()
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as server:
        secret = re.compile(f"{re.escape(str(tmp_path))}|{server.port}|{away}|{LIBRARY}", re.IGNORECASE)
        config = replace(
            server_config(tmp_path, WORK),
            redis=Redis(url=SecretUrl(server.url)),
            embeddings=Embeddings(url=f"http://127.0.0.1:{away}", model="m"),
        )
        async with http_server(config) as running, client_at(f"http://127.0.0.1:{running.port}") as mcp:
            await mcp.initialize()
            doomed = Doomed(mcp, "")
            doomed.task = (await doomed.ask("tools/call", name="ask", arguments={})).result["taskId"]
            await lose_all(server, running, tmp_path)
            async with trio.open_nursery() as nursery:
                for road in ROADS:
                    nursery.start_soon(expect_refusal, running, doomed, road, secret)
            await expect_page(mcp, secret)
    assert len([line for line in caplog.messages if line.startswith("documents is down: ")]) == 1
    assert len([line for line in caplog.messages if "changes wait" in line]) == 1


async def lose_all(server: RedisServer, running: Running, folder: Path) -> None:
    server.process.kill()
    server.process.wait()
    with sqlite3.connect(folder / "data" / "mcpd.db") as tables:
        tables.executescript("DROP TABLE documents; DROP TABLE journal;")
    tables.close()
    lost = running.metric
    await eventually(lambda: not lost("mcpd_store_connections", store="redis", state="shared"), "Redis is missed")


async def expect_refusal(running: Running, doomed: Doomed, road: str, secret: re.Pattern[str]) -> None:
    store, ask = ROADS[road]
    reply = await ask(doomed)
    error = reply.last["error"]
    assert (error["code"], error["data"]["reason"]) == (-32603, "store_unavailable"), (road, error)
    assert reply.status == (200 if road == "a request of a session" else 503), road
    assert error["data"]["retryable"] is True, road
    assert error["message"] == f"The {store} is unavailable; try again shortly", road
    assert secret.search(reply.text) is None, (road, reply.text)
    running.parts.logs.flush(5)
    lines = [line.decode() for line in running.lines if reply.headers["x-request-id"].encode() in line]
    assert len(lines) == 1, (road, lines)
    assert secret.search(lines[0].partition("detail=")[2]), (road, lines)


async def expect_page(mcp: Mcp, secret: re.Pattern[str]) -> None:
    for _ in range(3):
        page = await mcp.http.get("/readyz")
        assert (page.status_code, page.text.splitlines()[0]) == (503, "down: documents")
        assert secret.search(page.text.replace("no connection", "")) is None, page.text


class Unasking(MemoryTasks):
    """A store that is away whenever a task wants to ask."""

    async def apply(self, task_id: str, event: Event) -> Task | Refused:
        """Apply all but questions."""
        if isinstance(event, Ask):
            raise StoreUnreachable("redis://10.0.0.7:6379 does not answer")
        return await super().apply(task_id, event)


async def test_the_result_of_a_task_that_could_not_ask_says_as_little(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with tasking(tmp_path, store=Unasking(TaskShelf(clock=clock))) as parts:
        client = Client(parts)
        ended = await client.ended(await client.start("ask_two"))
    assert ended["result"]["content"][0]["text"] == (
        "The client could not be asked. The task store is unavailable; try again shortly"
    )
    assert [line for line in caplog.messages if "10.0.0.7" in line] == [
        "a task could not ask its client: redis://10.0.0.7:6379 does not answer"
    ]


async def test_a_server_starts_without_its_elasticsearch_and_serves_all_else(tmp_path: Path) -> None:
    """Documents and searches fail with an error that says retryable, /readyz says so, and no caller learns where."""
    port = free_port()
    config = replace(server_config(tmp_path), elasticsearch=Elasticsearch(url=SecretUrl(f"http://127.0.0.1:{port}")))
    with trio.fail_after(WAIT_S):
        async with http_server(config) as running, client_at(f"http://127.0.0.1:{running.port}") as client:
            assert (await client.ask("tools/list")).status == 200
            for _ in range(2):
                found = await client.ask("tools/call", {"name": "search_documents", "arguments": {"query": "x"}})
                assert (found.status, found.last["error"]["data"]["retryable"]) == (503, True)
                assert re.search(rf"{LIBRARY}|{port}", found.text) is None
            ready = await client.http.get("/readyz")
            assert (ready.status_code, ready.text.splitlines()[0]) == (503, "down: documents")
            assert re.search(rf"{LIBRARY}|{port}", ready.text) is None
