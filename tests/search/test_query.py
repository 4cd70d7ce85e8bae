"""The grammar of a search: what it means, what is refused and in which words; the schema says the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpd.config import Limits
from mcpd.errors import InvalidParams
from mcpd.search import query
from mcpd.search.query import MAX_QUERY_BYTES, Search, parse
from mcpd.search.query_schema import input_schema
from mcpd.storage.documents import Condition, Facet, Sort

LIMITS = Limits()
SCHEMA = input_schema(LIMITS)
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)


def parsed(**body: Any) -> Search:
    return parse(body, limits=LIMITS)


def test_nothing_given_lists_everything_with_the_defaults() -> None:
    assert parsed() == Search(query="", mode=None, size=10, highlight=query.DEFAULT_FRAGMENTS)


def test_every_member_arrives_where_it_belongs() -> None:
    search = parsed(
        query="trio nursery",
        mode="text",
        filters={"tags": ["a", "b"], "metadata.year": 1962, "created": {"gte": "2026-01-01", "lt": "2026-02-01"}},
        facets=[{"field": "tags", "size": 5}],
        sort="-updated",
        size=3,
        cursor="abc",
        highlight=4,
    )
    assert search == Search(
        query="trio nursery",
        mode="text",
        where=(
            Condition("tags", any_of=("a", "b")),
            Condition("metadata.year", any_of=(1962,)),
            Condition("created", least="2026-01-01", most="2026-02-01", most_open=True),
        ),
        facets=(Facet(field="tags", size=5),),
        sort=Sort("updated", descending=True),
        size=3,
        cursor="abc",
        highlight=4,
    )


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        (True, Condition("metadata.x", any_of=(True,))),
        (1.5, Condition("metadata.x", any_of=(1.5,))),
        (2**70, Condition("metadata.x", any_of=(float(2**70),))),
        ({"gt": 1, "lte": 2}, Condition("metadata.x", least=1, least_open=True, most=2)),
        ({"exists": False}, Condition("metadata.x", exists=False)),
        ({"prefix": "ab", "exists": True}, Condition("metadata.x", prefix="ab", exists=True)),
    ],
)
def test_a_filter_is_a_value_or_bounds(wanted: object, condition: Condition) -> None:
    assert parsed(filters={"metadata.x": wanted}).where == (condition,)


@pytest.mark.parametrize(
    ("given", "facet"),
    [
        ({"field": "metadata.n", "ranges": [{"to": 10}, {"from": 10, "to": 20}, {"from": 20}]},
         Facet(field="metadata.n", kind="range", edges=((None, 10), (10, 20), (20, None)))),
        ({"field": "created"}, Facet(field="created", kind="date", interval="month")),
        ({"field": "metadata.when", "interval": "year"}, Facet(field="metadata.when", kind="date", interval="year")),
        ({"field": "updated", "ranges": [{"from": "1970-01-02", "to": "1970-01-03T00:00:00Z"}]},
         Facet(field="updated", kind="range", edges=((86400.0, 172800.0),))),
        ({"field": "mimeType", "kind": "terms", "size": 3.0}, Facet(field="mimeType", size=3)),
    ],
)  # fmt: skip
def test_the_kind_of_a_facet_follows_from_its_members(given: dict[str, Any], facet: Facet) -> None:
    assert parsed(facets=[given]).facets == (facet,)


@pytest.mark.parametrize(
    ("given", "fragments"), [(True, query.DEFAULT_FRAGMENTS), (False, 0), (0, 0), (3, 3), (3.0, 3)]
)
def test_highlight_is_a_switch_or_a_number(given: object, fragments: int) -> None:
    assert parsed(highlight=given).highlight == fragments


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"modes": "text"}, "unknown member 'modes'; do you mean 'mode'?"),
    ({"q": "x"}, "unknown member 'q'; there are query, mode"),
    ({"query": 5}, "query: must be a text, not a number"),
    ({"query": "\ud800"}, "query: holds half a surrogate pair"),
    ({"query": "x" * 20_000}, "query: has 20000 characters"),
    ({"query": "é" * 10_000}, "query: has 20000 bytes"),
    ({"mode": "hybird"}, "mode: must be 'text' or 'semantic' or 'hybrid', not 'hybird'"),
    ({"mode": None}, "mode: must be 'text' or 'semantic' or 'hybrid', not null"),
    ({"mode": "semantic"}, "query: semantic search needs words"),
    ({"mode": "hybrid", "query": " \n"}, "query: hybrid search needs words"),
    ({"mode": "hybrid", "query": "x", "sort": "title"}, "sort: hybrid search orders by score alone"),
    ({"size": "10"}, "size: must be a whole number from 0 to 100, not a text"),
    ({"size": 101}, "size: must be from 0 to 100"),
    ({"size": -1}, "size: must be from 0 to 100"),
    ({"size": 1.5}, "size: must be a whole number"),
    ({"size": True}, "size: must be a whole number from 0 to 100, not a boolean"),
    ({"size": float("inf")}, "size: must be a whole number"),
    ({"highlight": 11}, "highlight: must be from 0 to 10"),
    ({"highlight": "yes"}, "highlight: must be true, false or a number"),
    ({"cursor": None}, "cursor: must be a text, not null; leave it out"),
    ({"sort": "-score"}, "sort: the best score always comes first"),
    ({"sort": "digest"}, "sort: unknown field 'digest'; there are title, uri, tags"),
    ({"filters": ["tags"]}, "filters: must be an object"),
    ({"filters": {"tag": "a"}}, "filters: unknown field 'tag'; there are uri, tags, mimeType"),
    ({"filters": {"metadata.": 1}}, "filters: unknown field 'metadata.'"),
    ({"filters": {f"metadata.{n}": 1 for n in range(51)}}, "filters: 51 fields are too many"),
    ({"filters": {"tags": []}}, "filters.tags: a list has 1 to 1000 values"),
    ({"filters": {"tags": ["a"] * 1001}}, "filters.tags: a list has 1 to 1000 values"),
    ({"filters": {"tags": ["a", ["b"]]}}, "filters.tags[1]: must be a text, a number or a boolean, not a list"),
    ({"filters": {"tags": None}}, 'not null; {"exists": false} asks for documents without one'),
    ({"filters": {"tags": {}}}, "filters.tags: an empty object asks for nothing"),
    ({"filters": {"created": {"gtr": 1}}}, "filters.created: unknown member 'gtr'; do you mean"),
    ({"filters": {"created": {"gt": 1, "gte": 2}}}, "filters.created: gte and gt exclude each other"),
    ({"filters": {"tags": {"exists": 1}}}, "filters.tags.exists: must be true or false, not a number"),
    ({"filters": {"metadata.x": float("nan")}}, "filters.metadata.x: must be a number that 64 bits can hold"),
    ({"filters": {"metadata.x": 10**5000}}, "filters.metadata.x: must be a number that 64 bits can hold"),
    ({"facets": {"field": "tags"}}, "facets: must be a list"),
    ({"facets": [{"field": "tags"}] * 10_000}, "facets: 10000 facets are too many: at most 20"),
    ({"facets": ["tags"]}, "facets[0]: must be an object"),
    ({"facets": [{"kind": "terms"}]}, "facets[0]: needs a field"),
    ({"facets": [{"field": "uri"}]}, "facets[0].field: unknown field 'uri'"),
    ({"facets": [{"field": "tags"}, {"field": "tags"}]}, "facets[1].field: 'tags' has a facet already"),
    ({"facets": [{"field": "tags", "interval": "day"}]}, "counted by \"terms\""),
    ({"facets": [{"field": "created", "kind": "terms"}]}, 'a time is counted by "date" or "range"'),
    ({"facets": [{"field": "metadata.n", "kind": "range", "size": 3}]}, "facets[0].size: is not of a range facet"),
    ({"facets": [{"field": "metadata.n", "kind": "range"}]}, "facets[0].ranges: must be a list of 1 to 1000"),
    ({"facets": [{"field": "metadata.n", "ranges": [{}]}]}, "facets[0].ranges[0]: must be an object with from, to"),
    ({"facets": [{"field": "metadata.n", "ranges": [{"from": 2, "to": 1}]}]}, "from must be less than to"),
    ({"facets": [{"field": "metadata.n", "ranges": [{"from": "1"}]}]}, "ranges[0].from: must be a number"),
    ({"facets": [{"field": "created", "ranges": [{"from": "soon"}]}]}, "'soon' is no ISO 8601 time"),
    ({"facets": [{"field": "created", "interval": "week"}]}, "facets[0].interval: must be 'day' or"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "says"), REFUSED)
def test_what_is_wrong_is_named_with_what_to_write_instead(body: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse(body, limits=LIMITS)
    assert says in caught.value.message
    assert len(caught.value.message) < 400


def test_a_query_is_bounded_in_bytes_and_not_in_characters() -> None:
    whole = "ä" * (MAX_QUERY_BYTES // 2)
    assert parse({"query": whole}, limits=LIMITS).query == whole
    with pytest.raises(InvalidParams, match=f"query: has {MAX_QUERY_BYTES + 1} bytes"):
        parse({"query": whole + "a"}, limits=LIMITS)


def test_the_limits_are_the_configured_ones() -> None:
    limits = replace(LIMITS, max_hits=5)
    assert parse({}, limits=limits).size == 5
    with pytest.raises(InvalidParams, match="from 0 to 5"):
        parse({"size": 6}, limits=limits)


FIELDS = st.sampled_from(["uri", "tags", "mimeType", "created", "updated", "metadata.a", "metadata.a.b", "title", "x"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("2026-01-31"), st.just("score")
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
BOUNDS = st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt", "exists", "prefix", "x"]), SCALARS, max_size=3)
RANGES = st.lists(st.dictionaries(st.sampled_from(["from", "to"]), SCALARS, max_size=2), max_size=2)
FACETS = st.fixed_dictionaries(
    {"field": FIELDS},
    optional={
        "kind": st.sampled_from(["terms", "range", "date", "x"]) | JSON,
        "size": st.integers(-1, 1100) | JSON,
        "ranges": RANGES | JSON,
        "interval": st.sampled_from(["day", "month", "year", "week"]) | JSON,
    },
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "query": st.text(max_size=20) | JSON,
        "mode": st.sampled_from(["text", "semantic", "hybrid", "x"]) | JSON,
        "filters": st.dictionaries(FIELDS, SCALARS | st.lists(SCALARS, max_size=3) | BOUNDS | JSON, max_size=3) | JSON,
        "facets": st.lists(FACETS, max_size=3) | JSON,
        "sort": FIELDS | FIELDS.map("-".__add__) | JSON,
        "size": st.integers(-1, 101) | JSON,
        "cursor": JSON,
        "highlight": st.booleans() | st.integers(-1, 11) | JSON,
    },
)
BETWEEN_MEMBERS = ("needs words", "orders by score", "less than to", "has a facet already", "is not of a", "counted by")
"""Refusals for what a schema cannot say, or would only say by hiding the grammar."""
IN_A_TEXT = ("is no ISO 8601 time", "surrogate", "must be a number, not a text", "characters, more than", "64 bits")
NEEDS_RANGES = "ranges: must be a list"
DESCRIBED = ("filters.", "unknown field", "best score always comes first")
"""Refusals of what the schema leaves to its descriptions, so that it stays short."""
MAX_SCHEMA_BYTES = 2_700
"""Every model that has this tool pays for it in every request."""


@given(BODIES | st.dictionaries(st.text(max_size=10), JSON, max_size=3))
def test_whatever_comes_is_a_search_or_a_refusal(body: dict[str, Any]) -> None:
    outcome = outcome_of(body)
    assert isinstance(outcome, Search) or 0 < len(outcome) < 400


@pytest.mark.parametrize(("body", "says"), REFUSED)
def test_the_schema_refuses_what_the_grammar_refuses(body: dict[str, Any], says: str) -> None:
    excused = (*BETWEEN_MEMBERS, *IN_A_TEXT, *DESCRIBED, NEEDS_RANGES, "bytes")
    assert any(words in str(outcome_of(body)) for words in excused) or not VALIDATOR.is_valid(body)


def outcome_of(body: dict[str, Any]) -> Search | str:
    try:
        return parse(body, limits=LIMITS)
    except InvalidParams as refusal:
        return refusal.message


def has_odd_numbers(value: Any) -> bool:
    """True for what JSON cannot hold, or another library keeps as something else."""
    if isinstance(value, dict):
        return any(has_odd_numbers(inner) for inner in [*value.keys(), *value.values()])
    if isinstance(value, list):
        return any(map(has_odd_numbers, value))
    if isinstance(value, float):
        return not abs(value) < 1e300
    if isinstance(value, str):
        return any("\ud800" <= letter <= "\udfff" for letter in value)
    return isinstance(value, int) and abs(value) > 2**63


@given(BODIES)
def test_the_schema_admits_what_the_grammar_takes_and_the_other_way_round(body: dict[str, Any]) -> None:
    if has_odd_numbers(body):
        return
    outcome = outcome_of(body)
    if isinstance(outcome, Search):
        VALIDATOR.validate(body)
    else:
        excused = (*BETWEEN_MEMBERS, *IN_A_TEXT, *DESCRIBED, NEEDS_RANGES)
        assert not VALIDATOR.is_valid(body) or any(words in outcome for words in excused), outcome


def test_the_schema_fits_a_tool_and_describes_each_member() -> None:
    jsonschema_rs.meta.validate(SCHEMA)
    assert SCHEMA["type"] == "object"
    assert "$ref" not in str(SCHEMA)
    assert len(msgspec.json.encode(SCHEMA)) <= MAX_SCHEMA_BYTES
    assert all("description" in member for member in SCHEMA["properties"].values())
    assert SCHEMA["properties"]["size"]["maximum"] == LIMITS.max_hits
