"""What is kept of a stateful HTTP session beyond its process, and who gives way when there are too many.

A record holds what `initialize` has fixed and what the session's methods have changed since. Its streams, questions and
calls are not in it: they belong to a process. Every `SessionStore` counts and chooses by the one rule here
(`giving_way`), over the records and the places that connections of its own process take.

Called by: the session stores of `storage`; `messages.sessions`, for the sessions of this process. Pure: time is an
argument. Deliberately not: who may use a session, and for how long it is kept, which is the caller's.

Laws: a record is bounded (`MAX_RECORD_BYTES`); sessions are shared fairly: when all places are taken, an idle session
of whoever has most gives way, then one in use if the newcomer's share is smaller by two.

Sources: SES-1, SES-5..7, SEC-4, SEC-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from mcpd.storage.documents import StorageError, TooLong

MAX_RECORD_BYTES: Final = 1 << 20
"""As JSON: capabilities and watched URIs are bounded one by one, and even escaped they are less together."""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One session. `rev` grows with every change but those of the times, which the store keeps."""

    key: str
    """Its id, as its client sends it."""
    principal: str
    """`Principal.id` of whoever initialized: nobody else has this session."""
    share: str
    """Whose share of the places for sessions it takes."""
    scopes: tuple[str, ...] = ()
    """What its principal was allowed to, in order: with other scopes it is somebody else's."""
    revision: str
    capabilities: dict[str, Any] = {}
    client: dict[str, str] = {}
    initialized: bool = False
    log_level: str = "info"
    subscriptions: dict[str, str] = {}
    """Watched URIs: normal form -> as the client spelt it."""
    rev: int = 1
    created_s: float = 0.0
    """Seconds since the epoch by the store's clock, as the other times; set by the store."""
    used_s: float = 0.0
    expires_s: float = 0.0
    busy_s: float = 0.0
    """Until when some process has said that it is in use."""


class Use(NamedTuple):
    """That a session was used, in seconds: so long ago, to be kept from then, and in use from now on for certain."""

    ago_s: float
    keep_s: float
    busy_s: float = 0.0


class Place(NamedTuple):
    """One session as far as the sharing of places is concerned."""

    key: str
    share: str
    used_s: float
    busy: bool


class SessionRoom(NamedTuple):
    """How many sessions there may be, and what only the asking process knows of some of them."""

    most: int
    most_of_share: int
    busy: frozenset[str] = frozenset()
    """Sessions that this process has in use."""
    idle: frozenset[str] = frozenset()
    """Sessions that this process had in use, and has no longer."""
    others: tuple[Place, ...] = ()
    """Sessions that are in no store: those of its connections. Their `used_s` counts from now, so it is not above 0."""

    def elsewhere(self, now_s: float) -> list[Place]:
        """Return the places of `others` by the store's clock."""
        return [place._replace(used_s=now_s + place.used_s) for place in self.others]

    def place(self, key: str, share: str, used_s: float, busy_s: float, now_s: float) -> Place:
        """Return the place of a stored session."""
        return Place(key, share, used_s, key in self.busy or (busy_s > now_s and key not in self.idle))


class NoSessionRoom(StorageError):
    """There are as many sessions as there may be, and none that could give way."""

    def __init__(self) -> None:
        super().__init__("Too many sessions are open; end one with DELETE or try again later")


def giving_way(places: Iterable[Place], share: str, room: SessionRoom) -> list[str]:
    """Return the keys of the sessions that give way to a newcomer; empty when there is room.

    Raises: NoSessionRoom when none may.
    """
    left, gone = list(places), []
    while candidates := _candidates(left, share, room):
        loser = min(candidates, key=lambda place: place.used_s)
        left.remove(loser)
        gone.append(loser.key)
    return gone


def _candidates(places: Sequence[Place], share: str, room: SessionRoom) -> list[Place]:
    mine = [place for place in places if place.share == share]
    if len(mine) >= room.most_of_share:
        found = _idle(mine)
    elif len(places) >= room.most:
        found = _of_larger(places, len(mine)) or _idle(mine)
    else:
        return []
    if not found:
        raise NoSessionRoom
    return found


def _of_larger(places: Iterable[Place], mine: int) -> list[Place]:
    """The sessions that give way to a caller with `mine`: of whoever has most, idle ones before those in use."""
    shares: dict[str, list[Place]] = {}
    for place in places:
        shares.setdefault(place.share, []).append(place)
    larger = sorted((held for held in shares.values() if len(held) > mine), key=len, reverse=True)
    idle = next(filter(None, map(_idle, larger)), [])
    return idle or [place for held in larger[:1] if len(held) > mine + 1 for place in held]


def _idle(places: Iterable[Place]) -> list[Place]:
    return [place for place in places if not place.busy]


def placed(record: SessionRecord, use: Use, now_s: float) -> SessionRecord:
    """Return a new record with its times."""
    return msgspec.structs.replace(record, created_s=now_s, **times(use, now_s))


def times(use: Use, now_s: float) -> dict[str, float]:
    """Return what a use makes of a record's times."""
    used_s = now_s - use.ago_s
    return {"used_s": used_s, "expires_s": used_s + use.keep_s, "busy_s": now_s + use.busy_s if use.busy_s else 0.0}


def renewed(record: SessionRecord, use: Use, now_s: float) -> SessionRecord:
    """Return a record after a use; what another process has said of a later one stands."""
    after = times(use, now_s)
    return msgspec.structs.replace(record, **{name: max(after[name], getattr(record, name)) for name in after})


def retimed(record: SessionRecord, stored: SessionRecord) -> SessionRecord:
    """Return `record` with the times of the stored one."""
    return msgspec.structs.replace(record, **{name: getattr(stored, name) for name in _TIMES})


_TIMES: Final = ("created_s", "used_s", "expires_s", "busy_s")


def encode(record: SessionRecord) -> bytes:
    """Return a record without its times as JSON. Raises: TooLong."""
    data = msgspec.json.encode(msgspec.structs.replace(record, **dict.fromkeys(_TIMES, 0.0)))
    if len(data) > MAX_RECORD_BYTES:
        raise TooLong(f"A session may be {MAX_RECORD_BYTES} bytes long, and this one is {len(data)}")
    return data


_decode: Final[Callable[[bytes], SessionRecord]] = msgspec.json.Decoder(SessionRecord).decode


def decode(data: bytes, **known: float) -> SessionRecord | None:
    """Return a record with its times; None for what another version wrote and this one cannot read: it has ended."""
    try:
        return msgspec.structs.replace(_decode(data), **known)
    except msgspec.MsgspecError:
        return None
