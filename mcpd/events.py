"""Typed change events, and the bus that carries them: inside one process, or between replicas (`storage.redis.bus`).

Whoever changes a set of tools, prompts or resources, or one resource, publishes one `Changed`; listen streams, stateful
sessions and caches subscribe and decide for themselves whom it concerns. Publishers never write to a stream.

    publish     every replica is to know
    tell_here   this process is to know; every other one notices the same change by itself, as those on one store do

Called by: `service`, `resources.documents`, `app` (publish); `messages` (subscribe). A leaf: imports nothing of ours.
Deliberately not: a queue. `publish` calls the subscribers here and returns, so a subscriber must not block; one that
has slow work to do puts it into its own bounded outbox.

Sources: protocol section 3.11 (PUB-1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

Kind = Literal["tools", "prompts", "resources", "resource", "task"]

_log = logging.getLogger(__name__)


class Changed(msgspec.Struct, frozen=True):
    """A set changed (`tools`, `prompts`, `resources`), or the content behind one `uri` did (`resource`).

    `task`: the task with the id `uri` did; these are told on a bus of their own (`tasks`).
    `resource` without a `uri`: so much changed that nobody knows what; whoever watches a resource is told.
    """

    kind: Kind
    uri: str | None = None


class Subscription:
    """A subscriber's place on the bus. Resources: whoever subscribed closes it."""

    def __init__(self, callback: Callable[[Changed], None], leave: Callable[[Subscription], None]) -> None:
        self.callback = callback
        self._leave = leave

    def close(self) -> None:
        """Stop hearing events, at once, even from within a callback. Idempotent."""
        self._leave(self)


class Bus(Protocol):
    """Carries change events to whoever subscribed, in this process or in every replica."""

    def subscribe(self, callback: Callable[[Changed], None]) -> Subscription:
        """Have `callback` called with every later event; it must neither block nor raise. Not a checkpoint."""

    def publish(self, event: Changed) -> None:
        """Deliver to the subscribers here now, and to those of other replicas soon. Never waits; not a checkpoint."""

    def tell_here(self, event: Changed) -> None:
        """Deliver to the subscribers of this process alone. Never waits; not a checkpoint."""


class LocalBus:
    """Delivers each event to the subscribers of this process, in the order in which they subscribed."""

    def __init__(self) -> None:
        self._subscriptions: dict[Subscription, None] = {}

    def subscribe(self, callback: Callable[[Changed], None]) -> Subscription:
        """Have `callback` called with every later event, in the publisher's task; it must neither block nor raise."""
        subscription = Subscription(callback, self._leave)
        self._subscriptions[subscription] = None
        return subscription

    def _leave(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)

    def publish(self, event: Changed) -> None:
        """Call every subscriber; one that raises is logged and does not keep the event from the others.

        Cancellation: not a checkpoint.
        """
        for subscription in list(self._subscriptions):
            if subscription in self._subscriptions:
                self._deliver(subscription, event)

    def tell_here(self, event: Changed) -> None:
        """As `publish`: there is nobody else."""
        self.publish(event)

    def _deliver(self, subscription: Subscription, event: Changed) -> None:
        try:
            subscription.callback(event)
        except Exception:  # noqa: BLE001 - fan-out: one broken subscriber must not silence the rest (law 7)
            _log.exception("a subscriber failed on %r", event)
