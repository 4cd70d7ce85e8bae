"""Who is told of what an inbox hears: one receiver a topic, and each message once.

Called by: the inboxes of all backends. Deliberately not: how messages come, which is a backend's.

Laws: a message that is sent twice, because its first outcome was unknown, has one number and is told once; how many
numbers are remembered is bounded. A receiver's mistake is logged, and the next message is heard.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

from mcpd.errors import SHOWN_CHARS
from mcpd.storage.inbox import Message, Receive

MAX_REMEMBERED: Final = 4_096
"""Messages whose numbers are remembered: far more than are sent while one is sent again."""

_log = logging.getLogger(__name__)


class Receivers:
    """What one process listens to."""

    def __init__(self) -> None:
        self._by_topic: dict[str, Receive] = {}
        self._told: OrderedDict[tuple[str, int], None] = OrderedDict()

    def on(self, topic: str, receive: Receive) -> None:
        """See `Inbox`."""
        assert topic not in self._by_topic, topic
        self._by_topic[topic] = receive

    def tell_once(self, message: Message, number: int) -> None:
        """Tell of a message that has this number at its sender, unless that has been done. Not a checkpoint."""
        key = (message.sender, number)
        if key in self._told:
            return
        self._told[key] = None
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        self.tell(message)

    def tell(self, message: Message) -> None:
        """Tell of a message. One of a topic that nobody listens to, as of a newer version, is passed over."""
        receive = self._by_topic.get(message.topic)
        if receive is None:
            return
        try:
            receive(message)
        except Exception:  # noqa: BLE001 - one message must not end the hearing of all others
            _log.exception("a message of another process was not understood: %s", message.topic[:SHOWN_CHARS])
