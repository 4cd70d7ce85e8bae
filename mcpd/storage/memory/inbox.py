"""The inbox of a process that has no others: what it sends to itself it hears, and nobody else lives.

An `InboxShelf` is what several processes share, as they share a Redis server; each `MemoryInbox` lives there from the
start until `leave`.

Called by: `storage.open`; tests, which share a shelf. Deliberately not: bounded, since nothing ever waits here.
"""

from __future__ import annotations

import secrets

import trio

from mcpd.storage.inbox import ADDRESS_BYTES, Message, Receive
from mcpd.storage.receivers import Receivers


class InboxShelf:
    """The inboxes of all processes."""

    def __init__(self) -> None:
        self.living: dict[str, MemoryInbox] = {}


class MemoryInbox:
    """Implements `Inbox`."""

    def __init__(self, shelf: InboxShelf | None = None) -> None:
        self._shelf = shelf or InboxShelf()
        self._receivers = Receivers()
        self.address = secrets.token_hex(ADDRESS_BYTES)
        self._shelf.living[self.address] = self

    def on(self, topic: str, receive: Receive) -> None:
        """See `Inbox`."""
        self._receivers.on(topic, receive)

    async def send(self, to: str, topic: str, body: bytes) -> bool:
        """See `Inbox`."""
        await trio.lowlevel.checkpoint()
        inbox = self if to == self.address else self._shelf.living.get(to)
        if inbox is None:
            return False
        inbox.take(Message(self.address, topic, body))
        return True

    async def send_all(self, topic: str, body: bytes) -> int:
        """See `Inbox`."""
        await trio.lowlevel.checkpoint()
        others = [inbox for inbox in self._shelf.living.values() if inbox is not self]
        for inbox in others:
            inbox.take(Message(self.address, topic, body))
        return len(others)

    def take(self, message: Message) -> None:
        """Hear a message. Not a checkpoint."""
        self._receivers.tell(message)

    async def leave(self) -> None:
        """See `Inbox`."""
        await trio.lowlevel.checkpoint()
        self._shelf.living.pop(self.address, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Inbox`."""
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._shelf.living.pop(self.address, None)
