"""How a server stands with its Redis: what it refuses is told once, shown on /readyz, and over when it is over."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from mcpd.config import Config
from mcpd.config import Redis as Settings
from mcpd.events import Changed
from mcpd.secret import SecretUrl
from mcpd.storage.open import open_shared
from mcpd.storage.redis import bus
from mcpd.storage.replicas import Shared, Standing
from tests.in_process import server_config, stdio_server
from tests.redis_servers import RedisServer, free_port
from tests.redis_servers import serving as redis_serving

WAIT_S = 60.0
RULE = ("~mcpd:*", "&mcpd:*", "+@all", "-@admin", "-@dangerous", "+info")
ALLOWED = Changed("resource", "test://allowed")


@asynccontextmanager
async def shared_of(url: str) -> AsyncIterator[Shared]:
    async with trio.open_nursery() as nursery:
        shared = await open_shared(Config(redis=Settings(url=SecretUrl(url))))
        await nursery.start(shared.run)
        yield shared
        nursery.cancel_scope.cancel()


async def wait_standing(shared: Shared, state: str, *words: str) -> None:
    said = None
    while said is None or said.state != state or not all(word in said.detail for word in words):
        said = await shared.check()
        await trio.sleep(0.01)


def grant(server: RedisServer, *rule: str) -> None:
    assert server.ask("ACL", "SETUSER", "agent", "on", ">s3cret", "resetchannels", *RULE, *rule) == b"+OK\r\n"


@pytest.mark.parametrize(
    ("rule", "what"),
    [("-xadd", "sent"), ("-xrange", "read"), ("-subscribe", "heard"), ("resetchannels", "heard")],
)
async def test_a_right_that_is_missing_is_shown_once_and_over_when_it_is_granted(
    rule: str, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus, "POLL_S", 0.05)
    monkeypatch.setattr(bus, "RETRY_S", 0.05)
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as server:
        grant(server, rule)
        async with shared_of(f"redis://agent:s3cret@127.0.0.1:{server.port}") as shared:
            for _ in range(20):
                await wait_standing(shared, "degraded", f"not {what}")
            assert len([line for line in caplog.messages if f"are not {what}" in line]) == 1
            grant(server, f"+{rule[1:]}" if rule.startswith("-") else "&mcpd:*")
            await wait_standing(shared, "ok", "redis 7")
    assert "s3cret" not in caplog.text


async def test_a_full_server_is_shown_and_what_waits_is_sent_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus, "RETRY_S", 0.05)
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as server:
        async with shared_of(server.url) as one, shared_of(server.url) as two:
            heard: list[Changed] = []
            two.bus.subscribe(heard.append)
            server.ask("CONFIG", "SET", "maxmemory", "1")
            one.bus.publish(ALLOWED)
            await wait_standing(one, "degraded", "not sent")
            assert len([line for line in caplog.messages if "OOM" in line]) == 1
            server.ask("CONFIG", "SET", "maxmemory", "0")
            await wait_standing(one, "ok")
            await one.flush()
            while not heard:  # noqa: ASYNC110 - a callback rings no bell
                await trio.sleep(0.01)
    assert heard == [ALLOWED]


async def test_a_stopped_server_holds_up_neither_a_start_nor_a_check() -> None:
    """It accepts connections and never answers."""
    with redis_serving("redis-7") as server:
        server.pause()
        with trio.fail_after(WAIT_S):
            async with shared_of(server.url) as shared:
                assert (await shared.check()).state == "down"
                server.resume()
                await wait_standing(shared, "ok")
                server.pause()
                await wait_standing(shared, "down")
                server.resume()
                await wait_standing(shared, "ok")


async def test_without_a_server_all_stays_here_and_is_sound() -> None:
    shared = await open_shared(Config())
    assert (shared.name, await shared.check()) == ("", Standing("ok"))
    heard: list[Changed] = []
    shared.bus.subscribe(heard.append)
    shared.bus.publish(ALLOWED)
    shared.bus.tell_here(ALLOWED)
    await shared.flush()
    assert heard == [ALLOWED, ALLOWED]


async def test_what_is_told_here_is_told_nobody_else() -> None:
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as server:
        async with shared_of(server.url) as one, shared_of(server.url) as two:
            here: list[Changed] = []
            there: list[Changed] = []
            one.bus.subscribe(here.append)
            two.bus.subscribe(there.append)
            one.bus.tell_here(Changed("resource", "test://here"))
            one.bus.publish(ALLOWED)
            while not there:  # noqa: ASYNC110 - a callback rings no bell
                await trio.sleep(0.01)
            assert here == [Changed("resource", "test://here"), ALLOWED]
            assert there == [ALLOWED]


async def test_flushing_waits_for_a_server_that_is_there_and_for_no_other() -> None:
    with trio.fail_after(WAIT_S):
        async with shared_of(f"redis://127.0.0.1:{free_port()}") as shared:
            shared.bus.publish(ALLOWED)
            await shared.flush()
        with redis_serving("redis-7") as server:
            async with shared_of(server.url) as shared:
                server.pause()
                shared.bus.publish(ALLOWED)
                with trio.move_on_after(0.05) as scope:
                    await shared.flush()
                assert scope.cancelled_caught
                server.resume()
                await shared.flush()


async def test_a_server_on_stdio_tells_its_replicas_too(tmp_path: Path) -> None:
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as server:
        config = replace(server_config(tmp_path), redis=Settings(url=SecretUrl(server.url)))
        async with shared_of(server.url) as elsewhere, stdio_server(config) as running:
            heard: list[Changed] = []
            elsewhere.bus.subscribe(heard.append)
            await wait_standing(running.parts.shared, "ok")
            running.parts.bus.publish(ALLOWED)
            running.stopping.set()
            await running.stopped.wait()
            while ALLOWED not in heard:  # noqa: ASYNC110 - a callback rings no bell
                await trio.sleep(0.01)
            for descriptor in (running.stdin_fd, running.stdout_fd):
                os.close(descriptor)
