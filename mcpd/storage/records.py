"""Call records: who called what, when, and how it ended. Values, and the contract of their store.

    Record    one call that has ended, or was refused before it became one; what foreign text is in it is bounded
    Wanted    which records a reader asks for; all that is given has to fit
    Keep      what is kept: how old, and how many

The id of a record begins with the time at which its call ended, so that ids sort as records do, the same one is never
kept twice, and the id of the last record read is the cursor. Backends: `storage.memory`, `storage.sqlite`.

Called by: `messages.recorder`, which writes, and `commands.recording`, which reads. Deliberately not: what is recorded
of a call, and when it is written.

Laws: nothing here waits for a time that is an argument; a page has a bounded number of items.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from mcpd.storage.documents import BadCursor

MAX_PAGE_ITEMS: Final = 1000
_LATEST_US: Final = 16**14 - 1
_CURSOR: Final = re.compile(r"[0-9a-f]{26}")


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call. A text that is empty says that there was nothing to say."""

    id: str
    """See `id_of`."""
    ended_s: float
    """Seconds since the epoch."""
    seconds: float
    """How long it took."""
    outcome: str
    """As in the metrics: `ok`, `tool_error`, `protocol_error`, `cancelled`, `deadline`, `rejected`, `internal_error`.
    """
    reason: str = ""
    """Of a cancelled call who ended it, of a deadline whose it was, else which kind of error the client was told."""
    refused: bool = False
    """It was refused before it became a call."""
    transport: str
    method: str
    target: str = ""
    """Tool, prompt, URI or task."""
    principal: str = ""
    """Id of the caller's key; empty on a server without keys."""
    key: str = ""
    """What the key's owner calls it."""
    address: str = ""
    """Where the call came from."""
    client: str = ""
    """What the client's program calls itself."""
    request_id: str = ""
    trace_id: str = ""
    task: str = ""
    """The task whose work this call was."""
    digest: bytes = b""
    """SHA-256 of the arguments as JSON in UTF-8, keys sorted, without blanks; empty where there are none."""
    arguments: str = ""
    """What is kept of the arguments: JSON, cut off where it got too long."""
    arguments_bytes: int = 0
    """Of the JSON that `digest` is of."""
    result_bytes: int = 0
    """Of the result as JSON; 0 when there is none."""


class Wanted(NamedTuple):
    """Which records; None and times that nothing exceeds: any."""

    principal: str | None = None
    """The key's id, or its name."""
    method: str | None = None
    target: str | None = None
    outcome: str | None = None
    request_id: str | None = None
    since_s: float = 0.0
    """Ended at this time or later."""
    until_s: float = float("inf")
    """Ended before."""

    def fits(self, record: Record) -> bool:
        """True when `record` is one of those."""
        given = (self.method, self.target, self.outcome, self.request_id)
        found = (record.method, record.target, record.outcome, record.request_id)
        return (
            self.principal in (None, record.principal, record.key)
            and all(one in (None, other) for one, other in zip(given, found, strict=True))
            and bound_of(self.since_s) <= record.id < bound_of(self.until_s)
        )


ANY: Final = Wanted()
"""All records."""


class Page(NamedTuple):
    """Some records, newest first, and where the next ones are; None: there are no more."""

    items: list[Record]
    cursor: str | None


class Keep(NamedTuple):
    """What is kept: nothing that ended before `since_s`, and the newest ones of calls and of refusals."""

    since_s: float
    most: int
    most_refused: int
    """Apart from the others: nobody without a key can push out what is known of those who have one."""


class Records(Protocol):
    """A store of call records. Any number of processes may use one at once. All methods raise StorageError."""

    async def add(self, records: Sequence[Record]) -> None:
        """Keep all of these or, when it raises, none; one whose id is there already is left as it is."""

    async def page(self, wanted: Wanted, cursor: str | None = None, limit: int = MAX_PAGE_ITEMS) -> Page:
        """Return the newest records that fit, behind `cursor`. Raises: BadCursor. Cancellation: safe."""

    async def prune(self, keep: Keep) -> int:
        """Forget some of what is not to be kept; return how many: none are left when that is 0."""


def id_of(ended_s: float, node: str, number: int) -> str:
    """Return the id of a record: its time in microseconds, the process (8 hexadecimal digits), a number of it."""
    return f"{bound_of(ended_s)}{node}{number & 0xFFFF:04x}"


def bound_of(seconds: float) -> str:
    """Return what lies before the ids of all records that ended at this time or later."""
    micros = seconds * 1e6
    return f"{int(micros) if 0 <= micros <= _LATEST_US else _LATEST_US if micros > 0 else 0:014x}"


def checked(cursor: str | None) -> str | None:
    """Return a cursor. Raises: BadCursor."""
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise BadCursor("This is not a cursor of call records")
    return cursor


def page_of(found: list[Record], limit: int) -> Page:
    """Return a page, given one record more than it may have if there are more."""
    return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)


def bounded(limit: int) -> int:
    """Return how many records a page has when a reader asks for `limit`."""
    return min(max(limit, 1), MAX_PAGE_ITEMS)
