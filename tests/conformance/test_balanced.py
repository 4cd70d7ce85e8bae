"""The official conformance suite against three servers that share Redis and a data folder, through a plain balancer.

The balancer deals out connections in turn and the suite opens one for each request, so that no two requests of a
scenario in a row are served by the same replica. Both revisions have to be as clean as with one server.

The suite cannot see everything: it is content when a question of a tool has reached it and does not look at what became
of its answer, so that is tested here besides.

Deliberately not: replicas that come and go, which `tests/replicas` has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from tests.balancer import balancing
from tests.conformance.server import Server, serving
from tests.conformance.suite import PROMISED, SCORED, Run, required, run, suite
from tests.redis_servers import free_port
from tests.redis_servers import serving as redis_serving
from tests.served import WAIT_S, client_at

pytestmark = pytest.mark.slow
REPLICAS = 3
SETTINGS = """
[redis]
url = "{redis}"
[server]
public_url = "http://localhost:{port}"
"""


class Site(NamedTuple):
    """The replicas, and the port at which the balancer is to stand in front of them."""

    replicas: list[Server]
    port: int

    def balancing(self) -> Any:
        return balancing(*(replica.port for replica in self.replicas), port=self.port)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start Redis and the replicas; afterwards each has to stop in order."""
    suite()
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    with ExitStack() as running:
        redis = running.enter_context(redis_serving("redis-7"))
        settings = SETTINGS.format(redis=redis.url, port=port)
        names = [str(number) for number in range(REPLICAS)]
        yield Site([running.enter_context(serving(folder / name, folder / "data", settings)) for name in names], port)


class Runs(NamedTuple):
    """What the suite has found for each revision, and how many connections went to each replica."""

    found: dict[str, Run]
    dealt: list[int]


@pytest.fixture(scope="module")
def runs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Run the suite once for each revision."""
    return trio.run(_run_all, site, {revision: tmp_path_factory.mktemp("results") for revision in SCORED})


async def _run_all(site: Site, folders: dict[str, Path]) -> Runs:
    found = {}
    async with site.balancing() as balancer:
        for revision, folder in folders.items():
            take = partial(run, f"{balancer.url}/mcp", revision, folder, one_connection_each=True)
            found[revision] = await trio.to_thread.run_sync(take)
    return Runs(found, balancer.dealt)


@pytest.mark.parametrize("revision", SCORED)
def test_every_required_scenario_is_clean_through_a_balancer(runs: Runs, revision: str) -> None:
    """STA-1: a request depends on nothing that one replica alone knows."""
    found, scenarios = runs.found[revision], required(revision)
    assert set(scenarios) <= found.checks.keys(), found.printed
    unclean = {name: found.complaints(name) for name in scenarios if not found.proven(name)}
    assert unclean == {}
    assert len(scenarios) == SCORED[revision]


@pytest.mark.parametrize(("revision", "scenario"), PROMISED)
def test_a_promised_scenario_is_clean_through_a_balancer(runs: Runs, revision: str, scenario: str) -> None:
    """Tasks among them: any replica tells of, answers and cancels those that another one runs."""
    assert runs.found[revision].complaints(scenario) == []
    assert runs.found[revision].proven(scenario)


def test_the_requests_of_the_suite_were_dealt_out_to_all_replicas(runs: Runs) -> None:
    """The suite made more connections than one for each scenario, and no replica got more than its share."""
    scenarios = sum(len(found.checks) for found in runs.found.values())
    assert sum(runs.dealt) > 2 * scenarios
    assert max(runs.dealt) - min(runs.dealt) <= 1


def test_no_replica_has_met_an_internal_error(runs: Runs, site: Site) -> None:
    """A bug may hide behind an error that a scenario accepts; the logs would tell."""
    for replica in site.replicas:
        log = replica.log.read_text()
        assert len(log.splitlines()) > 50
        assert "internal_error" not in log
        assert "Traceback" not in log


def test_the_answer_to_a_question_may_come_to_another_replica(site: Site) -> None:
    """S2C-1. The connection of the call is one replica's, and the one that the answer comes on another's."""
    assert "ada@example.com" in str(trio.run(_ask, site))


async def _ask(site: Site) -> Any:
    call = {"name": "test_elicitation", "arguments": {"message": "Who are you?"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    answer = {"action": "accept", "content": {"username": "ada", "email": "ada@example.com"}}
    with trio.fail_after(WAIT_S):
        async with site.balancing() as balancer, client_at(balancer.url) as client:
            await client.initialize(capabilities={"elicitation": {}})
            async with client.streaming("POST", body, client.session) as reader:
                question = await reader.message()
                await client.post({"jsonrpc": "2.0", "id": question["id"], "result": answer}, client.session)
                return await reader.message()
