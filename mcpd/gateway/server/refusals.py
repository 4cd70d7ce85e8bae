"""What is refused before there is an ASGI application to ask: told in JSON like any other refusal, and logged once.

A head that is none, a version or method that is not served, a broken body, a handshake that cannot upgrade, a
connection too many. Such a reply has an `X-Request-Id` and says why; the log says the same, of whom, and what of the
request is known by then. What is no HTTP/2 gets no reply, its connection's end, and the same line in the log.

Called by: the other modules of `gateway.server`. Deliberately not: which of these is refused, the framing of a reply.

Laws: what a client sent is bounded before it is kept, and escaped where it is logged (`monitoring.logs`); a query is
not logged.

Sources: README "Logs"; surfaces "Everywhere" (X-Request-Id); RFC 9110 section 15.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from mcpd.gateway.asgi import REFUSED, REQUEST_ID, Headers, RequestNames, Scope
from mcpd.gateway.proxies import Proxies
from mcpd.monitoring.logs import RequestLine

SHOWN_BYTES = 256
"""Of a first line, and of a reason."""
_UNAVAILABLE = 503


class Refusals:
    """Names, words and logs them; `log` is `Logs.request`, `trusted` are the proxies that say who their client is."""

    def __init__(self, log: Callable[[RequestLine], None], trusted: Sequence[str] = ()) -> None:
        self._log = log
        self._proxies = Proxies(trusted)
        self._names = RequestNames()

    def refuse(self, scope: Scope, status: int, reason: str) -> tuple[Headers, bytes]:
        """Log the refusal of the request in `scope`, as far as that is known; return its reply's headers and body."""
        outcome = "rejected" if status == _UNAVAILABLE else "protocol_error"
        name = self._note(scope, outcome, reason, str(status))
        body = json.dumps({"detail": reason[:SHOWN_BYTES]}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        return [*headers, (b"x-request-id", name.encode())], body

    def hang_up(self, client: Any, reason: str) -> None:
        """Log the end of a connection on which nothing can be replied."""
        self._note(known_of(b"", (), client), "protocol_error", reason, "")

    def _note(self, scope: Scope, outcome: str, reason: str, status: str) -> str:
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        name = scope.get(REQUEST_ID) or self._names.name(scope, sent)
        scope[REFUSED] = True
        line = RequestLine(name, scope["type"], scope["method"], outcome, 0.0, target=scope["path"])
        self._log(line._replace(client=self._proxies.client_of(scope), status=status, detail=reason[:SHOWN_BYTES]))
        return name


def known_of(line: bytes, headers: Any, client: Any) -> Scope:
    """Return the scope of a request that is refused before it has one, out of the `line` that began it."""
    method, _, rest = line.partition(b"\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    return {
        "type": "http",
        "method": method.strip().decode("latin-1"),
        "path": path.strip().decode("latin-1"),
        "headers": list(headers),
        "client": client,
    }


def reason_of(error: Exception) -> str:
    """Return what is wrong, without what was sent."""
    return str(error).partition(":")[0]
