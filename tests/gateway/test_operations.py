"""The operators' transport over Quart-Trio's own test client."""

from __future__ import annotations

from pathlib import Path

import pytest
from quart_trio import QuartTrio

from mcpd.config import Server
from mcpd.gateway.access import Access
from mcpd.gateway.keys import KeyStore
from mcpd.gateway.operations import health_routes, metrics_routes
from mcpd.monitoring.health import Finding, Health
from mcpd.monitoring.metrics import Metrics


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.toml")


def application(health: Health, keys: KeyStore | None = None) -> QuartTrio:
    app = QuartTrio(__name__)
    app.register_blueprint(health_routes(health))
    app.register_blueprint(metrics_routes(Metrics(), None if keys is None else Access(Server(), keys)))
    return app


async def test_health_asks_nobody() -> None:
    health = Health()
    health.draining = True
    reply = await application(health).test_client().get("/healthz")
    assert (reply.status_code, await reply.get_data()) == (200, b"ok\n")


async def test_readiness_says_one_line_per_dependency_and_stops_while_draining() -> None:
    async def stuck() -> Finding:
        return Finding("degraded", "20 abandoned")

    health = Health()
    health.add("threads", stuck, required=True)
    client = application(health).test_client()
    reply = await client.get("/readyz")
    lines = (await reply.get_data(as_text=True)).splitlines()
    assert (reply.status_code, lines[0]) == (200, "degraded: threads")
    assert lines[1].startswith("threads degraded ")
    assert lines[1].endswith("20 abandoned")
    health.draining = True
    reply = await client.get("/readyz")
    assert (reply.status_code, await reply.get_data(as_text=True)) == (503, "draining\n")


async def test_probes_and_scrapes_come_with_any_host(keys: KeyStore) -> None:
    client = application(Health(), keys).test_client()
    for path in ("/healthz", "/readyz", "/metrics"):
        reply = await client.get(path, headers={"Host": "10.1.2.3:8000", "Origin": "http://evil.example"})
        assert reply.status_code == 200


async def test_a_scrape_is_given_the_format_it_asks_for(keys: KeyStore) -> None:
    client = application(Health(), keys).test_client()
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    reply = await client.get("/metrics", headers={"Accept": accept})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert (await reply.get_data(as_text=True)).endswith("# EOF\n")
    plain = await client.get("/metrics")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_metrics_need_their_scope_as_soon_as_there_are_keys(keys: KeyStore) -> None:
    prober, caller = keys.new("prober", ["metrics"]).reveal(), keys.new("caller", ["admin"]).reveal()
    client = application(Health(), keys).test_client()
    nobody = await client.get("/metrics")
    assert (nobody.status_code, nobody.headers["WWW-Authenticate"]) == (401, "Bearer")
    wrong = await client.get("/metrics", headers={"Authorization": f"Bearer {caller}"})
    assert wrong.status_code == 403
    right = await client.get("/metrics", headers={"Authorization": f"Bearer {prober}"})
    assert right.status_code == 200
    assert 'mcpd_rejected_total{reason="scope"} 1.0' in await right.get_data(as_text=True)


async def test_metrics_on_a_listener_of_their_own_need_no_key() -> None:
    reply = await application(Health(), None).test_client().get("/metrics")
    assert reply.status_code == 200
