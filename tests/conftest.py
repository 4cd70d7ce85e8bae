"""Fixtures for all tests; nothing heavy, so that one pure test starts at once.

`need` is `tests.needs.need` as a fixture; `free_port` is for servers that cannot be given port 0; `elasticsearch` is
the one server of that kind, since its start takes as long as many tests. Other servers, clients and stores have their
fixtures beside the tests that use them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import elasticsearch_server, needs


@pytest.fixture
def need() -> Callable[[str], Path]:
    """Return the function that skips (or, in continuous integration, fails) the test when a program is missing."""
    return needs.need


@pytest.fixture
def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago; prefer port 0 where the server can say what it got."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.fixture
def elasticsearch() -> elasticsearch_server.ElasticsearchServer:
    """Return the server of this test run, which the first test that needs it starts."""
    return elasticsearch_server.shared()


def pytest_unconfigure() -> None:
    elasticsearch_server.end_shared()
