"""The methods that only concern a stateful session: `initialize`, `ping`, its log level, its subscriptions.

What they change of a session over HTTP is committed before the caller is answered (`messages.records`), and told to
other processes, where a stream of it may be open; a session of a connection is changed where it is.

Called by: `messages.sessions`. Calls: a `SessionStore`, `service`, `wire.session`. Deliberately not: which sessions
there are.

Laws: a session's method changes its own session alone; subscriptions are bounded (law 8).

Sources: MCP 2025-11-25 lifecycle; INI-1..7, PUB-1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mcpd.errors import ResourceNotFound
from mcpd.messages.interprocess import Interprocess
from mcpd.messages.records import Edit, change
from mcpd.messages.session import Session
from mcpd.service import McpService
from mcpd.storage.shared import SessionStore
from mcpd.wire.call import Call
from mcpd.wire.session import SessionState, read_uri


class SessionMethods:
    """Serves these methods for all sessions of this process."""

    def __init__(self, service: McpService, store: SessionStore, others: Interprocess, *, max_uris: int) -> None:
        """`max_uris` bounds the resources that one session is told of."""
        self._service = service
        self._store = store
        self._others = others
        self._max_uris = max_uris
        self._methods: dict[str, Callable[[Call, Session], Awaitable[dict[str, Any]]]] = {
            "initialize": self._initialize,
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }

    async def serve(self, call: Call, session: Session) -> dict[str, Any]:
        """Serve one call of this session.

        Raises: InvalidParams, InvalidRequest, ResourceNotFound, StoreUnavailable.
        """
        return await self._methods[call.method](call, session)

    async def initialized(self, session: Session) -> None:
        """Take `notifications/initialized`. Raises: InvalidRequest, StoreUnavailable."""
        session.initialized()
        await self._change(session, _mark_initialized)

    async def _change(self, session: Session, edit: Edit) -> None:
        if session.record is None:
            edit(session.state)
        else:
            record = await change(self._store, session.record, session.principal, edit)
            session.take(record)
            await self._others.changed(record)

    async def _initialize(self, call: Call, _session: Session) -> dict[str, Any]:
        return self._service.initialize(call.version)

    async def _set_level(self, call: Call, session: Session) -> dict[str, Any]:
        await self._change(session, lambda state: state.set_level(call.params))
        return {}

    async def _subscribe(self, call: Call, session: Session) -> dict[str, Any]:
        uri = read_uri(call.params)
        if not self._service.watchable(uri, call):
            raise ResourceNotFound(uri)
        await self._change(session, lambda state: state.subscribe(call.params, max_uris=self._max_uris))
        return {}

    async def _unsubscribe(self, call: Call, session: Session) -> dict[str, Any]:
        await self._change(session, lambda state: state.unsubscribe(call.params))
        return {}


def _mark_initialized(state: SessionState) -> None:
    state.initialized = True
