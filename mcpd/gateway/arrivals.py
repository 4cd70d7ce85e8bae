"""How a request arrives, the same on every path: it gets its name, is judged by its head, and its page may read why.

Called by: `gateway.streamable_http`, `gateway.rest.api`, which answer in their own formats. Calls: `gateway.access`.
Deliberately not: a body, or anything that the request asks for.

Sources: SEC-1..3, HDR-15; Fetch "CORS protocol"; surfaces "Everywhere".
"""

from __future__ import annotations

from typing import NamedTuple

from mcpd.gateway.access import FOREIGN, Access, Refusal, cors, preflight
from mcpd.gateway.asgi import Head, RequestNames, Responder, Scope, Send
from mcpd.wire.call import Principal

_NO_CONTENT = 204


class Arrival(NamedTuple):
    """A request whose head has been judged. `caller`: who calls; a Refusal: nobody may; None: it is a preflight."""

    head: Head
    responder: Responder
    caller: Principal | Refusal | None


class Arrivals:
    """Judges the requests of one path."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._names = RequestNames()

    def judge(self, scope: Scope, send: Send) -> Arrival:
        """Name a request and judge its head. Not a checkpoint."""
        head = Head(scope)
        self._names.name(scope, head.named.get(b"x-request-id"))
        responder = Responder(send, scope, head.client)
        if scope["method"] == "OPTIONS":
            return Arrival(head, responder, self._access.admit_anyone(head))
        caller, origin = self._access.admit(head), head.named.get(b"origin")
        if origin is not None and not (isinstance(caller, Refusal) and caller.reason in FOREIGN):
            responder.add(cors(origin))
        return Arrival(head, responder, caller)


async def answer_preflight(arrival: Arrival) -> None:
    """Tell a page what it may send."""
    await arrival.responder.whole(_NO_CONTENT, b"", preflight(arrival.head.named))
