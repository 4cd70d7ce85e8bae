"""The transport for operators: `/healthz`, `/readyz`, `/metrics`.

Ordinary Quart routes, since nobody calls them often. Probes and scrapes come with the address of a pod, so neither Host
nor Origin is checked; `/metrics` needs a key with the scope `metrics` as soon as there are keys, unless it has a
listener of its own.

Called by: `gateway.app`, which registers the blueprints. Calls `monitoring.health`, `monitoring.metrics` and
`gateway.access`. Deliberately not: a public page; nothing here says what tools exist or who calls.

Sources: surfaces "HTTP", "Access"; Kubernetes probes; Prometheus exposition formats.
"""

from __future__ import annotations

from typing import cast

from quart import Blueprint, Response, request

from mcpd.gateway.access import Access, Refusal
from mcpd.gateway.asgi import REASON, Scope
from mcpd.monitoring.health import Health
from mcpd.monitoring.metrics import Metrics

_TEXT = "text/plain; charset=utf-8"
_NO_ANSWER = b"The other workers' metrics cannot be had; try again\n"


def health_routes(health: Health) -> Blueprint:
    """Return `/healthz` (200 while the process can serve) and `/readyz` (200 or 503, one line per dependency)."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    async def healthz() -> Response:
        return _reply(b"ok\n", _TEXT)

    @blueprint.get("/readyz")
    async def readyz() -> Response:
        readiness = await health.readiness()
        return _reply(readiness.text().encode(), _TEXT, readiness.status)

    return blueprint


def metrics_routes(metrics: Metrics, access: Access | None) -> Blueprint:
    """Return `/metrics`. `access` None means that its listener is for scrapes alone and asks for no key."""
    blueprint = Blueprint("metrics", __name__)

    @blueprint.get("/metrics")
    async def scrape() -> Response:
        refusal = _refusal(metrics, access)
        if refusal is not None:
            return refusal
        scraped = await metrics.scrape(request.headers.get("Accept"))
        return _reply(_NO_ANSWER, _TEXT, 503) if scraped is None else _reply(*scraped)

    return blueprint


def _refusal(metrics: Metrics, access: Access | None) -> Response | None:
    if access is None:
        return None
    credentials = request.headers.getlist("Authorization")
    raw = ", ".join(credentials).encode("latin-1", "replace") if credentials else None
    caller = access.require(raw, "metrics")
    if not isinstance(caller, Refusal):
        return None
    metrics.rejected(caller.reason)
    cast(Scope, request.scope)[REASON] = caller.message
    response = _reply(f"{caller.message}\n".encode(), _TEXT, caller.status)
    for name, value in caller.headers:
        response.headers[name.decode()] = value.decode()
    return response


def _reply(body: bytes, content_type: str, status: int = 200) -> Response:
    return Response(body, status, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
