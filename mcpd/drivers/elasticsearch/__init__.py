"""A client for Elasticsearch (7.14 and newer) and OpenSearch (2) on Trio; `client` says how to use it.

These names are all of its public interface, with `elasticsearch_api`, which holds requests and answers. Both could be
published by themselves: they know nothing of MCP.
"""

from mcpd.drivers.elasticsearch.client import Elasticsearch, Statistics, open_elasticsearch
from mcpd.drivers.elasticsearch.options import Options
from mcpd.drivers.elasticsearch_errors import (
    Blocked,
    Conflict,
    ElasticsearchError,
    Garbled,
    Missing,
    NotExecuted,
    OutcomeUnknown,
    OutOfTime,
    Refused,
    Unreachable,
)

__all__ = [
    "Blocked",
    "Conflict",
    "Elasticsearch",
    "ElasticsearchError",
    "Garbled",
    "Missing",
    "NotExecuted",
    "Options",
    "OutOfTime",
    "OutcomeUnknown",
    "Refused",
    "Statistics",
    "Unreachable",
    "open_elasticsearch",
]
