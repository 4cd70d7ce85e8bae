"""Call records of real servers: every transport, refusals, batches, tasks, replays; ends of servers, full disks."""

from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket

from mcpd import cli
from mcpd.secret import Secret
from mcpd.storage.records import ANY, Record, Wanted
from mcpd.storage.sqlite.records import FILE_NAME, open_records
from mcpd.wire.envelope import IDEMPOTENCY_KEY
from mcpd.wire.versions import HEADERLESS, STATEFUL, STATELESS
from tests.conversations.transports import OPEN, Transport
from tests.in_process import WAIT_S, Running, eventually, http_server, server_config, stdio_server
from tests.records.memory import TOOLS
from tests.served import CLIENT, Mcp, client_at, client_of, killable, opened, serving, stateless, upgrade
from tests.tasks.served import TaskClient

KEY = "mcpd_of_the_operator"
ENDS = [
    ("echo", "ok", ""),
    ("fail", "tool_error", ""),
    ("crash", "internal_error", ""),
    ("slow", "deadline", "tool"),
    ("none", "protocol_error", "NotFound"),
]
Seen = list[tuple[str, str, str, str]]


async def kept(folder: Path, wanted: Wanted = ANY) -> list[Record]:
    """Return the records in a data folder, oldest first."""
    async with open_records(folder) as records:
        return (await records.page(wanted)).items[::-1]


def seen(records: list[Record]) -> Seen:
    return [(one.method, one.target, one.outcome, one.reason) for one in records]


@asynccontextmanager
async def calling(folder: Path) -> AsyncIterator[tuple[Running, Mcp]]:
    """Run an HTTP server and open a client of it."""
    with trio.fail_after(3 * WAIT_S):
        async with http_server(server_config(folder, TOOLS)) as running:
            async with client_at(f"http://127.0.0.1:{running.port}") as client:
                yield running, client
            running.stopping.set()
            await running.stopped.wait()


@asynccontextmanager
async def talking(folder: Path, transport: str, version: str) -> AsyncIterator[Transport]:
    """Run a server and open a transport to it, past `initialize` where there is one."""
    config, start = server_config(folder, TOOLS), stdio_server if transport == "stdio" else http_server
    with trio.fail_after(3 * WAIT_S):
        async with start(config) as running:
            async with OPEN[transport](running, version, {}) as client:
                if version != STATELESS:
                    await _initialize(client, version)
                yield client
            running.stopping.set()
            await running.stopped.wait()


async def _initialize(client: Transport, version: str) -> None:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": CLIENT}
    await client.send({"id": 0, "method": "initialize", "params": params})
    await client.receive()
    await client.send({"method": "notifications/initialized"})


@pytest.mark.parametrize("version", [STATELESS, STATEFUL[0]])
@pytest.mark.parametrize("transport", OPEN)
async def test_every_end_of_a_call_is_one_record_on_every_transport(
    tmp_path: Path, transport: str, version: str
) -> None:
    async with talking(tmp_path, transport, version) as client:
        for number, (tool, _, _) in enumerate(ENDS, 1):
            await client.send({"id": number, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
            await client.receive()
        await client.send({"id": "held", "method": "tools/call", "params": {"name": "hold"}})
        await trio.testing.wait_all_tasks_blocked(0.2)
        await client.send({"method": "notifications/cancelled", "params": {"requestId": "held"}})
        await trio.testing.wait_all_tasks_blocked(0.2)
    records = [one for one in await kept(tmp_path / "data") if one.method == "tools/call"]
    cancelled = "client_gone" if (transport, version) == ("http", STATELESS) else "explicit"
    wanted = [("tools/call", *end) for end in ENDS] + [("tools/call", "hold", "cancelled", cancelled)]
    assert seen(records) == wanted
    assert {(one.transport, one.client, one.refused) for one in records} == {(transport, CLIENT["name"], False)}
    assert {one.address for one in records} == {"" if transport == "stdio" else "127.0.0.1"}
    assert len({one.request_id for one in records}) == len(records)
    assert [bool(one.digest) for one in records] == [True] * 5 + [False]


async def test_who_is_refused_is_recorded_and_nobody_is_named_whom_the_key_does_not_name(tmp_path: Path) -> None:
    config = server_config(tmp_path, TOOLS)
    config = replace(config, auth=replace(config.auth, api_key=Secret(KEY)))
    bearer = {"authorization": f"Bearer {KEY}"}
    with trio.fail_after(3 * WAIT_S):
        async with http_server(config) as running, client_at(f"http://127.0.0.1:{running.port}") as client:
            assert (await client.ask("tools/call", {"name": "echo"})).status == 401
            wrong = {"authorization": "Bearer mcpd_wrong_wrong_wrong_wrong"}
            assert (await client.ask("tools/call", {"name": "echo"}, headers=wrong)).status == 401
            assert (await upgrade(running.port, {})).status == 401
            assert (await client.ask("tools/call", {"name": "echo"}, headers={**bearer, "mcp-name": "x"})).status == 400
            assert (await client.ask("tools/call", {"name": "echo"}, headers=bearer)).status == 200
            assert (await client.post(b"{", bearer)).status == 400
            assert (await client.post(b"{}", {**bearer, "content-type": "text/plain"})).status == 415
            assert (await client.http.get("/api/v1/none", headers=bearer)).status_code == 404
    records = await kept(tmp_path / "data")
    assert [(one.reason, one.target, bool(one.principal), one.refused, one.transport) for one in records] == [
        ("unauthenticated", "", False, True, "http"),
        ("unauthenticated", "", False, True, "http"),
        ("unauthenticated", "", False, True, "websocket"),
        ("HeaderMismatch", "echo", True, True, "http"),
        ("", "echo", True, False, "http"),
        ("ParseError", "", True, True, "http"),
        ("body", "", True, True, "http"),
        ("not found", "", True, True, "rest"),
    ]
    assert "mcpd_" not in repr(records), "SEC-6: no key is kept"


@pytest.mark.parametrize("transport", OPEN)
async def test_every_message_of_a_batch_is_a_record(tmp_path: Path, transport: str) -> None:
    """BAT-1."""
    async with talking(tmp_path, transport, HEADERLESS) as client:
        calls: list[Any] = [
            {"id": 1, "method": "tools/call", "params": {"name": "echo"}},
            {"id": 2, "method": "tools/call", "params": {"name": "none"}},
            {"id": 3, "method": 7},
            {"method": "notifications/cancelled", "params": {"requestId": 9}},
        ]
        await client.send(calls)
        await client.receive()
    records = [one for one in await kept(tmp_path / "data") if one.method != "initialize"]
    assert sorted((one.target, one.outcome, one.refused) for one in records) == [
        ("", "protocol_error", True), ("echo", "ok", False), ("none", "protocol_error", False),
    ]  # fmt: skip


async def test_a_task_has_a_record_and_so_have_the_calls_about_it(tmp_path: Path) -> None:
    async with calling(tmp_path) as (_, mcp):
        client = TaskClient(mcp)
        task_id = await client.start("job")
        await client.ended(task_id)
    records = await kept(tmp_path / "data")
    calls = [(one.target, one.outcome, one.task) for one in records if one.method == "tools/call"]
    assert sorted(calls) == [("job", "ok", ""), ("job", "ok", task_id)]
    assert {one.target for one in records if one.method == "tasks/get"} == {task_id}


async def test_a_replay_is_a_call_of_its_own(tmp_path: Path) -> None:
    async with calling(tmp_path) as (_, client):
        for _ in range(2):
            await client.ask("tools/call", {"name": "echo"}, meta={IDEMPOTENCY_KEY: "k"})
    assert seen(await kept(tmp_path / "data")) == [("tools/call", "echo", "ok", "")] * 2


async def test_work_that_goes_on_without_its_client_is_recorded_when_it_ends(tmp_path: Path) -> None:
    """The client's own record says only that it has gone; what the tool did then has another one."""
    async with calling(tmp_path) as (running, _):
        body, headers = stateless("tools/call", {"name": "linger", "arguments": {}}, meta={IDEMPOTENCY_KEY: "k"})
        url = f"http://127.0.0.1:{running.port}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_open, url, json.dumps(body).encode(), headers)
            await eventually(lambda: running.in_flight() == 2, "the call and its work run")
            nursery.cancel_scope.cancel()
        await eventually(lambda: running.in_flight() == 0, "the work has ended")
    assert seen(await kept(tmp_path / "data")) == [
        ("tools/call", "linger", "cancelled", "client_gone"),
        ("tools/call", "linger", "ok", ""),
    ]


async def _open(url: str, content: bytes, headers: dict[str, str]) -> None:
    async with opened(url, "POST", content, headers):
        pass


async def _until(folder: Path, count: int) -> list[Record]:
    with trio.fail_after(WAIT_S):
        while len(records := await kept(folder / "data")) < count:  # noqa: ASYNC110 - another process writes
            await trio.sleep(0.05)
    return records


async def _echo(client: Any, text: str) -> None:
    reply = await client.ask("tools/call", {"name": "echo", "arguments": {"text": text}})
    assert reply.result["content"][0]["text"] == text


async def test_sigterm_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server, trio.fail_after(3 * WAIT_S):
        async with client_of(server) as client:
            for number in range(100):
                await _echo(client, str(number))
    assert len(await kept(tmp_path / "data")) == 100


async def test_kill_9_loses_only_what_was_not_written(tmp_path: Path) -> None:
    with killable(tmp_path) as server, trio.fail_after(3 * WAIT_S):
        async with client_of(server) as client:
            for number in range(20):
                await _echo(client, str(number))
            await _until(tmp_path, 20)
            await _echo(client, "last")
            server.process.kill()
    assert 20 <= len(await kept(tmp_path / "data")) <= 21
    with serving(tmp_path) as server, trio.fail_after(3 * WAIT_S):
        async with client_of(server) as client:
            await _echo(client, "again")
    assert 21 <= len(await kept(tmp_path / "data")) <= 22


async def test_workers_write_to_one_file(tmp_path: Path) -> None:
    with serving(tmp_path, "", "--data", "data", "--workers", "2") as server, trio.fail_after(4 * WAIT_S):
        for number in range(30):
            async with client_of(server) as client:
                await _echo(client, str(number))
    assert len(await kept(tmp_path / "data")) == 30


async def test_calls_go_on_while_the_file_is_locked_and_no_record_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with calling(tmp_path) as (running, client):
        with closing(sqlite3.connect(tmp_path / "data" / FILE_NAME, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            await _echo(client, "1")
            await eventually(lambda: running.metric("mcpd_records_failed_total") >= 1, "a write has failed")
            await _echo(client, "2")
            assert running.metric("mcpd_records_pending") == 2
            ready = await client.http.get("/readyz")
            assert (ready.status_code, "records degraded" in ready.text) == (200, True)
            holder.execute("ROLLBACK")
        await eventually(lambda: running.metric("mcpd_records_pending") == 0, "all is written")
    assert len(await kept(tmp_path / "data")) == 2
    said = [line.getMessage() for line in caplog.records if line.name == "mcpd.messages.recorder"]
    assert len(said) == 2, "a line for the outage, and one for its end"


async def test_calls_go_on_while_the_disk_is_full_and_records_come_back(tmp_path: Path) -> None:
    """A file that may not grow is what a full disk is to SQLite; the limit is lifted like a disk that is tidied."""
    with killable(tmp_path) as server, trio.fail_after(5 * WAIT_S):
        async with client_of(server) as client:
            await _echo(client, "before")
            await _until(tmp_path, 1)
            size = (tmp_path / "data" / f"{FILE_NAME}-wal").stat().st_size
            pid = server.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            for number in range(50):
                await _echo(client, str(number))
            await _until_metric(client, "mcpd_records_failed_total")
            await _echo(client, "during")
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
            records = await _until(tmp_path, 52)
    assert {one.outcome for one in records if one.method == "tools/call"} == {"ok"}


async def _until_metric(client: Any, name: str) -> None:
    with trio.fail_after(WAIT_S):
        while f"{name} 0.0" in (await client.http.get("/metrics")).text:  # noqa: ASYNC110 - as above
            await trio.sleep(0.05)


async def test_nothing_is_kept_where_nobody_wants_it(tmp_path: Path) -> None:
    with serving(tmp_path, "[records]\nenabled = false\n") as server, trio.fail_after(3 * WAIT_S):
        async with client_of(server) as client:
            await _echo(client, "1")
    assert not (tmp_path / "data" / FILE_NAME).exists()


async def test_a_websocket_that_breaks_off_ends_its_calls_with_records(tmp_path: Path) -> None:
    with trio.fail_after(3 * WAIT_S):
        async with http_server(server_config(tmp_path, TOOLS)) as running:
            async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{running.port}/ws") as socket:
                body, _ = stateless("tools/call", {"name": "hold"})
                await socket.send_message(json.dumps(body))
                await eventually(lambda: running.in_flight() == 1, "the call runs")
            await eventually(lambda: running.in_flight() == 0, "the call has ended")
    assert seen(await kept(tmp_path / "data")) == [("tools/call", "hold", "cancelled", "client_gone")]


Output = pytest.CaptureFixture[str]


def told(capsys: Output, folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert cli.run(["records", "--data", str(folder / "data"), *words]) == code
    return capsys.readouterr()


def test_the_command_shows_what_fits_newest_first(tmp_path: Path, capsys: Output) -> None:
    """CLI: `mcpd records`."""
    assert json.loads(told(capsys, tmp_path, "--json")[0]) == {"records": []}
    assert "No calls have been recorded" in told(capsys, tmp_path)[1]
    assert not (tmp_path / "data").exists()
    hostile = "\x1b]0;pwned\x07\u009b31m\u202eevil\nok " + "x" * 10_000

    async def call() -> None:
        async with talking(tmp_path, "websocket", STATELESS) as client:
            for name in ("echo", hostile, "fail"):
                await client.send({"id": 1, "method": "tools/call", "params": {"name": name}})
                await client.receive()

    trio.run(call)
    found = json.loads(told(capsys, tmp_path, "--json")[0])["records"]
    assert [one["outcome"] for one in found] == ["tool_error", "protocol_error", "ok"]
    assert found[2].items() >= {"target": "echo", "transport": "websocket", "client": CLIENT["name"]}.items()
    lines = told(capsys, tmp_path)[0].splitlines()
    assert len(lines) == 3
    assert all(len(line) < 400 and line.isprintable() for line in lines), lines
    assert [one["target"] for one in _asked(capsys, tmp_path, "--tool", "echo")] == ["echo"]
    assert _asked(capsys, tmp_path, "--since", "1h", "--outcome", "rejected") == []
    assert len(_asked(capsys, tmp_path, "--since", "2020-01-01", "--until", "2100-01-01")) == 3
    first = json.loads(told(capsys, tmp_path, "--limit", "1", "--json")[0])
    rest = json.loads(told(capsys, tmp_path, "--cursor", first["nextCursor"], "--json")[0])
    assert first["records"] + rest["records"] == found
    assert "nextCursor" not in rest
    assert told(capsys, tmp_path, "--json")[0].isascii()


def _asked(capsys: Output, folder: Path, *words: str) -> Any:
    return json.loads(told(capsys, folder, *words, "--json")[0])["records"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--since", "yesterday"), 2),
        (("--since", "99999999999d"), 2),
        (("--outcome", "bad"), 2),
        (("--limit", "0"), 2),
        (("--tool", "a", "--method", "prompts/get"), 2),
        (("--cursor", "nonsense"), 1),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: Output, words: tuple[str, ...], code: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE_NAME).touch()
    assert told(capsys, tmp_path, *words, code=code)[1]
