"""The store of a contract test, once on each backend: `documents`, or the `owners` of tasks; `clock` is its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mcpd.storage.documents import Documents
from tests.contract import task_backends
from tests.contract.backends import BACKENDS, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=BACKENDS)
async def documents(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Documents]:
    async with BACKENDS[request.param](clock) as opened:
        yield opened


@pytest.fixture(params=task_backends.BACKENDS)
async def owners(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[task_backends.Owners]:
    async with task_backends.BACKENDS[request.param](clock) as opened:
        yield opened
