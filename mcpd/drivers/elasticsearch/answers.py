"""What an answer says beside its body: whose product it is of, and what Elasticsearch warns of.

Called by: `client`. Deliberately not: statuses (`elasticsearch_errors`).

Law: each warning is logged once, at most `MAX_WARNINGS` different ones; they name settings and indices, not documents.
Sources: `X-Elastic-Product` (Elasticsearch 7.14 and newer); RFC 7234 5.5 for the `Warning` header, code 299.
"""

from __future__ import annotations

import logging
import re
from typing import Final, Literal

import msgspec

from mcpd.drivers.elasticsearch_api import Answer, Request
from mcpd.drivers.elasticsearch_errors import REASON_CHARS

MAX_WARNINGS: Final = 100
Product = Literal["", "elasticsearch", "opensearch"]
WHO: Final = Request("root", "GET", "/", repeatable=True)
"""Asked of a node whose answers do not name their product."""

_HEADER: Final = "x-elastic-product"
_CHECKED: Final = frozenset({200, 201, 404, 409})
"""Statuses whose answers are taken as facts. A proxy's 404 for a path that it does not know is no missing document."""

_WARNING: Final = re.compile(r'299 [^ ]+ "((?:[^"\\]|\\.)*)"')
_log: Final = logging.getLogger(__name__)


class _Version(msgspec.Struct):
    distribution: str = ""


class _Root(msgspec.Struct):
    version: _Version = msgspec.field(default_factory=_Version)


def is_elasticsearch(answer: Answer) -> bool:
    """Return whether the answer names its product."""
    return answer.headers.get(_HEADER) == "Elasticsearch"


def is_taken_as_fact(answer: Answer) -> bool:
    """Return whether it matters whose answer this is."""
    return answer.status in _CHECKED


def is_opensearch(answer: Answer) -> bool:
    """Return whether the answer to WHO is OpenSearch's."""
    try:
        return msgspec.json.decode(answer.body, type=_Root).version.distribution == "opensearch"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


class Warnings:
    """Those of one client."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def note(self, answer: Answer) -> None:
        """Log the answer's warnings which are new."""
        for text in _WARNING.findall(answer.headers.get("warning", "")):
            if text not in self._seen and len(self._seen) < MAX_WARNINGS:
                self._seen.add(text)
                _log.warning("Elasticsearch warns: %s", text.replace('\\"', '"')[:REASON_CHARS])
