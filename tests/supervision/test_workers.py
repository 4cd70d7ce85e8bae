"""`mcpd serve --workers`: which calls a death costs, that nobody is left behind, stops, reloads, and metrics of all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio_websocket

from tests.in_process import alive, eventually
from tests.replicas.replica import TOOLS as PUT
from tests.served import WAIT_S, Mcp, client_of, environment, stateless
from tests.supervision.crew import TOOLS, at_each, crew, metrics, pid_at, started

pytestmark = pytest.mark.slow
BOUND_S = 60.0
PIDS = 'mcpd_tool_calls_total{outcome="ok",tool="pid"}'
MINE = '''"""A tool."""
from mcpd import tool

@tool
def mine() -> str:
    """Be there."""
    return ""
'''
QUICK = "[timeouts]\ngrace_s = 0.2\ncleanup_s = 0.1\nwrite_s = 0.5\n"


async def call(client: Mcp, name: str, path: Path, into: dict[str, Any]) -> None:
    """Call a tool with a path and note what came of it, under the path's name."""
    try:
        reply = await client.ask("tools/call", {"name": name, "arguments": {"path": str(path)}})
        into[path.name] = reply.result["content"][0]["text"]
    except httpx.TransportError as error:
        into[path.name] = error


async def new_pid(server: Any, known: set[int]) -> int:
    """Return the process id of a worker that is new, once there is one."""
    for _ in range(2000):
        async with client_of(server) as client:
            pid = await pid_at(client)
        if pid not in known:
            return pid
        await trio.sleep(0.01)
    raise AssertionError("no new worker came")


async def test_only_the_calls_of_a_killed_worker_fail_and_it_is_replaced(tmp_path: Path) -> None:
    ends: dict[str, Any] = {}
    with trio.fail_after(BOUND_S), crew(tmp_path) as server:
        async with at_each(server) as clients, trio.open_nursery() as calls:
            victim, other = clients
            before = (await metrics(clients[other]))[PIDS]
            for pid in clients:
                calls.start_soon(call, clients[pid], "wait_for", tmp_path / str(pid), ends)
                await started(tmp_path / str(pid))
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda: str(victim) in ends, "the client of the dead worker hears of it")
            assert isinstance(ends[str(victim)], httpx.TransportError)
            assert str(other) not in ends
            log = tmp_path / "log"
            await eventually(lambda: "another starts" in log.read_text(), "the supervisor notices")
            assert (await metrics(clients[other]))[PIDS] == before, "what the dead worker had counted is still there"
            (tmp_path / str(other)).touch()
            fresh = await new_pid(server, set(clients))
        assert ends[str(other)] == "there"
        async with at_each(server) as clients:
            assert set(clients) == {other, fresh}
            for client in clients.values():
                assert (await metrics(client))["mcpd_worker_restarts_total"] == 1
    assert log.read_text().count("was ended by SIGKILL; another starts in 0.1 s") == 1


async def test_no_worker_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """Not even one whose event loop is held."""
    ends: dict[str, Any] = {}
    with trio.fail_after(BOUND_S):
        with crew(tmp_path, QUICK, code=-signal.SIGKILL) as server:
            async with at_each(server) as clients, trio.open_nursery() as calls:
                held = next(iter(clients))
                calls.start_soon(call, clients[held], "hold_loop", tmp_path / "held", ends)
                await started(tmp_path / "held")
                server.process.kill()
                await eventually(lambda: not any(map(alive, clients)), "the workers have ended")
        assert isinstance(ends["held"], httpx.TransportError)


async def test_a_call_may_finish_after_the_first_signal(tmp_path: Path) -> None:
    ends: dict[str, Any] = {}
    with trio.fail_after(BOUND_S), crew(tmp_path) as server:
        async with at_each(server) as clients, trio.open_nursery() as calls:
            for pid in clients:
                calls.start_soon(call, clients[pid], "wait_for", tmp_path / str(pid), ends)
                await started(tmp_path / str(pid))
            server.process.send_signal(signal.SIGTERM)
            async with client_of(server) as late:
                while (await late.ask("tools/list")).status != 503:  # noqa: ASYNC110 - no bell rings
                    await trio.sleep(0.01)
            for pid in clients:
                (tmp_path / str(pid)).touch()
        await eventually(lambda: server.process.poll() is not None, "the server has ended")
        assert ends == {str(pid): "there" for pid in clients}
    assert (tmp_path / "log").read_text().count("mcpd: stopping, ") == 1


async def test_ctrl_c_in_a_terminal_lets_calls_finish(tmp_path: Path) -> None:
    """It comes to every process of the foreground group at once; a worker must not take it for a second signal."""
    ends: dict[str, Any] = {}
    with trio.fail_after(BOUND_S), crew(tmp_path, start_new_session=True) as server:
        async with at_each(server) as clients, trio.open_nursery() as calls:
            for pid in clients:
                calls.start_soon(call, clients[pid], "wait_for", tmp_path / str(pid), ends)
                await started(tmp_path / str(pid))
            os.killpg(server.process.pid, signal.SIGINT)
            await eventually(lambda: "stopping" in (tmp_path / "log").read_text(), "it says that it stops")
            for pid in clients:
                (tmp_path / str(pid)).touch()
        await eventually(lambda: server.process.poll() is not None, "the server has ended")
        assert ends == {str(pid): "there" for pid in clients}


async def test_the_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    ends: dict[str, Any] = {}
    with trio.fail_after(BOUND_S):
        with crew(tmp_path, code=130) as server:
            async with at_each(server) as clients, trio.open_nursery() as calls:
                calls.start_soon(call, clients[next(iter(clients))], "wait_for", tmp_path / "call", ends)
                await started(tmp_path / "call")
                server.process.send_signal(signal.SIGINT)
                await eventually(lambda: "stopping" in (tmp_path / "log").read_text(), "it says that it stops")
                server.process.send_signal(signal.SIGINT)
                await eventually(lambda: server.process.poll() is not None, "the server has ended")
                assert not any(map(alive, clients))


async def test_every_worker_reads_the_keys_again_at_sighup(tmp_path: Path) -> None:
    with trio.fail_after(BOUND_S), crew(tmp_path) as server:
        async with at_each(server) as clients:
            command = [sys.executable, "-m", "mcpd", "keys", "new", "laptop", "--data", "data", "--json"]
            made = partial(subprocess.run, command, cwd=tmp_path, env=environment(), capture_output=True, check=True)
            await trio.to_thread.run_sync(made)
            for client in clients.values():
                assert (await client.ask("tools/list")).status == 200
            server.process.send_signal(signal.SIGHUP)
            for client in clients.values():
                with trio.fail_after(WAIT_S):
                    while (await client.ask("tools/list")).status != 401:  # noqa: ASYNC110 - no bell rings
                        await trio.sleep(0.01)
    assert (tmp_path / "log").read_text().count("keys reloaded: 1 in") == 2


async def test_any_worker_shows_the_metrics_of_all(tmp_path: Path) -> None:
    with trio.fail_after(BOUND_S), crew(tmp_path) as server:
        async with at_each(server) as clients:
            one, other = clients.values()
            before = (await metrics(one))[PIDS]
            for number in range(1, 6):
                await pid_at(one)
                await pid_at(other)
                first, second = await metrics(one), await metrics(other)
                assert first[PIDS] == second[PIDS] == before + 2 * number
            second = await metrics(other)
            assert second["mcpd_worker_restarts_total"] == 0
            assert second['mcpd_connections{transport="http"}'] >= 2
            assert second['mcpd_tool_duration_seconds_count{tool="pid"}'] == second[PIDS]


async def test_a_scrape_does_not_wait_for_a_worker_that_hangs(tmp_path: Path) -> None:
    ends: dict[str, Any] = {}
    with trio.fail_after(BOUND_S):
        with crew(tmp_path, QUICK, code=1) as server:
            async with at_each(server) as clients, trio.open_nursery() as calls:
                held, free = clients.values()
                before = (await metrics(free))[PIDS]
                calls.start_soon(call, held, "hold_loop", tmp_path / "held", ends)
                await started(tmp_path / "held")
                await pid_at(free)
                assert (await metrics(free))[PIDS] == before + 1
                server.process.send_signal(signal.SIGTERM)
                await eventually(lambda: server.process.poll() is not None, "the server has ended")
                assert not any(map(alive, clients))


async def test_any_worker_serves_a_session_until_it_ends(tmp_path: Path) -> None:
    with trio.fail_after(BOUND_S), crew(tmp_path) as server:
        async with at_each(server) as clients:
            one, other = clients.values()
            await one.initialize()
            other.session = one.session
            for client in (one, other):
                assert (await client.call("tools/list")).result["tools"]
            assert (await other.http.delete("/mcp", headers=other.session)).status_code == 204
            assert (await other.call("tools/list")).status == 404
        async with trio_websocket.open_websocket_url(f"{server.url.replace('http', 'ws')}/ws") as ws:
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            await ws.send_message(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}))
            assert '"serverInfo"' in await ws.get_message()


async def test_scrapes_have_a_listener_of_their_own_that_workers_share(tmp_path: Path, free_port: int) -> None:
    settings = f'[server]\nmetrics_bind = "127.0.0.1:{free_port}"\n'
    with trio.fail_after(BOUND_S), crew(tmp_path, settings) as server:
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            for _ in range(5):
                scraped = await http.get(f"http://127.0.0.1:{free_port}/metrics", headers={"connection": "close"})
                assert "mcpd_worker_restarts_total 0" in scraped.text
            assert (await http.get(f"{server.url}/metrics")).status_code == 404


async def test_workers_that_share_no_redis_divide_rates_and_hear_of_documents(tmp_path: Path) -> None:
    settings = '[limits]\ntool_rate = "20/h"\n'
    with trio.fail_after(BOUND_S), crew(tmp_path, settings, "--tools", str(PUT)) as server:
        wanted = {"resourceSubscriptions": ["docs:///notes/0", "docs:///notes/1"]}
        body, headers = stateless("subscriptions/listen", {"notifications": wanted})
        async with client_of(server) as ear, ear.streaming("POST", body, headers) as reader:
            assert (await reader.message())["method"] == "notifications/subscriptions/acknowledged"
            async with at_each(server) as clients:
                for number, client in enumerate(clients.values()):
                    arguments = {"data": "data", "uri": f"docs:///notes/{number}", "text": "x"}
                    assert (await client.ask("tools/call", {"name": "put", "arguments": arguments})).status == 200
                    heard = await reader.message()
                    assert heard["params"]["uri"] == f"docs:///notes/{number}"
                reply = await client.ask("tools/call", {"name": "echo", "arguments": {"text": "x"}})
                assert reply.headers["ratelimit-policy"] == '"tool";q=10;w=3600'


@pytest.mark.parametrize("scheme", ["https", "fd"])
async def test_workers_serve_what_one_process_serves(tmp_path: Path, scheme: str, need: Callable[[str], Path]) -> None:
    """TLS, and a socket that was inherited."""
    flags: tuple[str, ...]
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        if scheme == "https":
            words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
            made = [str(need("openssl")), *words, "-keyout", "key.pem", "-out", "cert.pem"]
            run = partial(subprocess.run, made, cwd=tmp_path, check=True, capture_output=True)
            await trio.to_thread.run_sync(run)
            flags = ("--tls-cert", "cert.pem", "--tls-key", "key.pem")
        else:
            flags = ("--bind", f"fd://{inherited.fileno()}")
        with trio.fail_after(BOUND_S), crew(tmp_path, "", *flags, pass_fds=[inherited.fileno()]) as server:
            assert server.url.startswith("https" if scheme == "https" else "http:")
            async with at_each(server) as clients:
                assert len(clients) == 2


def test_what_is_wrong_for_all_workers_is_said_once_and_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    for flags, code in ((["--tools", "broken.py"], 1), (["--host", "0.0.0.0"], 2)):
        words = [sys.executable, "-m", "mcpd", "serve", "--workers", "3", "--port", "0", *flags]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=BOUND_S, check=False
        )
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert done.stderr.startswith("mcpd: ")
        assert done.stderr.count("\n") == 1, done.stderr


async def test_tools_that_break_later_do_not_end_the_workers_that_serve(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    module.write_text(MINE)
    with trio.fail_after(BOUND_S), crew(tmp_path, "", "--tools", str(module)) as server:
        async with at_each(server) as clients:
            victim, other = clients
            module.write_text("import nothing_of_that_name\n")
            os.kill(victim, signal.SIGKILL)
            log = tmp_path / "log"
            await eventually(lambda: "exit code 1; another starts in" in log.read_text(), "the new one dies")
            assert await pid_at(clients[other]) == other
            module.write_text(MINE)
            await new_pid(server, set(clients))


async def test_workers_serve_on_one_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "mcpd.sock"
    words = [sys.executable, "-m", "mcpd", "serve", "--workers", "2", "--bind", f"unix:{path}", "--tools", str(TOOLS)]
    with trio.fail_after(BOUND_S):
        process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE)  # noqa: ASYNC220
        try:
            assert process.stdout is not None
            banner = process.stdout.readline() + process.stdout.readline()
            assert b"mcpd.sock" in banner
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(base_url="http://localhost", transport=transport) as http:
                assert (await http.get("/healthz")).status_code == 200
        finally:
            process.terminate()
            process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
