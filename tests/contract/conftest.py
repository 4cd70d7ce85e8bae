"""The store of a contract test: `documents`, once on each backend, and the `clock` that it reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mcpd.storage.documents import Documents
from tests.contract.backends import BACKENDS, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=BACKENDS)
async def documents(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Documents]:
    async with BACKENDS[request.param](clock) as opened:
        yield opened
