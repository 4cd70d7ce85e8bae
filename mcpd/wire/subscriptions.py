"""Listen streams and subscriptions as values: what is asked for, what is honoured, and what is waiting to be told.

`Filter.read` takes a `subscriptions/listen` request apart; `Pending` coalesces events, so that however fast things
change, a slow reader finds at most one note per kind and per URI (SUB-8): the queue is bounded by the filter itself.

Called by: `messages.listens`, `messages.notices`, `wire.session`. Pure: nothing here waits or sends.

Sources: MCP 2026-07-28 "subscriptions"; SUB-1..9.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from mcpd.errors import InvalidParams, counted
from mcpd.wire.envelope import SUBSCRIPTION_KEY
from mcpd.wire.uris import normalise

_FORMS_ITEMS = 64
"""Normal forms of URIs that are kept."""

_FLAGS = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}
MAX_URI_CHARACTERS = 2048
"""A subscription names resources, it does not carry data."""
MAX_URIS_CHARACTERS = 64 * 1024
"""Of all that one session or listen stream watches: 256 of usual length."""


class Filter(msgspec.Struct, frozen=True):
    """The honoured part of a listen request: kinds of lists, and URIs of resources."""

    kinds: frozenset[str]
    uris: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    """Ids of tasks, once it is known which of them the caller may watch."""

    @classmethod
    def read(cls, params: dict[str, Any], *, permits: Callable[[str], bool], max_uris: int) -> Filter:
        """Read `params.notifications`. URIs that `permits` refuses are left out (SUB-1, SUB-9).

        Raises: InvalidParams for a wrong shape or too many URIs.
        """
        wanted = params.get("notifications")
        if not isinstance(wanted, dict):
            raise InvalidParams("subscriptions/listen needs params.notifications, an object")
        for flag in _FLAGS:
            if not isinstance(wanted.get(flag, False), bool):
                raise InvalidParams(f"params.notifications.{flag} must be true or false")
        uris = _read_uris(wanted.get("resourceSubscriptions", []), max_uris)
        kinds = frozenset(kind for flag, kind in _FLAGS.items() if wanted.get(flag))
        return cls(kinds, tuple(uri for uri in dict.fromkeys(uris) if permits(uri)))

    def honoured(self) -> dict[str, Any]:
        """Return the filter as the acknowledgement states it: what was left out is absent."""
        told: dict[str, Any] = {flag: True for flag, kind in _FLAGS.items() if kind in self.kinds}
        if self.uris:
            told["resourceSubscriptions"] = list(self.uris)
        if self.tasks:
            told["taskIds"] = list(self.tasks)
        return told


def _read_uris(value: Any, max_uris: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(uri, str) for uri in value):
        raise InvalidParams("params.notifications.resourceSubscriptions must be an array of URIs")
    if len(value) > max_uris:
        raise InvalidParams(f"One listen stream may watch {counted(max_uris, 'resource')}; open another for the rest")
    check_lengths(value)
    return value


def check_lengths(uris: Collection[str]) -> None:
    """Bound what one client watches, in characters. Raises: InvalidParams."""
    if any(len(uri) > MAX_URI_CHARACTERS for uri in uris):
        raise InvalidParams(f"A watched URI may have {MAX_URI_CHARACTERS} characters")
    if sum(map(len, uris)) > MAX_URIS_CHARACTERS:
        raise InvalidParams(f"All watched URIs together may have {MAX_URIS_CHARACTERS} characters")


TASK_NOTICE = "notifications/tasks"
"""Carries the whole task; whoever sends it asks for that first."""

Note = tuple[str, str | None]
"""What changed: a kind (`tools`, `prompts`, `resources`, `resource`, `task`) and, for the last two, its URI or id."""


class Pending:
    """Notes that one client has still to be told, in the order in which they first came.

    `uris` maps normal forms to what is told, as for `watched_of`; it may change meanwhile: sessions unsubscribe.
    """

    def __init__(self, kinds: Collection[str], uris: Mapping[str, str], tasks: Collection[str] = ()) -> None:
        self._kinds = kinds
        self._uris = uris
        self._tasks = frozenset(tasks)
        self._waiting: dict[Note, None] = {}

    def offer(self, kind: str, uri: str | None) -> bool:
        """Keep a note for telling; returns False when it does not concern this client."""
        if kind == "resource":
            notes: list[Note] = [(kind, watched) for watched in watched_of(uri, self._uris)]
        elif kind == "task":
            notes = [(kind, uri)] if uri in self._tasks else []
        else:
            notes = [(kind, uri)] if kind in self._kinds else []
        self._waiting.update(dict.fromkeys(notes))
        return bool(notes)

    def take(self) -> Iterator[Note]:
        """Yield what is waiting now, each note forgotten as it is taken: one that comes again meanwhile waits anew."""
        for note in list(self._waiting):
            if note in self._waiting:
                del self._waiting[note]
                if note[0] != "resource" or note[1] in self._uris.values():
                    yield note


def watched_of(uri: str | None, watched: Mapping[str, str]) -> Collection[str]:
    """Return those of the watched URIs that a change of `uri` concerns (None: any may have changed).

    `watched` maps the normal form of each URI (`wire.uris`) to the client's own spelling, which is what it is told.
    """
    if uri is None:
        return watched.values()
    spelt = watched.get(_form_of(uri))
    return () if spelt is None else (spelt,)


_form_of = lru_cache(maxsize=_FORMS_ITEMS)(normalise)
"""Every session asks about the same few events."""


def notification(kind: str, uri: str | None) -> tuple[str, dict[str, Any]]:
    """Return method and parameters of the notification that tells of a change."""
    if kind == "resource":
        return "notifications/resources/updated", {"uri": uri}
    if kind == "task":
        return TASK_NOTICE, {"taskId": uri}
    return f"notifications/{kind}/list_changed", {}


def tag(params: dict[str, Any], subscription_id: Any) -> dict[str, Any]:
    """Return `params` marked as belonging to a subscription; the id keeps its JSON type (SUB-2)."""
    return {**params, "_meta": {SUBSCRIPTION_KEY: subscription_id}}
