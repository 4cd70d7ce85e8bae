"""The list of watches over calls: it holds nothing of a call that is over."""

from __future__ import annotations

import weakref
from typing import Any

import trio

from mcpd.gateway.disconnects import Disconnects
from mcpd.messages.flight import Flight
from mcpd.wire.call import Call
from mcpd.wire.versions import STATELESS


class _Exchange:
    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Never happens."""

    async def ask(self, requests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Never happens."""
        return requests

    def release(self, retry_ms: int) -> None:
        """Never happens."""

    def commit(self) -> None:
        """Never happens."""


async def test_the_list_of_watches_holds_nothing_of_a_call_that_is_over() -> None:
    """Most calls are over long before the watch would begin; what they hold is free at once."""
    disconnects, exchange = Disconnects(), _Exchange()
    held = weakref.ref(exchange)
    flight = Flight(Call(method="ping", params={}, version=STATELESS, transport="http"), exchange)
    guard = disconnects.watch(_quiet, flight, on_quiet=exchange.commit, quiet_s=1)
    del exchange, flight
    assert held() is not None
    guard.release()
    assert held() is None


async def _quiet() -> Any:
    await trio.sleep_forever()
