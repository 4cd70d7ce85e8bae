"""What a stateful HTTP session leaves in the shared store, and what is made of it again.

A session's state becomes a record and a record a state; `change` commits what a session's method does before its caller
is answered; `Endings` are sessions that the store must not bring back.

Called by: `messages.sessions`. Calls: a `SessionStore`, `wire.session`. Deliberately not: which sessions there are in
this process, or when one is forgotten.

Laws: what a client can refer to is committed before it is sent; changes are decided on what is stored (law 5): whoever
comes second starts again from there; a store that does not answer is `StoreUnavailable`, never an unknown session.

Sources: SES-3..7; MCP 2025-11-25 transports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from mcpd.errors import InvalidRequest, StoreUnavailable
from mcpd.storage.refusals import SESSIONS, answering
from mcpd.storage.session_records import SessionRecord, retimed
from mcpd.storage.shared import SessionStore
from mcpd.wire.call import Principal
from mcpd.wire.session import SessionState
from mcpd.wire.versions import STATEFUL

MAX_ATTEMPTS: Final = 20
"""To change a record that others change, too; a client changes its own session, one thing at a time."""

Edit = Callable[[SessionState], None]


def record_of(key: str, state: SessionState, principal: Principal, rev: int) -> SessionRecord:
    """Return the record of a session in this state."""
    return SessionRecord(
        key=key,
        principal=principal.id,
        share=principal.share,
        scopes=_scopes(principal),
        revision=state.version,
        capabilities=state.capabilities,
        client=state.client,
        initialized=state.initialized,
        log_level=state.log_level,
        subscriptions=dict(state.subscriptions),
        rev=rev,
    )


def state_of(record: SessionRecord) -> SessionState:
    """Return the state that a record tells of."""
    params: dict[str, Any] = {
        "protocolVersion": record.revision,
        "capabilities": record.capabilities,
        "clientInfo": {"name": "", **record.client},
    }
    state = SessionState(params)
    state.initialized, state.log_level = record.initialized, record.log_level
    state.subscriptions = dict(record.subscriptions)
    return state


def belongs(record: SessionRecord, principal: Principal) -> bool:
    """True if `principal` has this session: its key, with the same scopes, and a revision that is served here."""
    same = (record.principal, record.scopes) == (principal.id, _scopes(principal))
    return same and record.revision in STATEFUL


def _scopes(principal: Principal) -> tuple[str, ...]:
    return tuple(sorted(principal.scopes))


async def change(store: SessionStore, record: SessionRecord, principal: Principal, edit: Edit) -> SessionRecord:
    """Let `edit` change a session, beginning with `record`, and return what is stored then.

    Raises: what `edit` raises, with nothing changed; InvalidRequest when the session has ended; StoreUnavailable.
    """
    for _ in range(MAX_ATTEMPTS):
        state = state_of(record)
        edit(state)
        wanted = record_of(record.key, state, principal, record.rev + 1)
        with answering(SESSIONS):
            after = await store.replace(wanted)
        if after is None:
            raise InvalidRequest("This session has ended; initialize again")
        if retimed(wanted, after) == after:
            return after
        record = after
    raise StoreUnavailable("This session is changed by too many requests at once; try again")


class Endings:
    """Sessions that have ended here while the store has still to be told. Bounded by how many there were here."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._keys: dict[str, None] = {}
        self._news = trio.Event()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        """Take a session that has ended. Not a checkpoint."""
        self._keys[key] = None
        self._news.set()

    async def wait(self) -> None:
        """Return when there is one more. Cancellation: safe."""
        await self._news.wait()
        self._news = trio.Event()

    async def tell(self) -> list[str]:
        """Tell the store; return which. Raises: StorageError, and nothing is lost. Cancellation: likewise."""
        ended = list(self._keys)
        if ended:
            await self._store.remove(ended)
        for key in ended:
            self._keys.pop(key, None)
        return ended
