"""Which node is asked next: round robin over those that live, with pauses for those that do not answer.

A node that fails is left out for a pause that doubles with each failure. Then one call tries it, and the others only
when that call had an answer. While no node lives at all, each is tried again after `ALONE_PAUSE_S` at the latest, by
one call at a time: that is the client's circuit breaker, and everybody else is told at once.

Called by: `client`. Pure but for chance: time is an argument. Deliberately not: connections.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 30.0
ALONE_PAUSE_S: Final = 2.0

T = TypeVar("T")


class Node(Generic[T]):
    """One node: `transport` leads to it."""

    __slots__ = ("address", "due_at", "failed_at", "failures", "reason", "transport")

    def __init__(self, address: str, transport: T) -> None:
        self.address = address
        self.transport = transport
        self.failures = 0
        self.failed_at = 0.0
        self.due_at = 0.0
        self.reason = ""

    @property
    def lives(self) -> bool:
        """False between a failure and the next answer."""
        return self.failures == 0


class Nodes(Generic[T]):
    """The nodes of a cluster."""

    def __init__(self, nodes: Iterable[Node[T]]) -> None:
        self.all = list(nodes)
        random.shuffle(self.all)
        self._turn = 0

    @property
    def living(self) -> int:
        """How many live."""
        return sum(node.lives for node in self.all)

    def choose(self, now: float) -> Node[T] | None:
        """Return the node to ask, None when none lives and none is due. One that is due is tried by one call."""
        alone = not self.living
        for _ in self.all:
            self._turn = (self._turn + 1) % len(self.all)
            node = self.all[self._turn]
            if node.lives:
                return node
            if self._due_at(node, alone=alone) <= now:
                self._postpone(node, now)
                return node
        return None

    def due_at(self) -> float:
        """Return when the first node may be tried, while none lives."""
        return min(self._due_at(node, alone=True) for node in self.all)

    def _due_at(self, node: Node[T], *, alone: bool) -> float:
        return min(node.due_at, node.failed_at + ALONE_PAUSE_S) if alone else node.due_at

    def _postpone(self, node: Node[T], now: float) -> None:
        pause = min(FIRST_PAUSE_S * 2.0 ** (min(node.failures, 16) - 1), LONGEST_PAUSE_S)
        node.failed_at = now
        node.due_at = now + pause * random.uniform(0.5, 1.0)  # noqa: S311 - only to fall out of step

    def failed(self, node: Node[T], now: float, reason: str) -> None:
        """Leave `node` out for a while."""
        node.failures += 1
        node.reason = reason
        self._postpone(node, now)

    def answered(self, node: Node[T]) -> None:
        """Take `node` in again."""
        node.failures = 0
        node.reason = ""

    def replace(self, nodes: Iterable[Node[T]]) -> None:
        """Be these nodes from now on."""
        self.all = list(nodes)
