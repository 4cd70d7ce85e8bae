"""Names of a test's own and a client of the real server, for the tests of the driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from mcpd.drivers.elasticsearch import Elasticsearch, Options, open_elasticsearch
from tests.elasticsearch_server import ElasticsearchServer, fresh_prefix

QUICK = Options(connect_s=5, silence_s=20, patience_s=2)


@pytest.fixture
def prefix(elasticsearch: ElasticsearchServer) -> Iterator[str]:
    """What the names of a test's indices begin with; they are deleted afterwards."""
    name = fresh_prefix()
    yield name
    elasticsearch.forget(name)


@pytest.fixture
async def client(elasticsearch: ElasticsearchServer) -> AsyncIterator[Elasticsearch]:
    async with open_elasticsearch([elasticsearch.url], QUICK) as opened:
        yield opened
