"""Numbers and cursors that no client sends by mistake: whatever a search holds, it is answered or refused.

Each body goes the whole way, through the grammar and both embedded stores, and its answer has to be JSON. Cursors are
forged with the right query's mark, which is no secret, around any content that their format can hold.
"""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpd.config import Limits
from mcpd.errors import InvalidParams
from mcpd.search.cursors import first_position
from mcpd.search.embeddings import HashProvider
from mcpd.search.query import parse
from mcpd.search.searcher import Searcher
from mcpd.storage import cursors
from mcpd.storage.documents import Documents, Matching
from mcpd.storage.memory.documents import MemoryDocuments
from mcpd.storage.sqlite.documents import open_documents
from tests.contract import backends

LIMITS = Limits()
HUGE = [10**312, -(10**312), 10**4000, 2**63, -(2**63) - 1, 2**64, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan]
NUMBERS = st.sampled_from([*HUGE, 0, -1, 1, 0.5, True]) | st.integers() | st.floats()
VALUES = NUMBERS | st.text(max_size=5) | st.none() | st.lists(NUMBERS, max_size=2)
FIELDS = st.sampled_from(["tags", "mimeType", "created", "updated", "metadata.n", "uri", "title"])
ENDS = st.dictionaries(st.sampled_from(["from", "to"]), NUMBERS, min_size=1)
BOUNDS = st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt", "exists", "prefix"]), VALUES, min_size=1)
FACETS = st.fixed_dictionaries(
    {"field": FIELDS},
    optional={"size": NUMBERS, "ranges": st.lists(ENDS, max_size=3), "interval": st.sampled_from(["day", "year", 1])},
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "query": st.sampled_from(["", "word", "1e999"]),
        "mode": st.sampled_from(["text", "semantic", "hybrid"]),
        "filters": st.dictionaries(FIELDS, VALUES | BOUNDS, max_size=2),
        "facets": st.lists(FACETS, max_size=2, unique_by=str),
        "sort": st.sampled_from(["score", "-created", "metadata.n", "-metadata.n"]),
        "size": NUMBERS,
        "highlight": NUMBERS,
    },
)


@asynccontextmanager
async def memory() -> AsyncIterator[Documents]:
    yield MemoryDocuments()


@asynccontextmanager
async def sqlite() -> AsyncIterator[Documents]:
    with tempfile.TemporaryDirectory() as folder:
        async with open_documents(Path(folder)) as documents:
            yield documents


async def refusals(bodies: list[dict[str, Any]]) -> None:
    """Ask all of it of both stores; each has to be refused."""

    async def refuse(searcher: Searcher, body: dict[str, Any]) -> None:
        with pytest.raises(InvalidParams):
            await searcher.search(parse(body, limits=LIMITS))

    await outcomes(bodies, refuse)


async def outcomes(
    bodies: list[dict[str, Any]], each: Callable[[Searcher, dict[str, Any]], Awaitable[None]] | None = None
) -> None:
    """Ask all of it of both stores. Anything but an answer in JSON or a refusal is raised."""
    for opened in (memory, sqlite):
        async with opened() as documents:
            put = [backends.put(f"docs:///{n}", "word " * n, metadata={"n": n}, tags=(f"{n}",)) for n in range(4)]
            await documents.write(put)
            searcher = Searcher(documents, HashProvider(), patience_s=1.0)
            for body in bodies:
                with trio.fail_after(10):
                    await (each or ask)(searcher, body)


async def ask(searcher: Searcher, body: dict[str, Any]) -> None:
    try:
        answer = await searcher.search(parse(body, limits=LIMITS))
    except InvalidParams:
        return
    assert "null" not in msgspec.json.encode([answer["hits"], answer.get("facets", {})]).decode()


@settings(max_examples=15, deadline=None)
@given(st.lists(BODIES, min_size=10, max_size=20))
def test_any_number_anywhere_is_answered_or_refused(bodies: list[dict[str, Any]]) -> None:
    trio.run(outcomes, bodies)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def packed_nesting(depth: int) -> bytes:
    """Arrays in arrays, deeper than a recursive encoder goes."""
    return b"\x91" * depth + b"\x90"


KEYS: list[Any] = [
    2**64 - 1,
    -(2**63),
    math.nan,
    math.inf,
    b"",
    "x",
    True,
    nested(20),
    {"a": 1},
    msgspec.msgpack.Ext(5, b""),
]
FORGED = st.sampled_from(KEYS) | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=12)
SORTS: list[str | None] = [None, "created", "metadata.n", "-metadata.n", "title"]


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def body_with(sort: str | None, inner: Callable[[bytes], bytes], before: Any) -> dict[str, Any]:
    """Return a search whose cursor carries the right marks, and `inner` of the store's mark as the store's part."""
    body: dict[str, Any] = {"query": "word", "mode": "text"} | ({"sort": sort} if sort else {})
    search = parse(body, limits=LIMITS)
    key = cursors.matching_key(Matching(text=search.query, where=search.where, sort=search.sort))
    mark = first_position(search, "text", "").search
    return body | {"cursor": encoded(msgspec.msgpack.encode([mark, before, encoded(inner(key)), b""]))}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SORTS), FORGED, FORGED, FORGED), min_size=5, max_size=15))
def test_any_content_of_a_cursor_is_answered_or_refused(forged: list[tuple[str | None, Any, Any, Any]]) -> None:
    bodies = [
        body_with(sort, lambda key, uri=uri, at=at: msgspec.msgpack.encode([key, uri, at]), before)  # type: ignore[misc]
        for sort, uri, at, before in forged
    ] + [
        body_with(sort, lambda key, at=at: msgspec.msgpack.encode([key, "docs:///1", at]), 1)  # type: ignore[misc]
        for sort, _, at, _ in forged
    ]
    trio.run(outcomes, bodies)


@pytest.mark.parametrize("depth", [100, 5_000, 40_000])
def test_a_cursor_of_deep_nesting_is_refused(depth: int) -> None:
    deep = [
        body_with("created", lambda key: b"\x93" + msgspec.msgpack.encode(key) + b"\xa1x" + packed_nesting(depth), 1),
        {"query": "word", "mode": "text", "cursor": encoded(packed_nesting(depth))},
    ]
    trio.run(refusals, deep)
