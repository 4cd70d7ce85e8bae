"""The names of streams: where one belongs, and which request it answers.

    ADDRESS.s              messages of a session that belong to no call
    ADDRESS.NUMBER         the reply to a POST
    ADDRESS.NUMBER.ID      the same, of one request whose id is short: `iNUMBER`, or `t` and the text in base64

An event's id is the name of its stream, `-` and a number. A client gives it back as `Last-Event-ID`, to whichever
process, which so knows whom to ask, and which request to answer with an error when nobody is left to ask.

Called by: `gateway.stateful_http`, `messages.resumption`. Pure. Deliberately not: whether there is such a stream.

Sources: MCP 2025-11-25 transports; RSM-1.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, NamedTuple

from mcpd.storage.inbox import ADDRESS
from mcpd.wire.call import RequestId

STANDALONE: Final = ".s"
"""How the name of a stream ends whose messages belong to no call."""

MAX_ID_BYTES: Final = 64
"""Of a request's id that stands in the name: it is sent with every event. A UUID has 36."""

_EVENT: Final = re.compile(
    rf"(?P<name>(?P<address>{ADDRESS})\.(?:s|[0-9]{{1,15}}(?:\.(?P<id>i-?[0-9]{{1,19}}|t[A-Za-z0-9_-]{{0,88}}))?))"
    r"-(?P<number>[0-9]{1,15})"
)


class Position(NamedTuple):
    """A place in a stream: behind its event `number`."""

    address: str
    """Of the process that the stream belongs to."""
    name: str
    request_id: RequestId | None
    """What the stream answers, where its name says so."""
    number: int

    @property
    def standalone(self) -> bool:
        """True for a stream whose messages belong to no call."""
        return self.name.endswith(STANDALONE)


def reply_name(address: str, number: int, request_id: RequestId | None) -> str:
    """Return the name of the reply to a POST; `request_id` is that of its only request."""
    name = f"{address}.{number}"
    if type(request_id) is int and abs(request_id) < 1 << 62:
        return f"{name}.i{request_id}"
    if type(request_id) is str and len(data := request_id.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES:
        return f"{name}.t{base64.urlsafe_b64encode(data).decode().rstrip('=')}"
    return name


def position_of(event_id: str) -> Position | None:
    """Return the place behind an event; None for an id that no process of ours gives."""
    found = _EVENT.fullmatch(event_id)
    if found is None:
        return None
    return Position(found["address"], found["name"], _request_id(found["id"]), int(found["number"]))


def _request_id(word: str | None) -> RequestId | None:
    if word is None:
        return None
    if word[0] == "i":
        return int(word[1:])
    try:
        return base64.urlsafe_b64decode(word[1:] + "==").decode()
    except (binascii.Error, ValueError):
        return None
