"""HTTP without sessions: what a server of several workers that share no sessions says to clients of older revisions.

Any worker could find a session's record, but its questions, cancellations and streams stay with the worker that has
them, and which worker gets the next connection is chance; so `initialize` is refused with the reason and the ways out.
WebSocket sessions are bound to their connection, and stateless requests need no session: both are served as ever.

Called by: `gateway.app`, instead of `StatefulHttp`. Deliberately not: a transport of its own.

Laws: the refusal has no code that a client takes for the stateless era (ERA-10).
"""

from __future__ import annotations

from mcpd.errors import InvalidRequest
from mcpd.gateway.readers import Post
from mcpd.gateway.stateful_http import StatefulHttp
from mcpd.wire import jsonrpc
from mcpd.wire.versions import STATELESS


class SessionlessHttp(StatefulHttp):
    """Serves what belongs to a session, of which there are none."""

    async def _initialize(self, _request: jsonrpc.Request, _post: Post) -> None:
        raise InvalidRequest(
            "This server has several workers, which share no sessions (server.workers = 1 has them):"
            f" send MCP-Protocol-Version: {STATELESS}, or initialize on the WebSocket /ws"
        )
