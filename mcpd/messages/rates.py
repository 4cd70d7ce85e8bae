"""How often a caller may call: which rates bind a call, and what becomes of one that comes too soon.

A caller is a key, or an address where there are no keys. Its calls of all kinds are bound by `limits.rate`, its calls
of one tool by `@tool(rate=...)` or `limits.tool_rate`. A call that is over either is refused and costs nothing. What is
left goes back through `Flight.tell_quotas`, for the transports that have a place for it.

Called by: `messages.manager`, before a call asks for its place. Calls a `RateLimits` (`storage.shared`). Deliberately
not: counting, nor what a quota looks like in a header (`gateway.quotas`).

Laws: without any rate there is no such object, and a call costs nothing; what is no call (a session's own methods,
streams, notifications) is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from mcpd.errors import RateLimited, counted
from mcpd.messages.flight import Flight, Quota
from mcpd.monitoring.metrics import Metrics
from mcpd.rates import Rate
from mcpd.service import McpService
from mcpd.storage.shared import RateLimits

CALLER: Final = "caller"
TOOL: Final = "tool:"


class Rates:
    """Admits calls at the rates of one configuration."""

    def __init__(
        self,
        limits: RateLimits,
        service: McpService,
        metrics: Metrics,
        *,
        caller: Rate | None,
        tool: Rate | None,
        among: int = 1,
    ) -> None:
        """`among`: how many processes count by themselves, so that each has its part of the rates."""
        self._among = among
        self._limits = limits
        self._service = service
        self._metrics = metrics
        self._caller = {} if caller is None else {CALLER: caller}
        self._tool = tool

    async def admit(self, flight: Flight) -> None:
        """Count one call. Raises: RateLimited. Cancellation: safe; the call may have been counted."""
        rates = self._rates_of(flight)
        if not rates:
            return
        taken = await self._limits.take(flight.call.principal.share, rates)
        quotas = [Quota(name.partition(":")[0], rates[name], one) for name, one in taken.items()]
        flight.tell_quotas(quotas)
        refused = [quota for quota in quotas if not quota.taken.allowed]
        if refused:
            self._metrics.rejected("rate")
            raise _too_soon(max(refused, key=lambda quota: quota.taken.retry_after_s))

    def _rates_of(self, flight: Flight) -> Mapping[str, Rate]:
        call = flight.call
        tool = self._service.tool_rate(call, self._tool)
        rates = self._caller if tool is None else {**self._caller, f"{TOOL}{call.params['name']}": tool}
        return rates if self._among == 1 else {name: rate.among(self._among) for name, rate in rates.items()}


def _too_soon(quota: Quota) -> RateLimited:
    whose = "of this tool " if quota.name != CALLER else ""
    wait_s = quota.taken.retry_after_s
    calls = counted(quota.rate.items, "call")
    text = f"At most {calls} {whose}per {quota.rate.period_s} s may be made; try again in {wait_s:.1f} s"
    return RateLimited(text, retry_after_ms=max(1, math.ceil(wait_s * 1000)))
