"""What we add around Hypercorn, by itself: the wall around each connection."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig

from mcpd.config import Limits, Timeouts
from mcpd.gateway.server.hypercorn import Connections
from mcpd.monitoring.metrics import Metrics


async def no_application(*_: object) -> None:
    """Is never reached."""
    raise AssertionError


async def serve(error: Exception) -> None:
    """Serve one connection on which reading fails with `error`."""

    async def fail() -> None:
        raise error

    _, ours = trio.testing.memory_stream_pair()
    ours.receive_stream.receive_some_hook = fail
    connections = Connections(Limits(), Timeouts(), Metrics())
    await connections.serve(ASGIWrapper(no_application), HypercornConfig(), None, {}, ours)


async def test_what_goes_wrong_in_a_connection_is_logged_and_ends_only_that(caplog: pytest.LogCaptureFixture) -> None:
    """Law 7: Hypercorn's nursery holds all connections, and an exception would end the server."""
    await serve(RuntimeError("odd"))
    assert "odd" in caplog.text


async def test_a_connection_that_breaks_in_the_system_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    await serve(ConnectionResetError("reset"))
    assert not caplog.records
