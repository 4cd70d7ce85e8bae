"""Names of a test's own and a client of the real server, for the tests of the driver."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from mcpd.drivers.elasticsearch import Elasticsearch, Options, open_elasticsearch
from tests.elasticsearch_server import ElasticsearchServer, fresh_prefix

QUICK = Options(connect_s=5, silence_s=20, patience_s=2)
PRODUCT = (("X-Elastic-Product", "Elasticsearch"), ("Content-Type", "application/json"))
"""Headers of every answer of the real one."""


def error_body(kind: str, reason: str = "") -> bytes:
    """Return the body of a refusal as Elasticsearch writes it."""
    cause = {"type": kind, "reason": reason}
    return json.dumps({"error": {"root_cause": [cause], **cause}}).encode()


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


@pytest.fixture
def elasticsearch_url(elasticsearch: ElasticsearchServer) -> str:
    return elasticsearch.url
