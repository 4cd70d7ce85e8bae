"""What is left of a caller's rates, as HTTP headers.

    RateLimit-Policy: "caller";q=100;w=60, "tool";q=5;w=60       what is allowed: calls, in seconds
    RateLimit: "caller";r=42;t=35, "tool";r=0;t=60               calls left, and when all are there again

Called by: the HTTP transports, which hand `Quotas.tell` to a flight. Deliberately not: `Retry-After` where the refusal
has a status of its own, which brings it.

Sources: draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcpd.gateway.asgi import Responder
from mcpd.messages.flight import Quota


class Quotas:
    """Puts quotas into the head of one reply, which must be that of one call; `with_wait`: `Retry-After`, too."""

    __slots__ = ("_responder", "_with_wait")

    def __init__(self, responder: Responder, *, with_wait: bool = False) -> None:
        self._responder = responder
        self._with_wait = with_wait

    def tell(self, quotas: Sequence[Quota]) -> None:
        """Add the headers; too late, and harmless, once the reply has begun. Not a checkpoint."""
        self._responder.add([(b"ratelimit-policy", _policies(quotas)), (b"ratelimit", _left(quotas))])
        wait_s = max(quota.taken.retry_after_s for quota in quotas)
        if self._with_wait and wait_s:
            self._responder.add([(b"retry-after", b"%d" % max(1, math.ceil(wait_s)))])


def _policies(quotas: Sequence[Quota]) -> bytes:
    parts = (f'"{quota.name}";q={quota.rate.items};w={quota.rate.period_s}' for quota in quotas)
    return ", ".join(parts).encode("ascii")


def _left(quotas: Sequence[Quota]) -> bytes:
    parts = (f'"{quota.name}";r={quota.taken.remaining};t={math.ceil(quota.taken.reset_s)}' for quota in quotas)
    return ", ".join(parts).encode("ascii")
