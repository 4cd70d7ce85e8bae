"""What stores are asked is counted: each by name, by how it ended, and how long it took; and how connections stand."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from mcpd.config import Config, Redis
from mcpd.drivers.redis import NotExecuted, Options, OutcomeUnknown, Refused, Script
from mcpd.drivers.redis import Redis as Client
from mcpd.drivers.sqlite import Busy
from mcpd.drivers.sqlite import Connection as SqliteConnection
from mcpd.drivers.timing import OUTCOMES
from mcpd.secret import SecretUrl
from mcpd.storage import redis
from mcpd.storage.documents import StorageError
from mcpd.storage.sqlite.documents import open_documents
from tests.in_process import Running, eventually, http_server, server_config
from tests.redis_servers import cutting, free_port
from tests.redis_servers import serving as redis_serving
from tests.served import Mcp, client_at

WAIT_S = 60.0
QUICK = Options(connect_s=2, stall_s=2, patience_s=0.1)


class Heard(list[tuple[str, str]]):
    """What was observed: operation and outcome."""

    def __call__(self, operation: str, outcome: str, seconds: float) -> None:
        assert outcome in OUTCOMES
        assert 0 <= seconds < WAIT_S
        self.append((operation, outcome))


async def test_each_way_in_which_a_command_of_redis_can_end_is_an_outcome() -> None:
    heard = Heard()
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as server:
        async with cutting(server.port) as proxy, trio.open_nursery() as nursery:
            client = Client(proxy.url, options=QUICK, observe=heard)
            await nursery.start(client.run)
            await client.execute("SET", "k", "v")
            await client.pipeline([("GET", "k"), ("GET", "k")])
            await client.run_script(Script("return 1", "one"))
            with pytest.raises(Refused):
                await client.execute("lpush", "k", "v")
            with trio.move_on_after(0):
                await client.execute("GET", "k")
            proxy.left = 0
            with pytest.raises(OutcomeUnknown):
                await client.execute("INCR", "n")
            server.process.kill()
            server.process.wait()
            await eventually(lambda: not client.statistics().connected, "it has noticed")
            with pytest.raises(NotExecuted):
                await client.execute("INCR", "n")
            nursery.cancel_scope.cancel()
    assert heard == [
        ("SET", "ok"),
        ("PIPELINE", "ok"),
        ("one", "ok"),
        ("LPUSH", "refused"),
        ("GET", "cancelled"),
        ("INCR", "unknown"),
        ("INCR", "unavailable"),
    ]


async def test_each_way_in_which_sqlite_can_end_is_an_outcome(tmp_path: Path) -> None:
    heard = Heard()

    def fail(_: SqliteConnection) -> None:
        raise StorageError("no")

    def busy(_: SqliteConnection) -> None:
        raise Busy("not now")

    async with open_documents(tmp_path, observe=heard) as documents:
        heard.clear()
        await documents.ping()
        for work in (fail, busy):
            with pytest.raises((StorageError, Busy)):
                await documents._database.write(work)
        with trio.move_on_after(0):
            await documents.get("docs:///d/1")
        assert documents.connections() == (0, 2)
    assert heard == [("ping", "ok"), ("fail", "refused"), ("busy", "unavailable"), ("document", "cancelled")]


def with_redis(folder: Path, url: str) -> Config:
    return replace(server_config(folder), redis=Redis(url=SecretUrl(url)))


def operations(running: Running, store: str, **labels: str) -> float:
    return running.metric("mcpd_store_operations_total", store=store, **labels)


async def test_a_server_counts_and_shows_both_of_its_stores(tmp_path: Path) -> None:
    with trio.fail_after(WAIT_S), redis_serving("redis-7") as server:
        async with http_server(with_redis(tmp_path, server.url)) as running, client_of_running(running) as client:
            lines = (await client.http.get("/readyz")).text.splitlines()
            assert lines[0] == "ready"
            assert Counter(line.split()[0] for line in lines[1:]) == Counter(
                ["documents", "records", "redis", "threads"]
            )
            for store, operation in (("sqlite", "ping"), ("redis", "PING"), ("redis", "emit"), ("redis", "hear")):
                assert operations(running, store, operation=operation, outcome="ok") >= 1
                spent = running.metric("mcpd_store_operation_duration_seconds_count", store=store, operation=operation)
                assert spent >= 1
            states = {"shared": 1, "subscribed": 3, "leased": 0, "idle": 0}
            for state, count in states.items():
                assert running.metric("mcpd_store_connections", store="redis", state=state) == count
            assert running.metric("mcpd_store_connections", store="sqlite", state="idle") >= 1


async def test_a_redis_that_is_away_is_counted_and_shown(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    with trio.fail_after(WAIT_S):
        async with http_server(with_redis(tmp_path, url)) as running, client_of_running(running) as client:
            reply = await client.http.get("/readyz")
            assert (reply.status_code, reply.text.splitlines()[0]) == (200, "degraded: redis")
            assert running.metric("mcpd_store_connections", store="redis", state="shared") == 0
            await eventually(
                lambda: operations(running, "redis", operation="emit", outcome="unavailable"), "it was tried"
            )


def client_of_running(running: Running) -> AbstractAsyncContextManager[Mcp]:
    return client_at(f"http://127.0.0.1:{running.port}")


def test_every_script_has_a_name_of_its_own() -> None:
    modules = [
        importlib.import_module(f"mcpd.storage.redis.{found.name}") for found in pkgutil.iter_modules(redis.__path__)
    ]
    scripts = [value for module in modules for value in vars(module).values() if isinstance(value, Script)]
    names = [script.name for script in scripts]
    assert len(set(names)) == len(names) >= 2
    assert "EVALSHA" not in names
