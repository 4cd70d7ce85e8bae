"""Calls of sessions over several processes: whatever a client says of a call reaches it, whoever takes the request.

On replicas that share a Redis, and on the workers of one server, which share a data folder, with a Redis and without.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from tests.in_process import eventually
from tests.redis_servers import serving as redis_serving
from tests.replicas.replica import Ear, attending, replicas
from tests.served import Mcp, Reply, client_of
from tests.supervision.crew import at_each, crew

pytestmark = pytest.mark.slow
WAIT_S = 90.0
TOOLS = ("--tools", str(Path(__file__).parent / "calls.py"))
PUT = ("--tools", str(Path(__file__).parent / "tools.py"))
DUPLICATES = 40
NOTE = "docs:///notes/1"


class Site(NamedTuple):
    """Servers with a client of each process, and their data folder."""

    open: Callable[[], AbstractAsyncContextManager[list[Mcp]]]
    data: Path


@contextmanager
def on_redis(folder: Path) -> Iterator[Site]:
    @asynccontextmanager
    async def clients() -> AsyncIterator[list[Mcp]]:
        async with AsyncExitStack() as opened:
            yield [await opened.enter_async_context(client_of(replica.server)) for replica in three]

    with redis_serving("redis-7") as redis, replicas(folder, f'[redis]\nurl = "{redis.url}"\n', 3, *TOOLS) as three:
        yield Site(clients, folder / "shared")


@contextmanager
def workers(folder: Path, settings: str = "") -> Iterator[Site]:
    @asynccontextmanager
    async def clients() -> AsyncIterator[list[Mcp]]:
        async with at_each(server) as found:
            yield list(found.values())

    with crew(folder, settings, *TOOLS, *PUT) as server:
        yield Site(clients, folder / "data")


@contextmanager
def workers_on_redis(folder: Path) -> Iterator[Site]:
    with redis_serving("redis-7") as redis, workers(folder, f'[redis]\nurl = "{redis.url}"\n') as site:
        yield site


SITES = {"redis": on_redis, "workers": workers, "workers on redis": workers_on_redis}


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with SITES[request.param](tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture
async def clients(site: Site) -> AsyncIterator[list[Mcp]]:
    """A client of each process, all with one session that the first has begun."""
    with trio.fail_after(WAIT_S):
        async with site.open() as found:
            await found[0].initialize(capabilities={"elicitation": {}})
            for client in found[1:]:
                client.session = found[0].session
            yield found


async def hold_on(client: Mcp, path: Path, replies: list[Reply]) -> None:
    """Call the tool that runs until it is cancelled."""
    replies.append(await client.call("tools/call", {"name": "hold_on", "arguments": {"path": str(path)}}, "held"))


@asynccontextmanager
async def held(client: Mcp, path: Path) -> AsyncIterator[list[Reply]]:
    """Have the tool run by this client's process; what is given has its reply in the end."""
    replies: list[Reply] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold_on, client, path, replies)
        await eventually(Path(f"{path}.started").exists, "the call runs")
        yield replies
        await eventually(Path(f"{path}.ended").exists, "the call has run its finally")


async def test_a_cancel_ends_a_call_of_another_process(clients: list[Mcp], tmp_path: Path) -> None:
    """CAN-3, law 2."""
    async with held(clients[0], tmp_path / "call") as replies:
        assert (await clients[1].say("notifications/cancelled", {"requestId": "another"})).status == 202
        assert (await clients[1].say("notifications/cancelled", {"requestId": "held"})).status == 202
    assert replies[0].code is not None


async def test_a_call_is_listed_and_ended_over_rest_on_any_process(clients: list[Mcp], tmp_path: Path) -> None:
    """Law 2: whoever has lost the connection ends the call by its name."""
    async with held(clients[0], tmp_path / "call") as replies:
        listed = [(await client.http.get("/api/v1/calls")).json() for client in clients]
        [entry] = listed[0]["items"]
        assert (entry["method"], entry["target"]) == ("tools/call", "hold_on")
        assert [([item["id"] for item in one["items"]], one["silent"]) for one in listed] == [([entry["id"]], 0)] * len(
            clients
        )
        assert (await clients[1].http.delete(f"/api/v1/calls/{entry['id']}")).status_code == 204
    assert replies[0].code is not None
    assert (await clients[1].http.delete(f"/api/v1/calls/{entry['id']}")).status_code == 404


async def test_a_session_that_is_ended_anywhere_ends_its_calls_everywhere(clients: list[Mcp], tmp_path: Path) -> None:
    """SES-4."""
    async with held(clients[0], tmp_path / "call"):
        deleted = await clients[1].http.delete("/mcp", headers=clients[1].session)
        assert deleted.status_code == 204
    for client in clients:
        assert (await client.call("tools/list")).status == 404


async def test_the_newest_reader_of_a_session_ends_the_one_before_wherever_that_is(
    clients: list[Mcp], site: Site
) -> None:
    """STR-6: what belongs to no call is told once, however many streams a client opens on however many processes."""
    headers = {**clients[0].session, "accept": "text/event-stream"}
    async with AsyncExitStack() as opened:
        first, second, third = [
            await opened.enter_async_context(client.streaming("GET", None, headers))
            for client in (clients[0], clients[1], clients[0])
        ]
        for reader in (first, second):
            told = [message["method"].split("/")[1] async for message in _all(reader)]
            assert set(told) <= {"tools", "prompts", "resources"}, "before the next one came; then it has ended"
        assert (await clients[1].call("resources/subscribe", {"uri": NOTE})).code is None
        async with attending(third) as ear:
            await put(clients[1], site, "something new")
            await ear.wait(NOTE)


async def test_an_answer_is_taken_once_wherever_it_comes_and_however_often(clients: list[Mcp]) -> None:
    """S2C-1, S2C-2: 40 duplicates over all processes."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask_name", "arguments": {}}}
    statuses: list[int] = []

    async def answer(client: Mcp, name: str) -> None:
        result = {"action": "accept", "content": {"name": "Ada"}}
        statuses.append((await client.post({"jsonrpc": "2.0", "id": name, "result": result}, client.session)).status)

    async with clients[0].streaming("POST", call, clients[0].session) as reader:
        question = await reader.message()
        assert question["method"] == "elicitation/create"
        async with trio.open_nursery() as nursery:
            for number in range(DUPLICATES):
                if clients[number % len(clients)] is not clients[0]:
                    nursery.start_soon(answer, clients[number % len(clients)], question["id"])
        messages = [message async for message in _all(reader)]
    while len(statuses) < DUPLICATES:
        await answer(clients[0], question["id"])
    assert [message["id"] for message in messages] == [1]
    assert messages[0]["result"]["content"][0]["text"] == "Hello, Ada!"
    assert statuses == [202] * DUPLICATES


async def put(client: Mcp, site: Site, text: str) -> None:
    """Have a tool store the note."""
    arguments = {"data": str(site.data), "uri": NOTE, "text": text}
    assert (await client.ask("tools/call", {"name": "put", "arguments": arguments})).status == 200


async def _all(reader: Any) -> AsyncIterator[Any]:
    while (message := await reader.message()) is not None:
        yield message


async def test_an_open_stream_hears_of_what_was_subscribed_to_elsewhere(clients: list[Mcp], site: Site) -> None:
    """STR-6: with no request of its own in between."""
    await put(clients[-1], site, "first")
    get = partial(clients[0].streaming, "GET", None, {**clients[0].session, "accept": "text/event-stream"})
    async with get() as reader, attending(reader) as ear:
        assert (await clients[-1].call("resources/subscribe", {"uri": NOTE})).code is None
        number = 0
        while NOTE not in ear.heard:
            number += 1
            await put(clients[-1], site, f"text {number}")
            await _moment(ear)


async def _moment(ear: Ear) -> None:
    """Wait until something is heard, for a while."""
    heard = len(ear.heard)
    with trio.move_on_after(1):
        await eventually(lambda: len(ear.heard) > heard, "something is heard")
