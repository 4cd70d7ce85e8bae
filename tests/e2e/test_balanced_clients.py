"""The real clients of `test_clients` against three servers that share Redis and a data folder, behind a plain balancer.

The balancer gives every connection to the next server, and a client opens several, so that what a lane does is spread
over all. The rows and what each must see are those of one server. Tasks go through the balancer, too, by the Python
SDK's interface for extensions; the TypeScript client has none.

Deliberately not: stdio, WebSockets, which are one connection each, and servers that come and go (`tests/chaos`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from tests.balancer import balancing
from tests.e2e import lanes, test_tasks
from tests.e2e.lanes import CLIENTS, LANES, Lane, Report
from tests.e2e.server import Server, serving
from tests.e2e.test_clients import ROWS, describe, expected, require
from tests.redis_servers import free_port
from tests.redis_servers import serving as redis_serving
from tests.served import environment
from tests.tasks.served import WORK

pytestmark = pytest.mark.slow
REPLICAS = 3
SETTINGS = """
[redis]
url = "{redis}"
[server]
public_url = "http://localhost:{port}"
"""
BALANCED = [lane for lane in LANES if lane.transport == "http"]
TASK_TOOLS = [
    *("hold_async", "hold_thread", "hold_process"),
    *("ask", "ask_in_thread", "ask_first_in_thread", "quick"),
]
CASES = [(lane, row) for lane in BALANCED for row in ROWS if row not in lane.lacks]


class Site(NamedTuple):
    """The replicas as the clients see them, and their ports."""

    server: Server
    port: int
    ports: list[int]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start Redis and the replicas; afterwards each has to stop cleanly."""
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    with ExitStack() as running:
        redis = running.enter_context(redis_serving("redis-7"))
        settings = SETTINGS.format(redis=redis.url, port=port)
        all_of_them = [
            running.enter_context(serving(folder, settings, "--tools", WORK, name=f"{n}.log")) for n in range(REPLICAS)
        ]
        bases = tuple(one.base for one in all_of_them)
        server = Server(f"localhost:{port}", folder / "marks", all_of_them[0].log, bases)
        yield Site(server, port, [int(base.rpartition(":")[2]) for base in bases])


@pytest.fixture(scope="module")
def report_of(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Lane], Report]:
    """Return the function that runs a lane, once, and gives its report."""
    known: dict[str, Report | BaseException] = {}

    async def run(lane: Lane, folder: Path) -> Report:
        async with balancing(*site.ports, port=site.port) as balancer:
            report = await lanes.run(lane, site.server, folder)
        assert min(balancer.dealt) > 0, f"not every replica has got a connection: {balancer.dealt}"
        return report

    def report(lane: Lane) -> Report:
        require(lane)
        if lane.name not in known:
            try:
                known[lane.name] = trio.run(run, lane, tmp_path_factory.mktemp("lane"))
            except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - each of the lane's tests tells it
                known[lane.name] = error
        found = known[lane.name]
        if isinstance(found, BaseException):
            pytest.fail(f"{lane.name}: {describe(found)}", pytrace=False)
        return found

    return report


@pytest.mark.parametrize(
    ("lane", "row"), [pytest.param(*case, id=f"{case[0].name}: {case[1]}".replace(" ", "-")) for case in CASES]
)
def test_a_real_client_gets_what_it_asks_for_from_any_replica(
    report_of: Callable[[Lane], Report], lane: Lane, row: str
) -> None:
    """STA-1, ERA-1, DIS-1, INI-1, TOOL-3, PRG-1, MRT-4, SUB-1, SUB-3, CAN-1."""
    seen = report_of(lane)[row]
    assert "failed" not in seen, seen["failed"]
    assert seen == wanted(lane, row, seen)


def wanted(lane: Lane, row: str, seen: Any) -> Any:
    """Return what a lane must see in a row: these servers have the tools that are tasks besides."""
    found = expected(lane, row, seen)
    return {**found, "tools": [*found["tools"], *TASK_TOOLS]} if row == "list" else found


async def run_program(site: Site, command: list[str], folder: Path) -> Any:
    """Run a client program behind the balancer; return the JSON that it prints."""
    async with balancing(*site.ports, port=site.port) as balancer:
        with trio.fail_after(test_tasks.RUN_S):
            done = await trio.run_process(command, capture_stdout=True, env=environment(), cwd=folder)
    assert balancer.dealt.count(0) <= 1, f"one replica has got all connections: {balancer.dealt}"
    return json.loads(done.stdout)


def test_the_python_sdk_finishes_tasks_of_any_replica(site: Site, tmp_path: Path) -> None:
    """TSK-3, TSK-5, TSK-6, TSK-7, TSK-12, STA-1."""
    test_tasks.judge(trio.run(run_program, site, test_tasks.command(site.server.mcp, tmp_path), tmp_path))


def test_the_typescript_client_has_not_learnt_tasks(site: Site, tmp_path: Path) -> None:
    """TSK-1, TSK-2: it refuses what it declared; who declares nothing gets the result. Then it gets a lane of tasks."""
    require(next(lane for lane in LANES if lane.node))
    seen = trio.run(run_program, site, ["node", str(CLIENTS / "typescript_tasks.mjs"), site.server.mcp], tmp_path)
    assert seen["without"] == {"version": lanes.STATELESS, "text": "done"}
    assert seen["with"].get("text") is None, "it has learnt tasks"
    assert "result type 'task'" in seen["with"]["refused"]
