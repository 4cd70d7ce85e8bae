"""Sessions over HTTP where several workers serve each: any of them takes the next request, so no client is asked.

The record of a session is shared, so every worker knows it. What it has under way is not: the answer to a question
would come to whichever worker takes the connection, and the one that waits would hear nothing. So a session counts as
one whose client cannot be asked, and a tool that needs to ask is refused at once, with the reason. WebSocket
sessions are bound to their connection, and stateless requests need no session: both can be asked.

Called by: `gateway.app`, instead of `StatefulHttp`. Deliberately not: a transport of its own.
"""

from __future__ import annotations

from msgspec.structs import replace

from mcpd.gateway.readers import Post
from mcpd.gateway.stateful_http import StatefulHttp
from mcpd.wire import jsonrpc


class UnaskedHttp(StatefulHttp):
    """Serves what belongs to a session of all workers."""

    async def _initialize(self, request: jsonrpc.Request, post: Post) -> None:
        if isinstance(request.params.get("capabilities"), dict):
            request = replace(request, params={**request.params, "capabilities": {}})
        await super()._initialize(request, post)
