"""The store of a contract test, once on each backend; `clock` is its clock.

`documents`, the `records` of calls, the `owners` of tasks, the `processes` that share idempotency keys, the `servers`
that share sessions, the `neighbours` that tell each other something, `stored` where a store lies between them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from mcpd.storage.documents import Documents
from tests.contract import (
    beating,
    idempotency_backends,
    inbox_backends,
    record_backends,
    session_backends,
    task_backends,
)
from tests.contract.backends import BACKENDS, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=BACKENDS)
async def documents(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Documents]:
    async with BACKENDS[request.param](clock) as opened:
        yield opened


@pytest.fixture(params=record_backends.BACKENDS)
async def records(request: pytest.FixtureRequest) -> AsyncIterator[record_backends.Processes]:
    async with record_backends.BACKENDS[request.param]() as opened:
        yield opened


@pytest.fixture(scope="module", params=beating.BACKENDS)
def task_backend(request: pytest.FixtureRequest) -> Iterator[task_backends.Backend]:
    with task_backends.backend(request.param) as found:
        yield found


@pytest.fixture
async def owners(task_backend: task_backends.Backend, clock: Clock) -> AsyncIterator[task_backends.Owners]:
    async with task_backend(clock) as opened:
        yield opened


@pytest.fixture(scope="module", params=beating.BACKENDS)
def key_backend(request: pytest.FixtureRequest) -> Iterator[idempotency_backends.Backend]:
    with idempotency_backends.backend(request.param) as found:
        yield found


@pytest.fixture
async def processes(
    key_backend: idempotency_backends.Backend, clock: Clock
) -> AsyncIterator[idempotency_backends.Processes]:
    async with key_backend(clock) as opened:
        yield opened


@pytest.fixture(params=session_backends.BACKENDS)
async def servers(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[session_backends.Servers]:
    async with session_backends.BACKENDS[request.param](clock) as opened:
        yield opened


@pytest.fixture(scope="module", params=inbox_backends.BACKENDS)
def inbox_backend(request: pytest.FixtureRequest) -> Iterator[inbox_backends.Backend]:
    with inbox_backends.backend(request.param) as found:
        yield found


@pytest.fixture
async def neighbours(inbox_backend: inbox_backends.Backend) -> AsyncIterator[inbox_backends.Neighbours]:
    with trio.fail_after(inbox_backends.WAIT_S):
        async with inbox_backend() as opened:
            yield opened


@pytest.fixture(scope="module", params=inbox_backends.STORES)
def inbox_store(request: pytest.FixtureRequest) -> Iterator[inbox_backends.Backend]:
    with inbox_backends.backend(request.param) as found:
        yield found


@pytest.fixture
async def stored(inbox_store: inbox_backends.Backend) -> AsyncIterator[inbox_backends.Neighbours]:
    with trio.fail_after(inbox_backends.WAIT_S):
        async with inbox_store() as opened:
            yield opened
