"""Replies of one replica that are read on the others, through a plain balancer, whatever becomes of the first one.

The balancer deals out connections in turn, so that a GET comes to another replica than the POST before it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from mcpd.gateway.keys import KeyStore
from tests.balancer import balancing
from tests.in_process import eventually
from tests.redis_servers import KINDS, RedisServer, free_port
from tests.redis_servers import serving as redis_serving
from tests.served import Mcp, ReplyReader, Server, client_at, killable

pytestmark = pytest.mark.slow
WAIT_S = 90.0
LEASE_S = 1.5
NOTICED_S = 2 * LEASE_S + 5.0
"""Within a lease, and another where there was a gap, and what a reader lets pass between two questions."""
CALLS = str(Path(__file__).parent / "cut_calls.py")
LOST = {"reason": "owner_lost", "retryable": True, "retryAfterMs": 1000}


class Site:
    """The replicas, a client of the balancer in front of them, and a folder in which its calls wait for files."""

    def __init__(self, servers: list[Server], client: Mcp, place: Path) -> None:
        self.servers = servers
        self.client = client
        self.place = place

    def touch(self, *names: str) -> None:
        """Let the call go on."""
        for name in names:
            (self.place / name).touch()

    @property
    def owner(self) -> Server:
        """The replica that runs the call."""
        pid = int((self.place / "pid").read_text())
        return next(server for server in self.servers if server.process.pid == pid)

    async def cut_post(self, tool: str = "steps", **arguments: Any) -> str:
        """Call a tool, read up to its first message and cut the connection; return the id of the last event."""
        async with self.posting(tool, **arguments) as reader:
            while (event := await reader.event()) is not None and not event.get("data"):
                pass
        assert event is not None
        return event["id"]

    @asynccontextmanager
    async def posting(self, tool: str, **arguments: Any) -> AsyncIterator[ReplyReader]:
        params = {"name": tool, "arguments": {"place": str(self.place), **arguments}, "_meta": {"progressToken": 1}}
        body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        async with self.client.streaming("POST", body, self.client.session) as reader:
            yield reader

    def getting(self, event_id: str, client: Mcp | None = None) -> Any:
        """Resume behind an event, on the next replica."""
        by = client or self.client
        headers = {**self.client.session, "accept": "text/event-stream", "last-event-id": event_id}
        return by.streaming("GET", None, headers)

    async def rest(self, event_id: str) -> list[Any]:
        """Resume and read to the end."""
        async with self.getting(event_id) as reader:
            return await read(reader)


async def read(reader: ReplyReader) -> list[Any]:
    """Read to the end; return of each message what it says: its number, or its result or error."""
    found: list[Any] = []
    while (message := await reader.message()) is not None:
        found.append(told(message))
    return found


def told(message: dict[str, Any]) -> Any:
    if "method" in message:
        return message["params"]["data"]["number"]
    assert message["id"] == 7
    error = message.get("error")
    return message["result"]["content"][0]["text"] if error is None else error["data"]


@asynccontextmanager
async def site_at(
    redis: RedisServer | None, folder: Path, settings: str = "", *flags: str, count: int = 3
) -> AsyncIterator[Site]:
    url = "" if redis is None else f'[redis]\nurl = "{redis.url}"\n'
    places, port = [folder / str(number) for number in range(count)], free_port()
    url += f'[server]\npublic_url = "http://localhost:{port}"\n'
    with trio.fail_after(WAIT_S), ExitStack() as running:
        servers = []
        for place in places:
            place.mkdir()
            words = ("--tools", CALLS, "--data", str(folder / "data"), *flags)
            text = f"{url}[timeouts]\nlease_s = {LEASE_S}\n{settings}"
            servers.append(running.enter_context(killable(place, text, *words)))
        async with (
            balancing(*(server.port for server in servers), port=port) as balancer,
            client_at(balancer.url) as client,
        ):
            if "[auth]" not in settings:
                await client.initialize(capabilities={"elicitation": {}})
            yield Site(servers, client, folder)
            for number, server in enumerate(servers):
                if server.process.poll() is None:
                    log = (places[number] / "log").read_text()
                    assert "Traceback" not in log, log


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_call_is_resumed_on_another_replica(tmp_path: Path, kind: str) -> None:
    """RSM-2, STR-3: every event once, the answer once; a newer reader on a third replica ends the older one."""
    with redis_serving(kind) as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post()
            async with site.getting(at) as older, site.getting(at) as newest:
                assert await older.message() is None
                site.touch("go")
                assert [told(await newest.message()) for _ in range(4)] == [2, 3, 4, 5]
                site.touch("end")
                assert await read(newest) == ["answer"]
            assert await site.rest(at) == [2, 3, 4, 5, "answer"], "and again, by whoever did not get it"


async def test_a_replica_that_is_stopped_for_a_moment_goes_on(tmp_path: Path) -> None:
    """RSM-2: whoever reads elsewhere waits."""
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post()
            async with site.getting(at) as reader:
                site.owner.process.send_signal(signal.SIGSTOP)
                site.touch("go", "end")
                await trio.sleep(LEASE_S / 3)
                site.owner.process.send_signal(signal.SIGCONT)
                assert await read(reader) == [2, 3, 4, 5, "answer"]


async def test_a_replica_that_was_taken_for_dead_and_comes_back_gives_no_second_answer(tmp_path: Path) -> None:
    """RSM-2, RPC-12: the error that its client was sent stays the answer, on every replica."""
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post()
            owner = site.owner
            async with site.getting(at) as reader:
                owner.process.send_signal(signal.SIGSTOP)
                with trio.fail_after(NOTICED_S):
                    assert await read(reader) == [LOST]
            site.touch("go", "end")
            owner.process.send_signal(signal.SIGCONT)
            await eventually((tmp_path / "ended").exists, "the call has ended")
            for _ in range(3):
                assert await site.rest(at) == [LOST]


async def test_a_call_that_dies_with_its_replica_is_answered_soon(tmp_path: Path) -> None:
    """STR-3, RPC-12: whoever reads, and whoever comes later, is told that the call can be sent again."""
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post()
            async with site.getting(at) as reader:
                site.owner.process.kill()
                with trio.fail_after(NOTICED_S):
                    assert await read(reader) == [LOST]
            living = next(server for server in site.servers if server is not site.owner)
            async with client_at(living.url) as client, site.getting(at, client) as reader:
                assert await read(reader) == [LOST]


async def test_an_answer_that_nobody_has_read_outlives_its_replica(tmp_path: Path) -> None:
    """STR-3, RSM-5."""
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post()
            site.touch("go", "end")
            await eventually(lambda: b"rest:" in redis.ask("KEYS", "*rest:*"), "it is kept")
            site.owner.process.kill()
            living = next(server for server in site.servers if server is not site.owner)
            async with client_at(living.url) as client, site.getting(at, client) as reader:
                assert await read(reader) == [2, 3, 4, 5, "answer"]


async def test_a_question_goes_down_the_stream_that_its_client_reads(tmp_path: Path) -> None:
    """S2C-1, S2C-2: and its answer comes to whichever replica."""
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post("ask_name")
            async with site.getting(at) as reader:
                site.touch("go")
                question = await reader.message()
                assert question["method"] == "elicitation/create"
                answer = {"action": "accept", "content": {"name": "Ada"}}
                for _ in range(3):
                    body = {"jsonrpc": "2.0", "id": question["id"], "result": answer}
                    headers = {**site.client.session, "connection": "close"}
                    assert (await site.client.post(body, headers)).status == 202
                assert await read(reader) == ["Hello, Ada"]


async def test_a_client_that_was_sent_away_comes_back_to_another_replica(tmp_path: Path) -> None:
    """RSM-4: for an answer that is there, and for one that is not yet."""
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path) as site:
            async with site.posting("let_go") as reader:
                events = []
                while (event := await reader.event()) is not None:
                    events.append(event)
            assert events[-1] == {"retry": "10"}
            async with site.getting(events[0]["id"]) as early:
                site.touch("go")
                assert await read(early) == ["answer"]
            assert await site.rest(events[0]["id"]) == ["answer"]


async def test_a_slow_reader_of_much_costs_little_anywhere_and_gets_the_answer(tmp_path: Path) -> None:
    """SEC-4, RSM-5: of 400 MB of notifications most are dropped, as on one replica."""
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post(count=2_000, size=200_000)
            async with site.getting(at) as reader:
                before = [memory_of(server) for server in site.servers]
                site.touch("go", "end")
                await eventually((tmp_path / "ended").exists, "the call has ended")
                after = [memory_of(server) for server in site.servers]
                assert max(late - early for early, late in zip(before, after, strict=True)) < 40_000_000
                found = await read(reader)
    assert found[-1] == "answer"
    assert found[:-1] == sorted(set(found[:-1]))
    assert len(found) < 1_000


def memory_of(server: Server) -> int:
    """Return how many bytes of memory a server's process has."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


async def test_a_reader_goes_on_when_redis_is_back(tmp_path: Path) -> None:
    """RSM-2."""
    port = free_port()
    keeps = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_serving("redis-7", *keeps, port=port) as redis:
        async with site_at(redis, tmp_path) as site:
            at = await site.cut_post()
            async with site.getting(at) as reader:
                redis.process.kill()
                redis.process.wait()
                site.touch("go")
                await trio.sleep(2 * LEASE_S)
                with redis_serving("redis-7", *keeps, port=port, folder=redis.folder):
                    site.touch("end")
                    assert await read(reader) == [2, 3, 4, 5, "answer"]


async def test_a_reply_is_its_callers_and_no_others(tmp_path: Path) -> None:
    """RSM-5, SES-5, SEC-5: neither with another key, nor in another session."""
    file = tmp_path / "data" / "keys.toml"
    ada, bob = (f"Bearer {KeyStore(file).new(name).reveal()}" for name in ("ada", "bob"))
    with redis_serving("redis-7") as redis:
        async with site_at(redis, tmp_path, "[auth]\n") as site:
            site.client.http.headers["authorization"] = ada
            await site.client.initialize()
            at = await site.cut_post()
            headers = {**site.client.session, "accept": "text/event-stream", "last-event-id": at}
            get = partial(site.client.http.get, "/mcp")
            assert (await get(headers={**headers, "authorization": bob, "connection": "close"})).status_code == 404
            own = dict(site.client.session)
            await site.client.initialize()
            other = {**headers, **site.client.session, "connection": "close"}
            assert [(await get(headers=other)).status_code for _ in range(3)] == [400] * 3
            site.client.session = own
            site.touch("go", "end")
            assert await site.rest(at) == [2, 3, 4, 5, "answer"]


async def test_workers_without_redis_resume_each_others_replies(tmp_path: Path) -> None:
    """RSM-2, RPC-12: whichever takes the connection; and when the one that ran the call is killed, it is said."""
    async with site_at(None, tmp_path, "", "--workers", "3", count=1) as site:
        for killed in (False, True):
            at = await site.cut_post()
            async with AsyncExitStack() as opened:
                readers = [await opened.enter_async_context(site.getting(at)) for _ in range(6)]
                for older in readers[:-1]:
                    assert await older.message() is None
                if killed:
                    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
                    assert await read_or_lose(readers[-1]) in ([LOST], [])
                    assert await site.rest(at) == [LOST]
                else:
                    site.touch("go", "end")
                    assert await read(readers[-1]) == [2, 3, 4, 5, "answer"]
            for name in ("go", "end"):
                (tmp_path / name).unlink(missing_ok=True)


async def read_or_lose(reader: ReplyReader) -> list[Any]:
    """Read to the end; nothing where the connection was the killed worker's own."""
    try:
        return await read(reader)
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        return []
