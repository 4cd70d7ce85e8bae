"""Every key and channel that mcpd uses in Redis, with its type and how long it lives; spelt nowhere else.

    {run}:events        stream    change events of all replicas, the newest MAX_EVENTS; lives EVENTS_TTL_MS
    {run}:events        channel   the same events as they are written: `ID PREDECESSOR PAYLOAD`
    {rate:SHARE}:NAME   string    when a share's whole rate of this name is free again, in us; lives until then
    {check}:key         string    `mcpd check` tries its rights on it; lives CHECK_TTL_MS
    {check}:stream      stream    likewise

All begin with the prefix that the operator gives (`mcpd:`), so that a user's rights can name them. What one script
touches stands under one tag in braces, as Cluster wants it. No key is without an end. SHARE is a digest: who calls from
where is nobody's to read here.

Called by: the other files of this package. Pure.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from mcpd.rates import LONGEST_S

MAX_EVENTS: Final = 10_000
"""A replica that was away for longer than these is told that everything may have changed."""

EVENTS_TTL_MS: Final = 3_600_000
"""Renewed by every replica that looks, so it ends an hour after the last one has gone."""

CHECK_TTL_MS: Final = 10_000
"""Longer than a check takes."""

_DIGEST_BYTES: Final = 12


class Keys:
    """The names under one prefix."""

    def __init__(self, prefix: str = "mcpd:") -> None:
        self.prefix = prefix
        self.check = f"{prefix}{{check}}:key"
        self.check_stream = f"{prefix}{{check}}:stream"
        self.events = f"{prefix}{{run}}:events"
        """The stream, and the channel of the same name."""

    def rate(self, share: str, name: str) -> str:
        """Return the key of one rate of one share."""
        digest = blake2b(share.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
        return f"{self.prefix}{{rate:{digest}}}:{name}"

    def longest_ms(self, key: str) -> int | None:
        """Return how long a key lives at most without being used; None for one that is not ours."""
        lives = {
            re.escape(self.events): EVENTS_TTL_MS,
            re.escape(self.check): CHECK_TTL_MS,
            re.escape(self.check_stream): CHECK_TTL_MS,
            re.escape(self.prefix) + r"\{rate:[0-9a-f]{24}\}:(caller|tool:[A-Za-z0-9_.-]{1,128})": LONGEST_S * 1000 + 1,
        }
        return next((ms for pattern, ms in lives.items() if re.fullmatch(pattern, key)), None)
