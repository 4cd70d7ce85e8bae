"""What processes of one server tell each other: the contract of messages to one of them, or to all the others.

Each process has an address, random and for life, which stands in what it gives to clients (ids of questions, names of
streams), so that whoever is shown one knows where to send. What is sent is gone when it was heard: nothing here is a
store. A call that tells nobody anything costs nothing.

Called by: `messages`; opened by `storage.open`. Implemented by: `storage.memory.inbox` (this process alone), and the
packages of the backends that several processes share. Values and Protocols; nothing here runs. Deliberately not:
change events (`events.Bus`), which are for everybody and kept for a while; what the messages say.

The contract
- *At least once, told once.* What `send` returned True for is heard by that process if it lives on; a receiver is told
  of it once. What it raised for may or may not be heard, and what a cancelled one sent, too.
- *One sender's order.* A message comes after all those of its sender whose `send` had returned before it was sent.
- *Who lives.* A process that is only slow or stopped lives for a while; when it comes back it has its address again,
  and hears what had been sent to it until then. Nobody is sent anything at an address where nobody lives.
- *Bounds.* An inbox that is not read fills up, and is then refused; nothing waits in a sender.

Sources: architecture laws 5, 7, 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import trio

from mcpd.storage.documents import StorageError

ADDRESS_BYTES: Final = 6
ADDRESS: Final = rf"[0-9a-f]{{{2 * ADDRESS_BYTES}}}"
"""What an address looks like, as a regular expression: 48 random bits, since it stands in every event's id."""


class InboxRoom(NamedTuple):
    """How much one process may have to hear, in messages and in bytes of their bodies."""

    max_items: int
    max_bytes: int


INBOX_ROOM: Final = InboxRoom(10_000, 32 << 20)
"""What a process hears within some seconds; several times the largest answer of a client."""


class Message(NamedTuple):
    """What one process tells another. `sender` is its address; what `body` holds is agreed on by topic."""

    sender: str
    topic: str
    body: bytes


Receive = Callable[[Message], None]


class InboxFull(StorageError):
    """Whoever should hear this has too much to hear already; the same may work later."""


class Inbox(Protocol):
    """What this process hears, and how it tells others; see the module's docstring."""

    @property
    def address(self) -> str:
        """Where this process is found; looks like `ADDRESS`."""

    def on(self, topic: str, receive: Receive) -> None:
        """Have `receive` called with each message on a topic, one receiver each; it must neither block nor raise."""

    async def send(self, to: str, topic: str, body: bytes) -> bool:
        """Tell one process; False when nobody lives at that address. To itself it is told at once.

        Raises: InboxFull; StorageError. Cancellation: it may be heard.
        """

    async def send_all(self, topic: str, body: bytes) -> int:
        """Tell all other processes that live; return how many those are.

        Raises: InboxFull when one of them could not be told, and the others were; StorageError. Cancellation: it may
        be heard.
        """

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live at the address and hear what is sent to it, until cancelled or until `leave`.

        Reports started when it can be found, or after a bounded while when the store is away. Raises nothing.
        """

    async def leave(self) -> None:
        """Have nobody live here any longer, and others know at once; without it they find out after a while.

        Bounded by its caller. Raises nothing. Idempotent.
        """
