"""THE table of REST: which path and method ask for what.

A row names the method of the Message Manager that answers it, and how its parameters are taken from the path. `find`
is the only reader: an unknown path is None, a known one without that method is the methods it has.

Called by: `gateway.rest.api`. Pure.

Sources: surfaces "REST"; RFC 9110 section 15.5.6; RFC 3986 section 3.3.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import unquote

PREFIX: Final = "/api/v1"


class Route(NamedTuple):
    """One row. A segment of `path` in braces is a parameter of the call."""

    method: str
    path: str
    calls: str
    status: int = 200
    """Of the reply that tells of success; 204 has no body."""


ROUTES: Final = (
    Route("GET", "/calls", "dev.mcpd/calls/list"),
    Route("DELETE", "/calls/{id}", "dev.mcpd/calls/cancel", 204),
)


class Found(NamedTuple):
    """A row, and the parameters that the path holds."""

    route: Route
    params: dict[str, Any]


def find(method: str, raw_path: str) -> Found | tuple[str, ...] | None:
    """Return what a request for `raw_path`, still percent-encoded and behind `PREFIX`, asks for."""
    given, allowed = raw_path.split("/"), []
    for route in ROUTES:
        params = _matched(route.path.split("/"), given)
        if params is not None:
            if route.method == method:
                return Found(route, params)
            allowed.append(route.method)
    return tuple(allowed) or None


def _matched(wanted: list[str], given: list[str]) -> dict[str, Any] | None:
    if len(wanted) != len(given):
        return None
    params = {}
    for want, have in zip(wanted, given, strict=True):
        if want.startswith("{") and have:
            params[want[1:-1]] = unquote(have)
        elif want != have:
            return None
    return params
