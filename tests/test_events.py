"""Change events on the local bus."""

from __future__ import annotations

import logging

import pytest

from mcpd.events import Changed, LocalBus


def test_every_subscriber_hears_an_event_in_order_of_subscription() -> None:
    """PUB-1."""
    bus, heard = LocalBus(), list[tuple[str, Changed]]()
    bus.subscribe(lambda event: heard.append(("first", event)))
    bus.subscribe(lambda event: heard.append(("second", event)))
    event = Changed("resource", "test://x")
    bus.publish(event)
    assert heard == [("first", event), ("second", event)]


def test_a_failing_subscriber_is_logged_and_the_others_still_hear(caplog: pytest.LogCaptureFixture) -> None:
    """PUB-1: fan-out."""
    bus, heard = LocalBus(), list[Changed]()

    def broken(event: Changed) -> None:
        raise ValueError("broken subscriber")

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        bus.publish(Changed("tools"))
    assert heard == [Changed("tools")]
    assert "broken subscriber" in caplog.text


def test_a_closed_subscription_hears_nothing_even_when_closed_during_the_event() -> None:
    """PUB-1."""
    bus, heard = LocalBus(), list[Changed]()
    bus.subscribe(lambda event: second.close())
    second = bus.subscribe(heard.append)
    bus.publish(Changed("prompts"))
    second.close()
    bus.publish(Changed("prompts"))
    assert heard == []


def test_the_same_callback_may_subscribe_twice() -> None:
    """PUB-1: closing one subscription leaves the other."""
    bus, heard = LocalBus(), list[Changed]()
    bus.subscribe(heard.append)
    bus.subscribe(heard.append).close()
    bus.publish(Changed("tools"))
    assert heard == [Changed("tools")]
