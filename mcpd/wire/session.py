"""The stateful handshake as a machine, and the era lock of a connection that carries many requests.

`Lifecycle` decides what a message may do on a duplex connection (stdio, WebSocket): one table, state x event. It never
blocks and owns no clock. `SessionState` is what an `initialize` fixes for the rest of a session, plus what the session
methods change: log level and resource subscriptions.

        UNDECIDED --initialize--> STATEFUL          UNDECIDED --marked request--> STATELESS
        `server/discover` (marked) is answered in every state and locks nothing; so is `ping` before the choice.

Called by: `messages.duplex`, `messages.sessions`, `messages.records`. Deliberately not: HTTP sessions' ids, streams or
timeouts.

Sources: IO-5, INI-1..7, WS-4; MCP 2025-11-25 basic/lifecycle.
"""

from __future__ import annotations

from copy import copy
from enum import Enum
from typing import Any

from mcpd.errors import InvalidParams, InvalidRequest, UnsupportedVersion, WireError, counted
from mcpd.wire import jsonrpc
from mcpd.wire.call import Call, Principal
from mcpd.wire.envelope import (
    IDEMPOTENCY_KEY,
    marked,
    read_idempotency_key,
    read_log_level,
    read_progress_token,
    read_timeout,
    read_traceparent,
)
from mcpd.wire.jsonrpc import Malformed, Message, Request
from mcpd.wire.subscriptions import check_lengths
from mcpd.wire.uris import normalise
from mcpd.wire.versions import STATEFUL, STATELESS, SUPPORTED_STATELESS, can, negotiate

MAX_CAPABILITIES = 256
"""Names, on two levels; the specification has about ten, extensions add a few."""
MAX_CAPABILITY_CHARACTERS = 256
"""Of one name; those of extensions are reversed domain names."""
MAX_CLIENT_CHARACTERS = 256
"""Of a client's name and version, as far as they are kept."""


_KEPT_OF_CLIENT = ("name", "version")


class Era(Enum):
    """What a connection has been locked to."""

    UNDECIDED = "undecided"
    STATEFUL = "stateful"
    STATELESS = "stateless"


class Event(Enum):
    """What a request is, as far as the lock cares."""

    DISCOVER = "discover"
    MARKED = "marked"
    INITIALIZE = "initialize"
    PING = "ping"
    OTHER = "other"


class Action(Enum):
    """What the connection does with it."""

    SERVE_STATELESS = "serve stateless"
    SERVE_STATEFUL = "serve stateful"
    OPEN_SESSION = "open session"
    REFUSE_UNMARKED = "refuse: no version given"
    REFUSE_MARKED = "refuse: the connection is stateful"
    REFUSE_INITIALIZE = "refuse: the connection is stateless"
    REFUSE_AGAIN = "refuse: already initialized"


_TABLE: dict[tuple[Era, Event], tuple[Action, Era]] = {
    (Era.UNDECIDED, Event.DISCOVER): (Action.SERVE_STATELESS, Era.UNDECIDED),
    (Era.UNDECIDED, Event.MARKED): (Action.SERVE_STATELESS, Era.STATELESS),
    (Era.UNDECIDED, Event.INITIALIZE): (Action.OPEN_SESSION, Era.STATEFUL),
    (Era.UNDECIDED, Event.PING): (Action.SERVE_STATEFUL, Era.UNDECIDED),
    (Era.UNDECIDED, Event.OTHER): (Action.REFUSE_UNMARKED, Era.UNDECIDED),
    (Era.STATEFUL, Event.DISCOVER): (Action.SERVE_STATELESS, Era.STATEFUL),
    (Era.STATEFUL, Event.MARKED): (Action.REFUSE_MARKED, Era.STATEFUL),
    (Era.STATEFUL, Event.INITIALIZE): (Action.REFUSE_AGAIN, Era.STATEFUL),
    (Era.STATEFUL, Event.PING): (Action.SERVE_STATEFUL, Era.STATEFUL),
    (Era.STATEFUL, Event.OTHER): (Action.SERVE_STATEFUL, Era.STATEFUL),
    (Era.STATELESS, Event.DISCOVER): (Action.SERVE_STATELESS, Era.STATELESS),
    (Era.STATELESS, Event.MARKED): (Action.SERVE_STATELESS, Era.STATELESS),
    (Era.STATELESS, Event.INITIALIZE): (Action.REFUSE_INITIALIZE, Era.STATELESS),
    (Era.STATELESS, Event.PING): (Action.REFUSE_UNMARKED, Era.STATELESS),
    (Era.STATELESS, Event.OTHER): (Action.REFUSE_UNMARKED, Era.STATELESS),
}


def event_of(request: Request) -> Event:
    """Name what `request` is for the lock."""
    if marked(request.params):
        return Event.DISCOVER if request.method == "server/discover" else Event.MARKED
    if request.method == "initialize":
        return Event.INITIALIZE
    return Event.PING if request.method == "ping" else Event.OTHER


class Lifecycle:
    """The era lock of one duplex connection."""

    def __init__(self) -> None:
        self.era = Era.UNDECIDED

    def reopen(self) -> None:
        """Take the choice back: the `initialize` that made it was refused."""
        self.era = Era.UNDECIDED

    def receive(self, request: Request) -> Action:
        """Advance by one request and return what to do with it. Raises: WireError for every refusal."""
        action, self.era = _TABLE[self.era, event_of(request)]
        refusal = _refusal(action, request)
        if refusal is not None:
            raise refusal
        return action


def _refusal(action: Action, request: Request) -> WireError | None:
    if action is Action.REFUSE_UNMARKED:
        known = ", ".join((STATELESS, *STATEFUL))
        return InvalidParams(
            f"This request names no protocol version. Send initialize first, or put the version "
            f"into params._meta; supported: {known}"
        )
    if action is Action.REFUSE_MARKED:
        return InvalidRequest("This connection was opened by initialize; a stateless request needs its own connection")
    if action is Action.REFUSE_INITIALIZE:
        return UnsupportedVersion(str(request.params.get("protocolVersion")), SUPPORTED_STATELESS)
    if action is Action.REFUSE_AGAIN:
        return InvalidRequest("This session is already initialized")
    return None


class SessionState:
    """What one stateful session has agreed on and asked for. Changed only by its own methods, which never block."""

    def __init__(self, params: dict[str, Any]) -> None:
        """Read the parameters of `initialize`. Raises: InvalidParams (INI-1, INI-3)."""
        self._check_meta(params.get("_meta") or {})
        version, capabilities, client = (params.get(k) for k in ("protocolVersion", "capabilities", "clientInfo"))
        if not isinstance(version, str):
            raise InvalidParams("initialize needs params.protocolVersion, a string")
        if not isinstance(capabilities, dict):
            raise InvalidParams("initialize needs params.capabilities, an object")
        if not (isinstance(client, dict) and isinstance(client.get("name"), str)):
            raise InvalidParams("initialize needs params.clientInfo, an object with a name and a version")
        self.version = negotiate(version)
        self.capabilities = _known_to(self.version, outline(capabilities))
        self.client = {k: client[k][:MAX_CLIENT_CHARACTERS] for k in _KEPT_OF_CLIENT if isinstance(client.get(k), str)}
        self.initialized = False
        self.log_level = "info"
        self.subscriptions: dict[str, str] = {}
        """Watched URIs: normal form -> as the client spelt it."""

    def copy(self) -> SessionState:
        """Return a state of its own that is the same now."""
        same = copy(self)
        same.subscriptions = dict(self.subscriptions)
        return same

    def adopt(self, other: SessionState) -> None:
        """Take over what a session's methods change, in place: whoever looks at the subscriptions sees it."""
        self.initialized = other.initialized
        self.log_level = other.log_level
        if self.subscriptions != other.subscriptions:
            self.subscriptions.clear()
            self.subscriptions.update(other.subscriptions)

    @staticmethod
    def _check_meta(meta: dict[str, Any]) -> None:
        read_progress_token(meta)
        read_timeout(meta)

    def set_level(self, params: dict[str, Any]) -> None:
        """Apply `logging/setLevel`. Raises: InvalidParams."""
        level = read_log_level(params.get("level"))
        if level is None:
            raise InvalidParams("logging/setLevel needs params.level")
        self.log_level = level

    def subscribe(self, params: dict[str, Any], *, max_uris: int) -> None:
        """Apply `resources/subscribe`. Raises: InvalidParams, also when the session watches too much already."""
        uri = read_uri(params)
        form = normalise(uri)
        if form not in self.subscriptions and len(self.subscriptions) >= max_uris:
            raise InvalidParams(
                f"This session already watches {counted(max_uris, 'resource')}; unsubscribe from one first"
            )
        check_lengths({**self.subscriptions, form: uri}.values())
        self.subscriptions[form] = uri

    def unsubscribe(self, params: dict[str, Any]) -> None:
        """Apply `resources/unsubscribe`; an unknown URI is no error. Raises: InvalidParams."""
        self.subscriptions.pop(normalise(read_uri(params)), None)

    def open_call(
        self, request: Request, transport: str, *, principal: Principal, request_id: str, session: str
    ) -> Call:
        """Build the call of a request under this session. Raises: InvalidParams for ill-typed `_meta` members."""
        meta = request.params.get("_meta") or {}
        return Call(
            method=request.method,
            params=request.params,
            version=self.version,
            transport=transport,
            id=request.id,
            principal=principal,
            capabilities=self.capabilities,
            log_level=self.log_level,
            progress_token=read_progress_token(meta),
            timeout_ms=read_timeout(meta),
            idempotency_key=key if (key := meta.get(IDEMPOTENCY_KEY)) is None else read_idempotency_key(key),
            request_id=request_id,
            traceparent=read_traceparent(meta),
            client=self.client["name"],
            session=session,
        )


def outline(capabilities: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked about a client's capabilities: their names and those one level below, nothing else.

    Raises: InvalidParams when there are more, or longer ones, than any client has.
    """
    kept: dict[str, dict[str, Any] | None] = {
        name: {inner: {} for inner in value} if isinstance(value, dict) else None
        for name, value in capabilities.items()
    }
    names = [*kept, *(inner for value in kept.values() for inner in value or ())]
    if len(names) > MAX_CAPABILITIES or any(len(name) > MAX_CAPABILITY_CHARACTERS for name in names):
        raise InvalidParams(
            f"params.capabilities may have {MAX_CAPABILITIES} names of {MAX_CAPABILITY_CHARACTERS} characters"
        )
    return kept


def _known_to(version: str, capabilities: dict[str, Any]) -> dict[str, Any]:
    """Return the capabilities without those that `version` has no word for: they are never asked for (S2C-1)."""
    if can(version, "elicitation"):
        return capabilities
    return {name: value for name, value in capabilities.items() if name != "elicitation"}


def parse_batch(value: list[Any], *, max_items: int) -> list[Message]:
    """Take a session's batch apart; an `initialize` in it is malformed (BAT-2). Raises: InvalidRequest, as below."""
    return [_not_initialize(message) for message in jsonrpc.parse_batch(value, max_items=max_items)]


def _not_initialize(message: Message) -> Message:
    if isinstance(message, Request) and message.method == "initialize":
        return Malformed(InvalidRequest("initialize must not be part of a batch"), message.id)
    return message


def read_uri(params: dict[str, Any]) -> str:
    """Return `params.uri`. Raises: InvalidParams."""
    uri = params.get("uri")
    if not isinstance(uri, str) or not uri:
        raise InvalidParams("params.uri must be a non-empty string")
    return uri
