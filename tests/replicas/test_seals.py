"""Replicas with data folders of their own: what one has sealed another one opens, or it does not serve."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from mcpd.sealing import new_key
from mcpd.storage.redis.keys import Keys
from tests.redis_servers import free_port, program
from tests.redis_servers import serving as redis_serving
from tests.replicas.replica import Replica
from tests.served import Server, client_of, command, environment, serving

pytestmark = pytest.mark.slow
WAIT_S = 60.0
SEALS = Keys().seals
OLD, NEW = new_key().strip(), new_key().strip()
KNOWS: dict[str, Any] = {"elicitation": {"form": {}}}


def kid(key: str) -> str:
    return key.partition(":")[0]


def settings(url: str, *ring: str) -> str:
    seals = f'[auth]\nseal_keys = "{",".join(ring)}"\n' if ring else ""
    return f'{seals}[redis]\nurl = "{url}"\n[timeouts]\nlease_s = 1\n'


@contextmanager
def replica(folder: Path, url: str, *ring: str) -> Iterator[Replica]:
    """Start a server with a data folder of its own."""
    folder.mkdir(exist_ok=True)
    with serving(folder, settings(url, *ring)) as server:
        yield Replica(server, folder, folder / "data")


def refused(folder: Path, url: str, *ring: str) -> str:
    """Start a server that is to refuse; return what it says."""
    folder.mkdir()
    words = [*command("serve", folder, settings(url, *ring)), "--port", "0"]
    ended = subprocess.run(words, capture_output=True, cwd=folder, env=environment(), timeout=WAIT_S, check=False)
    assert ended.returncode == 2, ended.stderr
    return ended.stderr.decode()


async def ask(server: Server) -> str:
    """Let a tool ask its client; return the sealed state."""
    async with client_of(server) as client:
        reply = await client.ask("tools/call", {"name": "greet"}, capabilities=KNOWS)
        return str(reply.result["requestState"])


async def opens(server: Server, state: str) -> bool:
    """Answer on another server; True if it takes the state."""
    async with client_of(server) as client:
        reply = await client.ask("tools/call", {"name": "greet", "requestState": state}, capabilities=KNOWS)
        return "result" in reply.last


async def test_what_one_replica_seals_the_other_opens(tmp_path: Path) -> None:
    """MRT-7: data folders of their own, one ring; listed in `seal_keys` or as MCPD_SEAL_KEYS."""
    with (
        trio.fail_after(WAIT_S),
        redis_serving("redis-7") as redis,
        replica(tmp_path / "a", redis.url, OLD) as one,
        replica(tmp_path / "b", redis.url, OLD) as two,
    ):
        assert await opens(two.server, await ask(one.server))
        assert await opens(one.server, await ask(two.server))
        assert not (one.data / "seal.key").exists()


async def test_a_replica_that_seals_with_a_key_of_its_own_does_not_serve(tmp_path: Path) -> None:
    """MRT-7: refused with the reason; once the others have gone it serves."""
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as redis:
        with replica(tmp_path / "a", redis.url, OLD):
            said = refused(tmp_path / "b", redis.url, NEW, OLD)
            assert f"does not have key {kid(NEW)}" in said
            assert "MCPD_SEAL_KEYS" in said
            assert f"seals with key {kid(OLD)}" in refused(tmp_path / "c", redis.url)
            assert NEW.partition(":")[2] not in said
        with replica(tmp_path / "b", redis.url, NEW) as late:
            assert "replicas" not in await late.ready()


def test_what_no_replica_has_written_hides_no_difference(tmp_path: Path) -> None:
    with redis_serving("redis-7") as redis, replica(tmp_path / "a", redis.url, OLD):
        junk = {"empty": "", "word": "word", "two": "no number", "time": "9999999999999"}
        for name, value in junk.items():
            redis.ask("HSET", SEALS, name, value)
        assert kid(NEW) in refused(tmp_path / "b", redis.url, NEW)
        left = redis.ask("HKEYS", SEALS).decode().split()
        assert not junk.keys() & set(left)


async def test_a_key_is_changed_in_two_rolls(tmp_path: Path) -> None:
    """MRT-7: append it everywhere, then put it first; states go on being opened by every replica."""
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as redis:
        with replica(tmp_path / "a", redis.url, OLD) as one:
            old_state = await ask(one.server)
            with replica(tmp_path / "b", redis.url, OLD, NEW) as two:
                assert await opens(two.server, old_state)
                two_state = await ask(two.server)
                assert await opens(one.server, two_state)
        with replica(tmp_path / "a", redis.url, OLD, NEW) as one, replica(tmp_path / "b", redis.url, NEW, OLD) as two:
            new_state = await ask(two.server)
            assert await opens(one.server, new_state)
            assert await opens(two.server, old_state)


async def test_a_replica_that_finds_out_later_goes_on_and_says_so(tmp_path: Path) -> None:
    """Redis was away when both started."""
    program("redis-7")
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    with (
        trio.fail_after(WAIT_S),
        replica(tmp_path / "a", url, OLD) as one,
        replica(tmp_path / "b", url, NEW) as two,
        redis_serving("redis-7", port=port),
    ):
        said = ""
        while "different keys" not in said:
            said = await one.ready() + await two.ready()
        assert one.logged("MCPD_SEAL_KEYS") + two.logged("MCPD_SEAL_KEYS") == 1
        async with client_of(two.server) as client:
            assert (await client.ask("tools/list")).status == 200


async def test_a_replica_that_was_killed_is_forgotten_after_its_lease(tmp_path: Path) -> None:
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as redis:
        with serving_killed(tmp_path / "a", settings(redis.url, OLD)):
            pass
        await trio.sleep(1)
        with replica(tmp_path / "b", redis.url, NEW) as late:
            assert "ready" in await late.ready()


@contextmanager
def serving_killed(folder: Path, text: str) -> Iterator[Server]:
    """Start a server and kill it."""
    folder.mkdir()
    with serving(folder, text, code=-signal.SIGKILL) as server:
        yield server
        server.process.kill()
