"""Every key and channel that mcpd uses in Redis, with its type and how long it lives; spelt nowhere else.

    {run}:events        stream    change events of all replicas, the newest MAX_EVENTS; lives EVENTS_TTL_MS
    {run}:events        channel   the same events as they are written: `ID PREDECESSOR PAYLOAD`
    {check}:key         string    `mcpd check` tries its rights on it; lives CHECK_TTL_MS
    {check}:stream      stream    likewise

All begin with the prefix that the operator gives (`mcpd:`), so that a user's rights can name them. What one script
touches stands under one tag in braces, as Cluster wants it. No key is without an end.

Called by: the other files of this package. Pure.
"""

from __future__ import annotations

from typing import Final

MAX_EVENTS: Final = 10_000
"""A replica that was away for longer than these is told that everything may have changed."""

EVENTS_TTL_MS: Final = 3_600_000
"""Renewed by every replica that looks, so it ends an hour after the last one has gone."""


CHECK_TTL_MS: Final = 10_000
"""Longer than a check takes."""


class Keys:
    """The names under one prefix."""

    def __init__(self, prefix: str = "mcpd:") -> None:
        self.prefix = prefix
        self.check = f"{prefix}{{check}}:key"
        self.check_stream = f"{prefix}{{check}}:stream"
        self.events = f"{prefix}{{run}}:events"
        """The stream, and the channel of the same name."""
